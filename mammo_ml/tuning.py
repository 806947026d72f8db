"""Search spaces and the study: Optuna, resumable, shared by several workers, trial 0 is the defaults."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from pydantic import Field, model_validator

from mammo_ml.errors import MammoError
from mammo_ml.parameters import Parameters
from mammo_ml.recipe import Values
from mammo_ml.studies import Finished, Study, frozen


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

    @property
    def distribution(self) -> BaseDistribution:
        """The same for Optuna."""
        if self.choices is not None:
            return CategoricalDistribution(self.choices)
        assert self.low is not None
        assert self.high is not None
        return FloatDistribution(self.low, self.high, log=self.log)


class TuningParameters(Parameters):
    """How far a study goes. `space` names keys of the training section; trial 0 keeps that section's own values."""

    trials: int = Field(ge=1)
    budget_samples: int = Field(ge=1, description="training samples of one trial")
    space: dict[str, Range]
    seed: int = Field(ge=0)
    direction: Literal["maximize"] = "maximize"
    workers: int = Field(default=1, ge=1, description="processes on this machine; with one, a study repeats itself")
    heartbeat_s: int = Field(default=10, ge=1, description="seconds between two signs of life of a trial")
    grace_s: int = Field(default=60, ge=2, description="silence after which a trial is given up and run again")

    def what_counts(self) -> dict[str, Any]:
        """Parameters that make it another study; more trials continue the one there is."""
        return self.model_dump(mode="json", exclude={"trials", "space", "workers", "heartbeat_s", "grace_s"})


Objective = Callable[[int, Values], float]


def tune(
    objective: Objective,
    defaults: Mapping[str, float | int | str],
    parameters: TuningParameters,
    folder: Path,
    *,
    name: str = "study",
    parts: Mapping[str, Any] | None = None,
    address: str | None = None,
    on_elsewhere: Callable[[Finished], None] = lambda trial: None,
) -> tuple[Values, pd.DataFrame]:
    """Run a study to its number of trials and return the values to train with.

    Several processes may run the same study at once; each trial is run by one of them. One that dies costs its trial
    only the time: another takes it up with the same values. Trial n's sampler is seeded by (seed, n) and learns from
    the trials before it, so with one worker a study that was interrupted equals one that was not. Trial 0 is the
    defaults; other values are returned only where they beat it.

    Args:
        objective: figure to maximise, from the trial's number and the values of the searched keys.
        defaults: value of every searched key in trial 0.
        parameters: number of trials, search space, seed.
        folder: keeps the studies, see `mammo_ml.studies`.
        name: label of the study, " · ", and a key of all it depends on.
        parts: what the key stands for.
        address: SQLAlchemy address of another database than the folder's own.
        on_elsewhere: told once of every trial that was finished before or by another worker.

    Returns:
        The best values, and a table with a row per trial: trial, value, and a column per searched key.

    Raises:
        MammoError: when no trial gave a finite figure, or the studies cannot be read or written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {key: span.distribution for key, span in parameters.space.items()}
    beats = {"heartbeat_s": parameters.heartbeat_s, "grace_s": parameters.grace_s}
    study = Study(folder, name, distributions, parts or {}, **beats, address=address)
    told: set[int] = set()

    def draw(number: int, before: Sequence[Finished]) -> Values:
        return dict(defaults) if number == 0 else _draw(_seed_of(parameters.seed, number), distributions, before)

    with study.at_work():
        while (claim := study.claim(parameters.trials, draw)) is not None:
            _tell_of_others(study, parameters.trials, told, on_elsewhere)
            with study.beating(claim):
                figure = objective(claim.trial, claim.values)
            told.add(claim.trial)
            study.finish(claim, float(figure) if np.isfinite(figure) else None)
    finished = _tell_of_others(study, parameters.trials, told, on_elsewhere)
    good = [(trial.value, -trial.trial, trial) for trial in finished if trial.value is not None]
    if not good:
        raise MammoError("tuning: no trial gave a finite figure; look at the trials' runs, or lower learning_rate")
    best = max(good, key=lambda entry: entry[:2])[2]
    rows = [{"trial": one.trial, "value": one.value, **_in_order(one.values, parameters.space)} for one in finished]
    return _in_order(best.values, parameters.space), pd.DataFrame(rows)


def _tell_of_others(study: Study, trials: int, told: set[int], tell: Callable[[Finished], None]) -> list[Finished]:
    finished = [trial for trial in study.finished() if trial.trial < trials]
    for trial in finished:
        if trial.trial not in told:
            told.add(trial.trial)
            tell(trial)
    return finished


def _draw(seed: int, distributions: dict[str, BaseDistribution], before: Sequence[Finished]) -> Values:
    """Values the sampler proposes after these trials; it learns from those with a finite figure."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    for trial in before:
        if trial.value is not None:
            study.add_trial(frozen(TrialState.COMPLETE, trial, distributions))
    return dict(study.ask(distributions).params)


def _in_order(values: Values, space: Mapping[str, Range]) -> Values:
    return {key: values[key] for key in space}


def _seed_of(seed: int, number: int) -> int:
    return int(np.random.default_rng([seed, number]).integers(2**31))
