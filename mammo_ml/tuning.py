"""Search spaces and the study: Optuna, resumable, shared by several workers, trial 0 is the defaults.

A trial that does worse, epoch by epoch, than the median of those before it may be pruned, so that a large study spends
its time where it is worth it. What was reported is recorded with the trials: who resumes prunes as who never stopped.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from pydantic import Field, model_validator

from mammo_ml.errors import MammoError
from mammo_ml.parameters import Parameters
from mammo_ml.recipe import Values
from mammo_ml.studies import Claim, Finished, Study, frozen


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
    """How far a study goes. `space` names keys of the recipe that is tuned; trial 0 keeps its own values."""

    trials: int = Field(ge=1)
    budget_samples: int = Field(ge=1, description="training samples of one trial")
    space: dict[str, Range]
    seed: int = Field(ge=0)
    direction: Literal["maximize"] = "maximize"
    prune_after_trials: int | None = Field(
        default=None, ge=1, description="trials that run to their end before the first may be pruned; null: none is"
    )
    prune_from_epoch: int = Field(default=2, ge=1, description="no trial is pruned before it has run so many epochs")
    workers: int = Field(
        default=1,
        ge=1,
        description="processes on this machine, which share training.threads; with one, a study repeats itself",
    )
    heartbeat_s: int = Field(default=10, ge=1, description="seconds between two signs of life of a trial")
    grace_s: int = Field(default=60, ge=2, description="silence after which a trial is given up and run again")

    def what_counts(self) -> dict[str, Any]:
        """Parameters that make it another study; more trials continue the one there is."""
        return self.model_dump(mode="json", exclude={"trials", "space", "workers", "heartbeat_s", "grace_s"})


class PrunedError(MammoError):
    """What a report raises where the trial is not worth going on with; it is not a failure."""


Report = Callable[[float], None]
Objective = Callable[[int, Values, Report], float]


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
    on_end: Callable[[optuna.Study], None] = lambda study: None,
) -> tuple[Values, pd.DataFrame]:
    """Run a study to its number of trials and return the values to train with.

    Several processes may run the same study at once; each trial is run by one of them. One that dies costs its trial
    only the time: another takes it up with the same values. Trial n's sampler is seeded by (seed, n) and learns from
    the trials before it, so with one worker a study that was interrupted equals one that was not. Trial 0 is the
    defaults; other values are returned only where they beat it.

    Args:
        objective: figure to maximise, from the trial's number, the values of the searched keys, and a function to
            report to after every epoch how good the model is, more is better; it raises PrunedError, to be let through,
            where the trial is to end.
        defaults: value of every searched key in trial 0.
        parameters: number of trials, search space, seed.
        folder: keeps the studies, see `mammo_ml.studies`.
        name: label of the study, " · ", and a key of all it depends on.
        parts: what the key stands for.
        address: SQLAlchemy address of another database than the folder's own.
        on_elsewhere: told once of every trial that was finished before or by another worker.
        on_end: given the whole study, in memory, for Optuna's pictures.

    Returns:
        The best values, and a table with a row per trial: trial, value (missing where it was not finite or the trial
        was pruned), where the study prunes whether it was pruned, and a column per searched key.

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
            judge = _Judge(claim, [one for one in study.finished() if one.trial < claim.trial], parameters)
            try:
                with study.beating(claim):
                    figure = objective(claim.trial, claim.values, judge.report)
            except PrunedError:
                study.finish(claim, None, judge.curve, pruned=True)
            else:
                study.finish(claim, float(figure) if np.isfinite(figure) else None, judge.curve)
            told.add(claim.trial)
    finished = _tell_of_others(study, parameters.trials, told, on_elsewhere)
    good = [(trial.value, -trial.trial, trial) for trial in finished if trial.value is not None]
    if not good:
        raise MammoError("tuning: no trial gave a finite figure; look at the trials' runs, or lower learning_rate")
    best = max(good, key=lambda entry: entry[:2])[2]
    on_end(_in_memory(finished, distributions))
    rows = [{"trial": one.trial, "value": one.value, **_in_order(one.values, parameters.space)} for one in finished]
    table = pd.DataFrame(rows)
    if parameters.prune_after_trials is not None:
        table.insert(2, "pruned", [one.pruned for one in finished])
    return _in_order(best.values, parameters.space), table


def _in_memory(
    trials: Sequence[Finished],
    distributions: dict[str, BaseDistribution],
    *,
    sampler: optuna.samplers.BaseSampler | None = None,
    pruner: optuna.pruners.BasePruner | None = None,
) -> optuna.Study:
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    for trial in trials:
        study.add_trial(frozen(trial.state, trial, distributions))
    return study


class _Judge:
    """Listens to the epochs of a trial, and ends it by Optuna's median rule.

    Args:
        claim: the trial.
        before: finished trials of lower numbers; only these, or a resumed study would judge otherwise.
        parameters: from when on trials are pruned.
    """

    def __init__(self, claim: Claim, before: Sequence[Finished], parameters: TuningParameters) -> None:
        self._claim, self._before, self._parameters = claim, before, parameters
        self.curve: list[float] = []

    def report(self, value: float) -> None:
        """Take in how good the model is after one more epoch.

        Raises:
            PrunedError: where the best epoch so far is worse than the median of the trials before it.
        """
        self.curve.append(value)
        after = self._parameters.prune_after_trials
        if after is None:
            return
        rule = optuna.pruners.MedianPruner(after, n_warmup_steps=self._parameters.prune_from_epoch)
        trial = _in_memory([replace(one, values={}) for one in self._before], {}, pruner=rule).ask()
        for epoch, reported in enumerate(self.curve, start=1):
            trial.report(reported, epoch)
        if trial.should_prune():
            raise PrunedError(f"trial {self._claim.trial} is pruned after epoch {len(self.curve)}")


def _tell_of_others(study: Study, trials: int, told: set[int], tell: Callable[[Finished], None]) -> list[Finished]:
    finished = [trial for trial in study.finished() if trial.trial < trials]
    for trial in finished:
        if trial.trial not in told:
            told.add(trial.trial)
            tell(trial)
    return finished


def _draw(seed: int, distributions: dict[str, BaseDistribution], before: Sequence[Finished]) -> Values:
    """Values the sampler proposes after these trials; it learns from those with a finite figure."""
    with_figure = [trial for trial in before if trial.value is not None]
    study = _in_memory(with_figure, distributions, sampler=optuna.samplers.TPESampler(seed=seed))
    return dict(study.ask(distributions).params)


def _in_order(values: Values, space: Mapping[str, Range]) -> Values:
    return {key: values[key] for key in space}


def _seed_of(seed: int, number: int) -> int:
    return int(np.random.default_rng([seed, number]).integers(2**31))
