"""Comparing two versions from what they have stored; a detector's films and lesions are made by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mammo_ml.datasets.catalog import write_table
from mammo_ml.errors import BadInputError
from mammo_ml.registry import GateParameters
from mammo_ml.registry.comparison import (
    CORE,
    Evidence,
    core_differences,
    differences,
    judged,
    read_evidence,
    subgroup_differences,
    unlike_items,
)
from mammo_ml.truth import ITEMS, LESIONS, judged_items, judged_lesions, read_truth
from tests.registry.toys import GATE, toy_evidence

FILMS = 24


def detector(finds: set[str], false_positives: int = 1) -> Evidence:
    """Every second film has a lesion of 10 or 30 mm; the kinds in `finds` are found, with the surest of all boxes."""
    kinds = ["CIRC", "CALC", "SPIC"]
    films = pd.DataFrame({"film_id": [f"f{n}" for n in range(FILMS)]})
    films["patient_id"] = [f"w{n // 2}" for n in range(FILMS)]
    items = films.assign(item=films["film_id"], unit="film", label="", density=["FGD"[n % 3] for n in range(FILMS)])
    rows, boxes = [], []
    for n in range(FILMS):
        if n % 2 == 0:
            kind, mm = kinds[n // 2 % 3], 10.0 + 20 * (n // 2 % 2)
            severity = "malignant" if n % 4 else "benign"
            rows.append((f"f{n}", f"l{n}", kind, severity, mm, 10.0, 10, 30, 30, 20, 20, 10))
            if kind in finds:
                boxes.append((f"f{n}", 10.0, 10, 30, 30, 0.5, 0.4))
        boxes += [(f"f{n}", 100.0, 100, 120, 120, 0.1 + n / 100, 0.1)] * false_positives
    columns = [column.name for column in LESIONS]
    lesions = pd.DataFrame(rows, columns=columns[1:])
    found = pd.DataFrame(boxes, columns=["item", "x1", "y1", "x2", "y2", "p_benign", "p_malignant"])
    by_film, by_cut = {"protocol": "films_by_patient"}, {"protocol": "cuts_by_patient"}
    return Evidence(
        "detector",
        pd.concat([found.assign(**by_film), found.assign(**by_cut)], ignore_index=True),
        pd.concat([items.assign(**by_film), items.assign(**by_cut, unit="cut")], ignore_index=True),
        pd.concat([lesions.assign(**by_film), lesions.assign(**by_cut)], ignore_index=True),
    )


ALL = {"CIRC", "CALC", "SPIC"}
FROC = "films_by_patient.froc_mean"


def test_the_core_figures_of_a_detector_are_there_and_zero_against_itself() -> None:
    found = core_differences(detector(ALL), detector(ALL), GATE)
    assert tuple(found) == CORE["detector"]
    assert all(one[2:] == (0, 0, 0) for one in found.values())
    assert found[FROC].first == 1.0


def test_items_that_only_one_of_two_was_judged_on_are_told_by_unit_and_number() -> None:
    every = detector(ALL)
    assert unlike_items(every, detector(set()), "films_by_patient") == ""
    fewer = every.only((every.items["item"] != "f3").to_numpy())
    told = unlike_items(every, fewer, "films_by_patient")
    assert told.startswith(
        "films_by_patient: 24 and 23 film items, 23 of the same name: a difference is of what was cut"
    )


def test_the_core_figures_of_a_classifier_are_those_of_its_metrics(tmp_path: Path) -> None:
    files, metrics = toy_evidence(tmp_path, skill=1.5)
    own = read_evidence("classifier", {path.name: path for path in files})
    found = core_differences(own, own, GATE)
    assert tuple(found) == CORE["classifier"]
    for name, one in found.items():
        assert one.first == pytest.approx(metrics["by_patient"][name.partition(".")[2]], abs=1e-6)


def test_a_detector_that_misses_one_kind_loses_in_that_subgroup_and_nowhere_else_among_kinds() -> None:
    gate = GateParameters(resamples=100, subgroup_lesions=4)
    found = {one.name: one for one in subgroup_differences(detector({"CIRC", "SPIC"}), detector(ALL), FROC, gate)}
    assert set(found) == {
        "density D", "density F", "density G", "kind CALC", "kind CIRC", "kind SPIC", "severity benign",
        "severity malignant", "size radius 5.0 to 15.0 mm", "size radius from 15.0 mm",
    }  # fmt: skip
    assert found["kind CALC"].difference[2:] == (-1.0, -1.0, -1.0)
    assert found["kind CIRC"].difference[2:] == found["kind SPIC"].difference[2:] == (0, 0, 0)
    assert {one.lesions for one in found.values()} == {4, 6}


def test_lesions_of_other_subgroups_are_neither_found_nor_false_positives() -> None:
    """Boxes on other kinds are the surest: were they false positives, a sensitivity at few of them would fall."""
    found = {one.name: one for one in subgroup_differences(detector(ALL), detector({"CALC"}), FROC, GATE)}
    assert found["kind CALC"].difference[:3] == (1.0, 1.0, 0.0)


def test_subgroups_of_a_classifier_are_densities_and_lesions_its_abnormal_patches(tmp_path: Path) -> None:
    files, _ = toy_evidence(tmp_path, skill=1.5)
    own = read_evidence("classifier", {path.name: path for path in files})
    found = subgroup_differences(own, own, "by_patient.auc_macro", GATE)
    assert [one.name for one in found] == ["density D", "density F", "density G"]
    assert sum(one.lesions for one in found) == own.n_lesions == 16


def test_films_without_a_box_count() -> None:
    quiet = detector(set(), false_positives=0)
    figures = judged(quiet, "films_by_patient").figures(np.ones(FILMS))
    assert figures["froc_mean"] == 0


def test_one_figure_alone_is_the_same_as_among_all() -> None:
    first, second = detector({"CIRC", "SPIC"}), detector(ALL)
    every = differences(first, second, "films_by_patient", GATE)
    assert differences(first, second, "films_by_patient", GATE, "froc_mean")["froc_mean"] == every["froc_mean"]


def test_a_classifier_and_a_detector_are_not_compared(tmp_path: Path) -> None:
    files, _ = toy_evidence(tmp_path, skill=1.5)
    own = read_evidence("classifier", {path.name: path for path in files})
    with pytest.raises(BadInputError, match="a classifier and a detector have no figure in common"):
        core_differences(own, detector(ALL), GATE)


def test_tables_that_do_not_fit_are_told_at_once(tmp_path: Path) -> None:
    files, _ = toy_evidence(tmp_path, skill=1.5)
    predictions = pd.read_csv(files[0])
    write_table(predictions.iloc[1:], files[0])
    items = pd.read_csv(files[1])
    write_table(pd.concat([items, items.tail(1)]), files[1])
    with pytest.raises(BadInputError) as told:
        read_evidence("classifier", {path.name: path for path in files})
    assert len(told.value.problems) == 2
    assert "is there twice" in told.value.problems[0]
    assert "has no prediction" in told.value.problems[1]
    write_table(items.drop(columns="density"), files[1])
    with pytest.raises(BadInputError, match="not a table of protocol"):
        read_evidence("classifier", {path.name: path for path in files})


def test_the_truth_is_written_and_read_back(tmp_path: Path) -> None:
    films = pd.DataFrame({"film_id": ["NA", "b"], "patient_id": ["p", "q"], "label": ["benign", "normal"]})
    films = films.assign(density=["F", "G"], pixel_spacing_mm=0.2, item=films["film_id"])
    lesions = pd.DataFrame({"lesion_id": ["NA_1"], "film_id": ["NA"], "kind": ["CALC"], "radius_px": [45.0]})
    truth = pd.DataFrame([("NA", "NA_1", "benign", 0.5, 0.5, 90.5, 90.5)],
                         columns=["item", "lesion_id", "severity", "x1", "y1", "x2", "y2"])  # fmt: skip
    write_table(judged_items("films_by_patient", "film", films, films), tmp_path / "items.csv")
    write_table(judged_lesions("films_by_patient", truth, lesions, films), tmp_path / "lesions.csv")
    items = read_truth(tmp_path / "items.csv", ITEMS)
    assert items.iloc[0].tolist() == ["films_by_patient", "film", "NA", "NA", "p", "benign", "F"]
    (row,) = read_truth(tmp_path / "lesions.csv", LESIONS).to_dict("records")
    assert (row["kind"], row["diameter_mm"], row["x2"]) == ("CALC", 18.0, 90.5)
    assert np.isnan(row["radius_px"])
