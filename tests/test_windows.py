import numpy as np
import pandas as pd
import pytest
import torch

from mammo_ml.errors import BadInputError
from mammo_ml.imaging.augmentation import AugmentationParameters
from mammo_ml.imaging.breast import canonical_transform
from mammo_ml.imaging.canonical import CanonicalFilm
from mammo_ml.models.ssd import SsdParameters, build_detector
from mammo_ml.windows import WindowParameters, WindowTask, window_films

SPOT = 250
PARAMETERS = WindowParameters(window_px=256, lesion_share=0.5, max_offset=0.35, max_scale=1.25, min_visible_share=0.3)


def film(name: str, spot: tuple[int, int, int, int] | None = None, size: int = 600) -> CanonicalFilm:
    """A breast of grey 100 on the left half, a bright spot on it."""
    pixels, mask = np.zeros((size, size), dtype=np.uint8), np.zeros((size, size), dtype=np.bool_)
    mask[:, : size // 2] = True
    pixels[mask] = 100
    if spot:
        x1, y1, x2, y2 = spot
        pixels[y1:y2, x1:x2] = SPOT
    return CanonicalFilm(name, pixels, mask, canonical_transform("left", size, size, 0.2))


def lesions(*rows: tuple[str, str, tuple[int, int, int, int] | None]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "lesion_id": f"lesion_{n}",
                "film_id": name,
                "severity": severity,
                "has_location": box is not None,
                **dict(zip(["x1", "y1", "x2", "y2"], box or [np.nan] * 4, strict=True)),
            }
            for n, (name, severity, box) in enumerate(rows)
        ]
    )


BOX = (120, 300, 180, 360)
ONE = lesions(("a", "malignant", BOX))


def task(films: list[CanonicalFilm], table: pd.DataFrame, **changes: float) -> WindowTask:
    parameters = PARAMETERS.model_copy(update=changes)
    torch.manual_seed(0)
    found = window_films(films, table, parameters, 128)
    model = build_detector(SsdParameters(width=8))
    return WindowTask(model, found, found, parameters, AugmentationParameters(strength=0.0), seed=1)


def test_boxes_lie_on_their_lesion_whatever_the_size_place_and_view_of_the_window():
    source = task([film("a", BOX)], ONE)._source
    pictures, boxes, labels = source.pictures(np.zeros(200, dtype=np.int64), torch.Generator().manual_seed(3))
    sides = []
    for picture, seen, classes in zip(pictures, boxes, labels, strict=True):
        assert classes.tolist() == [2]
        x1, y1, x2, y2 = seen[0].round().int().tolist()
        sides.append(x2 - x1)
        inside = picture[max(0, y1 + 2) : y2 - 2, max(0, x1 + 2) : x2 - 2]
        assert inside.min() > 200
        outside = picture.copy()
        outside[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = 0
        assert outside.max() < 200
    # 60 px of the film are 30 of the input, a quarter larger or smaller
    assert min(sides) <= 26
    assert max(sides) >= 36


def test_half_of_the_windows_show_a_lesion_and_the_others_lie_on_the_breast():
    one = task([film("a", BOX), film("b")], ONE)
    samples = one.draw(400, np.random.default_rng(0))
    assert (samples == 0).sum() == 200
    grounds = [one.describe(samples[samples > 0])]
    assert "films a, " in grounds[0] or ", a" in grounds[0]
    pictures, _, _ = one._source.pictures(samples[samples > 0], torch.Generator().manual_seed(0))
    assert (pictures.reshape(len(pictures), -1) > 50).mean(1).min() > 0.1


def test_a_film_with_a_lesion_nobody_located_gives_windows_round_its_other_lesions_alone():
    table = lesions(("a", "malignant", BOX), ("a", "benign", None), ("b", "benign", None))
    one = task([film("a", BOX), film("b"), film("c")], table)
    named = one.describe(np.unique(one.draw(200, np.random.default_rng(0))))
    assert named == "windows of films a, c"


def test_without_a_film_to_show_no_lesion_every_window_shows_one():
    one = task([film("a", BOX)], lesions(("a", "malignant", BOX), ("a", "benign", None)))
    assert set(one.draw(50, np.random.default_rng(0))) == {0}


def test_the_same_generator_draws_the_same_windows_and_the_inner_ones_never_change():
    one = task([film("a", BOX), film("b")], ONE)
    samples = one.draw(8, np.random.default_rng(5))
    first = float(one.loss(samples, torch.Generator().manual_seed(7)).detach())
    assert float(one.loss(samples, torch.Generator().manual_seed(7)).detach()) == first
    assert float(one.loss(samples, torch.Generator().manual_seed(8)).detach()) != first
    assert one.inner_loss() == one.inner_loss()


def test_films_too_small_and_lesions_of_unknown_class_are_all_named():
    table = lesions(("a", "unknown", BOX), ("b", "benign", BOX))
    with pytest.raises(BadInputError) as caught:
        window_films([film("a", BOX), film("tiny", size=300)], table, PARAMETERS, 128)
    assert caught.value.problems == [
        "lesion lesion_0: its class is not known",
        "film tiny: 300 x 300 px is smaller than the largest window",
    ]


@pytest.mark.parametrize("box", [(120, 300, 120, 360), (180, 360, 120, 300), (9000, 300, 9060, 360)])
def test_a_lesion_that_no_window_could_show_is_named_with_its_film(box):
    with pytest.raises(BadInputError) as caught:
        window_films([film("a", BOX)], lesions(("a", "malignant", BOX), ("a", "benign", box)), PARAMETERS, 128)
    told = [float(corner) for corner in box]
    assert caught.value.problems == [f"lesion lesion_1: its box {told} has no area on film a"]
