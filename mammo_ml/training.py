"""The one training loop: budget in samples, early stop, resume at any step; it knows no tracker and no model."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from mammo_ml.checkpoints import Checkpoints, DamagedFileError, read_sealed, write_sealed
from mammo_ml.devices import device_named, device_of
from mammo_ml.errors import MammoError, raise_if_any
from mammo_ml.models.weights import load_into, not_finite
from mammo_ml.parameters import Parameters

MOMENTUM = 0.9
DIVERGED = "The training diverged: look at its loss, and lower learning_rate."


class TrainingParameters(Parameters):
    """The budget is counted in training samples seen (epochs x items), whatever the model."""

    budget_samples: int = Field(ge=1, description="training samples seen at most")
    epoch_samples: int = Field(ge=1, description="samples between two looks at the inner part")
    batch_size: int = Field(ge=1)
    optimiser: Literal["adamw", "sgd"] = Field(
        default="adamw", description="sgd: with Nesterov's momentum of 0.9; its learning rate is of another size"
    )
    learning_rate: float = Field(gt=0, description="falls to a tenth along a cosine")
    weight_decay: float = Field(ge=0, description="decoupled (AdamW), or added to the gradient (SGD)")
    patience: int = Field(ge=1, description="epochs without a lower inner loss before stopping")
    threads: int = Field(ge=1, description="processor threads; the same number gives the same weights")
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="of the convolutions while training; weights, losses and predictions are float32 either way; in "
        "bfloat16 on a processor with AMX equal seeds give only nearly equal weights",
    )
    device: str = Field(
        default="cpu",
        pattern=r"^(auto|cpu|mps|(cuda|xpu)(:[0-9]+)?)$",
        description="cpu, cuda, cuda:1, mps, xpu, or auto for an accelerator if there is one; equal seeds give equal "
        "weights on cpu alone",
    )
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
    checkpoints: Checkpoints | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_step: Callable[[int], None] = lambda samples: None,
) -> Fit:
    """Train `task.model` in place; it stays on the device it was trained on.

    With `epochs` None the inner loss decides: the weights of the lowest one are kept, and training stops when it has
    not fallen for `patience` epochs. With a number, exactly that many epochs run and the last weights are kept.

    A training that finds a checkpoint goes on with the step after it, and ends with the same bits as one that was never
    interrupted. `on_epoch` and `on_step` are first told what was done before, so that a record or a bar is complete.

    Args:
        task: model and data.
        parameters: budget, optimiser and seed.
        epochs: fixed number of epochs, without early stopping.
        checkpoints: where to save after every epoch, and within one whenever a checkpoint is due.
        on_epoch: called after every epoch; an exception it raises ends the training.
        on_step: called with the number of samples after every step.

    Raises:
        BadInputError: when the device is not here.
        MammoError: when the loss is not finite, naming epoch, step and samples; when the inner loss must decide and is
            not; when the weights are not in the end; when a checkpoint cannot be written.
    """
    torch.set_num_threads(parameters.threads)
    model = task.model.to(device_named(parameters.device))
    optimiser = _optimiser(model, parameters)
    n_epochs = epochs if epochs is not None else parameters.epochs
    state = _State(model, optimiser)
    if checkpoints and (found := checkpoints.newest()):
        state.restore(*found)
        for record in state.history:
            on_epoch(record)
        on_step(state.samples_seen)

    def after_step(n: int) -> None:
        if checkpoints and checkpoints.due:
            checkpoints.save(state.step, state.tensors(), state.notes())
        on_step(n)

    while len(state.history) < n_epochs and not state.exhausted(parameters.patience if epochs is None else None):
        number = len(state.history) + 1
        rate = _set_learning_rate(optimiser, parameters.learning_rate, (number - 1) / n_epochs)
        seen = (number - 1) * parameters.epoch_samples
        # The last epoch is shorter where the budget is no whole number of epochs.
        left = parameters.epoch_samples if epochs is not None else parameters.budget_samples - seen
        n_samples = min(parameters.epoch_samples, left)
        train_loss = _run_epoch(task, parameters, state, n_samples, after_step)
        inner_loss = task.inner_loss()
        if epochs is None and not math.isfinite(inner_loss):
            raise MammoError(
                f"the inner loss is {inner_loss} after epoch {number}, so it cannot choose the best epoch. "
                "Give an inner part or a fixed number of epochs; if there is one, lower learning_rate."
            )
        record = Epoch(number, seen + n_samples, train_loss, inner_loss, rate)
        state.end_epoch(record, keep_last=epochs is not None)
        if checkpoints:
            checkpoints.save(state.step, state.tensors(), state.notes())
        on_epoch(record)
    raise_if_any(f"weights of epoch {state.best_epoch}", not_finite(state.best_weights), DIVERGED)
    model.load_state_dict(state.best_weights)
    model.eval()
    return Fit(tuple(state.history), state.best_epoch)


def _optimiser(model: nn.Module, parameters: TrainingParameters) -> torch.optim.Optimizer:
    rate, decay = parameters.learning_rate, parameters.weight_decay
    match parameters.optimiser:
        case "adamw":
            return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
        case "sgd":
            return torch.optim.SGD(model.parameters(), rate, momentum=MOMENTUM, weight_decay=decay, nesterov=True)


def _set_learning_rate(optimiser: torch.optim.Optimizer, start: float, progress: float) -> float:
    rate = start * (0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2)
    for group in optimiser.param_groups:
        group["lr"] = rate
    return rate


def _run_epoch(
    task: Task, parameters: TrainingParameters, state: "_State", n_samples: int, after_step: Callable[[int], None]
) -> float:
    """Run an epoch, or what is left of it, and return its mean loss.

    Every random draw comes from (seed, epoch), so an epoch repeats whatever came before it.
    """
    number = len(state.history) + 1
    samples = task.draw(n_samples, np.random.default_rng([parameters.seed, number]))
    state.begin_epoch(seed=int(np.random.default_rng([parameters.seed, number, 1]).integers(2**62)))
    task.model.train()
    for start in range(state.epoch_samples, len(samples), parameters.batch_size):
        batch = samples[start : start + parameters.batch_size]
        with torch.autocast(device_of(task.model).type, torch.bfloat16, enabled=parameters.precision == "bfloat16"):
            loss = task.loss(batch, state.generator)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise MammoError(
                f"the loss is {value} in epoch {number}, step {start // parameters.batch_size + 1}, "
                f"on {task.describe(batch)}. Look at these pictures; if they are sound, lower learning_rate."
            )
        state.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimiser.step()
        state.add_step(value, len(batch))
        after_step(len(batch))
    return state.epoch_loss / len(samples)


class _State:
    """All that a training needs to go on as if nothing had happened, as tensors and notes for its checkpoint."""

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        self.model, self.optimiser = model, optimiser
        self.generator = torch.Generator()
        self.history: list[Epoch] = []
        self.best_epoch = 0
        self.best_weights: dict[str, Tensor] = {}
        self.step = 0
        self.epoch_samples, self.epoch_loss = 0, 0.0  # seen in the running epoch, and the sum of their losses
        self._resumed: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    @property
    def samples_seen(self) -> int:
        return (self.history[-1].samples_seen if self.history else 0) + self.epoch_samples

    def begin_epoch(self, seed: int) -> None:
        if self._resumed:
            # Here and not earlier: the callbacks may have drawn.
            _set_random_states(self.generator, *self._resumed)
            self._resumed = None
        if self.epoch_samples == 0:
            self.generator.manual_seed(seed)
            torch.manual_seed(seed)

    def add_step(self, loss: float, n_samples: int) -> None:
        self.step += 1
        self.epoch_samples += n_samples
        self.epoch_loss += loss * n_samples

    def end_epoch(self, record: Epoch, keep_last: bool) -> None:
        best = self.history[self.best_epoch - 1].inner_loss if self.best_epoch else math.inf
        self.history.append(record)
        self.epoch_samples, self.epoch_loss = 0, 0.0
        if keep_last or not self.best_epoch or record.inner_loss < best:
            self.best_epoch = record.epoch
            self.best_weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def exhausted(self, patience: int | None) -> bool:
        return patience is not None and len(self.history) - self.best_epoch >= patience

    def tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        for index, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in moments.items()}
        return tensors | {f"random.{name}": value for name, value in _random_tensors(self.generator).items()}

    def notes(self) -> dict[str, Any]:
        return {
            "history": [asdict(epoch) for epoch in self.history],
            "best_epoch": self.best_epoch,
            "step": self.step,
            "epoch_samples": self.epoch_samples,
            "epoch_loss": self.epoch_loss,
            "random": _random_notes(),
        }

    def restore(self, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimiser": {}, "random": {}}
        for name, value in tensors.items():
            group, key = name.split(".", 1)
            groups[group][key] = value
        self.history = [Epoch(**line) for line in notes["history"]]
        self.best_epoch, self.best_weights = notes["best_epoch"], groups["best"]
        self.step, self.epoch_samples, self.epoch_loss = notes["step"], notes["epoch_samples"], notes["epoch_loss"]
        self.model.load_state_dict(groups["model"])
        self._restore_moments(groups["optimiser"])
        self._resumed = groups["random"], notes["random"]

    def _restore_moments(self, flat: dict[str, Tensor]) -> None:
        parameters = [value for group in self.optimiser.param_groups for value in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in flat.items():
            index, name = key.split(".", 1)
            like = parameters[int(index)]
            # In memory a moment lies as its parameter does (channels last), as in a training that was not interrupted.
            placed = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
            moments.setdefault(int(index), {})[name] = placed
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": moments})


def _random_tensors(generator: torch.Generator) -> dict[str, Tensor]:
    return {"default": torch.get_rng_state(), "epoch": generator.get_state()}


def _random_notes() -> dict[str, Any]:
    """States of the global generators of numpy and Python, which no task of ours draws from, as JSON values."""
    numpy = np.random.get_state(legacy=False)
    numpy["state"]["key"] = numpy["state"]["key"].tolist()
    return {"numpy": numpy, "python": random.getstate()}


def _set_random_states(generator: torch.Generator, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["default"])
    generator.set_state(tensors["epoch"])
    np.random.set_state(notes["numpy"])
    version, keys, gauss = notes["python"]
    random.setstate((version, tuple(keys), gauss))


def median_best_epoch(histories: Sequence[Path]) -> int:
    """Median over the folds of the epoch with the lowest inner loss, from each training's history.csv."""
    best = [int(table["epoch"].iloc[table["inner_loss"].argmin()]) for table in map(pd.read_csv, histories)]
    return round(float(np.median(best)))


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's weights as safetensors with the sha256 of its tensors; equal weights give equal bytes.

    Raises:
        BadInputError: naming the file and every tensor that is not finite; nothing is written then.
    """
    raise_if_any(f"{path} (not written)", not_finite(model.state_dict()), DIVERGED)
    write_sealed(path, model.state_dict(), {})


def load_weights(model: nn.Module, path: Path) -> None:
    """Load weights into a model of the same shape and set it to evaluation mode.

    Raises:
        MammoError: naming the file, when it is not as it was written, or holds the weights of another network.
    """
    try:
        weights, _ = read_sealed(path)
    except DamagedFileError as error:
        raise MammoError(f"{error}. Restore it (`dvc pull`) or run the stage that made it again.") from None
    load_into(model, weights, str(path))
