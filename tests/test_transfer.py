import pandas as pd
import pytest

from mammo_ml.datasets.cbis_ddsm_split import EXTERNAL_TEST, PRETRAINING, women
from mammo_ml.errors import BadInputError
from mammo_ml.parameters import parse_section
from mammo_ml.splits import make_folds
from mammo_ml.transfer import TransferParameters, balanced, films_of_study, folds_taught, is_taught
from mammo_ml.transfer_figures import SHOWN, transfer_figure, transfer_table
from tests.test_windows import film, lesions
from tests.transfer_sets import ASKED, asked

NONE = pd.DataFrame({"film_id": [], "severity": []})


def table(names: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"film_id": [f"{name}_film" for name in names], "patient_id": names})


def test_a_later_phase_goes_in_small_steps_and_knows_what_came_before() -> None:
    parameters = asked()
    first, second = (parameters.recipe(phases, 3) for phases in ((("cbis_ddsm",),), (("cbis_ddsm",), ("mini_mias",))))
    assert (first.training.learning_rate, first.training.budget_samples, first.training.seed) == (0.001, 16, 3)
    assert (second.training.learning_rate, second.training.budget_samples) == (0.00003, 8)
    # a training that was interrupted must not go on as one that learned from something else before
    assert first.phases != second.phases


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "other"}, "reference 'other' is none of mini_mias"),
        ({"women_apart": {"cbis_ddsm": 2}}, "women_apart needs cbis_ddsm and cdd_cesm, found cbis_ddsm"),
        ({"configurations": {"mini_mias": [["mini_mias"]], "x": [["inbreast"]]}}, "configuration 'x': each phase"),
        ({"configurations": {"mini_mias": [["mini_mias"]], "x": []}}, "configuration 'x': each phase names sets"),
        ({"later_sample": 3}, "unknown key 'later_sample'; did you mean 'later_samples'"),
    ],
)
def test_a_wrong_key_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        parse_section(ASKED | changes, TransferParameters, "compare_transfer")
    assert message in str(caught.value)


def test_a_way_of_teaching_that_is_not_listed_is_named() -> None:
    with pytest.raises(BadInputError, match="configuration 'all' is none of mini_mias, cbis_ddsm_then_mini_mias"):
        asked().phases_of("all")


def test_women_kept_for_external_validation_have_no_part() -> None:
    taught, kept = sorted(women(PRETRAINING))[:5], sorted(women(EXTERNAL_TEST))[:5]
    found = films_of_study("cbis_ddsm", table([*taught, *kept]), NONE, asked())
    assert list(found["patient_id"]) == taught
    assert found["apart"].sum() == 2


def test_women_apart_are_the_same_every_time_and_films_of_unknown_severity_are_left_out() -> None:
    films = table(["anna", "berta", "clara", "dora"])
    unknown = pd.DataFrame({"film_id": ["dora_film"], "severity": ["unknown"]})
    found = films_of_study("cdd_cesm", films, unknown, asked())
    assert list(found["patient_id"]) == ["anna", "berta", "clara"]
    assert found["apart"].sum() == 1
    assert found.equals(films_of_study("cdd_cesm", films, unknown, asked()))


def test_every_film_of_mini_mias_judges_once_and_teaches_in_the_other_folds() -> None:
    own = pd.DataFrame({"film_id": [f"f{n}" for n in range(30)], "patient_id": [f"w{n // 2}" for n in range(30)]})
    labels = ["normal", "benign", "malignant"]
    films = own.assign(label=[labels[n // 2 % 3] for n in range(30)], density="F", dataset="mini_mias")
    assert films_of_study("mini_mias", films, NONE, asked())["apart"].all()
    folds = make_folds(films, 20)
    taught = pd.DataFrame({fold: is_taught(films, folds, fold) for fold in folds_taught((("mini_mias",),))})
    assert (taught.sum(axis=1) == 4).all()


def test_only_what_mini_mias_teaches_is_taught_for_every_fold() -> None:
    assert len(folds_taught((("cbis_ddsm",),))) == 1
    assert len(folds_taught((("cbis_ddsm",), ("mini_mias",)))) == 5


def test_sets_of_few_lesions_are_shown_more_often() -> None:
    from mammo_ml.windows import window_films

    box = (120, 300, 180, 360)
    names = ["a", "b", "c", "d"]
    films = window_films(
        [film(name, box) for name in names], lesions(*((n, "benign", box) for n in names)), WINDOWS, 128
    )
    found = balanced({"small": films[:1], "large": films[1:]})
    assert sorted(one.film_id for one in found) == ["a", "a", "a", "b", "c", "d"]


WINDOWS = asked().windows


def figures(value: float) -> dict[str, float]:
    own = dict.fromkeys(SHOWN, value)
    ends = {f"{name}{end}": value for name in SHOWN for end in ("_lo", "_hi", "_seed_min", "_seed_max")}
    return own | ends | {f"{name}_baseline": 0.1 for name in SHOWN}


def test_the_table_has_a_row_a_way_and_says_what_knowing_nothing_finds() -> None:
    gains = {"froc_mean_gain": -0.2, "froc_mean_gain_lo": -0.3, "froc_mean_gain_hi": 0.1}
    sets = ("mini_mias", "cbis_ddsm", "cdd_cesm")
    metrics = {
        "mini_mias": {name: figures(0.5) for name in sets},
        "cdd_cesm": {name: figures(0.3) | gains for name in sets},
    }
    rows = transfer_table(metrics).splitlines()
    assert len(rows) == 5
    assert rows[2].startswith("| random boxes | 0.100 |")
    assert rows[3].count("reference") == 3
    assert "| `cdd_cesm` | 0.300 [0.300, 0.300] | -0.200 [-0.300, +0.100] |" in rows[4]
    assert len(transfer_figure(metrics, "mini_mias").axes) == 3
