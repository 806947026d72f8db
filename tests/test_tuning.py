"""A study starts from the defaults, survives a kill, and repeats itself."""

import math

import numpy as np
import optuna
import pandas as pd
import pytest

from mammo_ml.errors import MammoError
from mammo_ml.tuning import Range, TuningParameters, tune

DEFAULTS = {"learning_rate": 0.001, "base": "small"}
SPACE = {"learning_rate": Range(low=0.0001, high=0.1, log=True), "base": Range(choices=("small", "wide"))}


def _parameters(trials: int) -> TuningParameters:
    return TuningParameters(trials=trials, budget_samples=10, space=SPACE, seed=1)


def _score(values) -> float:
    """Best at a learning rate of 0.01, a little better with the wide base."""
    return -abs(math.log10(values["learning_rate"]) + 2) + (0.1 if values["base"] == "wide" else 0)


class Killed(BaseException):  # as a signal would
    pass


class Objective:
    def __init__(self, killed_in: int | None = None, answers: dict[int, float] | None = None) -> None:
        self.asked, self.killed_in, self.answers = [], killed_in, answers or {}

    def __call__(self, number, values):
        self.asked.append((number, values))
        if number == self.killed_in:
            raise Killed
        return self.answers.get(number, _score(values))


def test_trial_0_is_the_defaults(tmp_path):
    objective = Objective()
    _, trials = tune(objective, DEFAULTS, _parameters(3), tmp_path / "new" / "study.db")
    assert objective.asked[0] == (0, DEFAULTS)
    assert [number for number, _ in objective.asked] == [0, 1, 2]
    assert trials["trial"].tolist() == [0, 1, 2]
    assert set(trials.columns) == {"trial", "value", "learning_rate", "base"}
    np.testing.assert_allclose(trials["value"][0], _score(DEFAULTS))


def test_better_values_are_returned(tmp_path):
    best, trials = tune(Objective(), DEFAULTS, _parameters(6), tmp_path / "study.db")
    row = trials.iloc[int(trials["value"].argmax())]
    assert row["value"] > trials["value"][0]
    assert best == {"learning_rate": row["learning_rate"], "base": row["base"]}


def test_values_that_only_equal_the_defaults_are_not_returned(tmp_path):
    best, _ = tune(Objective(answers=dict.fromkeys(range(4), 0.5)), DEFAULTS, _parameters(4), tmp_path / "study.db")
    assert best == DEFAULTS


@pytest.mark.parametrize("killed_in", [0, 11])
def test_a_study_killed_in_a_trial_runs_it_again_and_equals_one_that_was_not(tmp_path, killed_in):
    # From the 11th trial on the sampler learns from the finished ones, so the history must be the same too.
    parameters = _parameters(12)
    whole = Objective()
    expected = tune(whole, DEFAULTS, parameters, tmp_path / "whole.db")
    first, second = Objective(killed_in=killed_in), Objective()
    with pytest.raises(Killed):
        tune(first, DEFAULTS, parameters, tmp_path / "killed.db")
    found = tune(second, DEFAULTS, parameters, tmp_path / "killed.db")
    assert second.asked[0] == first.asked[-1]
    assert first.asked[:-1] + second.asked == whole.asked
    assert found[0] == expected[0]
    pd.testing.assert_frame_equal(found[1], expected[1])


def test_a_study_killed_again_and_again_still_ends_as_it_would_have(tmp_path):
    expected = tune(Objective(), DEFAULTS, _parameters(3), tmp_path / "whole.db")
    for killed_in in (0, 0, 2):
        with pytest.raises(Killed):
            tune(Objective(killed_in=killed_in), DEFAULTS, _parameters(3), tmp_path / "killed.db")
    found = tune(Objective(), DEFAULTS, _parameters(3), tmp_path / "killed.db")
    pd.testing.assert_frame_equal(found[1], expected[1])


@pytest.mark.parametrize("drawn", [0, 1])
@pytest.mark.parametrize("killed_in", [0, 1])
def test_a_study_killed_while_values_were_drawn_equals_one_that_was_not(tmp_path, monkeypatch, drawn, killed_in):
    expected = tune(Objective(), DEFAULTS, _parameters(3), tmp_path / "whole.db")
    suggest = {"float": optuna.Trial.suggest_float, "categorical": optuna.Trial.suggest_categorical}
    name = ("float", "categorical")[drawn]  # the order of SPACE

    def die(self, *arguments, **named):
        if self.number == killed_in:
            raise Killed
        return suggest[name](self, *arguments, **named)

    monkeypatch.setattr(optuna.Trial, f"suggest_{name}", die)
    with pytest.raises(Killed):
        tune(Objective(), DEFAULTS, _parameters(3), tmp_path / "killed.db")
    monkeypatch.undo()
    found = tune(Objective(), DEFAULTS, _parameters(3), tmp_path / "killed.db")
    pd.testing.assert_frame_equal(found[1], expected[1])


def test_a_finished_study_is_not_run_again(tmp_path):
    expected = tune(Objective(), DEFAULTS, _parameters(3), tmp_path / "study.db")
    idle = Objective()
    found = tune(idle, DEFAULTS, _parameters(3), tmp_path / "study.db")
    assert idle.asked == []
    pd.testing.assert_frame_equal(found[1], expected[1])


@pytest.mark.parametrize("figure", [math.nan, math.inf])
def test_a_trial_without_a_finite_figure_fails_alone_and_is_not_repeated(tmp_path, figure):
    objective = Objective(answers={0: figure, 2: figure})
    best, trials = tune(objective, DEFAULTS, _parameters(4), tmp_path / "study.db")
    assert [number for number, _ in objective.asked] == [0, 1, 2, 3]
    assert trials["value"].isna().tolist() == [True, False, True, False]
    assert trials["learning_rate"].notna().all()
    assert best["learning_rate"] in trials["learning_rate"][[1, 3]].tolist()


def test_a_study_without_any_finite_figure_is_an_error(tmp_path):
    with pytest.raises(MammoError, match="no trial gave a finite figure"):
        tune(Objective(answers={0: math.nan, 1: math.nan}), DEFAULTS, _parameters(2), tmp_path / "study.db")


@pytest.mark.parametrize(
    "span",
    [
        {},
        {"low": 0.1},
        {"low": 1.0, "high": 0.1},
        {"low": 0.0, "high": 1.0, "log": True},
        {"choices": ()},
        {"low": 0.0, "high": 1.0, "choices": (1, 2)},
    ],
)
def test_a_span_that_cannot_be_searched_is_refused_before_anything_runs(span):
    with pytest.raises(ValueError, match=r"give `low`|logarithmic"):
        Range(**span)
