"""Figures of subgroups: those that a person counts, and those that the gate compares."""

import numpy as np
import pandas as pd
import pytest

from mammo_ml.metrics.detection import match_detections
from mammo_ml.metrics.froc import froc
from mammo_ml.metrics.subgroups import (
    classifier_subgroups,
    detector_subgroups,
    lesion_hit,
    subgroups,
    thresholds_at,
)
from mammo_ml.registry import GateParameters
from mammo_ml.registry.comparison import Evidence, subgroup_differences

N = 12
BOX = ["x1", "y1", "x2", "y2"]


def films() -> pd.DataFrame:
    """Twelve films of six women; the densities take turns, the first eight have lesions."""
    table = pd.DataFrame({"item": [f"f{n}" for n in range(N)], "patient_id": [f"w{n // 2}" for n in range(N)]})
    density = ["FGD"[n % 3] for n in range(N)]
    return table.assign(protocol="films_by_patient", unit="film", film_id=table["item"], label="", density=density)


def lesions() -> pd.DataFrame:
    """One lesion of each of the first eight films: CALC, CIRC, CALC …, diameters 2, 4, 6 … 16 mm."""
    table = pd.DataFrame([(f"f{n}", 10.0, 10.0, 30.0, 30.0, 20.0, 20.0, 10.0) for n in range(8)])
    table.columns = ["item", *BOX, "x_px", "y_px", "radius_px"]
    table["kind"] = ["CALC", "CIRC"] * 4
    table["severity"] = ["benign"] * 3 + ["malignant"] * 5
    return table.assign(protocol="films_by_patient", diameter_mm=2.0 * np.arange(1, 9), lesion_id=table["item"] + "_1")


def boxes(hits: dict[int, float], false: dict[int, float]) -> pd.DataFrame:
    """Boxes on the lesions of some films and far from any on others, by their scores."""
    rows = [(f"f{n}", 12.0, 12.0, 28.0, 28.0, score / 2, score / 2) for n, score in hits.items()]
    rows += [(f"f{n}", 100.0, 100.0, 120.0, 120.0, score / 2, score / 2) for n, score in false.items()]
    table = pd.DataFrame(rows, columns=["item", *BOX, "p_benign", "p_malignant"])
    return table.assign(protocol="films_by_patient")


def detector_table(found: pd.DataFrame) -> pd.DataFrame:
    matched = match_detections(found, lesions(), films(), "films")
    table = detector_subgroups(matched, found, lesions(), films(), 100, 1)
    assert table["protocol"].unique().tolist() == ["films_by_patient"]
    return table.set_index(["subgroup", "value", "figure"])


def test_every_lesion_is_once_in_each_division_and_sizes_are_terciles_of_the_radius():
    groups = subgroups(lesions(), films())
    for what in ("kind", "size", "density", "severity"):
        own = np.array([group.lesions for group in groups if group.what == what])
        np.testing.assert_array_equal(own.sum(axis=0), 1)
    sizes = {group.value: int(group.lesions.sum()) for group in groups if group.what == "size"}
    # radii 1 to 8 mm: a third of the way lies at 3.33, two thirds at 5.67
    assert sizes == {"radius under 3.3 mm": 3, "radius 3.3 to 5.7 mm": 2, "radius from 5.7 mm": 3}
    alike = subgroups(lesions().assign(diameter_mm=10.0), films())
    assert [group.value for group in alike if group.what == "size"] == ["radius from 5.0 mm"]
    assert subgroups(lesions()[:0], films()) == []


def test_one_threshold_for_all_whatever_the_subgroup_counted_by_hand():
    # 12 false positives of score 0.5 on 12 films, a thirteenth of 0.2: at 1 a film all is called from 0.4 on.
    false = dict.fromkeys(range(N), 0.5)
    found = pd.concat([boxes({0: 0.9, 1: 0.6, 2: 0.4, 4: 0.1}, false), boxes({}, {0: 0.2})], ignore_index=True)
    matched = match_detections(found, lesions(), films(), "films")
    assert thresholds_at(matched.froc(), [0.5, 1.0]).tolist() == [0.6, 0.4]
    table = detector_table(found)
    at_one = table.xs("sensitivity_at_1_fp", level="figure")["point"]
    assert at_one["kind", "CALC"] == 2 / 4  # films 0 and 2; film 4's box is below the threshold
    assert at_one["kind", "CIRC"] == 1 / 4
    assert at_one["severity", "benign"] == 1
    assert at_one["severity", "malignant"] == 0
    # 1/8, 1/4, 1/2: above 0.5 there is no false positive; 1: 0.4 is called too; 2, 4, 8: everything
    calc = table.loc[("kind", "CALC", "froc_mean")]
    np.testing.assert_allclose(calc["point"], (3 * 1 / 4 + 2 / 4 + 3 * 3 / 4) / 7, atol=1e-6)
    assert (calc["n_women"], calc["n_films"], calc["n_lesions"]) == (4, 4, 4)
    assert calc["lo"] <= calc["point"] <= calc["hi"]


def test_nothing_may_be_called_where_the_surest_box_costs_too_much():
    curve = froc(np.array([0.9, 0.5]), np.array([False, True]), n_images=1, n_lesions=1)
    assert thresholds_at(curve, [0.125, 1.0]).tolist() == [np.inf, 0.5]


def test_the_table_and_the_gate_agree_on_every_subgroup():
    rng = np.random.default_rng(3)
    hits, false = dict(enumerate(rng.random(7).round(1))), dict(enumerate(rng.random(N).round(1)))
    found = pd.concat([boxes(hits, false), boxes(dict(enumerate(rng.random(5))), {})], ignore_index=True)
    table = detector_table(found).xs("froc_mean", level="figure")
    own = Evidence("detector", found, films(), lesions())
    gate = GateParameters(resamples=100)
    judged = {one.name: one for one in subgroup_differences(own, own, "films_by_patient.froc_mean", gate)}
    assert set(judged) == {f"{what} {value}" for what, value in table.index}
    for (what, value), row in table.iterrows():
        assert row["point"] == pytest.approx(judged[f"{what} {value}"].difference.first, abs=1e-6)
        assert row["n_lesions"] == judged[f"{what} {value}"].lesions


def test_each_box_knows_the_lesion_it_hits():
    found = boxes({3: 0.9, 0: 0.8}, {0: 0.7})
    assert lesion_hit(found, lesions(), films()).tolist() == [3, 0, -1]


def patches() -> tuple[pd.DataFrame, pd.DataFrame]:
    """A lesion patch of each of eight films, and eight normal patches: density D is told apart, the others are not."""
    items = films()[:8].assign(label=lesions()["severity"].to_numpy())
    normal = films()[:8].assign(label="normal", item=[f"n{n}" for n in range(8)])
    items = pd.concat([items, normal], ignore_index=True).assign(protocol="by_patient", unit="patch")
    abnormal = np.where(items["density"] == "D", np.where(items["label"] == "normal", 0.0, 1.0), 0.5)
    said = items[["item"]].assign(p_normal=1 - abnormal, p_benign=0.75 * abnormal, p_malignant=0.25 * abnormal)
    return said, items


def test_a_classifier_is_judged_in_each_subgroup_and_what_cannot_be_judged_stays_empty():
    said, items = patches()
    table = classifier_subgroups(said, lesions(), items, 100, 1).set_index(["subgroup", "value", "figure"])
    abnormal = table.xs("auc_normal_vs_abnormal_patch", level="figure")
    assert abnormal.loc[("density", "D"), "point"] == 1
    assert abnormal.loc[("density", "F"), "point"] == 0.5
    # two of eight lesions are dense: they beat all normals; the other six beat the two dense normals of eight
    assert abnormal.loc[("severity", "benign"), "point"] == pytest.approx((1 + 2 * (2 / 8 + 6 / 8 / 2)) / 3, abs=1e-6)
    severe = table.xs("auc_benign_vs_malignant", level="figure")
    assert severe.loc["severity"][["point", "lo", "hi"]].isna().all(axis=None)
    assert (severe.loc["kind", "point"] == 0.5).all()
    assert severe.loc[("severity", "benign"), "n_lesions"] == 3


def test_a_lesion_seen_in_several_pictures_is_counted_once():
    said, items = patches()
    # The three smallest are seen three times.
    views = [(table.assign(item=table["item"] + turned)) for turned in ("", ":90", ":180") for table in (said, items)]
    seen, shown = pd.concat(views[0::2], ignore_index=True), pd.concat(views[1::2], ignore_index=True)
    smallest = [lesions()[:3].assign(item=lesions()["item"][:3] + turned) for turned in (":90", ":180")]
    several = pd.concat([lesions(), *smallest], ignore_index=True)
    table = classifier_subgroups(seen, several, shown, 100, 1)
    once = classifier_subgroups(said, lesions(), items, 100, 1)
    counts = ["subgroup", "value", "figure", "n_women", "n_films", "n_lesions"]
    pd.testing.assert_frame_equal(table[counts], once[counts])
