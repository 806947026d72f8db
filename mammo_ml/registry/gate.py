"""The gate: whether a version may become champion. Pure: facts in, decision out, nothing is read or measured here.

Hard conditions hold for every champion. The others may be overridden with a reason, which is recorded; a warning
refuses nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from mammo_ml.metrics.paired import Difference
from mammo_ml.parameters import Parameters

Kind = Literal["classifier", "detector", "locator"]
Level = Literal["hard", "soft", "warning"]
FIGURE = r"^[a-z0-9_]+\.[a-z0-9_]+$"
EVALUATE_AGAIN = "evaluate and register it again: `dvc repro`, then `mammo-ml track`"


class GateParameters(Parameters):
    """What the gate looks at, and how strictly. Figures are named as protocol.figure of metrics.json."""

    classifier: str = Field(default="by_patient.auc_macro", pattern=FIGURE)
    detector: str = Field(default="films_by_patient.froc_mean", pattern=FIGURE)
    locator: str = Field(default="films_by_patient.froc_mean", pattern=FIGURE)
    margin: float = Field(
        default=-0.02, ge=-1, le=1, description="the primary figure's paired lower bound must be above"
    )
    subgroup_margin: float = Field(default=-0.1, ge=-1, le=1, description="the same, in each subgroup")
    subgroup_lesions: int = Field(default=30, ge=1, description="subgroups with fewer lesions only warn")
    seconds_per_film: float = Field(default=5.0, gt=0, description="budget, on the machine that promotes")
    resamples: int = Field(default=1000, ge=100, description="resamples of the women behind each paired interval")
    seed: int = Field(default=1, ge=0)

    def primary(self, kind: Kind) -> str:
        """Name of the primary figure of this kind of model."""
        return {"classifier": self.classifier, "detector": self.detector, "locator": self.locator}[kind]


@dataclass(frozen=True)
class CandidateFacts:
    """What the gate knows of a version.

    Attributes:
        faults: what is wrong with its files.
        figures: metrics.json, flat; NaN where one is undefined.
        seconds_per_film: measured on this machine; None where it was not.
    """

    name: str
    version: int
    kind: Kind
    dataset: str
    phantom: bool
    folds_sha256: str
    protocol: str
    leak_free: bool
    data_valid: bool
    faults: tuple[str, ...]
    figures: Mapping[str, float]
    seconds_per_film: float | None = None


@dataclass(frozen=True)
class SubgroupDifference:
    """Candidate minus champion among the films or lesions of one subgroup, as `density D`."""

    name: str
    lesions: int
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """Candidate minus champion, both judged on the same women.

    `fault` says why they cannot be compared, `unlike_items` what else they were judged on differs in.
    """

    champion: int
    difference: Difference | None = None
    subgroups: tuple[SubgroupDifference, ...] = ()
    fault: str = ""
    unlike_items: str = ""


@dataclass(frozen=True)
class Attempts:
    """How often these folds were tried: versions of this name, different evaluations of them, promotions asked for."""

    versions: int = 1
    evaluations: int = 1
    promotions: int = 0


@dataclass(frozen=True)
class RegistryFacts:
    """What belongs into this registry, and who is champion of it.

    Attributes:
        folds_sha256: None for a data set without committed benchmark folds.
        champion: the version that the audit knows as champion.
        moved_by_hand: the version that has the alias, where the audit does not know it as champion.
        comparison: None where there is no champion to compare with.
    """

    dataset: str
    phantom: bool
    folds_sha256: str | None
    champion: int | None = None
    champion_dataset: str | None = None
    comparison: Comparison | None = None
    attempts: Attempts = field(default_factory=Attempts)
    moved_by_hand: int | None = None


@dataclass(frozen=True)
class Condition:
    """One condition of the gate, with the figures that decided it."""

    name: str
    passed: bool
    explanation: str
    level: Level = "hard"


@dataclass(frozen=True)
class Decision:
    """The gate's answer for one version; all conditions are listed, also those that passed."""

    name: str
    version: int
    champion: int | None
    conditions: tuple[Condition, ...]
    attempts: Attempts = field(default_factory=Attempts)
    override: str = ""
    moved_by_hand: int | None = None

    @property
    def refused_by(self) -> tuple[Condition, ...]:
        """Conditions that failed and that the override, if there is one, does not cover."""
        return tuple(one for one in self.conditions if _refuses(one) and not self._overridden(one))

    @property
    def overridden(self) -> tuple[Condition, ...]:
        """Conditions that failed and that the override covers."""
        return tuple(one for one in self.conditions if self._overridden(one))

    @property
    def allowed(self) -> bool:
        """True when nothing refuses; a gate without conditions allows nothing."""
        return bool(self.conditions) and not self.refused_by

    def _overridden(self, condition: Condition) -> bool:
        return bool(self.override) and condition.level == "soft" and not condition.passed


def _refuses(condition: Condition) -> bool:
    return condition.level != "warning" and not condition.passed


# -------------------------------------------------------------------------------------------------------- the decision


def decide(candidate: CandidateFacts, gate: GateParameters, registry: RegistryFacts, override: str = "") -> Decision:
    """Decide whether a version may become champion.

    Args:
        candidate: facts of the version.
        gate: what is asked of it.
        registry: facts of the registry; its `comparison` is None where there is no champion to compare with.
        override: reason to let it pass although conditions that are not hard fail.
    """
    primary = gate.primary(candidate.kind)
    conditions = [
        _not_champion_yet(candidate, registry),
        Condition("files are intact", not candidate.faults, "; ".join(candidate.faults) or "every hash agrees"),
        _data_set(candidate, registry),
        _folds(candidate, registry),
        _flag("split leaks nothing", candidate.leak_free, "leak audit"),
        _flag("data are valid", candidate.data_valid, "data validation"),
        _protocol(candidate, primary),
        _numbers(candidate.figures, primary),
        _beats_knowing_nothing(candidate.figures, primary),
        *([] if registry.comparison is None else _against_champion(registry.comparison, gate, primary)),
        _speed(candidate.seconds_per_film, gate),
    ]
    return Decision(
        candidate.name,
        candidate.version,
        registry.champion,
        tuple(conditions),
        registry.attempts,
        override.strip(),
        registry.moved_by_hand,
    )


def _not_champion_yet(candidate: CandidateFacts, registry: RegistryFacts) -> Condition:
    champion = f"version {registry.champion}" if registry.champion is not None else "none"
    different = candidate.version != registry.champion
    return Condition("is not champion yet", different, f"version {candidate.version}; champion: {champion}")


def _data_set(candidate: CandidateFacts, registry: RegistryFacts) -> Condition:
    def text(dataset: str, phantom: bool) -> str:
        return f"{dataset}{' (phantom)' if phantom else ''}"

    found, expected = text(candidate.dataset, candidate.phantom), text(registry.dataset, registry.phantom)
    known = registry.champion_dataset
    passed = found == expected and known in (None, candidate.dataset)
    told = f"model from {found}; this registry holds {expected}"
    return Condition("data set belongs here", passed, told + (f", its champion is from {known}" if known else ""))


def _folds(candidate: CandidateFacts, registry: RegistryFacts) -> Condition:
    name, found = "folds belong here", candidate.folds_sha256
    if registry.folds_sha256 is None:
        told = f"folds {found[:12] or 'unknown'}; {registry.dataset} has no committed benchmark folds"
        return Condition(name, registry.phantom and bool(found), told)
    told = f"folds {found[:12] or 'unknown'}; benchmark folds {registry.folds_sha256[:12]}"
    return Condition(name, found == registry.folds_sha256, told)


def _flag(name: str, passed: bool, by: str) -> Condition:
    return Condition(name, passed, f"{by}: {'passed' if passed else 'failed or not recorded'}")


def _protocol(candidate: CandidateFacts, primary: str) -> Condition:
    leaky = [what for what in (candidate.protocol, primary, candidate.name) if "leaky" in what]
    told = f"protocol {candidate.protocol or 'not recorded'}, primary figure {primary}"
    return Condition("protocol is not leaky", bool(candidate.protocol) and not leaky, told)


def _numbers(figures: Mapping[str, float], primary: str) -> Condition:
    """Every figure must be there and finite; only a subgroup (protocol.subgroup.figure) may leave one undefined."""
    name = "every figure is a number"
    undefined = sorted(key for key, value in figures.items() if math.isnan(value) and key.count(".") >= 2)
    bad = sorted(key for key, value in figures.items() if not math.isfinite(value) and key not in undefined)
    missing = [key for key in bounds_of(primary) if key not in figures]
    told = f"{len(bad)} of {len(figures)} are not: {_some(bad)}" if bad else f"all {len(figures) - len(undefined)} are"
    told += f"; undefined in subgroups too small for it: {_some(undefined)}" if undefined else ""
    told += f"; metrics.json lacks {', '.join(missing)}" if missing else ""
    return Condition(name, not bad and not missing, told)


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def bounds_of(primary: str) -> list[str]:
    """Names of a primary figure, its bounds and its baseline."""
    return [primary, f"{primary}_lo", f"{primary}_hi", f"{primary}_baseline"]


def _beats_knowing_nothing(figures: Mapping[str, float], primary: str) -> Condition:
    name, nan = "better than knowing nothing", float("nan")
    value, low, high, baseline = (figures.get(figure, nan) for figure in bounds_of(primary))
    # comparisons with NaN are False: NaN fails both
    passed = low <= value <= high and low > baseline
    sign = ">" if low > baseline else "is not above"
    told = f"{primary} {value:.3f} (95 % {low:.3f} to {high:.3f}); lower bound {low:.3f} {sign} {baseline:.3f}"
    return Condition(name, passed, told, "soft")


def _against_champion(comparison: Comparison, gate: GateParameters, primary: str) -> list[Condition]:
    name, champion = "no worse than champion", f"version {comparison.champion}"
    if comparison.difference is None:
        return [Condition(name, False, f"cannot be compared with {champion}: {comparison.fault}", "soft")]
    found = comparison.difference
    conditions = [
        Condition(name, found.lo > gate.margin, f"{primary} {_paired(found, gate.margin)}", "soft"),
        Condition(
            "point estimate not lower",
            found.point >= 0,
            f"{found.first:.3f} against {found.second:.3f} of {champion}: {found.point:+.3f}",
            "soft",
        ),
    ]
    if comparison.unlike_items:
        conditions.append(Condition("judged on the same items", False, comparison.unlike_items, "warning"))
    return conditions + [_subgroup(one, gate) for one in comparison.subgroups]


def _subgroup(subgroup: SubgroupDifference, gate: GateParameters) -> Condition:
    name, found = f"no worse: {subgroup.name}", subgroup.difference
    lesions = f"{subgroup.lesions} lesion{'' if subgroup.lesions == 1 else 's'}"
    if math.isnan(found.first) and math.isnan(found.second):
        # the truth alone decides whether a figure is defined: it says nothing of either model
        return Condition(name, False, f"{lesions}: the figure is undefined there", "warning")
    if subgroup.lesions >= gate.subgroup_lesions:
        return Condition(
            name, found.lo > gate.subgroup_margin, f"{lesions}: {_paired(found, gate.subgroup_margin)}", "soft"
        )
    told = f"{lesions}, too few to judge: {found.first:.3f} against {found.second:.3f} ({found.point:+.3f})"
    return Condition(name, found.point > gate.subgroup_margin, told, "warning")


def _paired(found: Difference, margin: float) -> str:
    sign = ">" if found.lo > margin else "is not above"
    interval = f"{found.point:+.3f} (95 % {found.lo:+.3f} to {found.hi:+.3f})"
    return f"{interval}; lower bound {found.lo:+.3f} {sign} {margin:+.3f}"


def _speed(seconds: float | None, gate: GateParameters) -> Condition:
    name, budget = "fast enough", f"budget {gate.seconds_per_film:g}"
    if seconds is None:
        return Condition(name, False, f"not measured, for the files are not intact; {budget} s per film", "soft")
    told = f"{seconds:.2f} s per film on this machine; {budget}"
    return Condition(name, seconds <= gate.seconds_per_film, told, "soft")


# ------------------------------------------------------------------------------------------------------------- to read


def format_decision(decision: Decision) -> str:
    """Plain text of a decision: a line per condition, with its figures."""
    width = max((len(condition.name) for condition in decision.conditions), default=0)
    now = f"version {decision.champion}" if decision.champion is not None else "none"
    if decision.moved_by_hand is not None:
        now += f"; version {decision.moved_by_hand} was given the alias by hand"
    lines = [f"{decision.name} version {decision.version}  (champion now: {now})", ""]
    for condition in decision.conditions:
        lines.append(f"  {_mark(condition, decision)}  {condition.name:<{width}}  {condition.explanation}")
    return "\n".join([*lines, "", format_attempts(decision.attempts), _verdict(decision)])


def format_attempts(attempts: Attempts) -> str:
    """Sentence about how often these folds were tried."""

    def count(number: int, one: str, many: str) -> str:
        return f"{number} {one if number == 1 else many}"

    return (
        f"Attempts on these folds: {count(attempts.versions, 'version', 'versions')}, "
        f"{count(attempts.evaluations, 'evaluation', 'different evaluations')}, "
        f"{count(attempts.promotions, 'promotion', 'promotions')} asked for before. "
        "The best of many attempts looks better than it is."
    )


def _mark(condition: Condition, decision: Decision) -> str:
    if condition.passed:
        return "[pass]"
    if condition.level == "warning":
        return "[warn]"
    return "[over]" if condition in decision.overridden else "[FAIL]"


def _verdict(decision: Decision) -> str:
    if decision.allowed and decision.overridden:
        return f"ALLOWED by override of {_names(decision.overridden)}: {decision.override}"
    if decision.allowed:
        return "ALLOWED"
    failed, judged = len(decision.refused_by), sum(one.level != "warning" for one in decision.conditions)
    hard = [one for one in decision.refused_by if one.level == "hard"]
    told = f"REFUSED: {failed} condition{'' if failed == 1 else 's'} of {judged}"
    return told + (f". No override helps against: {_names(tuple(hard))}" if hard and decision.override else "")


def _names(conditions: tuple[Condition, ...]) -> str:
    return ", ".join(condition.name for condition in conditions)
