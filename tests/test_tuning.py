"""A study starts from the defaults, survives a kill, and repeats itself."""

import math
from dataclasses import asdict

import numpy as np
import optuna
import pandas as pd
import pytest

from mammo_ml import studies
from mammo_ml.errors import MammoError
from mammo_ml.tuning import Range, TuningParameters, tune
from mammo_ml.tuning_pictures import study_figures

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

    def __call__(self, number, values, report):
        self.asked.append((number, values))
        if number == self.killed_in:
            raise Killed
        return self.answers.get(number, _score(values))


def test_trial_0_is_the_defaults(tmp_path):
    objective = Objective()
    _, trials = tune(objective, DEFAULTS, _parameters(3), tmp_path / "new" / "study")
    assert objective.asked[0] == (0, DEFAULTS)
    assert [number for number, _ in objective.asked] == [0, 1, 2]
    assert trials["trial"].tolist() == [0, 1, 2]
    assert set(trials.columns) == {"trial", "value", "learning_rate", "base"}
    np.testing.assert_allclose(trials["value"][0], _score(DEFAULTS))


def test_better_values_are_returned(tmp_path):
    best, trials = tune(Objective(), DEFAULTS, _parameters(6), tmp_path / "study")
    row = trials.iloc[int(trials["value"].argmax())]
    assert row["value"] > trials["value"][0]
    assert best == {"learning_rate": row["learning_rate"], "base": row["base"]}


def test_values_that_only_equal_the_defaults_are_not_returned(tmp_path):
    best, _ = tune(Objective(answers=dict.fromkeys(range(4), 0.5)), DEFAULTS, _parameters(4), tmp_path / "study")
    assert best == DEFAULTS


@pytest.mark.parametrize("killed_in", [0, 11])
def test_a_study_killed_in_a_trial_runs_it_again_and_equals_one_that_was_not(tmp_path, killed_in):
    # From the 11th trial on the sampler learns from the finished ones, so the history must be the same too.
    parameters = _parameters(12)
    whole = Objective()
    expected = tune(whole, DEFAULTS, parameters, tmp_path / "whole")
    first, second = Objective(killed_in=killed_in), Objective()
    with pytest.raises(Killed):
        tune(first, DEFAULTS, parameters, tmp_path / "killed")
    found = tune(second, DEFAULTS, parameters, tmp_path / "killed")
    assert second.asked[0] == first.asked[-1]
    assert first.asked[:-1] + second.asked == whole.asked
    assert found[0] == expected[0]
    pd.testing.assert_frame_equal(found[1], expected[1])


def test_a_study_killed_again_and_again_still_ends_as_it_would_have(tmp_path):
    expected = tune(Objective(), DEFAULTS, _parameters(3), tmp_path / "whole")
    for killed_in in (0, 0, 2):
        with pytest.raises(Killed):
            tune(Objective(killed_in=killed_in), DEFAULTS, _parameters(3), tmp_path / "killed")
    found = tune(Objective(), DEFAULTS, _parameters(3), tmp_path / "killed")
    pd.testing.assert_frame_equal(found[1], expected[1])


def test_more_trials_continue_the_study_and_fewer_show_its_first_ones(tmp_path):
    expected = tune(Objective(), DEFAULTS, _parameters(5), tmp_path / "whole")[1]
    tune(Objective(), DEFAULTS, _parameters(3), tmp_path / "study")
    further = Objective()
    found = tune(further, DEFAULTS, _parameters(5), tmp_path / "study")[1]
    assert [number for number, _ in further.asked] == [3, 4]
    pd.testing.assert_frame_equal(found, expected)
    pd.testing.assert_frame_equal(tune(Objective(), DEFAULTS, _parameters(2), tmp_path / "study")[1], expected[:2])


def test_what_was_finished_before_is_told_once(tmp_path):
    with pytest.raises(Killed):
        tune(Objective(killed_in=2), DEFAULTS, _parameters(4), tmp_path / "study")
    told = []
    tune(Objective(), DEFAULTS, _parameters(4), tmp_path / "study", on_elsewhere=told.append)
    assert [trial.trial for trial in told] == [0, 1]
    assert told[0].value == _score(DEFAULTS)


def test_a_study_that_changed_is_set_apart_and_told_what_differs(tmp_path, capsys):
    def run(key, trials=2, **parts):
        objective = Objective()
        tune(objective, DEFAULTS, _parameters(trials), tmp_path, name=f"tune_classifier@0 · {key}", parts=parts)
        return [number for number, _ in objective.asked], capsys.readouterr().err

    space = {"learning_rate": {"low": 0.0001, "high": 0.1}}
    assert run("aaaa", space=space, data={"folds.csv": "1f"}) == ([0, 1], "")
    changed = {"learning_rate": {"low": 0.0003, "high": 0.1}}
    begun, said = run("bbbb", space=changed, data={"folds.csv": "2e", "films.csv": "3d"})
    assert begun == [0, 1]
    assert said.splitlines() == [
        "tune_classifier@0 · bbbb is a new study. The study 'tune_classifier@0 · aaaa' (2 finished trials) is set "
        "apart and not continued, because it differs:",
        "  data films.csv: nothing -> 3d",
        "  data folds.csv: 1f -> 2e",
        "  space learning_rate low: 0.0001 -> 0.0003",
    ]
    # both are kept, and going back to the first continues it
    assert run("aaaa", trials=3, space=space, data={"folds.csv": "1f"}) == ([2], "")
    names = optuna.study.get_all_study_names(f"sqlite:///{tmp_path / 'studies.db'}")
    assert sorted(names) == ["tune_classifier@0 · aaaa", "tune_classifier@0 · bbbb"]


def test_a_trial_given_up_too_early_counts_once_and_the_late_result_is_dropped(tmp_path, capsys):
    def overtaken(number, values, report):
        # a laptop sleeps longer than the grace: meanwhile the other worker has run the trial to its end
        folder = tmp_path / studies.RECORD
        one = studies.Finished(number, values, 0.25, "2026-01-01T00:00:00", "2026-01-01T00:01:00", "another-host:1")
        studies.Record(folder).append({"study": "study", **asdict(one)})
        return 0.75

    trials = tune(overtaken, DEFAULTS, _parameters(1), tmp_path)[1]
    assert trials["value"].tolist() == [0.25]
    assert "trial 0 was finished by another worker" in capsys.readouterr().err


def test_another_address_keeps_the_database_elsewhere(tmp_path):
    address = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    tune(Objective(), DEFAULTS, _parameters(2), tmp_path / "studies", address=address)
    assert optuna.study.get_all_study_names(address) == ["study"]
    assert not (tmp_path / "studies" / studies.DATABASE).exists()


def test_a_finished_study_is_not_run_again(tmp_path):
    expected = tune(Objective(), DEFAULTS, _parameters(3), tmp_path / "study")
    idle = Objective()
    found = tune(idle, DEFAULTS, _parameters(3), tmp_path / "study")
    assert idle.asked == []
    pd.testing.assert_frame_equal(found[1], expected[1])


@pytest.mark.parametrize("figure", [math.nan, math.inf])
def test_a_trial_without_a_finite_figure_fails_alone_and_is_not_repeated(tmp_path, figure):
    objective = Objective(answers={0: figure, 2: figure})
    best, trials = tune(objective, DEFAULTS, _parameters(4), tmp_path / "study")
    assert [number for number, _ in objective.asked] == [0, 1, 2, 3]
    assert trials["value"].isna().tolist() == [True, False, True, False]
    assert trials["learning_rate"].notna().all()
    assert best["learning_rate"] in trials["learning_rate"][[1, 3]].tolist()


PRUNING = {"prune_after_trials": 3, "prune_from_epoch": 2}
EPOCHS = 4


class Learner:
    """Even trials do a little better than those before them, odd ones worse from their first epoch on."""

    def __init__(self, killed_in: int | None = None) -> None:
        self.epochs, self.killed_in = {}, killed_in

    def __call__(self, number, values, report):
        self.epochs[number] = 0
        for epoch in range(EPOCHS):
            if number == self.killed_in and epoch == 1:
                raise Killed
            self.epochs[number] += 1
            report(epoch - (10.0 if number % 2 else -number / 100))
        return 1.0 - number / 100


def _pruning(trials: int) -> TuningParameters:
    return TuningParameters(trials=trials, budget_samples=10, space=SPACE, seed=1, **PRUNING)


def test_a_trial_worse_than_the_median_before_it_is_pruned_and_has_no_figure(tmp_path):
    learner, ended = Learner(), []
    best, trials = tune(learner, DEFAULTS, _pruning(6), tmp_path, on_end=ended.append)
    # three run to their end whatever they do; then odd ones stop after the second epoch
    assert learner.epochs == {0: 4, 1: 4, 2: 4, 3: 2, 4: 4, 5: 2}
    assert trials["pruned"].tolist() == [False, False, False, True, False, True]
    assert trials["value"].isna().tolist() == trials["pruned"].tolist()
    assert best == DEFAULTS
    study = optuna.load_study(study_name="study", storage=f"sqlite:///{tmp_path / 'studies.db'}")
    for found in (study, *ended):
        shown = {trial.number: trial for trial in found.trials}
        assert [shown[n].state.name == "PRUNED" for n in range(6)] == trials["pruned"].tolist()
        assert shown[3].intermediate_values == {1: -10.0, 2: -9.0}


def test_a_pruning_study_killed_in_a_trial_equals_one_that_was_not(tmp_path):
    expected = tune(Learner(), DEFAULTS, _pruning(8), tmp_path / "whole")
    with pytest.raises(Killed):
        tune(Learner(killed_in=4), DEFAULTS, _pruning(8), tmp_path / "killed")
    (tmp_path / "killed" / "studies.db").unlink()
    again = Learner()
    found = tune(again, DEFAULTS, _pruning(8), tmp_path / "killed")
    assert again.epochs == {4: 4, 5: 2, 6: 4, 7: 2}
    assert found[0] == expected[0]
    pd.testing.assert_frame_equal(found[1], expected[1])


def test_a_study_that_prunes_nothing_lets_every_trial_run_and_has_no_such_column(tmp_path):
    learner = Learner()
    trials = tune(learner, DEFAULTS, _parameters(6), tmp_path)[1]
    assert set(learner.epochs.values()) == {EPOCHS}
    assert "pruned" not in trials


@pytest.mark.parametrize("n_trials", [1, 3, 8])
def test_pictures_show_what_there_is_to_show(tmp_path, n_trials):
    shown = []
    tune(Objective(), DEFAULTS, _parameters(n_trials), tmp_path, on_end=shown.append)
    figures = study_figures(shown[0], "auc_macro")
    assert set(figures) == ({"history"} if n_trials < 4 else {"history", "importance", "parallel_coordinate"})
    assert "auc_macro" in figures["history"].axes[0].get_ylabel()


def test_a_study_without_any_finite_figure_is_an_error(tmp_path):
    with pytest.raises(MammoError, match="no trial gave a finite figure"):
        tune(Objective(answers={0: math.nan, 1: math.nan}), DEFAULTS, _parameters(2), tmp_path / "study")


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
