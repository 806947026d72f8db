"""What the gate decides from given facts; nothing is read or measured."""

import dataclasses
import math

import pytest

from mammo_ml.metrics.paired import Difference
from mammo_ml.registry import CandidateFacts, Comparison, GateParameters, RegistryFacts, decide, format_decision
from mammo_ml.registry.gate import Attempts, SubgroupDifference
from tests.toy_models import FOLDS, NAME

GATE = GateParameters()
FIGURES = {
    "by_patient.auc_macro": 0.70,
    "by_patient.auc_macro_lo": 0.64,
    "by_patient.auc_macro_hi": 0.76,
    "by_patient.auc_macro_baseline": 0.50,
}
CANDIDATE = CandidateFacts(
    name=NAME,
    version=2,
    kind="classifier",
    dataset="mini_mias",
    phantom=False,
    folds_sha256=FOLDS,
    protocol="by_patient",
    leak_free=True,
    data_valid=True,
    faults=(),
    figures=FIGURES,
    seconds_per_film=0.5,
)
BETTER = Difference(0.70, 0.67, 0.03, -0.01, 0.07)
REAL = RegistryFacts(
    "mini_mias",
    phantom=False,
    folds_sha256=FOLDS,
    champion=1,
    champion_dataset="mini_mias",
    comparison=Comparison(1, BETTER, (SubgroupDifference("density D", 40, BETTER),)),
)
HARD = [
    "is not champion yet",
    "files are intact",
    "data set belongs here",
    "folds belong here",
    "split leaks nothing",
    "data are valid",
    "protocol is not leaky",
    "every figure is a number",
]
SOFT = ["better than knowing nothing", "no worse than champion", "point estimate not lower", "no worse: density D",
        "fast enough"]  # fmt: skip


def failed(candidate: CandidateFacts, facts: RegistryFacts = REAL, override: str = "") -> list[str]:
    """Names of what refuses."""
    decision = decide(candidate, GATE, facts, override)
    assert decision.allowed == (not decision.refused_by)
    return [condition.name for condition in decision.refused_by]


def told(condition: str, candidate: CandidateFacts = CANDIDATE, facts: RegistryFacts = REAL) -> str:
    """The line about a condition."""
    (line,) = [one for one in format_decision(decide(candidate, GATE, facts)).splitlines() if f"]  {condition} " in one]
    return line


def against(difference: Difference, *subgroups: SubgroupDifference) -> RegistryFacts:
    return dataclasses.replace(REAL, comparison=Comparison(1, difference, subgroups))


def with_figures(**changes: float) -> CandidateFacts:
    changed = {f"by_patient.auc_macro{suffix}": value for suffix, value in changes.items()}
    return dataclasses.replace(CANDIDATE, figures=FIGURES | changed)


def test_a_sound_challenger_is_allowed() -> None:
    assert failed(CANDIDATE) == []
    first = dataclasses.replace(REAL, champion=None, champion_dataset=None, comparison=None)
    assert failed(CANDIDATE, first) == []
    names = [condition.name for condition in decide(CANDIDATE, GATE, first).conditions]
    assert names == [*HARD, "better than knowing nothing", "fast enough"]
    assert [condition.name for condition in decide(CANDIDATE, GATE, REAL).conditions] == [*HARD, *SOFT]


@pytest.mark.parametrize(
    ("change", "condition"),
    [
        ({"leak_free": False}, "split leaks nothing"),
        ({"data_valid": False}, "data are valid"),
        ({"faults": ("weights.safetensors was changed",)}, "files are intact"),
        ({"folds_sha256": "b" * 64}, "folds belong here"),
        ({"folds_sha256": ""}, "folds belong here"),
        ({"dataset": "cbis_ddsm"}, "data set belongs here"),
        ({"protocol": "patches_at_random_leaky"}, "protocol is not leaky"),
        ({"protocol": ""}, "protocol is not leaky"),
        ({"version": 1}, "is not champion yet"),
    ],
)
def test_each_condition_alone_refuses(change: dict[str, object], condition: str) -> None:
    assert failed(dataclasses.replace(CANDIDATE, **change)) == [condition]


def test_a_phantom_model_never_enters_a_registry_of_real_films() -> None:
    assert failed(dataclasses.replace(CANDIDATE, dataset="phantom", phantom=True)) == ["data set belongs here"]
    # neither by its name alone, nor after the workspace was switched to the phantom
    assert failed(dataclasses.replace(CANDIDATE, phantom=True)) == ["data set belongs here"]
    switched = RegistryFacts("phantom", True, None, champion=1, champion_dataset="mini_mias")
    phantom = dataclasses.replace(CANDIDATE, dataset="phantom", phantom=True)
    assert failed(phantom, switched) == ["data set belongs here"]
    assert failed(phantom, RegistryFacts("phantom", True, None)) == []


def test_real_films_without_benchmark_folds_have_no_champion() -> None:
    assert failed(CANDIDATE, dataclasses.replace(REAL, folds_sha256=None)) == ["folds belong here"]


def test_a_lower_bound_at_or_below_knowing_nothing_is_refused() -> None:
    assert failed(with_figures(_lo=0.50)) == ["better than knowing nothing"]
    assert failed(with_figures(_lo=0.49)) == ["better than knowing nothing"]
    assert failed(with_figures(_lo=0.51)) == []


def test_bounds_that_do_not_hold_the_figure_are_refused() -> None:
    assert failed(with_figures(_lo=0.72)) == ["better than knowing nothing"]


@pytest.mark.parametrize("suffix", ["", "_lo", "_hi", "_baseline"])
def test_a_primary_figure_that_is_nan_or_missing_is_refused(suffix: str) -> None:
    assert failed(with_figures(**{suffix: float("nan")})) == ["every figure is a number", "better than knowing nothing"]
    figures = {key: value for key, value in FIGURES.items() if key != f"by_patient.auc_macro{suffix}"}
    lacking = dataclasses.replace(CANDIDATE, figures=figures)
    assert failed(lacking) == ["every figure is a number", "better than knowing nothing"]
    assert f"metrics.json lacks by_patient.auc_macro{suffix}" in told("every figure is a number", lacking)


def test_nan_in_any_figure_is_refused_by_name() -> None:
    candidate = dataclasses.replace(CANDIDATE, figures=FIGURES | {"by_patient.ece": float("nan")})
    assert failed(candidate) == ["every figure is a number"]
    assert "by_patient.ece" in format_decision(decide(candidate, GATE, REAL))


def test_no_figures_at_all_are_refused() -> None:
    assert failed(dataclasses.replace(CANDIDATE, figures={})) == [
        "every figure is a number",
        "better than knowing nothing",
    ]


def test_a_detector_is_judged_by_its_froc() -> None:
    figures = {f"films_by_patient.froc_mean{suffix}": value for suffix, value in
               {"": 0.3, "_lo": 0.2, "_hi": 0.4, "_baseline": 0.1}.items()}  # fmt: skip
    detector = dataclasses.replace(CANDIDATE, kind="detector", figures=figures)
    assert failed(detector) == []
    lacking = dataclasses.replace(CANDIDATE, kind="detector")
    assert failed(lacking) == ["every figure is a number", "better than knowing nothing"]


def test_a_figure_may_be_undefined_in_a_subgroup_but_not_infinite() -> None:
    undefined = dataclasses.replace(CANDIDATE, figures=FIGURES | {"by_patient.density_f.auc_macro": math.nan})
    assert failed(undefined) == []
    assert "undefined in subgroups too small for it: by_patient.density_f.auc_macro" in told(HARD[-1], undefined)
    infinite = dataclasses.replace(CANDIDATE, figures=FIGURES | {"by_patient.density_f.auc_macro": math.inf})
    assert failed(infinite) == ["every figure is a number"]


# ------------------------------------------------------------------------------------------------- against the champion


def test_a_lower_bound_at_the_margin_is_refused_with_its_figures() -> None:
    assert failed(CANDIDATE, against(Difference(0.7, 0.69, 0.01, -0.02, 0.05))) == ["no worse than champion"]
    line = told("no worse than champion", facts=against(Difference(0.7, 0.69, 0.01, -0.02, 0.05)))
    assert "+0.010 (95 % -0.020 to +0.050); lower bound -0.020 is not above -0.020" in line
    assert failed(CANDIDATE, against(Difference(0.7, 0.69, 0.01, -0.0199, 0.05))) == []


def test_a_point_estimate_below_the_champions_is_refused_however_narrow_the_interval() -> None:
    worse = against(Difference(0.699, 0.70, -0.001, -0.002, 0.0))
    assert failed(CANDIDATE, worse) == ["point estimate not lower"]
    assert "0.699 against 0.700 of version 1: -0.001" in told("point estimate not lower", facts=worse)
    assert failed(CANDIDATE, against(Difference(0.7, 0.7, 0.0, 0.0, 0.0))) == []


def test_a_difference_that_is_undefined_refuses() -> None:
    nan = math.nan
    assert failed(CANDIDATE, against(Difference(nan, 0.7, nan, nan, nan))) == SOFT[1:3]


def test_versions_that_cannot_be_compared_are_refused_with_the_reason() -> None:
    facts = dataclasses.replace(REAL, comparison=Comparison(1, fault="version 1: registered without items.csv"))
    assert failed(CANDIDATE, facts) == ["no worse than champion"]
    assert "cannot be compared with version 1: version 1: registered without items.csv" in told(SOFT[1], facts=facts)


@pytest.mark.parametrize(("lesions", "refused"), [(30, True), (29, False)])
def test_a_subgroup_refuses_from_thirty_lesions_on_and_warns_below(lesions: int, refused: bool) -> None:
    lost = SubgroupDifference("kind CALC", lesions, Difference(0.3, 0.5, -0.2, -0.3, -0.1))
    facts = against(BETTER, lost)
    assert failed(CANDIDATE, facts) == (["no worse: kind CALC"] if refused else [])
    line = told("no worse: kind CALC", facts=facts)
    assert ("[FAIL]" if refused else "[warn]") in line
    assert f"{lesions} lesions" in line
    assert "-0.200" in line


def test_other_items_than_the_champions_are_warned_of_and_refuse_nothing() -> None:
    told = "by_patient: 468 and 351 patch items, 300 of the same name"
    facts = dataclasses.replace(REAL, comparison=Comparison(1, BETTER, unlike_items=told))
    assert failed(CANDIDATE, facts) == []
    text = format_decision(decide(CANDIDATE, GATE, facts))
    assert "[warn]  judged on the same items" in text
    assert told in text
    assert "judged on the same items" not in format_decision(decide(CANDIDATE, GATE, REAL))


def test_a_subgroup_in_which_the_figure_is_undefined_for_both_only_warns() -> None:
    nan = math.nan
    undefined = SubgroupDifference("density F", 40, Difference(nan, nan, nan, nan, nan))
    assert failed(CANDIDATE, against(BETTER, undefined)) == []
    assert "[warn]" in told("no worse: density F", facts=against(BETTER, undefined))


@pytest.mark.parametrize("seconds", [5.1, None])
def test_a_model_that_is_too_slow_or_was_not_timed_is_refused(seconds: float | None) -> None:
    slow = dataclasses.replace(CANDIDATE, seconds_per_film=seconds)
    assert failed(slow) == ["fast enough"]
    assert "budget 5" in told("fast enough", slow)


# ------------------------------------------------------------------------------------------------------------ override


def test_an_override_covers_what_is_measured_and_is_shown() -> None:
    weak = dataclasses.replace(with_figures(_lo=0.4), seconds_per_film=9.0)
    facts = dataclasses.replace(REAL, comparison=Comparison(1, Difference(0.6, 0.7, -0.1, -0.2, 0.0)))
    assert failed(weak, facts) == [*SOFT[:3], "fast enough"]
    assert failed(weak, facts, "the champion was trained on a wrong label") == []
    text = format_decision(decide(weak, GATE, facts, "the champion was trained on a wrong label"))
    assert text.count("[over]") == 4
    assert text.endswith(
        "ALLOWED by override of better than knowing nothing, no worse than champion, point estimate not lower, "
        "fast enough: the champion was trained on a wrong label"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"leak_free": False},
        {"data_valid": False},
        {"faults": ("weights.safetensors was changed",)},
        {"folds_sha256": "b" * 64},
        {"dataset": "cbis_ddsm"},
        {"protocol": "patches_at_random_leaky"},
        {"version": 1},
        {"figures": {}},
        {"figures": FIGURES | {"by_patient.ece": math.nan}},
    ],
)
def test_no_override_helps_against_leaks_bad_data_damage_or_foreign_folds(change: dict[str, object]) -> None:
    candidate = dataclasses.replace(CANDIDATE, **change)
    refusing = failed(candidate, override="I insist")
    assert refusing
    assert set(refusing) <= set(HARD)
    text = format_decision(decide(candidate, GATE, REAL, "I insist"))
    assert f"No override helps against: {', '.join(refusing)}" in text


def test_an_override_without_a_reason_is_none() -> None:
    assert failed(with_figures(_lo=0.4), override="   ") == ["better than knowing nothing"]


# ------------------------------------------------------------------------------------------------------------- to read


def test_a_refusal_shows_every_condition_with_its_figures() -> None:
    text = format_decision(decide(with_figures(_lo=0.45), GATE, REAL))
    assert "REFUSED: 1 condition of 13" in text
    assert "[FAIL]  better than knowing nothing" in text
    assert "0.700 (95 % 0.450 to 0.760); lower bound 0.450 is not above 0.500" in text
    assert text.count("[pass]") == 12
    assert decide(CANDIDATE, GATE, REAL).allowed
    assert format_decision(decide(CANDIDATE, GATE, REAL)).endswith("ALLOWED")


def test_the_number_of_attempts_is_told() -> None:
    facts = dataclasses.replace(REAL, attempts=Attempts(7, 5, 1))
    text = format_decision(decide(CANDIDATE, GATE, facts))
    assert "Attempts on these folds: 7 versions, 5 different evaluations, 1 promotion asked for before." in text


def test_an_alias_moved_by_hand_is_told() -> None:
    text = format_decision(decide(CANDIDATE, GATE, dataclasses.replace(REAL, moved_by_hand=3)))
    assert "(champion now: version 1; version 3 was given the alias by hand)" in text
