"""The training loop on a tiny network: it repeats itself to the bit, also when it was interrupted."""

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mammo_ml.checkpoints import Checkpoints
from mammo_ml.errors import MammoError
from mammo_ml.training import TrainingParameters, fit, load_weights, median_best_epoch, save_weights

PARAMETERS = TrainingParameters(
    budget_samples=60,
    epoch_samples=12,
    batch_size=5,
    learning_rate=0.05,
    weight_decay=0.01,
    patience=10,
    threads=1,
    seed=3,
)


class TinyTask:
    """Three inputs to one number, with dropout, batch normalisation and random noise: all that holds a random state."""

    def __init__(self, inner_losses: list[float] | None = None, poison: int | None = None) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))
        generator = np.random.default_rng(0)
        self.x = torch.from_numpy(generator.normal(size=(40, 3))).float()
        self.y = self.x.sum(1, keepdim=True)
        self.inner_losses, self.poison, self.seen = inner_losses, poison, []

    def draw(self, n, generator):
        return generator.integers(0, 30, n)

    def loss(self, samples, generator):
        self.seen.append(list(samples))
        noise = 0.1 * torch.randn(len(samples), 3, generator=generator)
        loss = F.mse_loss(self.model(self.x[samples] + noise), self.y[samples])
        return loss * float("nan") if self.poison == len(self.seen) else loss

    def inner_loss(self):
        if self.inner_losses is not None:
            return self.inner_losses.pop(0)
        self.model.eval()
        with torch.no_grad():
            return float(F.mse_loss(self.model(self.x[30:]), self.y[30:]))

    def describe(self, samples):
        return "samples " + ", ".join(map(str, samples))


class StoppedError(Exception):
    pass


def _weights(task: TinyTask) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in task.model.state_dict().items()}


def _assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("choice", [{"optimiser": "sgd"}, {"precision": "bfloat16"}])
def test_every_choice_of_training_learns_goes_on_where_it_was_and_is_another_training(choice, tmp_path):
    parameters = PARAMETERS.model_copy(update={"learning_rate": 0.02} | choice)
    usual, whole = TinyTask(), TinyTask()
    fit(usual, PARAMETERS.model_copy(update={"learning_rate": 0.02}))
    history = fit(whole, parameters).history
    assert history[-1].train_loss < history[0].train_loss
    assert any(not torch.equal(value, _weights(usual)[name]) for name, value in _weights(whole).items())
    assert all(value.dtype in (torch.float32, torch.int64) for value in _weights(whole).values())

    def stop(epoch):
        if epoch.epoch == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        fit(TinyTask(), parameters, checkpoints=Checkpoints(tmp_path, "key"), on_epoch=stop)
    resumed = TinyTask()
    assert fit(resumed, parameters, checkpoints=Checkpoints(tmp_path, "key")).history == history
    _assert_equal(_weights(resumed), _weights(whole))


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before():
    first, second = TinyTask(), TinyTask()
    history = fit(first, PARAMETERS).history
    torch.rand(100)
    np.random.default_rng(1).random(5)
    assert fit(second, PARAMETERS).history == history
    _assert_equal(_weights(first), _weights(second))


def test_another_seed_gives_other_weights():
    first, second = TinyTask(), TinyTask()
    fit(first, PARAMETERS)
    fit(second, PARAMETERS.model_copy(update={"seed": 4}))
    assert not torch.equal(first.model[0].weight, second.model[0].weight)


def test_training_learns():
    history = fit(TinyTask(), PARAMETERS.model_copy(update={"budget_samples": 240, "patience": 30})).history
    assert min(epoch.inner_loss for epoch in history) < 0.5 * history[0].inner_loss


@pytest.mark.parametrize(("budget", "epochs"), [(60, [12] * 5), (63, [12] * 5 + [3]), (7, [7]), (12, [12])])
def test_exactly_the_budget_is_spent(budget, epochs):
    task, seen = TinyTask(), []
    fitted = fit(task, PARAMETERS.model_copy(update={"budget_samples": budget}), on_step=seen.append)
    assert sum(seen) == sum(map(len, task.seen)) == budget
    assert [epoch.samples_seen for epoch in fitted.history] == np.cumsum(epochs).tolist()


def test_every_epoch_draws_other_samples():
    task = TinyTask()
    fit(task, PARAMETERS)
    assert len({tuple(samples) for samples in task.seen[::3]}) == 5  # three batches an epoch


def test_training_stops_after_patience_and_keeps_the_best_epoch():
    task = TinyTask(inner_losses=[3.0, 2.0, 2.0, 2.5, 1.0])
    kept = []
    fitted = fit(
        task, PARAMETERS.model_copy(update={"patience": 2}), on_epoch=lambda epoch: kept.append(_weights(task))
    )
    # Epoch 3 only equals the best and epoch 4 is worse: two epochs without a lower loss, so the 1.0 is never seen.
    assert [epoch.inner_loss for epoch in fitted.history] == [3.0, 2.0, 2.0, 2.5]
    assert fitted.best_epoch == 2
    _assert_equal(_weights(task), kept[1])
    assert not task.model.training


def test_a_fixed_number_of_epochs_runs_to_its_end_and_keeps_the_last_weights():
    task = TinyTask(inner_losses=[float("nan")] * 7)  # trained on all women: there is no inner part
    kept = []
    fitted = fit(task, PARAMETERS, epochs=7, on_epoch=lambda epoch: kept.append(_weights(task)))
    assert len(fitted.history) == fitted.best_epoch == 7
    assert fitted.history[-1].samples_seen == 7 * 12
    _assert_equal(_weights(task), kept[-1])


def every_step(folder: Path) -> Checkpoints:
    return Checkpoints(folder, "key", seconds=0)


def every_epoch(folder: Path) -> Checkpoints:
    return Checkpoints(folder, "key", seconds=3600)


class Interrupt:
    """Raises at the nth call."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, _: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise StoppedError


def test_saving_checkpoints_changes_no_bit(tmp_path):
    without, often, seldom = TinyTask(), TinyTask(), TinyTask()
    expected = fit(without, PARAMETERS)
    assert fit(often, PARAMETERS, checkpoints=every_step(tmp_path / "often")) == expected
    assert fit(seldom, PARAMETERS, checkpoints=every_epoch(tmp_path / "seldom")) == expected
    _assert_equal(_weights(often), _weights(without))
    _assert_equal(_weights(seldom), _weights(without))


@pytest.mark.parametrize("after", [1, 3, 5])
@pytest.mark.parametrize("epochs", [None, 6])
def test_a_training_interrupted_after_any_epoch_and_resumed_equals_one_that_was_not(tmp_path, after, epochs):
    whole = TinyTask()
    expected = fit(whole, PARAMETERS, epochs=epochs)
    with pytest.raises(StoppedError):
        fit(TinyTask(), PARAMETERS, epochs=epochs, checkpoints=every_epoch(tmp_path), on_epoch=Interrupt(after))
    resumed = TinyTask()
    assert fit(resumed, PARAMETERS, epochs=epochs, checkpoints=every_epoch(tmp_path)) == expected
    assert len(resumed.seen) == 3 * (len(expected.history) - after)
    _assert_equal(_weights(resumed), _weights(whole))


@pytest.mark.parametrize("after", range(1, 16))
def test_a_training_interrupted_at_any_step_goes_on_with_the_next(tmp_path, after):
    whole, stopped, resumed = TinyTask(), TinyTask(), TinyTask()
    expected = fit(whole, PARAMETERS)
    with pytest.raises(StoppedError):
        fit(stopped, PARAMETERS, checkpoints=every_step(tmp_path), on_step=Interrupt(after))
    assert fit(resumed, PARAMETERS, checkpoints=every_step(tmp_path)) == expected
    assert stopped.seen == whole.seen[:after]
    assert resumed.seen == whole.seen[after:]
    _assert_equal(_weights(resumed), _weights(whole))


def test_without_a_checkpoint_in_it_an_interrupted_epoch_is_repeated(tmp_path):
    whole, resumed = TinyTask(), TinyTask()
    expected = fit(whole, PARAMETERS)
    with pytest.raises(StoppedError):
        fit(TinyTask(), PARAMETERS, checkpoints=every_epoch(tmp_path), on_step=Interrupt(8))  # three steps an epoch
    assert fit(resumed, PARAMETERS, checkpoints=every_epoch(tmp_path)) == expected
    assert resumed.seen == whole.seen[6:]
    _assert_equal(_weights(resumed), _weights(whole))


class CarelessTask(TinyTask):
    """Draws from the global generators of torch, numpy and Python, which a task should not."""

    def loss(self, samples, generator):
        return super().loss(samples, generator) * (1 + random.random() + np.random.random() + float(torch.rand(())))


@pytest.mark.parametrize("after", [4, 6])
def test_a_resumed_training_draws_on_from_every_generator_there_is(tmp_path, after):
    def train(task, **options):
        random.seed(5)
        np.random.seed(5)
        return fit(task, PARAMETERS, **options)

    whole, resumed = CarelessTask(), CarelessTask()
    expected = train(whole)
    with pytest.raises(StoppedError):
        train(CarelessTask(), checkpoints=every_step(tmp_path), on_step=Interrupt(after))

    def draw(_):
        torch.rand(3), np.random.random(3), random.random()

    found = train(resumed, checkpoints=every_step(tmp_path), on_epoch=lambda e: draw(e) if e.epoch == 1 else None)
    assert found == expected
    _assert_equal(_weights(resumed), _weights(whole))


def test_a_resumed_training_is_recorded_from_its_first_epoch_and_its_bar_starts_where_it_was(tmp_path):
    with pytest.raises(StoppedError):
        fit(TinyTask(), PARAMETERS, checkpoints=every_step(tmp_path), on_step=Interrupt(8))
    recorded, moved = [], []
    fitted = fit(
        TinyTask(), PARAMETERS, checkpoints=every_step(tmp_path), on_epoch=recorded.append, on_step=moved.append
    )
    assert tuple(recorded) == fitted.history
    assert moved[:2] == [12 + 12 + 5 + 5, 2]
    assert sum(moved) == PARAMETERS.budget_samples


def test_a_resumed_training_remembers_the_best_epoch_and_its_patience(tmp_path):
    impatient = PARAMETERS.model_copy(update={"patience": 2})
    with pytest.raises(StoppedError):
        fit(TinyTask(inner_losses=[1.0, 2.0]), impatient, checkpoints=every_step(tmp_path), on_epoch=Interrupt(2))
    fitted = fit(TinyTask(inner_losses=[3.0, 0.5]), impatient, checkpoints=every_step(tmp_path))
    assert len(fitted.history) == 3
    assert fitted.best_epoch == 1


def test_a_finished_training_is_not_run_again_but_recorded_again(tmp_path):
    first, second, recorded, moved = TinyTask(), TinyTask(), [], []
    fitted = fit(first, PARAMETERS, checkpoints=every_epoch(tmp_path))
    again = fit(second, PARAMETERS, checkpoints=every_epoch(tmp_path), on_epoch=recorded.append, on_step=moved.append)
    assert again == fitted
    assert second.seen == []
    assert tuple(recorded) == fitted.history
    assert moved == [PARAMETERS.budget_samples]
    _assert_equal(_weights(second), _weights(first))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_samples():
    task = TinyTask(poison=5)  # three steps an epoch: the second step of the second epoch
    with pytest.raises(MammoError) as caught:
        fit(task, PARAMETERS)
    assert "the loss is nan in epoch 2, step 2, on samples " + ", ".join(map(str, task.seen[4])) in str(caught.value)


def test_an_inner_loss_that_is_not_finite_cannot_choose_an_epoch():
    with pytest.raises(MammoError, match="the inner loss is nan after epoch 2"):
        fit(TinyTask(inner_losses=[1.0, float("nan")]), PARAMETERS)


def test_the_learning_rate_falls_along_a_cosine_towards_a_tenth():
    rates = [epoch.learning_rate for epoch in fit(TinyTask(), PARAMETERS, epochs=4).history]
    # 0.1 + 0.9 * (1 + cos(0, pi/4, pi/2, 3 pi/4)) / 2, times 0.05.
    expected = 0.05 * (0.1 + 0.45 * (1 + np.array([1, np.sqrt(0.5), 0, -np.sqrt(0.5)])))
    np.testing.assert_allclose(rates, expected)


def test_the_history_is_a_row_per_epoch():
    table = fit(TinyTask(), PARAMETERS).table()
    assert table["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert table.columns.tolist() == ["epoch", "samples_seen", "train_loss", "inner_loss", "learning_rate"]


def test_the_median_best_epoch_is_that_of_the_folds(tmp_path):
    paths = []
    for fold, losses in enumerate([[3, 1, 2], [1, 2, 3], [3, 2, 1]]):
        paths.append(tmp_path / f"{fold}.csv")
        pd.DataFrame({"epoch": [1, 2, 3], "inner_loss": losses}).to_csv(paths[-1], index=False)
    assert median_best_epoch(paths) == 2  # of 2, 1 and 3


def test_weights_survive_their_file_and_those_of_another_network_are_refused_by_name(tmp_path):
    first, second = TinyTask(), TinyTask()
    fit(first, PARAMETERS)
    path = tmp_path / "new" / "weights.safetensors"
    save_weights(first.model, path)
    load_weights(second.model, path)
    _assert_equal(_weights(second), _weights(first))
    assert not second.model.training
    with pytest.raises(MammoError, match=r"weights\.safetensors: weights for Linear(.|\n)*weight is missing"):
        load_weights(nn.Linear(2, 2), path)


def test_equal_weights_give_equal_bytes(tmp_path):
    contents = set()
    for n in range(5):
        save_weights(TinyTask().model, tmp_path / f"{n}.safetensors")
        contents.add((tmp_path / f"{n}.safetensors").read_bytes())
    assert len(contents) == 1
