import hashlib
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.imaging.breast import chest_wall_side
from mammo_ml.imaging.canonical import canonical_films, check_films, eight_bits, to_canonical
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
        rows.append([film_id, f"{film_id}.pgm", hashlib.sha256(data).hexdigest(), side, 0.2])
    return pd.DataFrame(rows, columns=["film_id", "path", "sha256", "chest_wall", "pixel_spacing_mm"])


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


# --- films of another spacing ----------------------------------------------------------------------------------------

LESION = np.array([[40.0, 90.0, 110.0, 150.0]])
"""A bright square on the film with the chest wall on the left, px; neither it nor the film is square or symmetric."""


def film_with_lesion(side: str, kind: str, deep: bool) -> tuple[bytes, np.ndarray]:
    """The bytes of a film with a white lesion, and the lesion's box on it, px."""
    pixels, (x1, y1, x2, y2) = film_pixels("left"), LESION[0].astype(int)
    pixels[y1:y2, x1:x2] = 250
    if side == "right":
        pixels, box = pixels[:, ::-1], np.array([[WIDTH - x2, y1, WIDTH - x1, y2]], dtype=float)
    else:
        box = LESION
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint16) * 16 if deep else np.ascontiguousarray(pixels)).save(file, kind)
    return file.getvalue(), box


@pytest.mark.parametrize("spacing", [0.05, 0.1, 0.2, 0.35])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("kind", "deep"), [("png", True), ("tiff", False)])
def test_a_lesion_is_where_its_box_says_at_any_spacing_and_side_and_leads_back_exactly(
    spacing, side, kind, deep, tmp_path
):
    data, box = film_with_lesion(side, kind, deep)
    (tmp_path / f"f.{kind}").write_bytes(data)
    films = pd.DataFrame(
        {
            "film_id": ["f"],
            "path": [f"f.{kind}"],
            "sha256": [hashlib.sha256(data).hexdigest()],
            "chest_wall": [side],
            "pixel_spacing_mm": [spacing],
        }
    )
    (film,) = canonical_films(tmp_path, films)
    factor = spacing / 0.2
    assert film.pixels.shape == (np.ceil(round(HEIGHT * factor, 6)), np.ceil(round(WIDTH * factor, 6)))
    carried = film.transform.boxes_to_canonical(box)
    np.testing.assert_allclose(carried, LESION * factor, atol=1e-9)  # the chest wall is on the left of them all
    np.testing.assert_allclose(film.transform.boxes_to_film(carried), box, atol=1e-9)
    lit_y, lit_x = np.nonzero(film.pixels > 200)  # the tissue round it is at most 150, so 200 is half-way
    lit = [lit_x.min(), lit_y.min(), lit_x.max() + 1, lit_y.max() + 1]
    np.testing.assert_allclose(carried[0], lit, atol=0.75)
    assert film.pixels.max() == pytest.approx(250, abs=1)


def test_every_film_of_unknown_spacing_is_named_before_any_is_used(tmp_path):
    films = make_folder(tmp_path, {"a": "right", "b": "left", "c": "right"})
    films["pixel_spacing_mm"] = [None, 0.2, 0.0]
    with pytest.raises(BadInputError) as caught:
        next(canonical_films(tmp_path, films))
    assert caught.value.problems == ["film a: pixel spacing unknown", "film c: pixel spacing unknown"]
    assert "pixel_spacing_mm" in str(caught.value)


def test_a_single_film_of_unknown_spacing_is_named():
    with pytest.raises(MammoError, match=r"film f7: pixel spacing unknown .*: give the edge of a pixel in mm"):
        to_canonical("f7", Film(film_pixels("left"), 255), "left", None)
