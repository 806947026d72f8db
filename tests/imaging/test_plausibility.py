"""Which pictures are taken for mammograms; the list of others is refused in tests/faults/test_dicom_bars.py."""

import os
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from mammo_ml.imaging.dicom import DescribedFilm
from mammo_ml.imaging.plausibility import LEAST_LIGHT, not_a_mammogram, outline, small_film, unlike_training
from mammo_ml.imaging.readers import Film, parse_pgm, read_film
from mammo_ml.imaging.side_and_view import guess_side_and_view, guesses_from_image
from tests.imaging.dicom_files import film_pixels
from tests.imaging.other_pictures import chest, hand, head_slice, leg, others, skull


def breast(height: int = 500, width: int = 400, max_value: int = 255, **says: object) -> DescribedFilm:
    bits = max_value.bit_length()
    pixels = film_pixels(bits, height, width)
    grain = np.random.default_rng(0).integers(0, max(1, 2**bits // 64), pixels.shape)
    return DescribedFilm(np.maximum(pixels, grain.astype(pixels.dtype)), max_value, **says)


@pytest.mark.parametrize("max_value", [255, 4095, 65535])
def test_a_drawn_breast_is_taken_at_any_depth_and_either_way_round(max_value):
    film = breast(max_value=max_value)
    assert not_a_mammogram(film) == []
    mirrored = DescribedFilm(film.pixels[:, ::-1].copy(), max_value)
    assert not_a_mammogram(mirrored) == []
    straight, turned = outline(film), outline(mirrored)
    assert straight is not None
    assert turned is not None
    assert straight.chest_wall == pytest.approx(turned.chest_wall, abs=0.03)


def test_its_negative_is_refused():
    film = breast()
    assert any("no dark ground" in reason for reason in not_a_mammogram(Film(255 - film.pixels, 255)))


def test_the_length_of_the_film_is_judged_where_the_pixel_edge_is_known():
    assert not_a_mammogram(breast(pixel_spacing_mm=0.4)) == []
    assert not_a_mammogram(breast(pixel_spacing_mm=0.05)) == ["at 0.05 mm per pixel it is 25 mm long, not 50 to 450"]
    assert "is 2,500 mm long" in not_a_mammogram(breast(pixel_spacing_mm=5))[0]


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (256, 256), (4097, 300), (2, 2)])
def test_pictures_of_any_shape_are_judged(shape):
    assert not_a_mammogram(Film(np.zeros(shape, np.uint8), 255))
    assert not_a_mammogram(Film(np.full(shape, 65535, np.uint16), 65535))


def test_a_film_is_brought_to_a_small_one_of_the_same_grey():
    small = small_film(Film(np.full((1003, 701), 2047, np.uint16), 4095))
    assert small.shape == (128, 89)
    np.testing.assert_allclose(small, 2047 / 4095 * 255, rtol=1e-5)


def test_the_largest_film_is_judged_in_little_time():
    film = DescribedFilm(breast(700, 600, 65535).pixels.repeat(10, axis=0).repeat(10, axis=1), 65535)
    start = time.process_time()
    assert not_a_mammogram(film) == []
    assert time.process_time() - start < 0.5


def test_a_film_unlike_those_learned_from_is_said_to_be():
    assert unlike_training(breast(pixel_spacing_mm=0.05, origin="film scan")) == []
    assert "it is digital" in unlike_training(breast(pixel_spacing_mm=0.05, origin="digital"))[0]
    assert "not known" in unlike_training(breast())[0]
    assert "coarser than the 0.2 mm" in unlike_training(breast(pixel_spacing_mm=0.3))[0]
    dark = DescribedFilm(breast().pixels // 3, 255, 0.1)
    assert unlike_training(dark) == [
        f"its tissue is darker than on any film that models learned from (below {LEAST_LIGHT} of 255)"
    ]


def test_breast_and_view_are_guessed_from_the_picture_and_said_to_be_guesses():
    film = DescribedFilm(np.pad(film_pixels(8, 500, 400), ((60, 60), (0, 0))), 255)
    assert guess_side_and_view(film) == ("L", "CC")
    assert guess_side_and_view(Film(film.pixels[:, ::-1].copy(), 255)) == ("R", "CC")
    assert guess_side_and_view(Film(film.pixels[250:], 255)) == ("L", "MLO")
    assert guess_side_and_view(Film(np.zeros((300, 300), np.uint8), 255)) is None
    assert [note[:32] for note in guesses_from_image(film)] == [
        "the file does not say which breast"[:32],
        "the file does not say which view"[:32],
    ]
    assert guesses_from_image(breast(laterality="R", view="CC")) == []


def refused(films: list[tuple[str, Film]]) -> dict[str, list[str]]:
    return {name: reasons for name, film in films if (reasons := not_a_mammogram(film))}


@pytest.mark.films
@pytest.mark.slow
def test_no_mini_mias_film_is_refused():
    with tarfile.open(os.environ["MIAS_ARCHIVE"]) as archive:
        members = [m for m in archive.getmembers() if m.name.endswith(".pgm")]
        # The ones nearest to the limits, and every eighth.
        near = {f"mdb{number:03}.pgm" for number in (60, 151, 152, 237, 263, 264, 317, 318)}
        chosen = [m for n, m in enumerate(members) if n % 8 == 0 or Path(m.name).name in near]
        films = [(m.name, parse_pgm(archive.extractfile(m).read(), m.name)) for m in chosen]
    assert len(films) > 40
    assert refused(films) == {}


@pytest.mark.external
@pytest.mark.slow
def test_no_cbis_ddsm_or_cdd_cesm_film_is_refused():
    root = Path(os.environ["MAMMO_EXTERNAL"])
    near = {f"{name}.jpg" for name in ("00637_RIGHT_CC", "01226_LEFT_MLO", "01357_LEFT_MLO", "P24_R_DM_CC")}
    files = [*sorted((root / "cbis-ddsm-mass" / "train").glob("*.jpg"))]
    files += sorted((root / "cdd-cesm-malignant" / "images").glob("*.jpg"))
    chosen = [file for n, file in enumerate(files) if n % 25 == 0 or file.name in near]
    assert len(chosen) > 50
    assert refused([(file.name, read_film(file)) for file in chosen]) == {}


def test_other_pictures_stay_refused_when_mirrored_and_cropped():
    taken = []
    for what, pixels in others().items():
        for changed in (pixels[:, ::-1], pixels[20:-20, 20:-20]):
            if not not_a_mammogram(Film(np.ascontiguousarray(changed), 255)):
                taken.append(what)
    assert taken == []


@pytest.mark.parametrize("draw", [chest, hand, skull, leg, head_slice], ids=lambda draw: draw.__name__)
@pytest.mark.parametrize("angle", [-25, 5, 45])
def test_other_x_rays_stay_refused_when_turned(draw, angle):
    turned = ndimage.rotate(draw(), angle, reshape=False, order=1)
    assert not_a_mammogram(Film(turned.astype(np.uint8), 255))
