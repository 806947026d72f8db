"""Films of any kind for people who ask about them: told apart by their content, with what the file says.

Training reads films through `readers.read_film`, which knows no DICOM: what it reads is fixed by the data sets.
"""

from dataclasses import replace
from pathlib import Path

from mammo_ml.errors import BadInputError
from mammo_ml.imaging.dicom import DescribedFilm, is_dicom, parse_dicom, with_spacing
from mammo_ml.imaging.readers import MAX_PIXELS, parse_film
from mammo_ml.imaging.side_and_view import guesses_from_image

_PICTURE_SUFFIXES = (".pgm", ".png", ".tif", ".tiff", ".jpg", ".jpeg")
_REMEDY = (
    "A film is a DICOM file, or one upright picture in grey, black as 0, of 8 or 16 bits: binary PGM, PNG, TIFF "
    "(uncompressed, LZW, deflate or PackBits) or 8-bit JPEG; its name may not say otherwise; at most "
    f"{MAX_PIXELS // 1_000_000} million pixels. Export the film again as such."
)


def read_any(source: Path | bytes, name: str | None = None, pixel_spacing_mm: float | None = None) -> DescribedFilm:
    """Read a film from a file or from its bytes: DICOM, PGM, PNG, TIFF or JPEG, by its first bytes.

    Args:
        source: path of the file, or its content.
        name: what messages call it; the file's own name where it is left out.
        pixel_spacing_mm: edge of a pixel in mm, which goes before what the file says. Pictures never say it, DICOM
            files of scanned films seldom do: where the result's is None, ask for it.

    The chest wall's side, which is all that models need, is found on the picture (`breast.chest_wall_side`). Which
    breast and which view it is are the header's word; where it has none, a note says what the picture looks like.

    Raises:
        BadInputError: the file is missing, or refused; naming it and every reason.
        ValueError: the spacing is no positive number.
    """
    if isinstance(source, Path) and not source.is_file():
        raise BadInputError(str(source), [f"{name or source.name}: no such file"])
    data = source.read_bytes() if isinstance(source, Path) else source
    called = name or (source.name if isinstance(source, Path) else "film")
    film = _parse(data, called)
    return with_spacing(replace(film, notes=(*film.notes, *guesses_from_image(film))), pixel_spacing_mm)


def _parse(data: bytes, name: str) -> DescribedFilm:
    if is_dicom(data):
        if (suffix := Path(name).suffix.lower()) in _PICTURE_SUFFIXES:
            raise BadInputError(name, [f"{name}: named {suffix}, but a DICOM file by its first bytes"], _REMEDY)
        return parse_dicom(data, name)
    try:
        film = parse_film(data, name)
    except BadInputError as refusal:
        problems = refusal.problems
    else:
        return DescribedFilm(film.pixels, film.max_value, film.pixel_spacing_mm)
    raise BadInputError(name, problems, _REMEDY)
