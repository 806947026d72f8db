"""The one training loop: budget in samples, early stop, checkpoints, resume; it knows no tracker and no model."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mammo_ml.errors import MammoError
from mammo_ml.parameters import Parameters


class TrainingParameters(Parameters):
    """The budget is counted in training samples seen (epochs x items), whatever the model."""

    budget_samples: int = Field(ge=1, description="training samples seen at most")
    epoch_samples: int = Field(ge=1, description="samples between two looks at the inner part")
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0, description="Adam's; falls to a tenth along a cosine")
    weight_decay: float = Field(ge=0, description="decoupled (AdamW)")
    patience: int = Field(ge=1, description="epochs without a lower inner loss before stopping")
    threads: int = Field(ge=1, description="processor threads; the same number gives the same weights")
    seed: int = Field(ge=0)

    @property
    def epochs(self) -> int:
        """Epochs the budget pays for; the last one may be shorter."""
        return math.ceil(self.budget_samples / self.epoch_samples)


class Task(Protocol):
    """What the loop needs to know about a model and its data."""

    @property
    def model(self) -> nn.Module:
        """The network that is trained."""

    def draw(self, n: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Draw the indices (n,) of an epoch's training samples."""

    def loss(self, samples: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        """Mean loss () of a batch of training samples, augmented from `generator`."""

    def inner_loss(self) -> float:
        """Mean loss over the inner part in evaluation mode; NaN where there is no inner part."""

    def describe(self, samples: NDArray[np.int64]) -> str:
        """Name the samples of a batch for a person who must find out what was wrong with one."""


@dataclass(frozen=True)
class Epoch:
    """One line of a training's history."""

    epoch: int
    samples_seen: int
    train_loss: float
    inner_loss: float
    learning_rate: float

    def figures(self) -> dict[str, float]:
        """What a tracker shows of an epoch."""
        return {"train_loss": self.train_loss, "inner_loss": self.inner_loss, "learning_rate": self.learning_rate}


@dataclass(frozen=True)
class Fit:
    """A finished training; the task's model holds the weights of `best_epoch` (counted from 1)."""

    history: tuple[Epoch, ...]
    best_epoch: int

    def table(self) -> pd.DataFrame:
        """History, a row per epoch."""
        return pd.DataFrame([asdict(epoch) for epoch in self.history])


def fit(
    task: Task,
    parameters: TrainingParameters,
    *,
    epochs: int | None = None,
    checkpoints: Path | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_step: Callable[[int], None] = lambda samples: None,
) -> Fit:
    """Train `task.model` in place.

    With `epochs` None the inner loss decides: the weights of the lowest one are kept, and training stops when it has
    not fallen for `patience` epochs. With a number, exactly that many epochs run and the last weights are kept.

    Args:
        task: model and data.
        parameters: budget, optimiser and seed.
        epochs: fixed number of epochs, without early stopping.
        checkpoints: folder for a checkpoint after every epoch; a training found there goes on where it was.
        on_epoch: called after every epoch; an exception it raises ends the training.
        on_step: called with the number of samples after every step.

    Raises:
        MammoError: when the loss is not finite, naming step and samples; when the inner loss must decide and is not.
    """
    torch.set_num_threads(parameters.threads)
    model = task.model
    optimiser = torch.optim.AdamW(model.parameters(), lr=parameters.learning_rate, weight_decay=parameters.weight_decay)
    n_epochs = epochs if epochs is not None else parameters.epochs
    state = _Progress.resume(checkpoints, model, optimiser) if checkpoints else _Progress()
    while len(state.history) < n_epochs and not state.exhausted(parameters.patience if epochs is None else None):
        number = len(state.history) + 1
        rate = _set_learning_rate(optimiser, parameters.learning_rate, (number - 1) / n_epochs)
        seen = (number - 1) * parameters.epoch_samples
        # The last epoch is shorter where the budget is no whole number of epochs.
        left = parameters.epoch_samples if epochs is not None else parameters.budget_samples - seen
        n_samples = min(parameters.epoch_samples, left)
        train_loss = _run_epoch(task, optimiser, parameters, number, n_samples, on_step)
        inner_loss = task.inner_loss()
        if epochs is None and not math.isfinite(inner_loss):
            raise MammoError(
                f"the inner loss is {inner_loss} after epoch {number}, so it cannot choose the best epoch. "
                "Give an inner part or a fixed number of epochs; if there is one, lower learning_rate."
            )
        record = Epoch(number, seen + n_samples, train_loss, inner_loss, rate)
        state.add(record, model, keep_last=epochs is not None)
        if checkpoints:
            state.save(checkpoints, model, optimiser)
        on_epoch(record)
    model.load_state_dict(state.best_weights)
    model.eval()
    return Fit(tuple(state.history), state.best_epoch)


def _set_learning_rate(optimiser: torch.optim.Optimizer, start: float, progress: float) -> float:
    rate = start * (0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2)
    for group in optimiser.param_groups:
        group["lr"] = rate
    return rate


def _run_epoch(
    task: Task,
    optimiser: torch.optim.Optimizer,
    parameters: TrainingParameters,
    number: int,
    n_samples: int,
    on_step: Callable[[int], None],
) -> float:
    """Run one epoch; every random draw comes from (seed, epoch), so an epoch repeats whatever came before it."""
    samples = task.draw(n_samples, np.random.default_rng([parameters.seed, number]))
    seed = int(np.random.default_rng([parameters.seed, number, 1]).integers(2**62))
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    task.model.train()
    total = 0.0
    for start in range(0, len(samples), parameters.batch_size):
        batch = samples[start : start + parameters.batch_size]
        loss = task.loss(batch, generator)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise MammoError(
                f"the loss is {value} in epoch {number}, step {start // parameters.batch_size + 1}, "
                f"on {task.describe(batch)}. Look at these pictures; if they are sound, lower learning_rate."
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        total += value * len(batch)
        on_step(len(batch))
    return total / len(samples)


class _Progress:
    """What a training knows of itself between two epochs, and its checkpoint on disk."""

    def __init__(self) -> None:
        self.history: list[Epoch] = []
        self.best_epoch = 0
        self.best_weights: dict[str, Tensor] = {}

    def add(self, record: Epoch, model: nn.Module, keep_last: bool) -> None:
        best = self.history[self.best_epoch - 1].inner_loss if self.best_epoch else math.inf
        self.history.append(record)
        if keep_last or not self.best_epoch or record.inner_loss < best:
            self.best_epoch = record.epoch
            self.best_weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def exhausted(self, patience: int | None) -> bool:
        return patience is not None and len(self.history) - self.best_epoch >= patience

    def save(self, folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        for index, moments in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in moments.items()}
        notes = {"history": json.dumps([asdict(epoch) for epoch in self.history]), "best_epoch": str(self.best_epoch)}
        partial = folder / "checkpoint.partial"
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, partial, metadata=notes)
        partial.replace(folder / "checkpoint.safetensors")

    @classmethod
    def resume(cls, folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> "_Progress":
        path, progress = folder / "checkpoint.safetensors", cls()
        if not path.exists():
            return progress
        with safe_open(path, framework="pt") as file:
            notes = file.metadata()
        progress.history = [Epoch(**line) for line in json.loads(notes["history"])]
        progress.best_epoch = int(notes["best_epoch"])
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimiser": {}}
        for name, value in load_file(path).items():
            group, key = name.split(".", 1)
            groups[group][key] = value
        model.load_state_dict(groups["model"])
        progress.best_weights = groups["best"]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in groups["optimiser"].items():
            index, name = key.split(".", 1)
            moments.setdefault(int(index), {})[name] = value
        optimiser.load_state_dict(optimiser.state_dict() | {"state": moments})
        return progress


def median_best_epoch(histories: Sequence[Path]) -> int:
    """Median over the folds of the epoch with the lowest inner loss, from each training's history.csv."""
    best = [int(table["epoch"].iloc[table["inner_loss"].argmin()]) for table in map(pd.read_csv, histories)]
    return round(float(np.median(best)))


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's weights as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().contiguous().clone() for name, value in model.state_dict().items()}, path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load weights into a model of the same shape and set it to evaluation mode.

    Raises:
        MammoError: naming the file, when it holds the weights of another network.
    """
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise MammoError(f"{path}: not the weights of this network: {error}") from None
    model.eval()


def state_key(*parts: object) -> str:
    """Short hash of everything a resumable state depends on: this package, parameters, the bytes of the files named.

    The code counts too, or a stage that runs again because a network changed would find its old, finished training.
    """
    digest = hashlib.sha256()
    for part in (*sorted(Path(__file__).parent.rglob("*.py")), *parts):
        digest.update(part.read_bytes() if isinstance(part, Path) else repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]
