import hashlib

import numpy as np
import pandas as pd
import pytest

from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.imaging.breast import chest_wall_side
from mammo_ml.imaging.canonical import canonical_films, check_films, chest_wall_of, eight_bits, to_canonical
from mammo_ml.imaging.readers import Film, format_pgm

HEIGHT, WIDTH = 400, 300
"""Not square."""


def film_pixels(side: str) -> np.ndarray:
    """Half an ellipse of tissue at the left or right edge, brighter at the top, on a dark background."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    breast = np.hypot(x / 220, (y - 190) / 170) < 1
    pixels = np.where(breast, 150 - y // 8, 8).astype(np.uint8)
    return pixels if side == "left" else np.ascontiguousarray(pixels[:, ::-1])


def make_folder(folder, sides):
    """Films of these sides, and their rows of films.csv as far as they are needed here."""
    rows = []
    for film_id, side in sides.items():
        data = format_pgm(film_pixels(side))
        (folder / f"{film_id}.pgm").write_bytes(data)
        laterality = {"right": "L", "left": "R"}[side]
        rows.append([film_id, f"{film_id}.pgm", hashlib.sha256(data).hexdigest(), laterality, 0.2])
    return pd.DataFrame(rows, columns=["film_id", "path", "sha256", "laterality", "pixel_spacing_mm"])


def test_a_left_breast_has_its_chest_wall_on_the_right_of_the_mirrored_film():
    assert chest_wall_of("L") == "right"
    assert chest_wall_of("R") == "left"


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_canonical_film_has_its_chest_wall_on_the_left(side):
    canonical = to_canonical("f", Film(film_pixels(side), 255), side, 0.2)
    np.testing.assert_array_equal(canonical.pixels, film_pixels("left"))
    assert chest_wall_side(canonical.mask) == "left"
    assert canonical.mask.shape == canonical.pixels.shape == (HEIGHT, WIDTH)
    assert canonical.breast_box[0] == 0
    assert canonical.transform.flipped == (side == "right")


def test_a_film_of_coarser_pixels_is_enlarged_and_its_mask_with_it():
    canonical = to_canonical("f", Film(film_pixels("right"), 255), "right", 0.4)
    assert canonical.pixels.shape == canonical.mask.shape == (2 * HEIGHT, 2 * WIDTH)
    x1, y1, x2, y2 = canonical.breast_box
    # the ellipse: 220 px deep and 20 to 360 px down, twice as many canonical ones, to 16 px of the mask's coarseness
    np.testing.assert_allclose([x1, y1, x2, y2], [0, 40, 440, 720], atol=16)


def test_the_canonical_box_of_a_breast_leads_back_to_the_film():
    canonical = to_canonical("f", Film(film_pixels("right"), 255), "right", 0.4)
    back = canonical.transform.boxes_to_film(np.array([canonical.breast_box]))[0]
    np.testing.assert_allclose(back, [WIDTH - 220, 20, WIDTH, 360], atol=8)


def test_sixteen_bits_are_scaled_and_not_cut_off():
    ramp = np.linspace(0, 65535, 4096).astype(np.uint16).reshape(64, 64)
    eight = eight_bits(Film(ramp, 65535))
    assert eight.dtype == np.uint8
    assert (eight.min(), eight.max()) == (0, 255)
    assert eight.mean() / 255 == pytest.approx(0.5, abs=0.02)
    assert np.all(np.diff(eight.ravel().astype(int)) >= 0)
    np.testing.assert_array_equal(eight_bits(Film(np.array([[128, 129, 65535]], np.uint16), 65535)), [[0, 1, 255]])


def test_eight_bits_stay_as_they_are():
    pixels = film_pixels("left")
    np.testing.assert_array_equal(eight_bits(Film(pixels, 255)), pixels)


def test_a_film_and_its_sixteen_bit_copy_are_the_same_canonical_film():
    wide = film_pixels("right").astype(np.uint16) * 257  # 255 * 257 = 65535
    eight = to_canonical("f", Film(film_pixels("right"), 255), "right", 0.2)
    sixteen = to_canonical("f", Film(wide, 65535), "right", 0.2)
    np.testing.assert_array_equal(sixteen.pixels, eight.pixels)
    np.testing.assert_array_equal(sixteen.mask, eight.mask)


def test_a_film_without_breast_is_named():
    with pytest.raises(MammoError, match="film mdb007: no breast found"):
        to_canonical("mdb007", Film(np.zeros((HEIGHT, WIDTH), np.uint8), 255), "left", 0.2)


def test_films_come_in_the_order_of_the_table(tmp_path):
    films = make_folder(tmp_path, {"mdb001": "right", "mdb002": "left", "mdb003": "right"})
    found = list(canonical_films(tmp_path, films.iloc[::-1]))
    assert [film.film_id for film in found] == ["mdb003", "mdb002", "mdb001"]
    for film in found:
        np.testing.assert_array_equal(film.pixels, film_pixels("left"))


def test_every_changed_or_missing_film_is_named_before_any_is_used(tmp_path):
    films = make_folder(tmp_path, {"mdb001": "right", "mdb002": "left", "mdb003": "right"})
    check_films(tmp_path, films)
    data = bytearray((tmp_path / "mdb002.pgm").read_bytes())
    data[-1] ^= 1  # one bit
    (tmp_path / "mdb002.pgm").write_bytes(data)
    (tmp_path / "mdb003.pgm").unlink()
    with pytest.raises(BadInputError) as caught:
        next(canonical_films(tmp_path, films))
    changed, missing = caught.value.problems
    assert changed.startswith("mdb002.pgm: sha256 ")
    assert f"the catalog says {films['sha256'][1][:12]}" in changed
    assert missing == "mdb003.pgm is missing"
    assert "dvc checkout" in str(caught.value)
