"""Search spaces and the study: Optuna, resumable, trial 0 is the defaults."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Self

import numpy as np
import optuna
import pandas as pd
from filelock import FileLock
from pydantic import Field, model_validator

from mammo_ml.errors import MammoError
from mammo_ml.parameters import Parameters
from mammo_ml.recipe import Values


class Range(Parameters):
    """One searched parameter: a number between two bounds, or a choice."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[float | int | str, ...] | None = None

    @model_validator(mode="after")
    def _is_a_range_or_a_choice(self) -> Self:
        if self.choices is None:
            if self.low is None or self.high is None or self.low > self.high:
                raise ValueError("give `low` and `high`, low <= high, or `choices`")
            if self.log and self.low <= 0:
                raise ValueError("on a logarithmic scale `low` must be above 0")
        elif not self.choices or self.low is not None or self.high is not None:
            raise ValueError("give `low` and `high`, or `choices`, not both, and not empty")
        return self


class TuningParameters(Parameters):
    """How far a study goes. `space` names keys of the training section; trial 0 keeps that section's own values."""

    trials: int = Field(ge=1)
    budget_samples: int = Field(ge=1, description="training samples of one trial")
    space: dict[str, Range]
    seed: int = Field(ge=0)
    direction: Literal["maximize"] = "maximize"


ABANDONED = "abandoned"
"""Marks a trial whose process died; another trial has its values."""
Objective = Callable[[int, Values], float]


def tune(
    objective: Objective, defaults: Mapping[str, float | int | str], parameters: TuningParameters, store: Path
) -> tuple[Values, pd.DataFrame]:
    """Run a study to its number of trials and return the values to train with.

    Trial n's sampler is seeded by (seed, n), so a study that was interrupted equals one that was not. Trial 0 is the
    defaults; other values are returned only where they beat it.

    Args:
        objective: figure to maximise, from the trial's number and the values of the searched keys.
        defaults: value of every searched key in trial 0.
        parameters: number of trials, search space, seed.
        store: SQLite file that keeps finished trials.

    Returns:
        The best values, and a table with a row per trial: trial, value, and a column per searched key.

    Raises:
        MammoError: when no trial gave a finite figure.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _open_study(store, parameters)
    if _finished(study) == 0 and not study.get_trials(states=(optuna.trial.TrialState.WAITING,)):
        study.enqueue_trial(dict(defaults))
    for number in range(_finished(study), parameters.trials):
        study.sampler = optuna.samplers.TPESampler(seed=_seed_of(parameters.seed, number))
        trial = study.ask()
        values = {key: _suggest(trial, key, span) for key, span in parameters.space.items()}
        figure = objective(number, values)
        finite = bool(np.isfinite(figure))
        study.tell(trial, figure if finite else None, state=None if finite else optuna.trial.TrialState.FAIL)
    finished = [trial for trial in study.trials if trial.value is not None]
    if not finished:
        raise MammoError("tuning: no trial gave a finite figure; look at the trials' runs, or lower learning_rate")
    best = max(finished, key=lambda trial: (trial.value, -trial.number))
    kept = [trial for trial in study.trials if ABANDONED not in trial.user_attrs]
    rows = [{"trial": number, "value": trial.value, **trial.params} for number, trial in enumerate(kept)]
    return dict(best.params), pd.DataFrame(rows)


def _open_study(store: Path, parameters: TuningParameters) -> optuna.Study:
    store.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(store) + ".lock"):
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{store.resolve()}", engine_kwargs={"connect_args": {"timeout": 60}}
        )
        study = optuna.create_study(
            study_name="study", storage=storage, direction=parameters.direction, load_if_exists=True
        )
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        # Its process died: put its values back in the queue, so that the same trial is run again. If it died before it
        # had them all, the seeded sampler draws them again.
        study._storage.set_trial_user_attr(trial._trial_id, ABANDONED, True)
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        if trial.params.keys() == parameters.space.keys():
            study.enqueue_trial(trial.params)
    return study


def _finished(study: optuna.Study) -> int:
    """Trials that ended by themselves, with or without a finite figure."""
    return sum(trial.state.is_finished() and ABANDONED not in trial.user_attrs for trial in study.trials)


def _seed_of(seed: int, number: int) -> int:
    return int(np.random.default_rng([seed, number]).integers(2**31))


def _suggest(trial: optuna.Trial, key: str, span: Range) -> float | int | str:
    if span.choices is not None:
        return trial.suggest_categorical(key, span.choices)  # type: ignore[return-value]
    assert span.low is not None
    assert span.high is not None
    return trial.suggest_float(key, span.low, span.high, log=span.log)
