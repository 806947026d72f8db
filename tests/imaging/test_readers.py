"""Film files to arrays; the strict refusals that a person meets on ingest are in tests/faults/test_ingest_bars.py."""

import numpy as np
import pytest

from mammo_ml.errors import BadInputError
from mammo_ml.imaging.readers import format_pgm, parse_pgm, read_pgm, write_pgm

WIDE = np.arange(12, dtype=np.uint8).reshape(3, 4)
"""Three rows of four pixels: a reader that swaps width and height is found out."""


def refusal(data: bytes, *expected: object) -> str:
    with pytest.raises(BadInputError) as caught:
        parse_pgm(data, "film.pgm", *expected)
    return str(caught.value)


@pytest.mark.parametrize("pixels", [WIDE, WIDE.astype(np.uint16) * 5000], ids=["8 bits", "16 bits"])
def test_a_film_written_and_read_is_the_same_film(pixels, tmp_path):
    write_pgm(tmp_path / "film.pgm", pixels)
    film = read_pgm(tmp_path / "film.pgm")
    np.testing.assert_array_equal(film.pixels, pixels)
    assert film.pixels.dtype == pixels.dtype
    assert film.max_value == (255 if pixels.dtype == np.uint8 else 65535)
    assert film.pixel_spacing_mm is None


def test_a_film_is_written_with_width_first_and_sixteen_bits_big_end_first():
    assert format_pgm(WIDE) == b"P5\n4 3\n255\n" + bytes(range(12))
    assert format_pgm(np.array([[1, 258]], dtype=np.uint16)) == b"P5\n2 1\n65535\n\x00\x01\x01\x02"


def test_pixels_that_look_like_line_ends_or_header_are_pixels():
    data = b"P5\n3 2\n255\n" + b"\r\n\r\n55"
    np.testing.assert_array_equal(parse_pgm(data, "film.pgm").pixels, [[13, 10, 13], [10, 53, 53]])


def test_pixels_of_a_read_film_can_be_changed_without_touching_others():
    data = format_pgm(WIDE)
    first, second = parse_pgm(data, "a.pgm").pixels, parse_pgm(data, "b.pgm").pixels
    first[:] = 9
    np.testing.assert_array_equal(second, WIDE)


@pytest.mark.parametrize("pixels", [WIDE.astype(np.float32), WIDE[0], WIDE[:0], WIDE.astype(np.int16)])
def test_what_is_no_film_is_not_written(pixels, tmp_path):
    with pytest.raises(ValueError, match="a PGM film is"):
        write_pgm(tmp_path / "film.pgm", pixels)
    assert not (tmp_path / "film.pgm").exists()


def test_a_missing_film_is_named_with_its_place(tmp_path):
    with pytest.raises(BadInputError) as caught:
        read_pgm(tmp_path / "mdb001.pgm")
    assert str(tmp_path) in str(caught.value)
    assert caught.value.problems == ["mdb001.pgm: no such file"]


def test_missing_and_surplus_bytes_are_counted():
    data = format_pgm(WIDE)  # 11 bytes of header, 12 of pixels
    assert "film.pgm: expected 23 bytes, found 22: 1 missing" in refusal(data[:-1])
    assert "film.pgm: expected 23 bytes, found 25: 2 too many" in refusal(data + b"\n\n")
    sixteen = format_pgm(WIDE.astype(np.uint16))
    assert "expected 37 bytes, found 36: 1 missing" in refusal(sixteen[:-1])


def test_a_header_of_a_billion_pixels_takes_no_memory():
    assert "expected 999,998,000,022 bytes, found 23" in refusal(b"P5\n999999 999999\n255\nxx")


def test_another_size_or_maximum_than_expected_is_told_with_both():
    data = format_pgm(WIDE)
    assert "expected 3 x 4 px" in refusal(data, (4, 3))
    assert "found 4 x 3 px" in refusal(data, (4, 3))
    assert "expected a maximum of 65535 in the header, found 255" in refusal(data, (3, 4), 65535)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "a PNG file by its first bytes"),
        (b"\xff\xd8\xff\xe0\r\n", "a JPEG file by its first bytes"),
        (b"\x1f\x8b\x08\x00", "a gzip file by its first bytes"),
        (b"P5\r\n4 3\r\n255\r\n", "Windows line ends"),
        (b"P5\n4 3\r\n255\n", "Windows line ends"),
        (b"P2\r\n4 3\r\n255\r\n", "a text grey map"),
        (b"P5\n# made by a tool\n4 3\n255\n", "found 'P5\\n# made by a tool"),
        (b"P5 4 3 255\n", "found 'P5 4 3 255"),
        (b"P5\n4 0\n255\n", "found 'P5\\n4 0"),
        (b"P5\n4 3\n4095\n", "found 'P5\\n4 3\\n4095"),
        (b"P5\n1024 10", "and 10 bytes"),
        (b"", "found 0 bytes: the file is empty"),
    ],
)
def test_another_header_is_refused_in_words_that_tell_what_it_is(data, words):
    message = refusal(data)
    assert words in message
    assert message.startswith("film.pgm: 1 problem")
    assert "Only binary PGM as published is read" in message
