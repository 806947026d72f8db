"""One reader for films of any kind, by what they hold and not by what they are called."""

import numpy as np
import pytest

from mammo_ml.errors import BadInputError
from mammo_ml.imaging.any_film import read_any
from mammo_ml.imaging.readers import format_pgm
from tests.imaging.dicom_files import dicom, film_pixels, png


@pytest.mark.parametrize("name", ["film.dcm", "film", "1.2.840.113", "IM-0001", "film.ima"])
def test_a_dicom_file_is_known_by_its_bytes(name, tmp_path):
    (tmp_path / name).write_bytes(dicom())
    film = read_any(tmp_path / name)
    np.testing.assert_array_equal(film.pixels, film_pixels())
    assert (film.laterality, film.view, film.pixel_spacing_mm) == ("L", "MLO", 0.1)


@pytest.mark.parametrize("data", [format_pgm(film_pixels(8)), png(film_pixels(8))], ids=["PGM", "PNG"])
def test_a_picture_is_known_by_its_bytes_and_says_nothing_of_breast_view_and_spacing(data):
    film = read_any(data)
    np.testing.assert_array_equal(film.pixels, film_pixels(8))
    assert (film.laterality, film.view, film.origin, film.pixel_spacing_mm) == (None, None, "unknown", None)
    assert read_any(data, "film", 0.05).pixel_spacing_mm == 0.05


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (dicom(), "film.png", "named .png, but a DICOM file"),
        (png(film_pixels(8)), "film.dcm", "named .dcm, but a PNG file"),
        (dicom()[132:], "film.dcm", "lacks the preamble"),
        (b"hello", "film.txt", "begins with 'hello'"),
        (b"", "film", "the file is empty"),
    ],
    ids=["DICOM as PNG", "PNG as DICOM", "no preamble", "text", "empty"],
)
def test_what_denies_its_own_name_or_is_no_film_is_refused_with_what_is_taken(data, name, words):
    with pytest.raises(BadInputError) as caught:
        read_any(data, name)
    assert words in str(caught.value)
    assert "Export" in str(caught.value)


def test_a_missing_file_is_named_with_its_place(tmp_path):
    with pytest.raises(BadInputError, match=str(tmp_path)):
        read_any(tmp_path / "film.dcm")


def test_a_film_is_too_large_a_spacing_too_small():
    with pytest.raises(ValueError, match="positive number of mm"):
        read_any(png(film_pixels(8)), "film.png", 0)
