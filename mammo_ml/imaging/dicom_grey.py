"""From stored values of a DICOM file to the grey a radiologist is shown, white being dense.

The standard's chain (PS3.3 sections C.11.1, C.11.2 and C.7.6.3.1.2): modality transformation, values of interest,
then polarity. Each step depends on a pixel's stored value alone, so the chain is a table over all stored values.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from mammo_ml.imaging.dicom_header import HeaderError, numbers, words
from mammo_ml.imaging.readers import DEPTHS_BITS, Film, Pixels

_Values = NDArray[np.float64]


@dataclass(frozen=True)
class _Scale:
    """Values at one step of the chain, one for each stored value, and what is shown as black and as white."""

    values: _Values
    black: float
    white: float
    as_stored: bool = True


def to_grey(stored: Pixels, header: Dataset, bits_stored: int, signed: bool) -> tuple[Film, list[str]]:
    """Film of bit patterns (H, W), its spacing not filled in, and notes on what was applied.

    Where the header changes nothing but polarity, grey values are kept as stored; else they are scaled to 16 bits.
    A file of 16 bits without a window seldom fills them: its white is then that of `Film.max_value`.

    Raises:
        HeaderError: a table or window that the standard does not allow, or that cannot be read.
    """
    notes: list[str] = []
    stored_scale = _stored(bits_stored, signed)
    shown = _values_of_interest(_modality(stored_scale, header, notes), header, bits_stored, notes)
    max_value = 2**bits_stored - 1
    if shown.as_stored and bits_stored == 16 and not numbers(header, "WindowWidth"):
        brightest = int(stored.max())
        max_value = next(2**bits - 1 for bits in DEPTHS_BITS[1:] if brightest < 2**bits)
        shown = _Scale(shown.values, 0, max_value)
        if max_value < 65535:
            notes.append(f"the header says 16 bits, the pixels fill {max_value.bit_length()}: {max_value} is white")
    if not shown.as_stored or max_value not in [2**bits - 1 for bits in DEPTHS_BITS]:
        max_value = 65535 if bits_stored > 8 or not shown.as_stored else 255
    share = np.clip((shown.values - shown.black) / (shown.white - shown.black), 0, 1)
    if words(header, "PhotometricInterpretation") == ["MONOCHROME1"]:
        notes.append("stored with black as its highest value (MONOCHROME1), so it was inverted")
        share = 1 - share
    share[_is_padding(stored_scale.values, header)] = 0
    table = np.round(share * max_value).astype(np.uint8 if max_value == 255 else np.uint16)
    return Film(table[stored], max_value), notes


def _stored(bits: int, signed: bool) -> _Scale:
    """Stored values in the order of their bit patterns."""
    patterns = np.arange(2**bits, dtype=np.float64)
    if not signed:
        return _Scale(patterns, 0, 2**bits - 1)
    half = 2 ** (bits - 1)
    return _Scale(np.where(patterns < half, patterns, patterns - 2**bits), -half, half - 1, as_stored=False)


def _modality(scale: _Scale, header: Dataset, notes: list[str]) -> _Scale:
    """Modality LUT or rescale slope and intercept (PS3.3 section C.11.1)."""
    if tables := _sequence(header, "ModalityLUTSequence"):
        notes.append("the file's modality table was applied")
        return _looked_up(scale, tables[0], "modality table")
    slope, intercept = numbers(header, "RescaleSlope"), numbers(header, "RescaleIntercept")
    if not slope and not intercept:
        return scale
    if len(slope) != 1 or len(intercept) != 1 or slope[0] == 0:
        raise HeaderError("its rescale slope and intercept are not one number each, the slope not 0")
    if (slope[0], intercept[0]) == (1, 0):
        return scale
    ends = sorted(end * slope[0] + intercept[0] for end in (scale.black, scale.white))
    return _Scale(scale.values * slope[0] + intercept[0], ends[0], ends[1], as_stored=False)


def _values_of_interest(scale: _Scale, header: Dataset, bits: int, notes: list[str]) -> _Scale:
    """VOI LUT, else window (PS3.3 section C.11.2): of several the first, which the maker puts there as the default."""
    tables, centers = _sequence(header, "VOILUTSequence"), numbers(header, "WindowCenter")
    if len(tables) > 1 or (not tables and len(centers) > 1):
        notes.append(f"it offers {max(len(tables), len(centers))} ways to show it, of which the first was applied")
    if tables:
        notes.append("the file's table of values of interest was applied")
        return _looked_up(scale, tables[0], "table of values of interest")
    widths = numbers(header, "WindowWidth")
    if not centers and not widths:
        return scale
    if not centers or not widths:
        raise HeaderError("its window has no center, or no width")
    function = (words(header, "VOILUTFunction") or ["LINEAR"])[0]
    center, width = centers[0], widths[0]
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise HeaderError("its window is to be applied by a function other than LINEAR, LINEAR_EXACT and SIGMOID")
    if not width > 0 or (function == "LINEAR" and width < 1):
        raise HeaderError(f"its window is {width:g} wide")
    # A window over all stored values changes nothing (note 4 of PS3.3 section C.11.2.1.2.1).
    if scale.as_stored and function == "LINEAR" and (center, width) in ((2 ** (bits - 1), 2**bits), _from_0(bits)):
        return scale
    notes.append(f"the file's window was applied: center {center:g}, width {width:g}, {function}")
    return _Scale(_windowed(scale.values, center, width, function), 0, 1, as_stored=False)


def _from_0(bits: int) -> tuple[float, float]:
    """The same window as many write it: half of the highest value, and one more than it."""
    return (2**bits - 1) / 2, 2**bits


def _windowed(values: _Values, center: float, width: float, function: str) -> _Values:
    """From 0, black, to 1, white (PS3.3 sections C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2)."""
    if function == "SIGMOID":
        exponent = np.clip(-4 * (values - center) / width, -700, 700)
        return np.asarray(1 / (1 + np.exp(exponent)))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    if width == 1:
        return np.asarray(values > center - 0.5, dtype=np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _looked_up(scale: _Scale, table: Dataset, name: str) -> _Scale:
    """Values through a lookup table (PS3.3 sections C.11.1.1.1 and C.11.2.1.1)."""
    descriptor = [int(number) for number in numbers(table, "LUTDescriptor")]
    content = table.get("LUTData")
    if isinstance(content, bytes):
        content = np.frombuffer(content[: len(content) // 2 * 2], "<u2")
    if len(descriptor) != 3 or content is None:
        raise HeaderError(f"its {name} has no descriptor of three numbers, or no data")
    n_entries, first, bits = descriptor[0] or 2**16, descriptor[1], descriptor[2]
    entries = np.atleast_1d(np.asarray(content, dtype=np.float64))
    if not 8 <= bits <= 16 or len(entries) != n_entries:
        raise HeaderError(f"its {name} has {len(entries)} entries of {bits} bits, and says {n_entries}")
    if entries.max() >= 2**bits:
        raise HeaderError(f"its {name} holds values above {2**bits - 1}")
    at = np.clip(np.floor(scale.values) - first, 0, n_entries - 1).astype(np.int64)
    return _Scale(entries[at], 0, 2**bits - 1, as_stored=False)


def _is_padding(stored_values: _Values, header: Dataset) -> NDArray[np.bool_]:
    """Which stored values are beyond the picture (PS3.3 section C.7.5.1.1.2): black in whichever polarity."""
    one, other = numbers(header, "PixelPaddingValue"), numbers(header, "PixelPaddingRangeLimit")
    if not one:
        return np.zeros(stored_values.shape, dtype=np.bool_)
    first, last = sorted((one[0], (other or one)[0]))
    return (stored_values >= first) & (stored_values <= last)


def _sequence(header: Dataset, keyword: str) -> list[Dataset]:
    items = header.get(keyword)
    return list(items) if items else []
