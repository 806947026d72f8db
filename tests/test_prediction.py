"""From films to table rows: every box lands where it was seen on the film file."""

from base64 import b64encode
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from mammo_ml import prediction
from mammo_ml.classifier import PROBABILITY_COLUMNS
from mammo_ml.datasets.catalog import BOX_COLUMNS
from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.imaging.breast import canonical_transform
from mammo_ml.imaging.canonical import CanonicalFilm
from mammo_ml.imaging.patches import TileParameters
from mammo_ml.imaging.readers import format_pgm
from mammo_ml.metrics.calibration import VectorScaling
from mammo_ml.models.ssd import Detections, SsdParameters, build_detector
from mammo_ml.prediction import (
    FilmDetectionParameters,
    MergeParameters,
    aggregate,
    calibrated,
    choose_aggregation,
    classify_tiles,
    detect_on_cuts,
    detect_on_films,
    predict_with_bundle,
)

TILES = TileParameters(window_px=64, step_px=32, input_px=32, min_breast_share=0.5)
MERGE = MergeParameters(nms_iou=0.3, max_per_tile=5, max_per_film=4)
WIDTH, HEIGHT = 160, 200


def _tiles(*rows: tuple) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["film_id", *PROBABILITY_COLUMNS])
    return table.assign(x1=range(len(table)), y1=0.0, x2=1.0, y2=1.0)


FOUR = _tiles(
    ("b", 0.9, 0.1, 0.0),
    ("b", 0.1, 0.2, 0.7),
    ("b", 0.5, 0.3, 0.2),
    ("b", 0.3, 0.7, 0.0),
    ("a", 0.6, 0.4, 0.0),
)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mean", [0.45, 0.325, 0.225]),
        ("max", [0.1, 0.2, 0.7]),
        ("top_3", [0.3, 0.4, 0.3]),  # without the tile that is most surely normal
    ],
)
def test_a_films_probabilities_are_those_of_the_tiles_that_count(how, expected):
    films = aggregate(FOUR, how)
    assert films["film_id"].tolist() == ["b", "a"]  # in the order of the tiles
    np.testing.assert_allclose(films.loc[0, PROBABILITY_COLUMNS].astype(float), expected)
    np.testing.assert_allclose(films.loc[1, PROBABILITY_COLUMNS].astype(float), [0.6, 0.4, 0.0])


def test_the_aggregation_that_ranks_the_films_best_is_chosen():
    # A small lesion: one tile of the sick film is abnormal, on average it looks healthier than the healthy one.
    tiles = _tiles(
        ("sick", 0.1, 0.9, 0.0),
        *[("sick", 0.9, 0.1, 0.0)] * 9,
        *[("healthy", 0.7, 0.3, 0.0)] * 10,
        *[("worst", 0.05, 0.0, 0.95)] * 10,
    )
    labels = pd.Series({"sick": "benign", "healthy": "normal", "worst": "malignant"})
    assert choose_aggregation(tiles, labels) == "max"


def test_calibration_keeps_the_networks_own_probabilities_beside_the_calibrated():
    scaling = VectorScaling(scale=(2.0, 2.0, 2.0), bias=(0.0, 0.0, 0.0))
    table = calibrated(FOUR, scaling)
    raw = FOUR[PROBABILITY_COLUMNS].to_numpy()
    np.testing.assert_array_equal(table[[f"raw_{name}" for name in PROBABILITY_COLUMNS]].to_numpy(), raw)
    # softmax(2 ln p) is p squared, normalised.
    np.testing.assert_allclose(
        table[PROBABILITY_COLUMNS].to_numpy(), raw**2 / (raw**2).sum(1, keepdims=True), atol=1e-6
    )
    assert FOUR.columns.tolist() == ["film_id", *PROBABILITY_COLUMNS, *BOX_COLUMNS]


# ------------------------------------------------------------------------------------------------ boxes on films


def _film(pixels: np.ndarray, side: str, spacing: float, film_id: str = "film") -> CanonicalFilm:
    transform = canonical_transform(side, pixels.shape[1], pixels.shape[0], spacing)
    image = transform.image(pixels)
    return CanonicalFilm(film_id, image, np.ones(image.shape, dtype=np.bool_), transform)


def _find_bright(model, images, max_detections, nms_iou, names):
    """Stand-in for a trained detector: a box round the lit pixels of each picture, surer the more there are."""
    found = []
    for image in images[:, 0]:
        y, x = torch.nonzero(image > 0.5, as_tuple=True)
        if len(x) == 0:
            found.append(Detections(torch.empty(0, 4), torch.empty(0), torch.empty(0)))
            continue
        box = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()[None]
        score = torch.tensor([min(1.0, len(x) / 200)])
        found.append(Detections(box, 0.25 * score, 0.75 * score))
    return found


@pytest.fixture
def bright_finder(monkeypatch):
    monkeypatch.setattr("mammo_ml.detector.predict_boxes", _find_bright)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("spacing", [0.2, 0.1])
def test_a_box_found_in_overlapping_tiles_lands_once_at_its_place_on_the_film_file(bright_finder, side, spacing):
    scale = 1 if spacing == 0.2 else 2
    pixels = np.zeros((HEIGHT * scale, WIDTH * scale), dtype=np.uint8)
    x1, y1, x2, y2 = np.array([100, 36, 116, 44]) * scale  # at whole pixels of the tiles, off the middle
    pixels[y1:y2, x1:x2] = 255
    films = [_film(np.zeros_like(pixels), side, spacing, "dark"), _film(pixels, side, spacing, "lit")]
    found = detect_on_films(SimpleNamespace(side_px=32), films, FilmDetectionParameters(tiles=TILES, merge=MERGE))
    assert found.columns.tolist() == ["film_id", *BOX_COLUMNS, "p_benign", "p_malignant"]
    assert set(found["film_id"]) == {"lit"}
    # A tile's px is two canonical px, and the edges of the resized film are blurred by about one px.
    np.testing.assert_allclose(found[BOX_COLUMNS].to_numpy()[0], [x1, y1, x2, y2], atol=2 * scale)
    total = found["p_benign"] + found["p_malignant"]
    assert total.is_monotonic_decreasing
    assert len(found) <= MERGE.max_per_film


def test_films_on_which_nothing_is_found_give_a_table_with_columns_and_types(bright_finder):
    dark = _film(np.zeros((HEIGHT, WIDTH), dtype=np.uint8), "left", 0.2)
    for films in ([], [dark]):
        found = detect_on_films(SimpleNamespace(side_px=32), films, FilmDetectionParameters(tiles=TILES, merge=MERGE))
        assert found.columns.tolist() == ["film_id", *BOX_COLUMNS, "p_benign", "p_malignant"]
        assert len(found) == 0
        assert (found.dtypes[BOX_COLUMNS] == "float64").all()


@pytest.mark.parametrize(("chest_wall", "expected"), [("left", [30, 58, 38, 64]), ("right", [122, 58, 130, 64])])
def test_a_box_found_in_a_turned_cut_lands_at_its_place_on_the_film_file(bright_finder, chest_wall, expected):
    # In the upright cut the lesion is at x 5 to 9, y 4 to 7 of 32 px; a window of 64 px starts at (20, 50).
    upright = np.zeros((32, 32), dtype=np.uint8)
    upright[4:7, 5:9] = 255
    films = pd.DataFrame(
        {"film_id": ["f"], "chest_wall": chest_wall, "width_px": WIDTH, "height_px": HEIGHT, "pixel_spacing_mm": 0.2}
    )
    cut = pd.DataFrame({"item": ["c:identity", "c:rotate_90"], "film_id": "f", "patient_id": "anna"})
    cut = cut.assign(view=["identity", "rotate_90"], x1=20.0, y1=50.0, x2=84.0, y2=114.0)
    found = detect_on_cuts(None, np.stack([upright, np.rot90(upright)]), cut, films, MERGE)
    assert found["item"].tolist() == ["c:identity", "c:rotate_90"]
    assert found["patient_id"].tolist() == ["anna", "anna"]
    np.testing.assert_allclose(found[BOX_COLUMNS].to_numpy(), [expected, expected])


class _BrightIsMalignant(nn.Module):
    def forward(self, images):
        bright = images.mean(dim=(1, 2, 3))
        return torch.stack([0 * bright, 0 * bright, 20 * (bright - 0.25)], dim=1)


def test_the_tiles_of_a_mirrored_film_are_told_in_px_of_its_file():
    pixels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    pixels[0:64, 96:160] = 255  # the upper corner at the chest wall of a left breast
    tiles = classify_tiles(_BrightIsMalignant(), _film(pixels, "right", 0.2), TILES)
    best = tiles.iloc[int(tiles["p_malignant"].argmax())]
    assert best[BOX_COLUMNS].tolist() == [96, 0, 160, 64]
    np.testing.assert_allclose(tiles[PROBABILITY_COLUMNS].sum(axis=1), 1)


class _NoNumberWhereBright(_BrightIsMalignant):
    def forward(self, images):
        bright = images.mean(dim=(1, 2, 3), keepdim=True)[..., 0, 0]
        return super().forward(images).masked_fill(bright > 0.9, float("nan"))


def test_a_film_that_a_classifier_cannot_answer_is_named_with_its_tile():
    pixels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    pixels[0:64, 0:64] = 255
    with pytest.raises(MammoError, match="classifier's output is not finite for film mdb007, tile at 0, 0: look at"):
        classify_tiles(_NoNumberWhereBright(), _film(pixels, "left", 0.2, "mdb007"), TILES)


def test_a_film_and_a_cut_that_a_detector_cannot_answer_are_named():
    model = build_detector(SsdParameters(width=8))
    with torch.no_grad():
        model.backbone.stem[0].weight[0, 0, 0, 0] = float("nan")
    film = _film(np.zeros((128, 128), dtype=np.uint8), "left", 0.2, "mdb007")
    tiles = TILES.model_copy(update={"window_px": 128})
    with pytest.raises(MammoError, match="detector's output is not finite for film mdb007, tile at 0, 0: look at"):
        detect_on_films(model, [film], FilmDetectionParameters(tiles=tiles, merge=MERGE))
    cut = {"item": "c:identity", "film_id": "mdb007", "patient_id": "anna", "view": "identity"}
    cuts = pd.DataFrame([cut | dict(zip(BOX_COLUMNS, [0.0, 0, 128, 128], strict=True))])
    with pytest.raises(MammoError, match="detector's output is not finite for cut c:identity: look at"):
        detect_on_cuts(model, np.zeros((1, 128, 128), dtype=np.uint8), cuts, pd.DataFrame(), MERGE)


# ------------------------------------------------------------------------------------------------- with a bundle

BUNDLE = SimpleNamespace(config=SimpleNamespace(kind="classifier"), seen_in_training=lambda sha256: False)


def _answer(*rows: tuple[str, str]) -> pd.DataFrame:
    return predict_with_bundle(BUNDLE, pd.DataFrame(rows, columns=["film_id", "image"]))


def test_an_image_that_is_no_base64_is_refused_with_the_name_of_its_film():
    with pytest.raises(BadInputError, match="film mine: image is not base64"):
        _answer(("mine", "P5 as it is"))


def test_bytes_that_are_no_film_are_refused_with_the_name_of_their_film():
    with pytest.raises(BadInputError, match="mine"):
        _answer(("mine", b64encode(b"\x89PNG").decode()))


def test_a_film_without_a_breast_is_named():
    black = format_pgm(np.zeros(prediction.MINI_MIAS_SHAPE, np.uint8))
    with pytest.raises(MammoError, match="film mine: no breast found"):
        _answer(("mine", b64encode(black).decode()))


def _half_disc(edge: int) -> np.ndarray:
    y, x = np.mgrid[:edge, :edge] / edge
    return np.where(np.hypot(x, y - 0.5) < 0.45, 160, 5).astype(np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def prepared(monkeypatch):
    """The canonical films that would be shown to the classifier."""
    shown = []

    def answer(bundle, films):
        shown.extend(films)
        return pd.DataFrame({"film_id": [film.film_id for film in films]})

    monkeypatch.setattr(prediction, "classify_films_with", answer)
    return shown


def test_a_film_is_the_same_to_the_model_as_pgm_and_as_png(prepared):
    pixels = _half_disc(1024)
    films = pd.DataFrame({"film_id": ["pgm", "png"], "pixel_spacing_mm": [None, 0.2]})
    films["image"] = [b64encode(content).decode() for content in (format_pgm(pixels), _png(pixels))]
    table = predict_with_bundle(BUNDLE, films)
    assert table["film_id"].tolist() == ["pgm", "png"]
    np.testing.assert_array_equal(prepared[0].pixels, prepared[1].pixels)
    assert prepared[0].pixels.shape == (1024, 1024)


def test_a_film_of_finer_pixels_is_brought_to_those_of_the_model(prepared):
    films = pd.DataFrame({"film_id": ["fine"], "pixel_spacing_mm": [0.1]})
    predict_with_bundle(BUNDLE, films.assign(image=b64encode(format_pgm(_half_disc(1024))).decode()))
    assert prepared[0].pixels.shape == (512, 512)


def test_films_without_spacing_or_with_one_in_another_unit_are_all_named():
    images = [format_pgm(_half_disc(256)), _png(_half_disc(1024)), *[format_pgm(_half_disc(1024))] * 4]
    films = pd.DataFrame({"film_id": list("abcdef"), "pixel_spacing_mm": [None, None, 50.0, 0.0, -0.2, np.inf]})
    with pytest.raises(BadInputError) as caught:
        predict_with_bundle(BUNDLE, films.assign(image=[b64encode(image).decode() for image in images]))
    told = caught.value.problems
    assert [problem[:7] for problem in told] == [f"film {name}:" for name in "abcdef"]
    assert all("pixel_spacing_mm is missing" in problem for problem in told[:2])
    assert "would be 51200 mm long" in told[2]


def test_two_films_of_one_name_and_no_film_at_all_are_refused():
    with pytest.raises(BadInputError, match="film mine is there twice"):
        _answer(("mine", ""), ("mine", ""))
    with pytest.raises(BadInputError, match="there is no film"):
        _answer()


def test_film_probabilities_name_the_same_classes_as_the_tables():
    assert PROBABILITY_COLUMNS[1:] == prediction.DETECTION_COLUMNS[4:]
