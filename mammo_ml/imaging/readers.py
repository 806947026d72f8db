"""Film files to arrays: strict, because a reader that guesses turns a damaged film into a wrong figure."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mammo_ml.errors import BadInputError

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

# Netpbm allows comments, any white space and any maximum in a header. Films as published use one form only;
# whatever differs from it was converted, cut or damaged on its way, so it is refused instead of interpreted.
_HEADER = re.compile(rb"P5\n([1-9][0-9]{0,5}) ([1-9][0-9]{0,5})\n(255|65535)\n")
_WINDOWS_LINE_ENDS = re.compile(rb"P5[\s0-9]{0,20}\r")
_OTHER_FORMATS = (
    (b"\x89PNG", "a PNG file"),
    (b"\xff\xd8\xff", "a JPEG file"),
    (b"II*\x00", "a TIFF file"),
    (b"MM\x00*", "a TIFF file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"P1", "a text bitmap (P1)"),
    (b"P2", "a text grey map (P2)"),
    (b"P3", "a text colour map (P3)"),
    (b"P4", "a bitmap (P4)"),
    (b"P6", "a colour map (P6)"),
)
_REMEDY = (
    "Only binary PGM as published is read: 'P5', width and height, 255 or 65535, each line ended by LF, then pixels."
)


@dataclass(frozen=True, eq=False)
class Film:
    """One mammogram as its file holds it.

    Attributes:
        pixels: (H, W), uint8 or uint16, brighter is denser.
        max_value: the grey value of white, 255 or 65535.
        pixel_spacing_mm: edge of a pixel in mm; None when the file does not say.
    """

    pixels: Pixels
    max_value: int
    pixel_spacing_mm: float | None = None


def read_pgm(path: Path, expected_shape: tuple[int, int] | None = None, expected_max: int | None = None) -> Film:
    """Read a binary PGM film; `expected_shape` is (H, W) in px and `expected_max` its white, where they are known.

    Raises:
        BadInputError: the file is missing, or its header or length is not exactly that of such a film.
    """
    if not path.is_file():
        raise BadInputError(str(path), [f"{path.name}: no such file"])
    return parse_pgm(path.read_bytes(), path.name, expected_shape, expected_max)


def parse_pgm(
    data: bytes, name: str, expected_shape: tuple[int, int] | None = None, expected_max: int | None = None
) -> Film:
    """Parse the bytes of a PGM film called `name`; see `read_pgm`.

    Raises:
        BadInputError: naming the file with its expected and actual header or number of bytes.
    """
    header = _HEADER.match(data)
    if header is None:
        problem = _explain_header(data, expected_shape, expected_max)
        raise BadInputError(name, [f"{name}: {problem}"], _REMEDY)
    width, height, max_value = (int(number) for number in header.groups())
    if expected_shape is not None and (height, width) != expected_shape:
        wanted = f"expected {expected_shape[1]} x {expected_shape[0]} px ({_expected(expected_shape, expected_max)})"
        found = f"found {width} x {height} px ({len(data):,} bytes)"
        raise BadInputError(name, [f"{name}: {wanted}, {found}"], _REMEDY)
    if expected_max is not None and max_value != expected_max:
        problem = f"expected a maximum of {expected_max} in the header, found {max_value} ({len(data):,} bytes)"
        raise BadInputError(name, [f"{name}: {problem}"], _REMEDY)
    # 16-bit PGM is big-endian (Netpbm's pgm format).
    stored = np.dtype("u1") if max_value == 255 else np.dtype(">u2")
    expected = header.end() + width * height * stored.itemsize
    if len(data) != expected:
        difference = len(data) - expected
        kind = f"{difference:,} too many" if difference > 0 else f"{-difference:,} missing"
        raise BadInputError(name, [f"{name}: expected {expected:,} bytes, found {len(data):,}: {kind}"], _REMEDY)
    values = np.frombuffer(data, dtype=stored, offset=header.end()).reshape(height, width)
    pixels: Pixels = values.astype(np.uint8) if max_value == 255 else values.astype(np.uint16)
    return Film(pixels, max_value)


def write_pgm(path: Path, pixels: Pixels) -> None:
    """Write pixels (H, W), uint8 or uint16, in the form `read_pgm` reads.

    Raises:
        ValueError: the array is not two-dimensional or has another type.
    """
    path.write_bytes(format_pgm(pixels))


def format_pgm(pixels: Pixels) -> bytes:
    """Bytes of the PGM file with these pixels (H, W), uint8 or uint16; see `write_pgm`."""
    if pixels.ndim != 2 or pixels.size == 0 or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"a PGM film is (H, W) of uint8 or uint16, not {pixels.shape} of {pixels.dtype}")
    max_value, stored = (255, "u1") if pixels.dtype == np.uint8 else (65535, ">u2")
    height, width = pixels.shape
    return f"P5\n{width} {height}\n{max_value}\n".encode("ascii") + pixels.astype(stored).tobytes()


def _expected(shape: tuple[int, int] | None, max_value: int | None) -> str:
    """Describe the file that was expected, with its bytes where its size is known."""
    if shape is None:
        return "'P5\\n<width> <height>\\n255\\n' and the pixels"
    height, width = shape
    header = f"P5\n{width} {height}\n{max_value or 255}\n"
    size = len(header) + width * height * (2 if max_value == 65535 else 1)
    return f"{header!r} and {size:,} bytes"


def _explain_header(data: bytes, shape: tuple[int, int] | None, max_value: int | None) -> str:
    if not data:
        return f"expected {_expected(shape, max_value)}, found 0 bytes: the file is empty"
    start = b"\n".join(data[:24].split(b"\n")[:3])
    described = next((f", {text} by its first bytes" for magic, text in _OTHER_FORMATS if data.startswith(magic)), "")
    if _WINDOWS_LINE_ENDS.match(data):
        described = (
            ", a header with Windows line ends: the file was copied as text and its pixels are not to be trusted"
        )
    found = ascii(start.decode("latin-1"))
    return f"expected {_expected(shape, max_value)}, found {found} and {len(data):,} bytes{described}"
