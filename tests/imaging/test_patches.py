"""Windows, tiles and matched windows of canonical films that are not square."""

import numpy as np
import pytest

from mammo_ml.errors import BadInputError
from mammo_ml.imaging import patches as pt
from mammo_ml.imaging.breast import canonical_transform
from mammo_ml.imaging.canonical import CanonicalFilm
from mammo_ml.imaging.patches import CutParameters, TileParameters

WIDTH, HEIGHT = 100, 140
CUT = CutParameters(
    window_px=40,
    input_px=32,
    normals_per_lesion=2,
    min_breast_share=0.9,
    jittered_per_lesion=50,
    jitter_px=8,
    normal_cuts_per_film=2,
    min_visible_share=0.3,
    seed=1,
)


def _film(breast: tuple[int, int, int, int], film_id: str = "film", size=(WIDTH, HEIGHT)) -> CanonicalFilm:
    """A film whose breast is a rectangle x1, y1, x2, y2."""
    mask = np.zeros(size[::-1], dtype=np.bool_)
    mask[breast[1] : breast[3], breast[0] : breast[2]] = True
    return CanonicalFilm(film_id, mask.astype(np.uint8) * 100, mask, canonical_transform("left", *size, 0.2))


def test_a_window_is_centred_where_it_fits():
    np.testing.assert_array_equal(pt.window_at(50, 70, 40, WIDTH, HEIGHT), [[30, 50, 70, 90]])


@pytest.mark.parametrize(
    ("centre", "expected"),
    [
        ((0, 0), [0, 0, 40, 40]),
        ((100, 140), [60, 100, 100, 140]),
        ((95, 5), [60, 0, 100, 40]),
        ((-30, 500), [0, 100, 40, 140]),
    ],
)
def test_a_window_that_would_leave_the_film_is_shifted_inside_whole(centre, expected):
    np.testing.assert_array_equal(pt.window_at(*centre, 40, WIDTH, HEIGHT), [expected])


def test_a_film_smaller_than_the_window_is_refused():
    with pytest.raises(BadInputError, match="39x140 px is smaller"):
        pt.window_at(10, 10, 40, 39, 140)
    with pytest.raises(BadInputError, match="100x39 px is smaller"):
        pt.tile_windows(100, 39, 40, 20)


@pytest.mark.parametrize("size", [(40, 40), (40, 141), (100, 140), (141, 40), (97, 83)])
@pytest.mark.parametrize("step", [7, 20, 40])
def test_tiles_cover_every_pixel_of_any_film_and_stay_inside(size, step):
    width, height = size
    seen = np.zeros((height, width), dtype=int)
    tiles = pt.tile_windows(width, height, 40, step)
    for x1, y1, x2, y2 in tiles.astype(int):
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        seen[y1:y2, x1:x2] += 1
    assert seen.min() >= 1
    assert len(np.unique(tiles, axis=0)) == len(tiles)
    np.testing.assert_array_equal(tiles[:, 2:] - tiles[:, :2], 40)


def test_a_step_that_would_leave_gaps_between_tiles_is_refused():
    TileParameters(window_px=40, step_px=40, input_px=32, min_breast_share=0.5)
    with pytest.raises(ValueError, match="leaves gaps"):
        TileParameters(window_px=40, step_px=41, input_px=32, min_breast_share=0.5)


def test_only_tiles_with_enough_breast_are_looked_at_or_else_the_fullest_one():
    tiles = TileParameters(window_px=40, step_px=20, input_px=32, min_breast_share=0.5)
    mask = _film((0, 0, 40, 140)).mask
    # Tiles that start at x 0 hold 40 of 40 columns of breast, at 20 half of them, at 40 none.
    assert set(pt.breast_tiles(mask, tiles)[:, 0]) == {0, 20}
    few = _film((50, 70, 60, 80)).mask
    found = pt.breast_tiles(few, tiles)
    assert found.shape == (1, 4)
    assert pt.breast_shares(few, found)[0] == 100 / 1600


def test_a_picture_shows_its_window_averaged():
    pixels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    pixels[20:60, 10:30] = 200  # the left half of the window
    picture = pt.crop(pixels, np.array([[10.0, 20, 50, 60]]), 2)[0]
    np.testing.assert_array_equal(picture, [[200, 0], [200, 0]])
    assert pt.crop(pixels, np.empty((0, 4)), 32).shape == (0, 32, 32)


def test_a_picture_is_made_larger_without_doubled_pixels():
    ramp = np.tile(np.arange(0, 200, 5, dtype=np.uint8), (40, 1))
    larger = pt.resized(ramp, 50, 50)[25].astype(int)
    assert larger.shape == (50,)
    assert (np.diff(larger)[1:-1] > 0).all()


def test_boxes_in_a_window_are_clipped_and_measured_in_input_px():
    window = np.array([[10.0, 20, 50, 60]])
    boxes = np.array(
        [
            [20.0, 30, 30, 50],  # inside
            [0, 20, 20, 40],  # its right half
            [45, 20, 85, 40],  # 5 of 40 columns: 1/8 is less than 0.3
            [60, 70, 70, 80],  # outside
        ]
    )
    seen, which = pt.boxes_in_window(boxes, window, 80, 0.3)
    np.testing.assert_array_equal(which, [0, 1])
    np.testing.assert_allclose(seen, [[20, 20, 40, 60], [0, 0, 20, 40]])  # 40 px become 80
    none, which = pt.boxes_in_window(np.empty((0, 4)), window, 80, 0.3)
    assert none.shape == (0, 4)
    assert which.shape == (0,)


def test_a_jittered_window_stays_within_the_jitter_and_inside_the_film():
    box = np.array([[45.0, 65, 55, 75]])
    windows = pt.jittered_windows(box, WIDTH, HEIGHT, CUT, np.random.default_rng(0))
    assert windows.shape == (50, 4)
    away = (windows[:, :2] + windows[:, 2:]) / 2 - [50, 70]
    assert np.abs(away).max() <= CUT.jitter_px + 1  # windows start at whole pixels
    # Along x and y the offsets are drawn apart.
    assert abs(np.corrcoef(away.T)[0, 1]) < 0.5
    none = pt.jittered_windows(
        box, WIDTH, HEIGHT, CUT.model_copy(update={"jittered_per_lesion": 0}), np.random.default_rng(0)
    )
    assert none.shape == (0, 4)


def test_normal_windows_hold_enough_breast_where_the_film_has_it():
    film = _film((0, 0, 80, 140))
    windows = pt.normal_windows(film, 5, CUT, np.random.default_rng(0))
    assert (pt.breast_shares(film.mask, windows) >= 0.9).all()
    assert len(np.unique(windows, axis=0)) == 5
    few = _film((0, 0, 20, 20))
    assert pt.normal_windows(few, 3, CUT, np.random.default_rng(0)).tolist() == [[0, 0, 40, 40]] * 3


def test_a_matched_window_sits_in_the_normal_breast_as_the_lesions_window_sits_in_its_own():
    # The normal breast is twice as wide and as high: (20, 20) in the one is (40, 40) in the other.
    abnormal, normal = _film((0, 0, 50, 70)), _film((0, 0, 100, 140), size=(100, 140))
    lesion = np.array([[0.0, 0, 40, 40]])
    matched = pt.matched_normal_window(lesion, abnormal, normal, 0.0, step_px=10)
    np.testing.assert_array_equal(matched, [[20, 20, 60, 60]])


def test_a_window_half_beside_the_breast_is_matched_by_one_half_beside_the_breast():
    abnormal, normal = _film((0, 0, 60, 140), "a"), _film((0, 0, 60, 140), "n")
    lesion = np.array([[40.0, 50, 80, 90]])
    matched = pt.matched_normal_window(lesion, abnormal, normal, 0.0, step_px=10)
    assert pt.breast_shares(normal.mask, matched)[0] == pt.breast_shares(abnormal.mask, lesion)[0] == 0.5


def test_a_normal_window_has_the_breast_that_is_asked_for_whatever_it_is_matched_with():
    abnormal, normal = _film((0, 0, 60, 140), "a"), _film((0, 0, 60, 140), "n")
    lesion = np.array([[40.0, 50, 80, 90]])
    matched = pt.matched_normal_window(lesion, abnormal, normal, 0.9, step_px=10)
    np.testing.assert_array_equal(matched, [[20, 50, 60, 90]])
    few = _film((0, 0, 20, 140), "few")
    assert pt.matched_normal_window(lesion, abnormal, few, 0.9, step_px=10).shape == (0, 4)


def test_a_lesions_patch_is_centred_where_it_holds_enough_breast():
    film = _film((0, 0, 60, 140))
    box = np.array([[25.0, 60, 35, 70]])
    np.testing.assert_array_equal(pt.lesion_window(box, film, CUT), pt.centred_windows(box, 40, WIDTH, HEIGHT))


def test_a_lesions_patch_at_the_edge_of_the_breast_is_moved_into_it_no_further_than_needed():
    film = _film((0, 0, 60, 140))
    box = np.array([[48.0, 60, 58, 70]])
    # Centred it would start at 33 and hold 27 of 40 columns of breast; 36 of 40 are nine in ten.
    np.testing.assert_array_equal(pt.lesion_window(box, film, CUT), [[24, 45, 64, 85]])


def test_a_lesion_stays_whole_in_its_patch_though_it_holds_less_breast_than_is_asked_for():
    film = _film((0, 0, 60, 140))
    box = np.array([[60.0, 60, 80, 80]])
    # From 40 on a window shows the box whole, and holds at most half breast.
    window = pt.lesion_window(box, film, CUT)
    np.testing.assert_array_equal(window, [[40, 50, 80, 90]])  # of those that hold half, the most centred
    assert pt.breast_shares(film.mask, window)[0] == 0.5


def test_a_lesion_larger_than_its_patch_fills_it():
    film = _film((0, 0, 60, 140))
    window = pt.lesion_window(np.array([[10.0, 20, 90, 120]]), film, CUT)[0]
    np.testing.assert_array_equal(window, [24, 50, 64, 90])  # the middle, moved until it has nine columns in ten


@pytest.mark.parametrize("box", [[-6.0, -6, 8, 8], [90, 130, 108, 148], [12.3, 40.2, 52.1, 80.4]])
def test_a_lesion_that_reaches_over_the_films_edge_or_between_pixels_has_a_patch_inside_the_film(box):
    x1, y1, x2, y2 = pt.lesion_window(np.array([box]), _film((0, 0, 100, 140)), CUT)[0]
    assert 0 <= x1 == x2 - 40 <= WIDTH - 40
    assert 0 <= y1 == y2 - 40 <= HEIGHT - 40
