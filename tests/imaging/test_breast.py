import io
import os
import tarfile
import time

import numpy as np
import pytest

from mammo_ml.errors import MammoError
from mammo_ml.imaging.breast import breast_box, breast_mask, canonical_transform, chest_wall_side


def breast_film(height: int = 600, width: int = 400) -> np.ndarray:
    """Half an ellipse of tissue against the left edge, on the grey background of a film."""
    rows, columns = np.mgrid[:height, :width]
    inside = ((rows - height / 2) / (0.4 * height)) ** 2 + (columns / (0.6 * width)) ** 2 < 1
    return np.where(inside, 140, 8).astype(np.uint8)


def test_the_mask_is_the_breast_on_a_film_of_any_shape():
    for height, width in ((600, 400), (400, 600), (1537, 1023), (90, 70)):
        film = breast_film(height, width)
        mask, truth = breast_mask(film), film > 100
        assert mask.shape == film.shape
        assert mask.dtype == np.bool_
        # 0.93: the mask is made of blocks, and on the small film the opening rounds the breast's two corners
        assert (mask & truth).sum() / (mask | truth).sum() > 0.93


def test_a_plate_a_strip_and_the_wrapped_line_are_not_breast():
    film = breast_film(1024, 700)
    film[20:120, 500:600] = 250  # marker plate
    film[:, 660:] = 254  # strip over the full height
    film = np.pad(film, ((0, 0), (162, 162)))  # mini-MIAS pads to 1024 columns ...
    film[0] = 200  # ... and wraps a line into row 0 of the padding
    mask = breast_mask(film)
    assert not mask[:, :162].any()
    assert not mask[:, 162 + 495 :].any()
    assert mask[512, 162 + 100]


def test_a_plate_that_touches_the_breast_by_a_thin_bridge_is_cut_off():
    film = breast_film(1024, 700)
    film[460:560, 560:680] = 250
    film[500:512, 380:600] = 200
    assert not breast_mask(film)[460:560, 580:680].any()


def test_a_hole_in_the_breast_is_breast():
    film = breast_film(1024, 700)
    film[480:540, 100:160] = 0
    assert breast_mask(film)[480:540, 100:160].all()


@pytest.mark.parametrize("film", [np.zeros((300, 200), np.uint8), np.full((300, 200), 9, np.uint8)])
def test_a_film_without_breast_is_refused(film):
    with pytest.raises(MammoError, match="no breast found"):
        breast_mask(film)


def test_the_box_ends_after_the_last_pixel():
    mask = np.zeros((10, 20), bool)
    mask[2:5, 3:9] = True
    assert breast_box(mask) == (3.0, 2.0, 9.0, 5.0)


def test_an_empty_mask_has_no_box():
    with pytest.raises(MammoError, match="empty"):
        breast_box(np.zeros((4, 5), bool))


def test_the_chest_wall_is_where_the_breast_is_widest():
    mask = breast_mask(breast_film(600, 400))
    assert chest_wall_side(mask) == "left"
    assert chest_wall_side(mask[:, ::-1]) == "right"


def test_a_breast_that_fills_the_film_has_its_chest_wall_where_the_top_is_full():
    # films 151 and 152: tissue at both edges, background above the nipple's side and below the chest wall's
    mask = np.ones((100, 100), bool)
    mask[:30, 90:] = False
    mask[60:, :20] = False
    assert chest_wall_side(mask) == "left"
    assert chest_wall_side(mask[:, ::-1]) == "right"


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("spacing", [0.2, 0.07, 0.1, 0.2345, 0.5])
def test_boxes_return_to_the_film_they_came_from(side, spacing):
    transform = canonical_transform(side, 333, 517, spacing)
    boxes = np.array([[0.0, 0.0, 333.0, 517.0], [10.25, 20.5, 30.0, 47.75], [300.0, 1.0, 301.0, 2.0]])
    np.testing.assert_allclose(transform.boxes_to_film(transform.boxes_to_canonical(boxes)), boxes, atol=1e-9)
    assert transform.boxes_to_canonical(np.zeros((0, 4))).shape == (0, 4)


def test_boxes_follow_the_pixels_through_flip_and_resize():
    film = np.zeros((120, 200), np.uint8)
    film[30:50, 20:60] = 255
    for side, spacing in (("right", 0.1), ("left", 0.1), ("right", 0.4), ("left", 0.2), ("right", 0.2)):
        transform = canonical_transform(side, 200, 120, spacing)
        canonical = transform.image(film)
        assert canonical.shape == transform.canonical_size[::-1]
        found = breast_box(canonical > 127)
        expected = transform.boxes_to_canonical(np.array([[20.0, 30.0, 60.0, 50.0]]))[0]
        np.testing.assert_allclose(found, expected, atol=0.5)


def test_a_film_of_mini_mias_spacing_is_only_mirrored():
    film = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(canonical_transform("right", 4, 3, 0.2).image(film), film[:, ::-1])
    np.testing.assert_array_equal(canonical_transform("left", 4, 3, 0.2).image(film), film)


def test_a_size_that_does_not_divide_keeps_the_scale():
    transform = canonical_transform("left", 101, 55, 0.1)  # 50.5 x 27.5 canonical px
    assert transform.canonical_size == (51, 28)
    ramp = np.tile(np.arange(101, dtype=np.uint8), (55, 1))
    row = transform.image(ramp)[10].astype(float)
    np.testing.assert_allclose(row[1:49], 2 * np.arange(1, 49) + 0.5, atol=1.0)


@pytest.mark.parametrize("spacing", [None, float("nan"), 0.0, -0.2])
def test_a_film_of_unknown_spacing_is_refused(spacing):
    with pytest.raises(MammoError, match="pixel spacing unknown"):
        canonical_transform("left", 10, 10, spacing)


def test_a_film_of_another_size_is_refused():
    with pytest.raises(ValueError, match="expected a film"):
        canonical_transform("left", 10, 20, 0.2).image(np.zeros((10, 20), np.uint8))


def test_a_side_that_is_no_side_is_refused():
    with pytest.raises(ValueError, match="side"):
        canonical_transform("L", 10, 20, 0.2)


STRIPS = [9, 12, 51, 67, 115, *range(131, 137), 139, 140, *range(145, 151), 274, 280]
FILM_EDGE = {72, 110, 126, 267, 271, 290}
"""Films whose lesion the film's edge cuts: the disc is partly off every breast."""


@pytest.fixture(scope="module")
def films():
    archive = os.environ.get("MIAS_ARCHIVE")
    if not archive:
        pytest.skip("MIAS_ARCHIVE is not set: the real films are not here")
    with tarfile.open(archive) as files:
        contents = {
            os.path.basename(entry.name): files.extractfile(entry).read()  # noqa: PTH119
            for entry in files
            if entry.isfile()
        }
    pictures = {
        int(name[3:6]): np.frombuffer(data[17:], np.uint8).reshape(1024, 1024)
        for name, data in contents.items()
        if name.endswith(".pgm")
    }
    return pictures, io.StringIO(contents["Info.txt"].decode("latin-1")).readlines()


@pytest.mark.films
def test_every_real_film_has_its_breast_and_chest_wall(films):
    pictures, info = films
    start = time.perf_counter()
    masks = {number: breast_mask(pixels) for number, pixels in pictures.items()}
    seconds = (time.perf_counter() - start) / len(masks)
    assert len(masks) == 322
    assert seconds < 0.1  # 0.006 on an idle machine
    wrong = [n for n, mask in masks.items() if chest_wall_side(mask) != ("right" if n % 2 else "left")]
    assert wrong == []
    for number in STRIPS:  # strips are saturated, the breast never is
        assert np.count_nonzero((pictures[number] >= 253) & masks[number]) < 100, number
    rows, columns = np.mgrid[:1024, :1024] + 0.5
    n_discs = 0
    for line in info:
        fields = line.split()
        if len(fields) != 7 or not fields[0].startswith("mdb") or not fields[4].isdigit():
            continue
        number, x, y, radius = int(fields[0][3:]), *map(float, fields[4:])
        if number in (212, 214):  # coordinates off the breast, absent from the original list
            continue
        n_discs += 1
        disc = np.hypot(columns - (x + 0.5), rows - (1023.5 - y)) <= radius
        assert number in FILM_EDGE or masks[number][disc].mean() >= 0.95, number
    assert n_discs == 117
