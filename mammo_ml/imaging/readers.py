"""Film files to arrays: strict, because a reader that guesses turns a damaged film into a wrong figure."""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from mammo_ml.errors import BadInputError

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

MAX_PIXELS = 42_000_000
"""A film of 24 x 30 cm at 0.042 mm, the finest pixels of the DDSM scanners, has 40.8 million."""
DEPTHS_BITS = (8, 10, 12, 14, 16)
"""Depths at which film scanners and digital mammography units store grey values."""

# Netpbm allows comments, any white space and any maximum in a header. Films as published use one form only;
# whatever differs from it was converted, cut or damaged on its way, so it is refused instead of interpreted.
_HEADER = re.compile(rb"P5\n([1-9][0-9]{0,5}) ([1-9][0-9]{0,5})\n(255|1023|4095|16383|65535)\n")
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
    "Only binary PGM as published is read: 'P5', width and height, the maximum (255, 1023, 4095, 16383 or 65535), "
    "each line ended by LF, then pixels."
)
_PICTURE_REMEDY = (
    "A film is one upright picture in grey, black as 0, of 8 or 16 bits and at most "
    f"{MAX_PIXELS // 1_000_000} million pixels: binary PGM, PNG, TIFF (uncompressed, LZW, deflate or PackBits) "
    "or 8-bit JPEG, under a name that ends in .pgm, .png, .tif, .tiff, .jpg or .jpeg. Export the film again as such."
)


@dataclass(frozen=True, eq=False)
class Film:
    """One mammogram as its file holds it.

    Attributes:
        pixels: (H, W), uint8 or uint16, brighter is denser.
        max_value: the grey value of white: 255, 1023, 4095, 16383 or 65535. A file of 16 bits seldom says how many of
            them its film fills (PNG and TIFF cannot), and 12 bits read as 16 would be a film sixteen times too dark.
            So white is that of the smallest of `DEPTHS_BITS` that holds the brightest pixel, unless a PGM header
            states it.
        pixel_spacing_mm: edge of a pixel in mm; None when the file does not say. The resolution in a PNG, TIFF or JPEG
            is None too: it is that of a print, which most programs set to 72 dpi.
    """

    pixels: Pixels
    max_value: int
    pixel_spacing_mm: float | None = None

    def to_unit(self) -> NDArray[np.float32]:
        """Pixels (H, W) from 0, black, to 1, white; different grey values stay different."""
        return self.pixels.astype(np.float32) / np.float32(self.max_value)


def read_film(path: Path) -> Film:
    """Read a film of any kind this package knows; see `parse_film`.

    Raises:
        BadInputError: the file is missing, or is not a film in one of the accepted forms.
    """
    if not path.is_file():
        raise BadInputError(str(path), [f"{path.name}: no such file"])
    return parse_film(path.read_bytes(), path.name)


def parse_film(data: bytes, name: str) -> Film:
    """Parse the bytes of a film called `name`: PGM, PNG, TIFF or JPEG by its first bytes, which its name may not deny.

    Grey of 16 bits is kept. Three equal channels of 8 bits are the grey picture they show. Nothing else is converted:
    a file that says it is to be turned (EXIF orientation) is refused, because boxes count pixels as stored, and so is
    a TIFF whose 0 is white. Bytes behind the end of a picture are refused, but for TIFF, where any order is allowed.
    Damage within the compressed pixels of a JPEG or TIFF, which hold no checksum, may go unseen: the catalog's hashes
    (`canonical.check_films`) are what tells.

    Raises:
        BadInputError: naming the file, what it holds and what is accepted.
    """
    kind = next((kind for kind in _KINDS if data.startswith(kind.first_bytes)), None)
    if kind is None:
        raise _refused(name, _explain_first_bytes(data))
    suffix = Path(name).suffix.lower()
    # A name may end in a number behind a dot, as UIDs do; letters there name a kind of file.
    if suffix[1:2].isalpha() and suffix not in kind.suffixes:
        raise _refused(name, f"named {suffix}, but a {kind.name} file by its first bytes")
    return kind.parse(data, name)


def read_pgm(path: Path, expected_shape: tuple[int, int] | None = None, expected_max: int | None = None) -> Film:
    """Read a binary PGM film; `expected_shape` is (H, W) in px, `expected_max` the header's maximum, where known.

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
    if (brightest := int(pixels.max())) > max_value:
        problem = f"a pixel is {brightest}, the maximum in the header is {max_value}"
        raise BadInputError(name, [f"{name}: {problem}"], _REMEDY)
    return _film(pixels) if max_value == 65535 else Film(pixels, max_value)


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
    size = len(header) + width * height * (1 if max_value in (None, 255) else 2)
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


# --- PNG, TIFF and JPEG -----------------------------------------------------------------------------------------------
#
# Pillow decodes, but what may be decoded is decided here from the file's own structure, for Pillow takes bytes behind
# the end, reduces 16-bit colour to 8 bits, and leaves a 16-bit TIFF with white as 0 as it is, all without a word.
# Its classes are called directly: `Image.open` would try further formats and only warn of a picture that is too large.


def _parse_png(data: bytes, name: str) -> Film:
    if problem := _png_fault(data):
        raise _refused(name, problem)
    return _decode(PngImageFile, data, name)


def _parse_tiff(data: bytes, name: str) -> Film:
    return _decode(TiffImageFile, data, name)


def _parse_jpeg(data: bytes, name: str) -> Film:
    if problem := _jpeg_fault(data):
        raise _refused(name, problem)
    return _decode(JpegImageFile, data, name)


def _decode(decoder: type[ImageFile.ImageFile], data: bytes, name: str) -> Film:
    try:
        with warnings.catch_warnings():
            # What Pillow only warns of is damage all the same. Other modules may warn meanwhile, in other threads.
            warnings.filterwarnings("error", module=r"PIL\.")
            with decoder(io.BytesIO(data)) as picture:
                problem = _picture_fault(picture)
                if not problem:
                    picture.load()
                    values = np.asarray(picture)
                    problem = _colour_fault(values)
    except Exception as error:  # of any type: decoders stumble over damaged bytes in every way
        problem = f"cut off or damaged, cannot be decoded ({len(data):,} bytes): {error or type(error).__name__}"
    if problem:
        raise _refused(name, problem)
    grey = values if values.ndim == 2 else values[..., 0]
    return _film(grey.astype(np.uint8) if grey.dtype == np.uint8 else grey.astype(np.uint16))


def _picture_fault(picture: ImageFile.ImageFile) -> str:
    """What refuses a picture before its pixels are decoded."""
    if problem := _size_fault(*picture.size):
        return problem
    if isinstance(picture, TiffImageFile) and (problem := _tiff_fault(picture)):
        return problem
    if picture.mode not in ("L", "I;16", "I;16B", "RGB"):
        return f"its pixels are not grey of 8 or 16 bits ({picture.mode})"
    if (orientation := picture.getexif().get(ExifTags.Base.Orientation, 1)) != 1:
        return f"it is stored turned or mirrored (orientation {orientation})"
    return ""


def _size_fault(width: int, height: int) -> str:
    n_pixels = width * height
    return f"{width:,} x {height:,} px are {n_pixels:,}, more than {MAX_PIXELS:,}" if n_pixels > MAX_PIXELS else ""


def _colour_fault(values: NDArray[np.generic]) -> str:
    grey = values.ndim == 2 or all(np.array_equal(values[..., 0], values[..., channel]) for channel in (1, 2))
    return "" if grey else "it is in colour"


def _film(pixels: Pixels) -> Film:
    """A film whose file does not state its white; see `Film.max_value`."""
    brightest = 255 if pixels.dtype == np.uint8 else int(pixels.max())
    return Film(pixels, next(2**bits - 1 for bits in DEPTHS_BITS if brightest < 2**bits))


def _png_fault(data: bytes) -> str:
    """What is wrong with the chunks of a PNG file (PNG specification, 3rd edition, sections 5 and 11)."""
    position, kind = 8, b""
    while kind != b"IEND":
        if position + 12 > len(data):
            return f"cut off: {len(data):,} bytes do not reach the end of the picture"
        (length,), kind = struct.unpack_from(">I", data, position), data[position + 4 : position + 8]
        end = position + 12 + length
        if end > len(data):
            return f"cut off: expected at least {end:,} bytes, found {len(data):,}"
        if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            return f"damaged: the checksum of its part {kind.decode('latin-1')!a} at byte {position:,} is wrong"
        if (position == 8) != (kind == b"IHDR"):
            return "damaged: its header is not at its start alone"
        if kind == b"IHDR" and (problem := _png_header_fault(data[position + 8 : end - 4])):
            return problem
        if kind in (b"acTL", b"tRNS"):
            return "it holds several pictures" if kind == b"acTL" else "it has transparent pixels"
        position = end
    return "" if position == len(data) else f"{len(data) - position:,} bytes too many behind the end of the picture"


def _png_header_fault(header: bytes) -> str:
    if len(header) != 13:
        return "damaged: its header does not have 13 bytes"
    width, height, bits, colour = struct.unpack_from(">IIBB", header)
    if problem := _size_fault(width, height):
        return problem
    if (bits, colour) not in ((8, 0), (16, 0), (8, 2)):
        kinds = {0: "grey", 2: "colour", 3: "colours from a palette", 4: "grey with transparency"}
        return f"its pixels are {kinds.get(colour, 'colour with transparency')}, {bits} bits"
    return ""


def _tiff_fault(picture: TiffImageFile) -> str:
    """What refuses a TIFF: tags 258, 259, 262 and 339 of TIFF 6.0, not all of which Pillow heeds."""
    tags = picture.tag_v2
    bits, photometric, kind = tags.get(258, (1,)), tags.get(262), tags.get(339, (1,))
    if tags.get(259, 1) not in (1, 5, 8, 32773, 32946):
        return f"compressed in a way not accepted ({picture.info.get('compression')})"
    if photometric == 0:
        return "its 0 is white (photometric interpretation 0), so the film would be read as its negative"
    if (photometric, bits) not in ((1, (8,)), (1, (16,)), (2, (8, 8, 8))) or set(kind) != {1}:
        return f"its pixels are not grey of 8 or 16 bits (photometric {photometric}, bits {bits}, sample format {kind})"
    try:
        picture.seek(1)
    except EOFError:
        picture.seek(0)
        return ""
    return "it holds several pictures"


_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""Any marker but those that may stand between compressed pixels (ITU-T T.81, table B.1)."""


def _jpeg_fault(data: bytes) -> str:
    """What is wrong with the segments of a JPEG file (ITU-T T.81, annex B)."""
    position = 2
    while marker := _JPEG_MARKER.search(data, position):
        if marker.group() == b"\xff\xd9":
            behind = len(data) - marker.end()
            return f"{behind:,} bytes too many behind the end of the picture" if behind else ""
        if marker.end() + 2 > len(data):
            break
        position = marker.end() + struct.unpack_from(">H", data, marker.end())[0]
    return f"cut off: {len(data):,} bytes do not reach the end of the picture"


def _explain_first_bytes(data: bytes) -> str:
    if not data:
        return "found 0 bytes: the file is empty"
    described = next((text for first, text in _OTHER_FORMATS if data.startswith(first)), "no kind of film")
    return f"begins with {data[:16].decode('latin-1')!a}, {described}"


def _refused(name: str, problem: str) -> BadInputError:
    return BadInputError(name, [f"{name}: {problem}"], _PICTURE_REMEDY)


@dataclass(frozen=True)
class _Kind:
    name: str
    first_bytes: tuple[bytes, ...]
    suffixes: tuple[str, ...]
    parse: Callable[[bytes, str], Film]


_KINDS = (
    _Kind("PGM", (b"P5",), (".pgm",), parse_pgm),
    _Kind("PNG", (b"\x89PNG\r\n\x1a\n",), (".png",), _parse_png),
    _Kind("TIFF", (b"II*\x00", b"MM\x00*"), (".tif", ".tiff"), _parse_tiff),
    _Kind("JPEG", (b"\xff\xd8\xff",), (".jpg", ".jpeg"), _parse_jpeg),
)
