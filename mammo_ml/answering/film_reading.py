"""A film file as it is to be looked at: pixels with their spacing, its side, and what is to be said of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mammo_ml.answering.film_answers import Laterality, Told
from mammo_ml.errors import BadInputError, raise_if_any
from mammo_ml.imaging.any_film import read_any
from mammo_ml.imaging.dicom import is_dicom
from mammo_ml.imaging.plausibility import not_a_mammogram, unlike_training
from mammo_ml.imaging.readers import Film
from mammo_ml.prediction import spacing_of

_VIDEOS = ((4, b"ftyp", "an MP4 or QuickTime video"), (8, b"AVI ", "an AVI video"), (0, b"\x1aE\xdf\xa3", "a video"))
SPACING_REMEDY = (
    "Give the edge of a pixel in mm with --spacing, as in --spacing 0.05: the scanner's documents say it, or the "
    "breast's true size does."
)


@dataclass(frozen=True)
class ReadFilm:
    """A film that was read.

    Attributes:
        film: with its pixel spacing.
        spacing_from: where that is known from.
        laterality, view: as the file says, or the user; None where nobody does.
        is_dicom: whether a structured report can be made of it.
        notes: what its file says or leaves out, and what was done to its pixels, a sentence each.
        unlike_training: what tells it from the films that models learned from, a sentence each.
    """

    film: Film
    spacing_from: str
    laterality: Laterality | None
    view: str | None
    is_dicom: bool
    notes: tuple[str, ...] = ()
    unlike_training: tuple[str, ...] = ()


NO_FILM_REMEDY = "Only mammograms are looked at: check what the file holds, and --spacing if you gave it."
ReadFile = Callable[[Path, str, Told], ReadFilm]


def read_for_answer(path: Path, name: str, told: Told) -> ReadFilm:
    """Read a film file called `name`; what the file says goes before what the user told.

    Raises:
        BadInputError: when it cannot be read or is no film, or its pixel spacing is not known or not that of a film.
        OSError: when the file cannot be opened.
    """
    content = path.read_bytes()
    for place, letters, kind in _VIDEOS:
        if content[place : place + 4] == letters:
            remedy = "Films are single pictures: PGM, PNG, TIFF, JPEG or DICOM."
            raise BadInputError(name, [f"{kind} by its first bytes, not a film"], remedy)
    described = read_any(content, path.name)
    known = described.pixel_spacing_mm is not None
    said = "--spacing" if told.spacing_mm is not None else "its size, that of a film of mini-MIAS"
    film = replace(described, pixel_spacing_mm=film_spacing(described, content, told.spacing_mm, name))
    raise_if_any(f"{name} looks like no mammogram", not_a_mammogram(film), NO_FILM_REMEDY)
    return ReadFilm(
        film=film,
        spacing_from="the file" if known else said,
        laterality=described.laterality or told.laterality,
        view=described.view,
        is_dicom=is_dicom(content),
        notes=described.notes,
        unlike_training=tuple(unlike_training(film)),
    )


def film_spacing(film: Film, content: bytes, told: float | None, name: str) -> float:
    """Edge of a pixel in mm: the file's own, else the one that was told, else that of mini-MIAS by the film's size.

    Raises:
        BadInputError: when it is not known, or makes no film of the picture.
    """
    known = film.pixel_spacing_mm if film.pixel_spacing_mm is not None else told
    try:
        return spacing_of(film, content, known)
    except ValueError as error:
        if known is None:
            raise BadInputError(
                name, ["its pixel spacing is not known: the file does not say"], SPACING_REMEDY
            ) from None
        raise BadInputError(name, [str(error)], SPACING_REMEDY) from None
