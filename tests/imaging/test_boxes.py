import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mammo_ml.imaging.boxes import (
    area,
    circles_to_boxes,
    clip,
    flip_horizontal,
    flip_vertical,
    iou,
    rotate_90,
    scale,
    shift,
)

WIDTH, HEIGHT = 7, 4  # not square, so that a swapped axis shows
BOXES = np.array([[1.0, 0.0, 3.0, 1.0], [0.0, 0.0, 7.0, 4.0], [6.0, 2.0, 7.0, 4.0]])


def drawn(box: np.ndarray, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """An image that is True exactly in the pixels of a box with whole coordinates."""
    image = np.zeros((height, width), dtype=bool)
    x1, y1, x2, y2 = box.astype(int)
    image[y1:y2, x1:x2] = True
    return image


def test_a_circle_around_a_pixel_centre_gives_the_square_around_it():
    # Film 144, first row of Info.txt: x 233, y 994 from the bottom left, radius 29: centre (233.5, 29.5) from the top.
    np.testing.assert_array_equal(
        circles_to_boxes(np.array([[233.5, 29.5]]), np.array([29.0])), [[204.5, 0.5, 262.5, 58.5]]
    )


def test_clipping_keeps_what_is_inside_and_empties_what_is_outside():
    boxes = np.array([[-2.0, 1.0, 3.0, 9.0], [8.0, 1.0, 9.0, 2.0], [1.0, 1.0, 2.0, 2.0]])
    clipped = clip(boxes, WIDTH, HEIGHT)
    np.testing.assert_array_equal(clipped, [[0, 1, 3, 4], [7, 1, 7, 2], [1, 1, 2, 2]])
    np.testing.assert_array_equal(area(clipped), [9, 0, 1])


def test_a_box_covers_as_many_pixels_as_its_area():
    np.testing.assert_array_equal(area(BOXES), [drawn(box).sum() for box in BOXES])


def test_shifting_and_scaling_treat_x_and_y_apart():
    np.testing.assert_array_equal(shift(BOXES[:1], 10, 20), [[11, 20, 13, 21]])
    np.testing.assert_array_equal(scale(BOXES[:1], 2, 3), [[2, 0, 6, 3]])


@pytest.mark.parametrize("box", BOXES)
def test_boxes_turn_and_flip_with_their_image(box):
    image = drawn(box)
    np.testing.assert_array_equal(drawn(flip_horizontal(box[None], WIDTH)[0]), np.fliplr(image))
    np.testing.assert_array_equal(drawn(flip_vertical(box[None], HEIGHT)[0]), np.flipud(image))
    turned = rotate_90(box[None], WIDTH)[0]
    np.testing.assert_array_equal(drawn(turned, width=HEIGHT, height=WIDTH), np.rot90(image))


coordinates = arrays(np.float64, (5, 2), elements=st.integers(0, 400).map(lambda n: n / 100))


@given(coordinates, coordinates)
def test_two_flips_and_four_rotations_are_the_identity(first, second):
    boxes = np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=1)
    np.testing.assert_allclose(flip_horizontal(flip_horizontal(boxes, WIDTH), WIDTH), boxes, atol=1e-12)
    np.testing.assert_allclose(flip_vertical(flip_vertical(boxes, HEIGHT), HEIGHT), boxes, atol=1e-12)
    turned = boxes
    for width in (WIDTH, HEIGHT, WIDTH, HEIGHT):
        turned = rotate_90(turned, width)
    np.testing.assert_allclose(turned, boxes, atol=1e-12)


def test_iou_of_hand_made_pairs():
    first = np.array([[0.0, 0.0, 2.0, 2.0]])
    second = np.array(
        [
            [0, 0, 2, 2],  # itself
            [1, 0, 3, 2],  # half of each: 2 / (4 + 4 - 2)
            [2, 0, 4, 2],  # touching: the right edge is excluded
            [0, 0, 1, 4],  # 2 / (4 + 4 - 2)
            [1, 1, 1, 1],  # no area
        ],
        dtype=np.float64,
    )
    np.testing.assert_allclose(iou(first, second), [[1, 1 / 3, 0, 1 / 3, 0]])


def test_iou_of_two_boxes_without_area_is_0_not_nan():
    point = np.array([[1.0, 1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(iou(point, point), [[0.0]])


def test_no_boxes_stay_no_boxes():
    none = np.zeros((0, 4))
    for result in (
        clip(none, WIDTH, HEIGHT),
        shift(none, 1, 1),
        scale(none, 2, 2),
        flip_horizontal(none, WIDTH),
        flip_vertical(none, HEIGHT),
        rotate_90(none, WIDTH),
        circles_to_boxes(np.zeros((0, 2)), np.zeros(0)),
    ):
        assert result.shape == (0, 4)
    assert iou(none, BOXES).shape == (0, 3)
    assert iou(BOXES, none).shape == (3, 0)
