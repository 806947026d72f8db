"""What the training stages of both models share: a live run, a bar, checkpoints under `.state/`."""

from pathlib import Path

from mammo_ml import training
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
    """Train with a live run, a progress bar, and a checkpoint after every epoch under `.state/`.

    A training that was interrupted goes on where it was, as long as its recipe and data are the same.
    """
    key = training.state_key(recipe, fold, epochs, *(path for folder in data for path in _files(folder)))
    planned = recipe.training.budget_samples if epochs is None else epochs * recipe.training.epoch_samples
    with (
        stage.run(name, recipe, data, fold, protocol) as record,
        stage.bar(planned, f"{name}{'' if fold is None else f'@{fold}'}") as advance,
    ):
        fitted = training.fit(
            task,
            recipe.training,
            epochs=epochs,
            checkpoints=stage.STATE / name / key,
            on_epoch=lambda epoch: record.log_metrics(epoch.figures(), step=epoch.epoch),
            on_step=advance,
        )
        record.log_metrics({"best_epoch": fitted.best_epoch})
    return fitted


def _files(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]
