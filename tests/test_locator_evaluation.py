from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mammo_ml.datasets.catalog import BOX_COLUMNS, write_table
from mammo_ml.errors import BadInputError
from mammo_ml.evaluation import EvaluateParameters
from mammo_ml.imaging.breast import canonical_transform
from mammo_ml.imaging.canonical import CanonicalFilm
from mammo_ml.imaging.patches import Tiling
from mammo_ml.locator import Calibration
from mammo_ml.locator_evaluation import (
    Looked,
    SweepParameters,
    beside_everywhere,
    choose_threshold,
    curve,
    film_figures,
    fit_calibration,
    located,
    looked_at,
    pooled,
    read_looked,
    search,
    sweep,
)
from mammo_ml.models.ssd import SsdParameters, build_detector
from mammo_ml.multiply_adds import TileCosts
from mammo_ml.prediction import FilmDetectionParameters, MergeParameters, detect_on_films

MERGE = MergeParameters(nms_iou=0.3, max_per_tile=10, max_per_film=20)
SWEEP = SweepParameters(step=0.1, sensitivity_lost=0.02, fp_per_film=1.0)
COSTS = {"compute": TileCosts(1.0, 0.1, 1.0)}
DRAWS = EvaluateParameters(resamples=100, seed=1)
FILMS = pd.DataFrame(
    [("f1", "anna", "malignant"), ("f2", "berta", "benign"), ("f3", "carla", "normal"), ("f4", "dora", "normal")],
    columns=["film_id", "patient_id", "label"],
)
P_ABNORMAL = {"f1": [0.95, 0.15], "f2": [0.1, 0.55], "f3": [0.45, 0.05], "f4": [0.25, 0.35]}
"""Of two tiles side by side on each film."""
LESIONS = pd.DataFrame(
    [("f1", 50.0, 50.0, 10.0), ("f2", 150.0, 50.0, 10.0)], columns=["film_id", "x_px", "y_px", "radius_px"]
).assign(
    x1=lambda t: t["x_px"] - 10, y1=lambda t: t["y_px"] - 10, x2=lambda t: t["x_px"] + 10, y2=lambda t: t["y_px"] + 10
)


def box(film: str, tile: int, x: float, score: float) -> dict[str, Any]:
    place = dict(zip(BOX_COLUMNS, (x - 10, 40.0, x + 10, 60.0), strict=True))
    return {"film_id": film, "tile": tile, **place, "p_benign": score / 4, "p_malignant": 3 * score / 4}


@pytest.fixture
def looked() -> Looked:
    tiles = pd.DataFrame(
        [(film, tile, p) for film, both in P_ABNORMAL.items() for tile, p in enumerate(both)],
        columns=["film_id", "tile", "p_abnormal"],
    )
    boxes = [box("f1", 0, 50, 0.9), box("f2", 1, 150, 0.6), box("f2", 0, 20, 0.3), box("f3", 0, 30, 0.4)]
    return looked_at(FILMS, tiles, pd.DataFrame([*boxes, box("f1", 1, 51, 0.8)]))


# ---------------------------------------------------------------------------------------------------------- a choice


def test_a_threshold_leaves_the_boxes_of_the_tiles_it_searches(looked: Looked) -> None:
    assert looked.found(0.0, MERGE).groupby("item").size().to_dict() == {"f1": 1, "f2": 2, "f3": 1}
    assert looked.found(0.5, MERGE)["item"].tolist() == ["f1", "f2"]
    assert looked.found(1.01, MERGE).empty
    np.testing.assert_array_equal(looked.counts(0.5)[0], [2, 2, 2, 2])
    np.testing.assert_array_equal(looked.counts(0.5)[1], [1, 1, 0, 0])


def test_the_sweep_tells_what_each_threshold_searches_and_loses(looked: Looked) -> None:
    swept = sweep(looked, LESIONS, MERGE, SWEEP).set_index("threshold")
    assert swept.index.tolist() == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
    assert swept["searched"].tolist() == [8, 7, 5, 4, 3, 2, 1, 1, 1, 1, 0]
    assert swept["sensitivity"].tolist() == [1] * 6 + [0.5] * 4 + [0]
    assert swept["sensitivity_lost"].tolist() == [0] * 6 + [0.5] * 4 + [1]


def test_the_threshold_that_saves_most_within_what_may_be_lost_is_chosen(looked: Looked) -> None:
    swept = sweep(looked, LESIONS, MERGE, SWEEP)
    assert choose_threshold(swept, SWEEP) == 0.5
    # of 0.6 to 0.9, which search the same tile, the lowest
    assert choose_threshold(swept, SWEEP.model_copy(update={"sensitivity_lost": 0.5})) == 0.6
    assert choose_threshold(swept, SWEEP.model_copy(update={"sensitivity_lost": 1.0})) == 1.0


def test_a_loss_that_exceeds_the_allowed_by_rounding_alone_is_allowed() -> None:
    swept = pd.DataFrame({"threshold": [0.0, 0.5], "searched": [8, 2], "sensitivity_lost": [0.0, 0.3 - 0.1 * 2.8]})
    assert choose_threshold(swept, SWEEP) == 0.5


def test_without_a_lesion_there_is_no_threshold_to_choose(looked: Looked) -> None:
    with pytest.raises(BadInputError, match="no located lesion"):
        choose_threshold(sweep(looked.only(["f3", "f4"]), LESIONS, MERGE, SWEEP), SWEEP)


def test_what_a_higher_threshold_finds_may_also_be_more(looked: Looked) -> None:
    # tiles without lesions give false positives only: skipping them can raise sensitivity at a rate, never below 0
    swept = sweep(looked, LESIONS, MERGE, SWEEP.model_copy(update={"fp_per_film": 0.01}))
    assert swept["sensitivity_lost"].min() <= 0


# --------------------------------------------------------------------------------------------------------- its figures


def test_the_figures_of_a_cascade_are_those_counted_by_hand(looked: Looked) -> None:
    fitted = fit_calibration({"scale": [1, 1, 1], "bias": [0, 0, 0]}, looked, LESIONS, MERGE, 0.6)
    found, films = located(looked, 0.6, MERGE, Calibration.from_dict(fitted))
    assert found["item"].tolist() == ["f1"]
    assert films["searched"].tolist() == [1, 0, 0, 0]
    assert films["p_abnormal"].between(0, 1).all()
    assert films["p_abnormal"].idxmax() == 0

    cascade = beside_everywhere(looked, found, films, LESIONS, MERGE, SWEEP.fp_per_film)
    assert cascade.figures(COSTS) == {
        "sensitivity_lost": 0.5,
        "searched_share": 1 / 8,
        "compute_saved_ratio": pytest.approx(8 / (8 * 0.1 + 1)),
    }
    figures = cascade.with_intervals(COSTS, DRAWS) | film_figures(films, DRAWS)
    for name in ("sensitivity_lost", "compute_saved_ratio", "film_auc_normal_vs_abnormal"):
        assert figures[f"{name}_lo"] <= figures[name] <= figures[f"{name}_hi"]
        assert np.isfinite(figures[f"{name}_baseline"])


def test_the_curve_begins_with_the_detector_everywhere_and_ends_with_the_classifier_alone(looked: Looked) -> None:
    table = curve(looked, LESIONS, MERGE, SWEEP, COSTS, DRAWS)
    first, last = table.iloc[0], table.iloc[-1]
    assert (first["sensitivity_lost"], first["searched_share"]) == (0, 1)
    assert first["compute_saved_ratio"] == pytest.approx(1 / 1.1, abs=1e-6)
    assert (first["sensitivity_lost_lo"], first["sensitivity_lost_hi"]) == (0, 0)
    assert (last["sensitivity"], last["searched_share"], last["compute_saved_ratio"]) == (0, 0, 10)
    pd.testing.assert_frame_equal(table, curve(looked, LESIONS, MERGE, SWEEP, COSTS, DRAWS), check_exact=True)


def test_a_film_that_two_folds_looked_at_counts_twice(looked: Looked) -> None:
    again = Looked(
        *(table.assign(item="again " + table["item"]) for table in (looked.films, looked.tiles, looked.boxes))
    )
    both = pooled([looked, again])
    assert sweep(both, LESIONS, MERGE, SWEEP)["searched"].tolist() == [16, 14, 10, 8, 6, 4, 2, 2, 2, 2, 0]


# ------------------------------------------------------------------------------------------------------- a fold's films


@pytest.fixture(scope="module")
def film() -> CanonicalFilm:
    pixels = np.random.default_rng(0).integers(0, 255, (300, 420)).astype(np.uint8)
    transform = canonical_transform("right", 420, 300, 0.2)
    return CanonicalFilm("f1", transform.image(pixels), np.ones((300, 420), dtype=np.bool_), transform)


def test_tiles_written_and_read_back_give_the_boxes_of_the_detector(film: CanonicalFilm, tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = build_detector(SsdParameters(width=8))
    tiling = Tiling(window_px=256, step_px=128, min_breast_share=0.5)
    looking = FilmDetectionParameters(tiles=tiling, merge=MERGE)
    x1 = np.array([164.0, 36.0, 0.0, 164.0, 36.0, 0.0])
    y1 = np.array([0.0, 0.0, 0.0, 44.0, 44.0, 44.0])
    tiles = pd.DataFrame({"film_id": "f1", "x1": x1, "y1": y1, "x2": x1 + 256, "y2": y1 + 256, "p_normal": 0.5})
    boxes = search(film, tiles, detector, looking)
    write_table(tiles.assign(role="test", tile=range(6)), tmp_path / "tiles.csv")
    write_table(boxes, tmp_path / "boxes.csv")
    found = read_looked(tmp_path, FILMS, "test").found(0.5, MERGE)
    expected = detect_on_films(detector, [film], looking)
    assert len(found) == len(expected) > 5
    np.testing.assert_allclose(found[BOX_COLUMNS], expected[BOX_COLUMNS], atol=0.0501)

    with pytest.raises(BadInputError, match=r"film f1.*\n.*looked at 5 tiles, the detector at 6"):
        search(film, tiles[:5], detector, looking)
