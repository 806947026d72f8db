import numpy as np
import pandas as pd
import pytest

from mammo_ml.errors import BadInputError
from mammo_ml.metrics.detection import detection_figures, match_detections
from mammo_ml.metrics.resampling import intervals, resample_women
from tests.metrics.arrays import random_case


def tables():
    """Three films of two women: f1 (a) with a benign lesion, f2 (a) normal, f3 (b) with a malignant one."""
    items = pd.DataFrame({"item": ["f1", "f2", "f3"], "patient_id": ["a", "a", "b"]})
    columns = ["item", "x1", "y1", "x2", "y2", "severity", "x_px", "y_px", "radius_px"]
    truth = pd.DataFrame(
        [
            ["f1", 100, 200, 180, 280, "benign", 140, 240, 40],
            ["f3", 300, 100, 340, 140, "malignant", 320, 120, 20],
        ],
        columns=columns,
    )
    found = pd.DataFrame(
        [
            ["f1", "f1", "a", 100, 200, 180, 280, 0.6, 0.1],
            ["f2", "f2", "a", 10, 20, 60, 50, 0.5, 0.3],
            # Half as wide as its lesion: IoU 0.5. Thought benign.
            ["f3", "f3", "b", 300, 100, 320, 140, 0.4, 0.2],
            # On it too, IoU 0.25, and its centre in the circle.
            ["f3", "f3", "b", 310, 110, 330, 130, 0.0, 0.1],
        ],
        columns=["item", "film_id", "patient_id", "x1", "y1", "x2", "y2", "p_benign", "p_malignant"],
    )
    return found, truth, items


def test_the_figures_of_three_films_worked_by_hand():
    figures = match_detections(*tables(), "films").figures()
    # Benign score: 0.6 (true) first.
    assert figures["ap_50_benign"] == 1
    # Malignant score: 0.3 (normal film), then 0.2 (true), then 0.1, 0.1.
    assert figures["ap_50_malignant"] == 0.5
    assert figures["map_50"] == 0.75
    # Either class: 0.8 (false), 0.7 (true), 0.6 (true): precision 2/3 at every recall.
    assert figures["ap_50_any"] == pytest.approx(2 / 3)
    assert figures["ap_10_any"] == pytest.approx(2 / 3)
    # Benign 1 at all ten thresholds; malignant 0.5 at 0.5, then 0.
    assert figures["map_50_95"] == pytest.approx((10 * 1 + 0.5) / 20)
    # One false positive on three films before both hits: 1/3. The centre (310, 120) is 10 px from the lesion's.
    assert figures["sensitivity_at_0_25_fp"] == 0
    assert figures["sensitivity_at_0_5_fp"] == figures["sensitivity_at_8_fp"] == 1
    assert figures["froc_mean"] == pytest.approx(5 / 7)
    # Spread over the one normal film, that false positive is a whole one; the second on f3 does not count.
    assert figures["sensitivity_at_0_5_fp_normal_films"] == 0
    assert figures["sensitivity_at_1_fp_normal_films"] == 1


def test_the_names_are_those_of_the_protocol():
    cuts = match_detections(*tables(), "cuts").figures()
    names = {"ap_50_benign", "ap_50_malignant", "map_50", "ap_50_any", "ap_10_any", "map_50_95"}
    assert set(cuts) == names
    films = match_detections(*tables(), "films").figures()
    rates = ("0_125", "0_25", "0_5", "1", "2", "4", "8")
    names |= {f"sensitivity_at_{rate}_fp{ending}" for rate in rates for ending in ("", "_normal_films")}
    assert set(films) == names | {"froc_mean", "froc_mean_normal_films"}


def random_tables(seed: int, decimals: int):
    found, truth, n_images, rng = random_case(seed, n_images=20, decimals=decimals)
    items = pd.DataFrame(
        {"item": [f"f{i}" for i in range(n_images)], "patient_id": [f"w{i // 2}" for i in range(n_images)]}
    )
    names = items["item"].to_numpy()
    scores = rng.dirichlet([2.0, 1.0, 1.0], len(found.image)).round(decimals)
    detected = pd.DataFrame(found.boxes, columns=["x1", "y1", "x2", "y2"]).assign(
        item=names[found.image], p_benign=scores[:, 1], p_malignant=scores[:, 2]
    )
    true = pd.DataFrame(truth.boxes, columns=["x1", "y1", "x2", "y2"]).assign(
        item=names[truth.image], severity=rng.choice(["benign", "malignant"], len(truth.image))
    )
    return detected, true, items


@pytest.mark.parametrize(("seed", "decimals"), [(0, 6), (1, 6), (2, 1), (3, 1)])
def test_reported_figures_from_coco_equal_those_the_intervals_come_from(seed, decimals):
    arguments = random_tables(seed, decimals)
    reported = detection_figures(*arguments, "films")
    assert reported == pytest.approx(match_detections(*arguments, "films").figures(), abs=1e-12)


def test_the_weight_of_a_film_counts_as_that_many_copies_of_it():
    found, truth, items = random_tables(4, 6)
    weights = np.random.default_rng(0).integers(0, 4, len(items)).astype(np.float64)
    copied = [[], [], []]
    for item, weight in zip(items["item"], weights, strict=True):
        for copy in range(int(weight)):
            for target, table in zip(copied, (found, truth, items), strict=True):
                target.append(table[table["item"] == item].assign(item=f"{item}-{copy}"))
    again = [pd.concat(parts, ignore_index=True) for parts in copied]
    weighted = match_detections(found, truth, items, "films").figures(weights)
    assert weighted == pytest.approx(match_detections(*again, "films").figures(), abs=1e-12)


def test_the_order_of_the_rows_does_not_change_a_figure_without_ties():
    found, truth, items = random_tables(5, 6)
    shuffled = [table.sample(frac=1, random_state=0).reset_index(drop=True) for table in (found, truth, items)]
    straight = match_detections(found, truth, items, "films").figures()
    assert match_detections(*shuffled, "films").figures() == pytest.approx(straight, abs=1e-12)


def test_a_set_without_one_class_has_no_mean_over_classes():
    found, truth, items = tables()
    for figures in (
        match_detections(found, truth[truth["severity"] == "benign"], items, "films").figures(),
        detection_figures(found, truth[truth["severity"] == "benign"], items, "films"),
    ):
        assert figures["ap_50_benign"] == 1
        assert np.isnan([figures["ap_50_malignant"], figures["map_50"], figures["map_50_95"]]).all()


def test_nothing_detected_is_0_and_no_lesions_at_all_is_undefined():
    found, truth, items = tables()
    for evaluate in (detection_figures, lambda *arguments: match_detections(*arguments).figures()):
        assert set(evaluate(found.iloc[:0], truth, items, "films").values()) == {0}
        assert np.isnan(list(evaluate(found, truth.iloc[:0], items, "films").values())).all()


def test_a_resample_that_misses_a_woman_misses_her_lesions_and_her_false_alarms():
    matched = match_detections(*tables(), "films")
    figures = matched.figures(np.array([0.0, 0.0, 1.0]))  # woman b alone
    assert np.isnan(figures["ap_50_benign"])
    assert figures["ap_50_malignant"] == 1
    assert figures["sensitivity_at_0_125_fp"] == 1
    assert np.isnan(figures["froc_mean_normal_films"])


def test_intervals_of_all_figures_hold_the_figure():
    found, truth, items = random_tables(6, 6)
    matched = match_detections(found, truth, items, "films")
    ranges = intervals(matched.figures, resample_women(matched.patient_ids, 100, 0))
    for name, value in matched.figures().items():
        low, high = ranges[name]
        assert low <= value <= high, name


def test_every_fault_of_the_tables_is_named_in_one_error():
    found, truth, items = tables()
    found.loc[0, "item"] = "f9"
    found.loc[1, "p_benign"] = np.nan
    found.loc[2, "x2"] = found.loc[2, "x1"]
    truth.loc[0, "severity"] = "normal"
    truth.loc[1, "x1"] = np.nan
    with pytest.raises(BadInputError) as caught:
        match_detections(found, truth, pd.concat([items, items.iloc[[1]]]), "films")
    starts = [problem.split(":")[0] for problem in caught.value.problems]
    assert starts == [
        "items",
        "detections, row 0",
        "detections, row 2",
        "lesions, row 1",
        "detections, row 1",
        "lesions, row 0",
    ]


def test_missing_columns_are_named():
    found, truth, items = tables()
    with pytest.raises(BadInputError, match=r"detections: columns missing.*p_malignant") as caught:
        match_detections(found.drop(columns="p_malignant"), truth.drop(columns="severity"), items, "cuts")
    assert len(caught.value.problems) == 2
