"""Pixel data of a DICOM file as stored values: what may be decoded, and how much, is decided before it is decoded.

The decoders are imagecodecs' (libjpeg-turbo, CharLS, OpenJPEG): of those that know 12-bit JPEG they are the ones that
damaged pictures do not bring down. PS3.5 and PS3.10 are parts of the DICOM standard.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.encaps import generate_frames

from mammo_ml.imaging.readers import MAX_PIXELS

MAX_INFLATED_BYTES = 2 * MAX_PIXELS + 4_000_000
"""What a deflated data set may unfold to: the largest film of 16 bits and its header."""

_NATIVE = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian)
_JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
_JPEG_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
_JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000)
ACCEPTED_SYNTAXES = (*_NATIVE, *_JPEG, *_JPEG_LS, *_JPEG_2000, uid.RLELossless)

_END_OF_IMAGE = b"\xff\xd9"
_MAX_TILES = 4096
"""Tiles of a JPEG 2000 picture: makers use one, or some hundred; a decoder holds tables for each."""


class PixelError(Exception):
    """Why pixel data is refused, in words that hold nothing of the header but sizes."""


@dataclass(frozen=True)
class PixelForm:
    """How stored values lie in a file (PS3.5 section 8.1.1): bits of a value, bits of its cell, and channels."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    samples: int = 1
    planar: bool = False
    signed: bool = False

    @property
    def n_bytes(self) -> int:
        """Bytes of the picture when it is not compressed."""
        return self.rows * self.columns * self.samples * self.bits_allocated // 8


def inflate(data: bytes) -> bytes:
    """Undo the deflation of a data set (PS3.5 annex A.5), which may not unfold to more than `MAX_INFLATED_BYTES`.

    Raises:
        PixelError: it does, is cut off, or is no deflated data.
    """
    # A first pass only counts, so that a bomb costs its time and one block of memory.
    counter, n_bytes, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, data
    try:
        while not counter.eof and rest:
            n_bytes += len(counter.decompress(rest, 1_000_000))
            rest = counter.unconsumed_tail
            if n_bytes > MAX_INFLATED_BYTES:
                raise PixelError(f"its {len(data):,} deflated bytes unfold to more than {MAX_INFLATED_BYTES:,}")
        if not counter.eof:
            raise PixelError(f"cut off: its {len(data):,} deflated bytes do not reach their end")
        return zlib.decompress(data, -zlib.MAX_WBITS, n_bytes)
    except zlib.error:
        damaged = f"damaged: its {len(data):,} deflated bytes cannot be inflated"
    raise PixelError(damaged)


def stored_values(pixel_data: bytes, syntax: str, form: PixelForm) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Bit patterns (H, W) of the stored values, unused bits cleared; a negative value is still its two's complement.

    Args:
        pixel_data: value of Pixel Data (7FE0,0010), compressed or not.
        syntax: UID of the transfer syntax, one of `ACCEPTED_SYNTAXES`.
        form: what the header says; at most `MAX_PIXELS`, which the caller has seen to.

    Raises:
        PixelError: bytes are missing or too many, the picture is damaged, of another size than the header says, or in
            colour.
    """
    values = _native(pixel_data, form) if syntax in _NATIVE else _compressed(pixel_data, syntax, form)
    grey = values if values.ndim == 2 else _grey_of(values)
    highest = 2**form.bits_stored - 1
    if syntax not in _NATIVE and not form.signed:
        # Compression with loss may overshoot white, which is not to come round to black.
        grey = np.minimum(grey, highest)
    wide = np.uint8 if form.bits_stored <= 8 else np.uint16
    kept: NDArray[np.uint8] | NDArray[np.uint16] = (grey & highest).astype(wide, copy=False)
    return kept


def _native(pixel_data: bytes, form: PixelForm) -> NDArray[np.unsignedinteger]:
    expected, found = form.n_bytes, len(pixel_data)
    # PS3.5 section 7.1.1: values of odd length are padded by one byte
    if found != expected + expected % 2:
        kind = f"{expected - found:,} missing" if found < expected else f"{found - expected:,} too many"
        size = f"{form.rows:,} x {form.columns:,} px of {form.bits_allocated} bits"
        raise PixelError(f"expected {expected:,} bytes of pixels ({size}), found {found:,}: {kind}")
    cells = np.frombuffer(pixel_data, f"<u{form.bits_allocated // 8}", count=expected * 8 // form.bits_allocated)
    if form.samples == 1:
        return cells.reshape(form.rows, form.columns)
    if form.planar:
        return cells.reshape(form.samples, form.rows, form.columns).transpose(1, 2, 0)
    return cells.reshape(form.rows, form.columns, form.samples)


def _grey_of(values: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    if not all(np.array_equal(values[..., 0], values[..., channel]) for channel in (1, 2)):
        raise PixelError("it is in colour")
    return values[..., 0]


def _compressed(pixel_data: bytes, syntax: str, form: PixelForm) -> NDArray[np.unsignedinteger]:
    if form.samples != 1:
        raise PixelError("it is a compressed picture in colour")
    try:
        stream = next(generate_frames(pixel_data, number_of_frames=1))
    except Exception:  # of any type: the fragments of a damaged file fail in every way
        stream = b""
    if not stream:
        raise PixelError(f"cut off or damaged: its {len(pixel_data):,} bytes of compressed pixels hold no picture")
    read_size, decode = _codec(syntax)
    if read_size is not None:
        if not stream.rstrip(b"\0").endswith(_END_OF_IMAGE):
            raise PixelError(f"cut off: its {len(stream):,} bytes of compressed pixels do not reach the end")
        _check_size(read_size(stream), form)
    try:
        values = decode(stream, form)
    except Exception:  # of any type: decoders stumble over damaged bytes in every way
        values = np.zeros((0, 0), np.uint8)
    if values.shape != (form.rows, form.columns) or values.dtype.itemsize > 2:
        raise PixelError(f"cut off or damaged: its {len(stream):,} bytes of compressed pixels cannot be decoded")
    return values.view(values.dtype.str.replace("i", "u"))


_Size = tuple[int, int, int, int]
"""Rows, columns, bits of a value and channels."""
_ReadSize = Callable[[bytes], _Size | None]
_Decode = Callable[[bytes, PixelForm], NDArray[np.generic]]


def _codec(syntax: str) -> tuple[_ReadSize | None, _Decode]:
    if syntax in _JPEG:
        return _jpeg_size, lambda stream, form: imagecodecs.jpeg8_decode(stream)
    if syntax in _JPEG_LS:
        return _jpeg_size, lambda stream, form: imagecodecs.jpegls_decode(stream)
    if syntax in _JPEG_2000:
        return _jpeg_2000_size, lambda stream, form: imagecodecs.jpeg2k_decode(stream, numthreads=1)
    return None, _run_lengths


def _check_size(size: _Size | None, form: PixelForm) -> None:
    """A compressed picture states its own size: a decoder allocates by it, so it has to be the header's."""
    if size is None:
        raise PixelError("damaged: its compressed pixels have no header, or one that is no film's")
    rows, columns, bits, channels = size
    if channels != 1:
        raise PixelError("it is a compressed picture in colour")
    if (rows, columns) != (form.rows, form.columns) or not 1 < bits <= form.bits_allocated:
        header = f"{form.rows:,} x {form.columns:,} px of {form.bits_stored} bits"
        raise PixelError(f"its compressed pixels are {rows:,} x {columns:,} of {bits} bits, its header says {header}")


def _jpeg_size(stream: bytes) -> _Size | None:
    """Size in the frame header of a JPEG or JPEG-LS picture (ITU-T T.81 annex B.2.2, T.87 annex C.2.2)."""
    position, found = 2, None
    if stream[:2] != b"\xff\xd8":
        return None
    while position + 4 <= len(stream) and stream[position] == 0xFF:
        marker = stream[position + 1]
        if marker == 0xFF:  # fill bytes may stand before a marker
            position += 1
            continue
        if marker == 0xDA:
            return found
        (length,) = struct.unpack_from(">H", stream, position + 2)
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            if found is not None or length < 11 or position + 10 > len(stream):
                return None
            bits, rows, columns, channels = struct.unpack_from(">BHHB", stream, position + 4)
            found = rows, columns, bits, channels
        position += 2 + length
    return None


def _jpeg_2000_size(stream: bytes) -> _Size | None:
    """Size in the header of a JPEG 2000 codestream, its SIZ segment (ITU-T T.800 annex A.5.1)."""
    if stream[:4] != b"\xff\x4f\xff\x51" or len(stream) < 43:
        return None
    x1, y1, x0, y0, tile_width, tile_height, tile_x, tile_y, channels = struct.unpack_from(">8IH", stream, 8)
    bits = (stream[42] & 0x7F) + 1
    if x0 >= x1 or y0 >= y1 or not tile_width or not tile_height or tile_x > x0 or tile_y > y0:
        return None
    if -(-(x1 - tile_x) // tile_width) * -(-(y1 - tile_y) // tile_height) > _MAX_TILES:
        return None
    return y1 - y0, x1 - x0, bits, channels


def _run_lengths(stream: bytes, form: PixelForm) -> NDArray[np.generic]:
    """RLE (PS3.5 annex G): one segment of PackBits for each byte of a cell, the highest first."""
    n_segments = form.bits_allocated // 8
    # imagecodecs' decoder of DICOM RLE writes past its memory where a segment holds too much; Pillow's does not.
    offsets = struct.unpack_from(f"<{1 + n_segments}L", stream)
    if offsets[0] != n_segments:
        raise ValueError(f"{offsets[0]} segments, expected {n_segments}")
    ends = (*offsets[2:], len(stream))
    n_cells = form.rows * form.columns
    planes = [
        np.asarray(Image.frombytes("L", (n_cells, 1), stream[start:end], "packbits", "L"), np.uint8)
        for start, end in zip(offsets[1:], ends, strict=True)
    ]
    return np.stack(planes, axis=-1).view(f">u{n_segments}").reshape(form.rows, form.columns)
