"""The header of a DICOM file, of which only what a film needs is read: nothing about the patient leaves the bytes.

PS3.x are the parts of the DICOM standard.
"""

import io
import logging
import math
import warnings
from collections.abc import Iterable

from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from mammo_ml.imaging.dicom_pixels import PixelError, inflate

PREFIX_AT = 128
PREFIX = b"DICM"
"""Every DICOM file holds these four bytes behind a preamble of 128 (PS3.10 section 7.1)."""

KEYWORDS = (
    # what kind of picture
    *("SOPClassUID", "Modality", "PresentationIntentType", "ImageType", "ConversionType", "DetectorType"),
    *("BodyPartExamined", "AnatomicRegionSequence", "BurnedInAnnotation", "BreastImplantPresent", "PartialView"),
    *("LossyImageCompression", "LossyImageCompressionRatio"),
    # which breast, which view, and how large a pixel is
    *("ImageLaterality", "Laterality", "ViewPosition", "ViewCodeSequence", "PatientOrientation"),
    *("ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelSpacing", "PixelSpacingCalibrationType"),
    *("PixelAspectRatio", "EstimatedRadiographicMagnificationFactor", "SpatialResolution"),
    # how its pixels are stored, and shown
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PlanarConfiguration", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"),
    *("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    "PixelData",
)
"""All that is read. Names, identifiers, dates and comments are passed over unread."""


class HeaderError(Exception):
    """What is wrong with a header, in words that quote none of its text."""


def parse_header(data: bytes) -> tuple[str, Dataset]:
    """UID of the transfer syntax and the elements of `KEYWORDS` that a DICOM file with a preamble holds.

    Raises:
        HeaderError: it is no DICOM file, cut off or damaged.
        PixelError: its deflated data set cannot be inflated, or unfolds to more than a film.
    """
    _silence_pydicom()
    file = io.BytesIO(data)
    file.seek(PREFIX_AT + len(PREFIX))
    fault = ""
    try:
        # The file meta information is explicit and little-endian, whatever follows (PS3.10 section 7.1).
        meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
        syntax = str(meta.TransferSyntaxUID)
        content = data[file.tell() :]
        if syntax == uid.DeflatedExplicitVRLittleEndian:
            content = inflate(content)
        tags = map(tag_for_keyword, KEYWORDS)
        wanted: list[BaseTag | int] = [BaseTag(tag) for tag in tags if tag is not None]
        implicit = syntax == uid.ImplicitVRLittleEndian
        header = read_dataset(io.BytesIO(content), implicit, True, specific_tags=wanted)
    except PixelError as problem:
        fault = str(problem)
    except Exception as error:  # of any type: a damaged header fails in every way, in words that may quote it
        fault = f"cut off or damaged: its header of DICOM elements cannot be read ({type(error).__name__})"
    if fault:
        raise HeaderError(fault)
    return syntax, header


def words(header: Dataset, keyword: str) -> list[str]:
    """Values of a text element in capitals, empty ones left out; none where it is missing or no text."""
    return [text for value in _values(header, keyword) if (text := str(value).strip(" \0").upper())]


def numbers(header: Dataset, keyword: str) -> list[float]:
    """Values of a numeric element; none where it is missing or empty.

    Raises:
        HeaderError: a value is no finite number.
    """
    found = [_number(value) for value in _values(header, keyword) if value not in ("", b"")]
    if not all(map(math.isfinite, found)):
        raise HeaderError(f"its {keyword} is not a number")
    return found


def codes(header: Dataset, keyword: str) -> list[tuple[str, str, Dataset]]:
    """Coding scheme, code value and item of each entry of a code sequence (PS3.3 section 8)."""
    items = [item for item in _values(header, keyword) if isinstance(item, Dataset)]
    return [("".join(words(i, "CodingSchemeDesignator")), "".join(words(i, "CodeValue")), i) for i in items]


def _values(header: Dataset, keyword: str) -> list[object]:
    try:
        value = header.get(keyword)
    except Exception:  # of any type: values are converted when they are asked for
        raise HeaderError(f"its {keyword} cannot be read") from None
    if value is None:
        return []
    is_several = isinstance(value, (MultiValue, list, tuple)) or keyword.endswith("Sequence")
    return list(value) if is_several and isinstance(value, Iterable) else [value]


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _silence_pydicom() -> None:
    """Pydicom's warnings quote the values of elements, to stderr and to the log: names among them."""
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    logging.getLogger("pydicom").addFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False
