"""DICOM files to films: what a radiologist would be shown, with what the header says of breast, view and pixel edge.

Nothing that names the patient is read (`dicom_header.KEYWORDS`), so nothing of it can be stored, logged or shown.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset

from mammo_ml.errors import BadInputError
from mammo_ml.imaging.dicom_grey import to_grey
from mammo_ml.imaging.dicom_header import PREFIX, PREFIX_AT, HeaderError, numbers, parse_header, words
from mammo_ml.imaging.dicom_kind import (
    Laterality,
    Origin,
    kind_notes,
    kind_problems,
    laterality,
    origin,
    pixel_spacing,
    view,
)
from mammo_ml.imaging.dicom_pixels import ACCEPTED_SYNTAXES, PixelError, PixelForm, stored_values
from mammo_ml.imaging.readers import MAX_PIXELS, Film

_REMEDY = (
    "A DICOM film is one mammogram FOR PRESENTATION or a scanned film, in grey of 8 to 16 bits and at most "
    f"{MAX_PIXELS // 1_000_000} million pixels, uncompressed, deflated, RLE, JPEG (also of 12 bits and lossless), "
    "JPEG-LS or JPEG 2000. Export it again as such, or as PNG of 16 bits."
)
_PROGRAMS = (b"MZ", b"\x7fELF", b"#!", b"PK", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"<")
"""First bytes of what could be run or shown as something else: a preamble may hold them (CVE-2019-11687)."""
_NO_PREAMBLE = (
    b"\x02\x00\x00\x00UL",
    b"\x02\x00\x01\x00OB",
    b"\x08\x00\x05\x00",
    b"\x08\x00\x08\x00",
    b"\x08\x00\x16\x00",
)
"""First elements of DICOM data sets that were saved without preamble and prefix."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class DescribedFilm(Film):
    """A film with what its file says about it.

    Attributes:
        laterality: which breast, "L" or "R"; None when the file does not say.
        view: "MLO", "CC" or another of PS3.16 CID 4014; None when the file does not say.
        origin: "film scan", "digital" or "unknown".
        notes: sentences for the user: what was applied to the pixels, and what is unusual about the file.
    """

    laterality: Laterality | None = None
    view: str | None = None
    origin: Origin = "unknown"
    notes: tuple[str, ...] = ()


def is_dicom(data: bytes) -> bool:
    """Whether the bytes are those of a DICOM file, by its prefix (PS3.10 section 7.1) or its first element."""
    return data[PREFIX_AT : PREFIX_AT + len(PREFIX)] == PREFIX or data.startswith(_NO_PREAMBLE)


def read_dicom(path: Path) -> DescribedFilm:
    """Read a DICOM film; see `parse_dicom`.

    Raises:
        BadInputError: the file is missing, or is no mammogram in one of the accepted forms.
    """
    if not path.is_file():
        raise BadInputError(str(path), [f"{path.name}: no such file"])
    return parse_dicom(path.read_bytes(), path.name)


def parse_dicom(data: bytes, name: str) -> DescribedFilm:
    """Parse the bytes of a DICOM film called `name`.

    Modality table, rescaling, table or window of values of interest and polarity (MONOCHROME1) are applied; the pixel
    edge is that at the detector or on the film, never a guess (`dicom_kind.pixel_spacing`). Laterality and view are
    the header's. Rules and their sections of the standard are in docs/dicom.md.

    Raises:
        BadInputError: naming the file and everything for which it is refused; never with text from its header.
    """
    if data[PREFIX_AT : PREFIX_AT + len(PREFIX)] != PREFIX:
        raise _refused(name, ["it lacks the preamble and the prefix 'DICM' of a DICOM file (PS3.10 section 7.1)"])
    if data.startswith(_PROGRAMS):
        raise _refused(name, ["its preamble begins like a program or another document, not like a film"])
    problems: list[str] = []
    film = None
    try:
        syntax, header = parse_header(data)
        film = _film(syntax, header, problems)
    except (HeaderError, PixelError) as fault:
        problems.append(str(fault))
    except Exception as error:  # of any type: damaged headers fail in every way, in words that may quote them
        problems.append(f"damaged: its header cannot be understood ({type(error).__name__})")
    if problems or film is None:
        raise _refused(name, problems)
    return film


def _refused(name: str, problems: list[str]) -> BadInputError:
    return BadInputError(name, [f"{name}: {problem}" for problem in problems], _REMEDY)


def _film(syntax: str, header: Dataset, problems: list[str]) -> DescribedFilm | None:
    """The film, or None with every problem of the header added; pixels are decoded when there is none."""

    def tried(function: Callable[[Dataset], T]) -> T | None:
        try:
            return function(header)
        except HeaderError as fault:
            problems.append(str(fault))
            return None

    problems += tried(kind_problems) or []
    side, spacing, notes = tried(laterality), tried(pixel_spacing), tried(kind_notes)
    form = tried(_pixel_form)
    if syntax not in ACCEPTED_SYNTAXES:
        known = UID_dictionary.get(syntax, ("unknown",))[0]
        problems.append(f"its pixels are stored in a way not accepted ({known})")
    if problems or form is None or spacing is None:
        return None
    pixel_data = header.get("PixelData")
    if not isinstance(pixel_data, bytes) or not pixel_data:
        raise HeaderError("it holds no pixels")
    stored = stored_values(pixel_data, syntax, form)
    grey, grey_notes = to_grey(stored, header, form.bits_stored, form.signed)
    return DescribedFilm(
        grey.pixels,
        grey.max_value,
        spacing[0],
        laterality=side,
        view=view(header),
        origin=origin(header),
        notes=(*(notes or []), *spacing[1], *grey_notes),
    )


def _pixel_form(header: Dataset) -> PixelForm:
    """How pixels are stored, as far as a film may be stored so.

    Raises:
        HeaderError: naming the first element that is missing, contradicts another, or is no film's.
    """
    wanted = ("Rows", "Columns", "BitsAllocated", "BitsStored", "SamplesPerPixel")
    found = {keyword: numbers(header, keyword) for keyword in wanted}
    missing = [keyword for keyword, values in found.items() if len(values) != 1 or values[0] != int(values[0])]
    if missing:
        raise HeaderError(f"its header does not say {', '.join(missing)} as one number")
    rows, columns, allocated, stored, samples = (int(found[keyword][0]) for keyword in wanted)
    if rows < 1 or columns < 1 or rows * columns > MAX_PIXELS:
        raise HeaderError(f"{columns:,} x {rows:,} px are {rows * columns:,}, not 1 to {MAX_PIXELS:,}")
    if allocated not in (8, 16) or not 2 <= stored <= allocated:
        raise HeaderError(f"its pixels have {stored} of {allocated} bits; films have 8 to 16 in cells of 8 or 16")
    if numbers(header, "HighBit") not in ([], [stored - 1.0]):
        raise HeaderError("its grey values do not lie in the lowest bits (High Bit), a retired form")
    if numbers(header, "PixelRepresentation") not in ([], [0.0], [1.0]):
        raise HeaderError("its Pixel Representation is neither 0 nor 1")
    colours = words(header, "PhotometricInterpretation")
    if (samples, colours) not in ((1, ["MONOCHROME1"]), (1, ["MONOCHROME2"]), (3, ["RGB"])):
        kinds = {"RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "MONOCHROME1", "MONOCHROME2"}
        said = " ".join(colour for colour in colours if colour in kinds) or "nothing known"
        raise HeaderError(f"its pixels are not grey: {samples} values each, photometric interpretation {said}")
    planar, signed = (numbers(header, keyword) == [1] for keyword in ("PlanarConfiguration", "PixelRepresentation"))
    return PixelForm(rows, columns, allocated, stored, samples, planar, signed)


def with_spacing(film: DescribedFilm, pixel_spacing_mm: float | None) -> DescribedFilm:
    """The film with the edge of a pixel that the user gives in mm, which goes before the file's; None changes nothing.

    Raises:
        ValueError: it is no positive number.
    """
    if pixel_spacing_mm is None:
        return film
    if not 0 < pixel_spacing_mm < float("inf"):
        raise ValueError(f"the edge of a pixel must be a positive number of mm, found {pixel_spacing_mm}")
    said = film.pixel_spacing_mm
    notes = film.notes
    if said is not None and abs(said - pixel_spacing_mm) > 0.01 * said:
        notes = (*notes, f"the given pixel edge of {pixel_spacing_mm:g} mm was used, the file says {said:g} mm")
    return replace(film, pixel_spacing_mm=pixel_spacing_mm, notes=notes)
