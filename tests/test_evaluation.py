"""Every figure comes with its bounds and the figure of a model that knows nothing; gaps are named."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from mammo_ml import evaluation as ev
from mammo_ml.datasets.catalog import BOX_COLUMNS, BREAST_COLUMNS
from mammo_ml.errors import BadInputError

PARAMETERS = ev.EvaluateParameters(resamples=200, seed=1)
WOMEN = pd.Series([f"woman{n // 2:02d}" for n in range(40)])


def _mean(values):
    return lambda weights: {"mean": float(weights @ values / weights.sum())}


def test_every_figure_stands_between_its_bounds_beside_its_baseline():
    values = np.arange(40.0)
    point = _mean(values)(np.ones(40))
    figures = ev.with_bounds(point, _mean(values), WOMEN, {"mean": 7.0}, PARAMETERS)
    assert list(figures) == ["mean", "mean_lo", "mean_hi", "mean_baseline"]
    assert figures["mean_lo"] < figures["mean"] == 19.5 < figures["mean_hi"]
    assert figures["mean_baseline"] == 7
    assert ev.with_bounds(point, _mean(values), WOMEN, {"mean": 7.0}, PARAMETERS) == figures


def test_bounds_count_women_not_films():
    # Both films of a woman say the same: 20 women are 20 observations, not 40.
    values = np.repeat(np.random.default_rng(0).normal(size=20), 2)
    many = ev.EvaluateParameters(resamples=3000, seed=1)
    of_women = ev.with_bounds({"mean": 0.0}, _mean(values), WOMEN, {"mean": 0.0}, many)
    alone = pd.Series([f"film{n}" for n in range(40)])
    of_films = ev.with_bounds({"mean": 0.0}, _mean(values), alone, {"mean": 0.0}, many)
    width = {name: figures["mean_hi"] - figures["mean_lo"] for name, figures in (("w", of_women), ("f", of_films))}
    assert width["w"] > 1.2 * width["f"]  # the square root of 2 but for luck


def _patches(n: int = 60) -> pd.DataFrame:
    labels = np.array(ev.LABELS)[np.arange(n) % 3]
    table = pd.DataFrame({"patient_id": [f"w{k // 2}" for k in range(n)], "film_id": [f"f{k}" for k in range(n)]})
    right = np.eye(3)[np.arange(n) % 3] * 0.7 + 0.1
    return table.assign(label=labels, **{f"p_{name}": right[:, k] for k, name in enumerate(ev.LABELS)})


def test_a_classifier_that_is_always_right_and_one_that_knows_nothing():
    figures = ev.evaluate_patches(_patches(), PARAMETERS)
    assert figures["accuracy"] == figures["auc_macro"] == figures["auc_macro_lo"] == 1
    assert figures["auc_macro_baseline"] == 0.5
    np.testing.assert_allclose(figures["accuracy_baseline"], 1 / 3)
    assert (figures["n_women"], figures["n_films"], figures["n_patches"]) == (30, 60, 60)
    by_film = ev.evaluate_films(_patches(), PARAMETERS)
    assert by_film["film_auc_macro"] == 1
    assert by_film["film_auc_macro_baseline"] == 0.5


def test_whoever_knows_the_film_and_not_the_lesion_is_told_by_the_negatives():
    # A normal film, an abnormal one with a lesion's patch and one beside it, of each of 20 women.
    rows = [(f"w{n}", f"f{n}_{film}", label) for n in range(20) for film, label in ((0, 0), (1, 2), (1, 0))]
    table = pd.DataFrame([(w, f, ["normal", "benign", "malignant"][k]) for w, f, k in rows])
    table.columns = ["patient_id", "film_id", "label"]
    films = pd.Series({f"f{n}_{film}": ["normal", "malignant"][film] for n in range(20) for film in range(2)})
    abnormal_film = table["film_id"].map(films) != "normal"
    for known, beside in ((table["label"] != "normal", 1.0), (abnormal_film, 0.5)):
        p = known.astype(float)
        said = table.assign(p_normal=1 - p, p_benign=p / 2, p_malignant=p / 2)
        found = ev.evaluate_negatives(said, films, ev.EvaluateParameters(resamples=100, seed=1))
        assert found["auc_against_normal_films"] == 1
        assert found["auc_against_abnormal_films"] == beside
        assert found["auc_against_abnormal_films_hi"] == beside
    only = said[~((said["label"] == "normal") & abnormal_film)].reset_index(drop=True)
    assert ev.evaluate_negatives(only, films, ev.EvaluateParameters(resamples=100, seed=1)) == {}


def test_a_film_is_called_by_what_stands_highest_above_its_share():
    # 8 of 12 films are normal. The abnormal ones are never called so by their largest probability, 0.5 for normal; but
    # 0.3 stands further above a share of 1/6 than 0.5 above one of 2/3. One normal film looks like a benign one.
    labels = ["normal"] * 8 + ["benign"] * 2 + ["malignant"] * 2
    said = [[0.8, 0.1, 0.1]] * 7 + [[0.5, 0.3, 0.2]] * 3 + [[0.5, 0.2, 0.3]] * 2
    films = pd.DataFrame(said, columns=ev.PROBABILITY_COLUMNS).assign(
        label=labels, fold=[0, 1] * 6, patient_id=[f"w{n}" for n in range(12)], film_id=[f"f{n}" for n in range(12)]
    )
    shares = ev.class_shares(films["label"])
    np.testing.assert_allclose(shares, [2 / 3, 1 / 6, 1 / 6])
    found = ev.evaluate_film_decisions(films, {0: shares, 1: shares}, PARAMETERS)
    assert ev.evaluate_films(films, PARAMETERS)["film_balanced_accuracy"] == pytest.approx(1 / 3)
    assert found["film_balanced_accuracy_by_share"] == pytest.approx((7 / 8 + 1 + 1) / 3)
    assert found["film_balanced_accuracy_by_share_baseline"] == pytest.approx(1 / 3)
    # Each fold has its own shares: where abnormal films are as common as normal ones outside it, nothing changes.
    even = {0: shares, 1: np.full(3, 1 / 3)}
    half = ev.evaluate_film_decisions(films, even, PARAMETERS)
    assert half["film_balanced_accuracy_by_share"] == pytest.approx((8 / 8 + 1 / 2 + 1 / 2) / 3)


def test_a_share_of_nothing_is_refused():
    with pytest.raises(BadInputError, match="none is malignant"):
        ev.class_shares(pd.Series(["normal", "benign"]))


def test_the_auc_within_folds_needs_no_calibration_across_them():
    # In fold 1 every probability leans to normal, the order within it is still right.
    lean = _patches().assign(fold=1)
    lean[["p_benign", "p_malignant"]] /= 100
    lean["p_normal"] = 1 - lean["p_benign"] - lean["p_malignant"]
    assert ev.fold_mean_auc(pd.concat([_patches().assign(fold=0), lean])) == 1


def test_every_missing_and_every_unknown_item_is_named():
    ev.check_complete({"a"}, {"a"}, "films")
    with pytest.raises(BadInputError) as caught:
        ev.check_complete({"a", "d"}, {"c", "a", "b"}, "reports/predict")
    assert caught.value.problems == ["b has no prediction", "c has no prediction", "d is predicted but not listed"]
    assert str(caught.value).startswith("reports/predict: 3 problems")


def test_the_tables_of_all_folds_become_one(tmp_path):
    for fold in (1, 0):
        (tmp_path / f"fold_{fold}").mkdir()
        pd.DataFrame({"item": [f"i{fold}"]}).to_csv(tmp_path / f"fold_{fold}" / "films.csv", index=False)
    table = ev.of_folds(tmp_path, "films.csv")
    assert table.to_dict("list") == {"item": ["i0", "i1"], "fold": [0, 1]}
    with pytest.raises(BadInputError, match=r"no fold holds cuts\.csv"):
        ev.of_folds(tmp_path, "cuts.csv")


# --------------------------------------------------------------------------------------------------------- detector


def _boxes(*boxes: tuple) -> pd.DataFrame:
    return pd.DataFrame(boxes, columns=["item", *BOX_COLUMNS]).astype(dict.fromkeys(BOX_COLUMNS, "float64"))


def test_the_median_box_is_in_the_middle_of_every_window_whatever_it_shows():
    lesions = _boxes(("a", 0, 0, 10, 10), ("a", 0, 0, 20, 20), ("b", 0, 0, 90, 90))
    found = ev.median_box(lesions, _boxes(("c", 0, 0, 100, 100), ("d", 50, 20, 150, 120)))
    assert found["item"].tolist() == ["c", "d"]
    np.testing.assert_array_equal(found[BOX_COLUMNS].to_numpy(), [[40, 40, 60, 60], [90, 60, 110, 80]])


def test_random_boxes_have_lesions_sizes_and_their_centres_on_the_breast():
    films = pd.DataFrame([("a", 10, 20, 60, 220), ("b", 300, 0, 400, 50)], columns=["item", *BREAST_COLUMNS])
    lesions = _boxes(("a", 0, 0, 10, 10), ("a", 0, 0, 24, 24))
    found = ev.random_boxes(films, lesions, seed=1, per_film=200)
    assert found["item"].value_counts().to_dict() == {"a": 200, "b": 200}
    where = found.merge(films, on="item")
    x, y = (where["x1"] + where["x2"]) / 2, (where["y1"] + where["y2"]) / 2
    assert x.between(where["breast_x1"], where["breast_x2"]).all()
    assert y.between(where["breast_y1"], where["breast_y2"]).all()
    # All of the breast, not a corner of it: the range of 200 draws comes near its edges.
    assert y[where["item"] == "a"].max() - y[where["item"] == "a"].min() > 180
    assert set((found["x2"] - found["x1"]).round(6)) == {10, 24}
    np.testing.assert_allclose(found["x2"] - found["x1"], found["y2"] - found["y1"])
    assert (found["p_benign"] + found["p_malignant"]).between(0, 1).all()
    pd.testing.assert_frame_equal(found, ev.random_boxes(films, lesions, seed=1, per_film=200))


def test_figures_of_a_detector_come_with_bounds_baseline_and_counts():
    n = 12
    items = pd.DataFrame({"item": [f"f{k}" for k in range(n)], "patient_id": [f"w{k // 2}" for k in range(n)]})
    items = items.assign(film_id=items["item"])
    lesions = _boxes(*[(f"f{k}", 10, 10, 30, 30) for k in range(8)])
    lesions = lesions.assign(severity=["benign", "malignant"] * 4)
    right = lesions.drop(columns="severity").assign(
        p_benign=[0.8, 0.1] * 4,
        p_malignant=[0.1, 0.8] * 4,
    )
    wrong = right.assign(x1=100.0, x2=120.0)
    figures, matched = ev.evaluate_detections(right, wrong, lesions, items, "films", PARAMETERS)
    assert figures["map_50"] == figures["ap_50_any"] == figures["froc_mean"] == 1
    assert figures["map_50_baseline"] == figures["froc_mean_baseline"] == 0
    assert (figures["n_women"], figures["n_films"]) == (6, 12)
    table, (low, high) = ev.froc_band(matched, PARAMETERS)
    assert (table["fp_per_film"].iloc[0], table["fp_per_film"].iloc[-1]) == (1 / 8, 8)
    assert (table["sensitivity"] == 1).all()
    assert len(low) == len(high) == len(table)


def test_the_figure_over_all_sets_is_renamed_and_the_strict_one_left_out():
    figures = {"map_50": 0.1, "map_50_lo": 0.0, "map_50_baseline": 0.2, "map_50_95": 0.3, "map_50_95_lo": 0.4}
    assert ev.all_sets(figures | {"ap_50_any": 0.5, "ap_50_benign": 0.6, "ap_50_malignant_hi": 0.7}) == {
        "ap_50_benign_all_sets": 0.6,
        "ap_50_malignant_all_sets_hi": 0.7,
        "map_50_all_sets": 0.1,
        "map_50_all_sets_lo": 0.0,
        "map_50_all_sets_baseline": 0.2,
    }


def test_films_are_ranked_by_the_surest_box_whose_centre_hits_a_lesion():
    truth = pd.DataFrame({"film_id": list("abcd"), "x_px": 50.0, "y_px": 50.0, "radius_px": 10.0})
    boxes = [
        ("a", 45, 45, 55, 55, 0.2, 0.2),
        ("a", 0, 0, 5, 5, 0.5, 0.5),  # surer, but beside it
        ("b", 48, 40, 56, 56, 0.3, 0.4),
        ("c", 50, 55, 52, 75, 0.9, 0.1),  # its centre lies 15 px below
        ("n", 45, 45, 55, 55, 0.9, 0.1),  # a film without lesions
    ]
    found = pd.DataFrame(boxes, columns=["film_id", *BOX_COLUMNS, "p_benign", "p_malignant"])
    assert ev.best_and_worst_films(found, truth, 1) == ["b", "d"]
    assert ev.best_and_worst_films(found, truth, 2) == ["b", "a", "c", "d"]
    assert ev.best_and_worst_films(found, truth, 9) == ["b", "a", "c", "d"]
    assert ev.best_and_worst_films(found[:0], truth, 1) == ["a", "d"]


def test_films_with_an_unlocated_lesion_are_not_judged_and_normal_films_are():
    films = pd.DataFrame({"film_id": ["n", "a", "u"]}, index=[4, 5, 6])
    lesions = pd.DataFrame({"film_id": ["a", "u", "u"], "has_location": [True, True, False]})
    judged = ev.located_films(films, lesions)
    assert judged["item"].tolist() == ["n", "a"]
    assert ev.lesions_of_films(lesions, judged)["item"].tolist() == ["a"]


# ------------------------------------------------------------------------------------------------------------ files


def test_metrics_survive_their_file_undefined_ones_as_null(tmp_path):
    metrics = {"by_patient": {"auc": 0.5, "empty": math.nan, "n": 3.0}, "leaky": {"auc": 1 / 3}}
    path = tmp_path / "new" / "metrics.json"
    ev.write_metrics(metrics, path)
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["by_patient"]["empty"] is None
    found = ev.read_metrics(path)
    assert math.isnan(found["by_patient"].pop("empty"))
    assert found == {"by_patient": {"auc": 0.5, "n": 3.0}, "leaky": {"auc": 0.333333}}


def test_rounding_keeps_every_box_a_box():
    table = _boxes(("a", 0.04, 10.26, 0.041, 30.0), ("b", 127.96, 1, 128, 2)).assign(p_benign=0.123456789)
    found = ev.rounded(table)
    np.testing.assert_array_equal(found[BOX_COLUMNS].to_numpy(), [[0, 10.3, 0.1, 30], [128, 1, 128.1, 2]])
    assert found["p_benign"].tolist() == [0.12346] * 2
    patches = pd.DataFrame({"p_normal": [0.123456789]})
    assert ev.rounded(patches)["p_normal"].tolist() == [0.12346]
