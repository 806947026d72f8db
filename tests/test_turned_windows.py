import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammo_ml.errors import BadInputError
from mammo_ml.imaging.augmentation import view_of_image
from mammo_ml.imaging.patches import crop
from mammo_ml.turned_windows import (
    TurnedWindows,
    boxes_on_picture,
    circles_from_centre,
    cut_sources,
    margin_px,
    turn_picture,
    turn_points,
)

INPUT_PX = 64
FILM = np.random.default_rng(1).integers(0, 256, (400, 300), dtype=np.uint8)
WINDOWS = np.array([[100.0, 120.0, 228.0, 248.0], [0.0, 0.0, 128.0, 128.0], [172.0, 272.0, 300.0, 400.0]])
ANGLES = st.integers(0, 359)


@pytest.mark.parametrize(
    ("view", "angle", "mirrored"),
    [
        ("identity", 0, False),
        ("rotate_90", 90, False),
        ("rotate_180", 180, False),
        ("rotate_270", 270, False),
        ("flip_vertical", 180, True),
        ("flip_horizontal", 0, True),
    ],
)
def test_quarter_turns_are_byte_for_byte_the_fixed_views_of_the_cut(view: str, angle: int, mirrored: bool) -> None:
    upright = crop(FILM, WINDOWS, INPUT_PX)
    for source, picture in zip(cut_sources(FILM, WINDOWS, INPUT_PX), upright, strict=True):
        np.testing.assert_array_equal(
            turn_picture(source, angle, mirrored, INPUT_PX), view_of_image(picture, view), strict=True
        )


@given(ANGLES, st.booleans(), st.floats(-40, 40), st.floats(-40, 40), st.floats(1, 30))
@settings(deadline=None)
def test_the_box_of_a_turned_lesion_is_the_box_round_the_turned_circle(
    angle: int, mirrored: bool, x: float, y: float, radius: float
) -> None:
    rim = np.deg2rad(np.arange(0, 360, 0.5))
    points = np.stack([x + radius * np.cos(rim), y + radius * np.sin(rim)], axis=1)
    turned = turn_points(points, angle, mirrored) + 100

    boxes, which = boxes_on_picture(np.array([[x, y, radius]]), angle, mirrored, 200, 0.3)

    assert which.tolist() == [0]
    # Points on the rim every half degree lie at most 1 - cos(1/4 degree) of the radius inside the box.
    np.testing.assert_allclose(boxes[0], [*turned.min(axis=0), *turned.max(axis=0)], atol=2e-5 * radius)
    np.testing.assert_allclose(boxes[0, 2:] - boxes[0, :2], 2 * radius)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_lesion_lies_in_its_box_on_the_turned_picture(mirrored: bool) -> None:
    film = np.zeros((400, 300), dtype=np.uint8)
    rows, columns = np.ogrid[:400, :300]
    film[(columns + 0.5 - 190) ** 2 + (rows + 0.5 - 160) ** 2 <= 16**2] = 255
    source = cut_sources(film, WINDOWS[:1], INPUT_PX)[0]
    circles = circles_from_centre(np.array([[190.0, 160.0, 16.0]]), WINDOWS[0].tolist(), INPUT_PX)
    for angle in range(0, 360, 7):
        picture = turn_picture(source, angle, mirrored, INPUT_PX)
        box = boxes_on_picture(circles, angle, mirrored, INPUT_PX, 0.3)[0][0]
        down, across = np.nonzero(picture > 127)
        np.testing.assert_allclose(box, [across.min(), down.min(), across.max() + 1, down.max() + 1], atol=0.8)


def test_a_lesion_that_a_turn_moves_out_of_the_picture_has_no_box() -> None:
    circles = np.array([[40.0, 40.0, 5.0], [0.0, 0.0, 5.0]])  # in the corner: 56 px from the centre

    boxes, which = boxes_on_picture(circles, 0, False, 100, 0.3)
    turned, which_turned = boxes_on_picture(circles, 45, False, 100, 0.3)

    assert (which.tolist(), which_turned.tolist()) == ([0, 1], [1])
    np.testing.assert_allclose(turned, [[45, 45, 55, 55]])
    np.testing.assert_allclose(boxes[0], [85, 85, 95, 95])


def test_the_same_numbers_give_the_same_bytes_in_any_order_and_no_turn_shows_what_is_not_film() -> None:
    white = np.full((400, 300), 200, dtype=np.uint8)
    sources = cut_sources(white, WINDOWS, INPUT_PX)
    assert sources.shape == (3, INPUT_PX + 2 * margin_px(INPUT_PX), INPUT_PX + 2 * margin_px(INPUT_PX))
    angles = np.arange(0, 360, 5)
    every = TurnedWindows(sources, angles % 3, angles, angles % 2 == 0, INPUT_PX)
    assert every[:].min() == 200

    noisy = TurnedWindows(cut_sources(FILM, WINDOWS, INPUT_PX), angles % 3, angles, angles % 2 == 0, INPUT_PX)
    order = np.random.default_rng(2).permutation(len(noisy))
    np.testing.assert_array_equal(noisy[order], noisy[:][order], strict=True)
    assert len(noisy) == 72


def test_windows_that_are_no_multiple_of_the_input_are_named() -> None:
    with pytest.raises(BadInputError, match="window 1: 100 px is no multiple of 64 px"):
        cut_sources(FILM, np.array([[0.0, 0, 128, 128], [0, 0, 100, 100]]), INPUT_PX)
