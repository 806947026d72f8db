from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mammo_ml.datasets import phantom
from mammo_ml.datasets.catalog import BOX_COLUMNS
from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.imaging.breast import breast_mask, chest_wall_side
from mammo_ml.imaging.canonical import CanonicalFilm, to_canonical
from mammo_ml.imaging.patches import Tiling
from mammo_ml.imaging.readers import Film
from mammo_ml.locator import LOCATED_COLUMNS, TILE_COLUMNS, Calibration, Locator, fit_scores, scaled
from mammo_ml.metrics.calibration import VectorScaling
from mammo_ml.models.ssd import Detections, LesionSSD, SsdParameters, build_detector
from mammo_ml.prediction import FilmDetectionParameters, MergeParameters, detect_on_films

TILES = Tiling(window_px=256, step_px=128, min_breast_share=0.5)
MERGE = MergeParameters(nms_iou=0.3, max_per_tile=5, max_per_film=20)
PLAIN = Calibration(VectorScaling.identity(3), VectorScaling((2.0, 0.5), (0.0, -1.0)), VectorScaling.identity(2))


class BrightIsAbnormal(nn.Module):
    """Stand-in for a trained classifier: the brighter a tile, the more abnormal."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright = images.mean(dim=(1, 2, 3))
        return torch.stack([0 * bright, 0 * bright, 20 * (bright - 0.5)], dim=1)


@pytest.fixture(scope="module")
def film() -> Film:
    planned = next(one for one in phantom.plan(phantom.PhantomParameters(women=20, seed=1)) if one.lesions)
    return Film(phantom.draw(planned, seed=1), max_value=255, pixel_spacing_mm=0.2)


@pytest.fixture(scope="module")
def detector() -> LesionSSD:
    torch.manual_seed(0)
    return build_detector(SsdParameters(width=8)).eval()


@pytest.fixture(scope="module")
def locator(detector: LesionSSD) -> Locator:
    return Locator(BrightIsAbnormal().eval(), detector, TILES, 64, MERGE, PLAIN, threshold=0.0)


def prepared(film: Film) -> CanonicalFilm:
    side = chest_wall_side(breast_mask(film.pixels.astype(np.uint8)))
    return to_canonical("film", film, side, film.pixel_spacing_mm)


# ------------------------------------------------------------------------------------------------- the thresholds


def test_at_threshold_0_the_boxes_are_exactly_the_detectors(film: Film, locator: Locator) -> None:
    expected = detect_on_films(locator.detector, [prepared(film)], FilmDetectionParameters(tiles=TILES, merge=MERGE))
    found = locator.locate(film)
    assert len(expected) > 5
    pd.testing.assert_frame_equal(found.boxes.drop(columns="score"), expected.drop(columns="film_id"), check_exact=True)
    assert found.n_skipped == 0
    assert list(found.boxes) == LOCATED_COLUMNS
    assert list(found.tiles) == TILE_COLUMNS


def test_above_threshold_1_nothing_is_found_and_the_detector_sees_no_tile(
    film: Film, locator: Locator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the detector was asked")

    monkeypatch.setattr(locator.detector.backbone, "forward", refuse)
    found = replace(locator, threshold=1.01).locate(film)
    assert found.n_skipped == len(found.tiles) > 5
    assert found.boxes.empty
    assert (found.boxes.dtypes == "float64").all()
    assert 0 <= found.p_abnormal < 0.05


def test_between_only_the_suspicious_tiles_are_searched_and_every_box_lies_in_one(film: Film, locator: Locator) -> None:
    half = float(locator.locate(film).tiles["p_abnormal"].median())
    found = replace(locator, threshold=half).locate(film)
    searched = found.tiles[found.tiles["searched"]]
    assert 0 < found.n_skipped < len(found.tiles)
    assert (searched["p_abnormal"] >= half).all()
    assert (found.tiles.loc[~found.tiles["searched"], "p_abnormal"] < half).all()
    for box in found.boxes[BOX_COLUMNS].to_numpy():
        inside = (searched[["x1", "y1"]].to_numpy() <= box[:2]) & (box[2:] <= searched[["x2", "y2"]].to_numpy())
        assert inside.all(axis=1).any()


def test_the_same_film_gets_the_same_answer_twice(film: Film, locator: Locator) -> None:
    first, second = locator.locate(film), locator.locate(film)
    pd.testing.assert_frame_equal(first.boxes, second.boxes, check_exact=True)
    pd.testing.assert_frame_equal(first.tiles, second.tiles, check_exact=True)
    assert first.p_abnormal == second.p_abnormal


# ------------------------------------------------------------------------------------------------------ the places


def find_bright(
    model: object, images: torch.Tensor, max_detections: int, nms_iou: float, names: list[str]
) -> list[Detections]:
    """Stand-in for a trained detector: a box round the lit pixels of each picture."""
    found = []
    for image in images[:, 0]:
        y, x = torch.nonzero(image > 0.95, as_tuple=True)
        if len(x) == 0:
            found.append(Detections(torch.empty(0, 4), torch.empty(0), torch.empty(0)))
            continue
        box = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()[None]
        score = torch.tensor([min(1.0, len(x) / 400)])
        found.append(Detections(box, 0.25 * score, 0.75 * score))
    return found


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("finer", [1, 2])
def test_boxes_and_tiles_are_in_px_of_the_film_file_however_it_lies(
    locator: Locator, monkeypatch: pytest.MonkeyPatch, mirrored: bool, finer: int
) -> None:
    monkeypatch.setattr("mammo_ml.detector.predict_boxes", find_bright)
    y, x = np.mgrid[:512, :400]
    pixels = np.where(np.hypot(x, y - 256) < 240, 120, 5).astype(np.uint8)
    pixels[200:232, 60:100] = 255
    place = [60.0, 200.0, 100.0, 232.0]
    if mirrored:
        pixels, place = pixels[:, ::-1], [300.0, 200.0, 340.0, 232.0]
    pixels = np.ascontiguousarray(pixels.repeat(finer, axis=0).repeat(finer, axis=1))
    found = locator.locate(Film(pixels, 255, 0.2 / finer))
    np.testing.assert_allclose(found.boxes[BOX_COLUMNS].to_numpy()[0], finer * np.array(place), atol=2 * finer)
    brightest = found.tiles.loc[found.tiles["p_abnormal"].idxmax()]
    mean = [pixels[int(t.y1) : int(t.y2), int(t.x1) : int(t.x2)].mean() for t in found.tiles.itertuples()]
    assert brightest.name == int(np.argmax(mean))


# ------------------------------------------------------------------------------------------------------ the scores


def test_scores_are_calibrated_and_keep_the_detectors_order(film: Film, locator: Locator) -> None:
    boxes = locator.locate(film).boxes
    own = (boxes["p_benign"] + boxes["p_malignant"]).to_numpy()
    assert boxes["score"].is_monotonic_decreasing
    assert boxes["score"].between(0, 1).all()
    np.testing.assert_allclose(boxes["score"], scaled(PLAIN.boxes, own))
    assert not np.allclose(boxes["score"], own)


def test_a_film_is_as_abnormal_as_its_most_suspicious_box(film: Film, locator: Locator) -> None:
    found = locator.locate(film)
    best = float((found.boxes["p_benign"] + found.boxes["p_malignant"]).max())
    assert found.p_abnormal == pytest.approx(best)


def test_fitted_scores_rise_with_the_share_that_was_right() -> None:
    scores = np.linspace(0.02, 0.98, 200)
    right = np.random.default_rng(1).random(200) < scores**3
    fitted = scaled(fit_scores(scores, right), scores)
    assert (np.diff(fitted) > 0).all()
    assert abs(fitted.mean() - right.mean()) < 0.02


@pytest.mark.parametrize("right", [[False] * 3, [True] * 3, []])
def test_scores_stay_as_they_are_where_nothing_tells_right_from_wrong(right: list[bool]) -> None:
    assert fit_scores(np.full(len(right), 0.4), right) == VectorScaling.identity(2)


# ------------------------------------------------------------------------------------------------------- bad films


def test_a_film_of_unknown_scale_is_refused_by_its_name(film: Film, locator: Locator) -> None:
    with pytest.raises(BadInputError, match=r"left\.pgm.*\n.*pixel spacing"):
        locator.locate(replace(film, pixel_spacing_mm=None), "left.pgm")


def test_a_black_film_is_refused_by_its_name(locator: Locator) -> None:
    with pytest.raises(MammoError, match=r"film left: no breast found"):
        locator.locate(Film(np.zeros((600, 600), dtype=np.uint8), 255, 0.2), "left")
