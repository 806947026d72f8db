"""Film files to arrays; hostile ones are in tests/faults/test_reader_bars.py, whole archives in test_ingest_bars.py."""

import io
import os
import struct
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from mammo_ml.errors import BadInputError
from mammo_ml.imaging.readers import format_pgm, parse_film, parse_pgm, read_film, read_pgm, write_pgm

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
        (b"P5\n4 3\n4000\n", "found 'P5\\n4 3\\n4000"),
        (b"P5\n1024 10", "and 10 bytes"),
        (b"", "found 0 bytes: the file is empty"),
    ],
)
def test_another_header_is_refused_in_words_that_tell_what_it_is(data, words):
    message = refusal(data)
    assert words in message
    assert message.startswith("film.pgm: 1 problem")
    assert "Only binary PGM as published is read" in message


# --- every kind of file ----------------------------------------------------------------------------------------------


def encode(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    """A film file of these pixels: what another program would have written."""
    if kind == "pgm":
        return format_pgm(pixels)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


TIFF_FORMS = [{"compression": name} for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")]
FORMS = [("pgm", {}), ("png", {}), ("png", {"compress_level": 0}), *(("tiff", form) for form in TIFF_FORMS)]
films_of_any_depth = st.sampled_from([np.uint8, np.uint16]).flatmap(
    lambda depth: arrays(depth, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))
)


@settings(max_examples=60, deadline=None)
@given(pixels=films_of_any_depth, form=st.sampled_from(FORMS))
def test_every_pixel_of_every_depth_is_kept_in_every_lossless_form(pixels, form):
    kind, options = form
    film = parse_film(encode(pixels, kind, **options), f"film.{kind}")
    np.testing.assert_array_equal(film.pixels, pixels)
    assert film.pixels.dtype == pixels.dtype
    assert film.pixels.flags.writeable
    assert film.pixel_spacing_mm is None


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_tiff_of_either_byte_order_is_read(order):
    wide = WIDE.astype(np.uint16) * 5000
    header = {"<u2": b"II*\x00", ">u2": b"MM\x00*"}[order]
    data = encode(wide.astype(order), "tiff") if order == "<u2" else big_endian_tiff(wide)
    assert data.startswith(header)
    np.testing.assert_array_equal(parse_film(data, "film.tif").pixels, wide)


def big_endian_tiff(pixels: np.ndarray) -> bytes:
    height, width = pixels.shape
    tags = [(256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    entries = [struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in (*tags, (279, pixels.size * 2))]
    directory = struct.pack(">H", len(entries)) + b"".join(entries) + bytes(4)
    return b"MM\x00*" + struct.pack(">I", 8 + pixels.size * 2) + pixels.astype(">u2").tobytes() + directory


def test_grey_jpeg_is_read_as_its_decoder_gives_it_also_when_stored_as_three_equal_channels():
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (40, 1))
    expected = np.asarray(Image.open(io.BytesIO(encode(ramp, "jpeg"))))
    film = parse_film(encode(ramp, "jpeg"), "film.jpg")
    np.testing.assert_array_equal(film.pixels, expected)
    assert film.max_value == 255
    tripled = np.repeat(ramp[..., None], 3, axis=2)
    for kind in ("jpeg", "png", "tiff"):
        assert np.abs(parse_film(encode(tripled, kind), f"film.{kind}").pixels.astype(int) - ramp).max() <= 3
    np.testing.assert_array_equal(parse_film(encode(tripled, "png"), "film.png").pixels, ramp)


@pytest.mark.parametrize(
    ("brightest", "white"),
    [(255, 255), (256, 1023), (1023, 1023), (1024, 4095), (4095, 4095), (4096, 16383), (16384, 65535), (65535, 65535)],
)
def test_white_of_a_film_in_sixteen_bits_is_that_of_the_smallest_depth_that_holds_it(brightest, white):
    pixels = np.array([[0, 7, brightest]], dtype=np.uint16)
    for kind in ("pgm", "png", "tiff"):
        film = parse_film(encode(pixels, kind), f"film.{kind}")
        assert film.max_value == white
        np.testing.assert_allclose(film.to_unit(), pixels / white, rtol=1e-6)


def test_a_dark_film_whose_header_states_its_white_is_not_made_brighter():
    film = parse_film(b"P5\n2 1\n4095\n" + np.array([100, 900], ">u2").tobytes(), "film.pgm")
    assert film.max_value == 4095
    assert film.to_unit().max() == pytest.approx(900 / 4095)
    dark = parse_film(format_pgm(np.array([[3, 9]], np.uint8)), "film.pgm")
    assert dark.max_value == 255


def test_a_pixel_above_the_maximum_of_its_header_is_refused():
    message = refusal(b"P5\n2 1\n1023\n" + np.array([100, 1024], ">u2").tobytes())
    assert "film.pgm: a pixel is 1024, the maximum in the header is 1023" in message


@pytest.mark.parametrize("name", ["film", "film.PNG", "1.2.840.10008.5", "folder.v1/film"])
def test_a_name_that_says_nothing_of_the_kind_does_not_matter(name):
    np.testing.assert_array_equal(parse_film(encode(WIDE, "png"), name).pixels, WIDE)


def test_a_film_is_read_from_its_file_and_a_missing_one_named_with_its_place(tmp_path):
    (tmp_path / "film.png").write_bytes(encode(WIDE, "png"))
    np.testing.assert_array_equal(read_film(tmp_path / "film.png").pixels, WIDE)
    with pytest.raises(BadInputError, match=r"other\.png: no such file") as caught:
        read_film(tmp_path / "other.png")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.films
def test_real_films_are_equal_through_every_lossless_form(tmp_path):
    archive = os.environ.get("MIAS_ARCHIVE")
    if not archive:
        pytest.skip("MIAS_ARCHIVE is not set: the real films are not here")
    n_read = 0
    with tarfile.open(archive, "r|*") as tar:
        for member in tar:
            if member.name.endswith(".pgm") and n_read < 3:
                data = tar.extractfile(member).read()
                film = parse_film(data, member.name)
                assert format_pgm(film.pixels) == data
                for kind, options in FORMS[1:]:
                    again = parse_film(encode(film.pixels, kind, **options), f"film.{kind}")
                    np.testing.assert_array_equal(again.pixels, film.pixels)
                    assert again.max_value == film.max_value == 255
                n_read += 1
            if n_read == 3:
                break
    assert n_read == 3
