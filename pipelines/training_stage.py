"""What the training stages of both models share: a live run, a bar, checkpoints under `.state/`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mammo_ml import training
from mammo_ml.checkpoints import Checkpoints, tensors_sha256
from mammo_ml.errors import raise_if_any
from mammo_ml.recipe import Recipe
from pipelines import stage


def train(
    name: str,
    task: training.Task,
    recipe: Recipe,
    data: list[Path],
    *,
    fold: int | None = None,
    protocol: str = "by_patient",
    epochs: int | None = None,
) -> training.Fit:
    """Train with a live run, a progress bar, and checkpoints under `.state/`, within an epoch too.

    A training that was interrupted goes on where it was, as long as its code, recipe, data, first weights and torch are
    the same; one that had ended is not run again. Either way the run and the bar show it from its first epoch.
    """
    files = [path for folder in data for path in _files(folder)]
    # The first weights: a folder of one's own (`pretrained`) may hold others under the same name.
    key = stage.state_key(name, torch.__version__, recipe, fold, epochs, first_weights(task.model), *files)
    planned = recipe.training.budget_samples if epochs is None else epochs * recipe.training.epoch_samples
    with (
        stage.run(name, recipe, data, fold, protocol) as record,
        stage.bar(planned, f"{name}{'' if fold is None else f'@{fold}'}") as advance,
    ):
        fitted = training.fit(
            task,
            recipe.training,
            epochs=epochs,
            checkpoints=Checkpoints(stage.STATE / name / key, key),
            on_epoch=lambda epoch: record.log_metrics(epoch.figures(), step=epoch.epoch),
            on_step=advance,
        )
        record.log_metrics({"best_epoch": fitted.best_epoch})
    return fitted


def refuse_one_sided_fold(
    fold: int,
    roles: NDArray[np.str_],
    labels: Iterable[str],
    wanted: Iterable[str],
    what: str,
    part: Literal["train", "inner"] = "train",
) -> None:
    """Stop before a training that would never see one of its classes.

    Args:
        fold: the test fold.
        roles: role (N,) of each item in this fold.
        labels: label (N,) of each item.
        wanted: the labels the part must show.
        what: an item in words, as "patch".
        part: that is learned from, or the inner one that a figure is chosen by.

    Raises:
        BadInputError: naming the fold and every label this part lacks.
    """
    shown = set(np.asarray(list(labels))[roles == part])
    named, loss = {
        "train": ("training", "A model would learn to never say it"),
        "inner": ("inner", "No figure could be chosen by it"),
    }[part]
    raise_if_any(
        f"fold {fold}",
        [f"its {named} part has no {label} {what}" for label in wanted if label not in shown],
        f"{loss}. Add films, or deal the folds anew (section `split` of params.yaml).",
    )


def first_weights(model: nn.Module) -> str:
    """Hash of a network's parameters and buffers before it is trained."""
    return tensors_sha256({name: value.cpu().contiguous() for name, value in model.state_dict().items()})


def _files(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]
