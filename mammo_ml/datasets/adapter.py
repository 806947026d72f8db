"""What every adapter of a data set gives, and the one way in which films and tables are made of it."""

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_ml.datasets.catalog import (
    BOX_COLUMNS,
    FILMS,
    KINDS,
    LESIONS,
    MASS,
    SEVERITIES,
    UNKNOWN_SEVERITY,
    dtypes,
    label_of,
    names,
)
from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.imaging.any_film import read_any
from mammo_ml.imaging.breast import breast_box, breast_mask, chest_wall_side
from mammo_ml.imaging.canonical import eight_bits
from mammo_ml.imaging.dicom import DescribedFilm
from mammo_ml.imaging.readers import write_pgm

Modality = Literal["film", "digital", "contrast-enhanced"]
Report = Callable[[int, int], None]
Box = tuple[float, float, float, float]
SIDES = {"L": "L", "R": "R", "LEFT": "L", "RIGHT": "R"}
VIEWS = {"CC": "CC", "MLO": "MLO"}
BIRADS = {"A": "A", "B": "B", "C": "C", "D": "D", "1": "A", "2": "B", "3": "C", "4": "D"}
"""BI-RADS density by letter or, as before its fifth edition and in CBIS-DDSM, by number (doi
10.1038/sdata.2017.177)."""
PATHOLOGIES = {"BENIGN": "benign", "BENIGN_WITHOUT_CALLBACK": "benign", "MALIGNANT": "malignant"}
ALL_KINDS = {kind: kind for kind in (*KINDS, MASS)}


@dataclass(frozen=True)
class FoundFilm:
    """A film that annotations name. What is None is taken from its DICOM header; `spacing` maps (H, W) to mm."""

    where: str
    film_id: str
    file: Path
    patient_id: str
    laterality: str | None
    view: str | None
    density: str
    spacing: Callable[[tuple[int, int]], float | None] = lambda shape: None


@dataclass(frozen=True)
class FoundLesion:
    """A lesion that annotations name, with a box in px of its film, or a function that gives its mask (H, W)."""

    where: str
    film_id: str
    kind: str
    severity: str
    box: Box | None = None
    mask: Callable[[tuple[int, int]], NDArray[np.bool_]] | None = None


@dataclass
class Found:
    """Everything the annotations of a folder say, and what is wrong with them, a line each."""

    spacing: str
    source: str
    modality: Modality
    films: list[FoundFilm] = field(default_factory=list)
    lesions: list[FoundLesion] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Read:
    """Tables of films that were written, what is known of the set, and every problem."""

    films: pd.DataFrame
    lesions: pd.DataFrame
    facts: Mapping[str, Any]
    problems: list[str]


class Adapter(Protocol):
    """One published form of a data set."""

    name: str
    collection: str
    """The published collection that the films are of, whatever the set is called; '' where nothing says it."""
    needs: tuple[str, ...]

    def recognise(self, folder: Path) -> str | None:
        """Why the folder is of this form; None when it is not."""

    def read(self, folder: Path, out: Path, dataset: str, spacing_mm: float | None, report: Report) -> Read:
        """Write the films into `out`; problems are collected, not raised."""


def holds(folder: Path, needs: tuple[str, ...]) -> bool:
    """Whether something in the folder matches each of the patterns."""
    return all(next(folder.glob(need), None) for need in needs)


def table(path: Path, columns: tuple[str, ...], problems: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a CSV file as (place, cells); quotes may hold line breaks, `breast density` is `breast_density`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [cell.strip().lower().replace(" ", "_") for cell in next(reader, [])]
            missing = [column for column in columns if header.count(column) != 1]
            if missing:
                problems.append(f"{path.name} line 1: columns missing or there twice: {', '.join(missing)}")
                return
            begins = reader.line_num + 1
            for cells in reader:
                where, begins = f"{path.name} line {begins}", reader.line_num + 1
                if cells and len(cells) != len(header):
                    problems.append(f"{where}: {len(cells)} fields, the header has {len(header)}")
                elif cells:
                    yield where, dict(zip(header, (cell.strip() for cell in cells), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problems.append(f"{path.name}: cannot be read as CSV: {error}")


def word(where: str, column: str, value: str, words: Mapping[str, str], problems: list[str]) -> str:
    """Our word for one of theirs, in any case; '' and a problem when it is none of them."""
    if value.upper() not in words:
        problems.append(f"{where}: {column} '{value}' is not one of {', '.join(words)}")
    return words.get(value.upper(), "")


def number(where: str, column: str, value: object, problems: list[str]) -> float:
    """A finite number; 0 and a problem when it is none."""
    try:
        found = float(str(value))
    except ValueError:
        found = float("nan")
    if not np.isfinite(found):
        problems.append(f"{where}: {column} '{value}' is not a number")
    return found if np.isfinite(found) else 0.0


def publish(found: Found, folder: Path, out: Path, dataset: str, spacing_mm: float | None, report: Report) -> Read:
    """Write the found films as PGM, white at 255 or 65535, and make the two tables of them.

    Args:
        found: what the annotations say.
        folder: where they and the films are; no film outside it is read.
        out: gets <film_id>.pgm.
        dataset: for the column of that name.
        spacing_mm: the user's word, before the annotations' and the header's.
        report: called with films done, and films in all.
    """
    problems, films, lesions = list(found.problems), [], []
    by_film: dict[str, list[FoundLesion]] = {}
    for lesion in found.lesions:
        by_film.setdefault(lesion.film_id, []).append(lesion)
    for done, film in enumerate(found.films, 1):
        on_film = by_film.get(film.film_id, [])
        try:
            row, shape = _film(film, folder, out, spacing_mm)
        except BadInputError as error:
            problems += [f"{film.where}: {problem}" for problem in error.problems]
        except MammoError as error:
            problems.append(f"{film.where}: {film.file}: {error}")
        else:
            severities = [lesion.severity for lesion in on_film if lesion.severity in SEVERITIES]
            if on_film and all(lesion.severity == UNKNOWN_SEVERITY for lesion in on_film):
                problems.append(f"{film.where}: no lesion of {film.file} has a known pathology, so it has no label")
            films.append(row | {"dataset": dataset, "label": label_of(severities)})
            for n, lesion in enumerate(on_film, 1):
                try:
                    lesions.append(_lesion(lesion, f"{film.film_id}_{n}", shape))
                except BadInputError as error:
                    problems += error.problems
        report(done, len(found.films))
    facts = {"spacing": found.spacing, "source": found.source, "modality": found.modality, "notes": found.notes}
    if spacing_mm is not None:
        facts["spacing"] = f"{spacing_mm:g} mm, said by the user"
    return Read(
        pd.DataFrame(films, columns=names(FILMS)).astype(dtypes(FILMS)),
        pd.DataFrame(lesions, columns=names(LESIONS)).astype(dtypes(LESIONS)),
        facts,
        problems,
    )


def _film(
    found: FoundFilm, folder: Path, out: Path, spacing_mm: float | None
) -> tuple[dict[str, object], tuple[int, int]]:
    if not (folder / found.file).resolve().is_relative_to(folder.resolve()):
        raise BadInputError(found.film_id, [f"{found.file} lies outside the folder"])
    film = read_any(folder / found.file, str(found.file))
    height, width = film.pixels.shape
    spacing = spacing_mm or found.spacing((height, width)) or film.pixel_spacing_mm
    laterality, view = found.laterality or film.laterality, found.view or film.view
    faults = [f"{found.file}: {fault}" for fault in _faults(found, film, spacing, laterality, view)]
    if faults:
        raise BadInputError(found.film_id, faults)
    pixels = film.pixels
    if film.max_value not in (255, 65535):
        pixels = np.round(film.to_unit() * 65535).astype(np.uint16)
    path = out / f"{found.film_id}.pgm"
    write_pgm(path, pixels)
    mask = breast_mask(eight_bits(film))
    return {
        "film_id": found.film_id,
        "path": path.name,
        "sha256": sha256(path.read_bytes()).hexdigest(),
        "patient_id": found.patient_id,
        "laterality": laterality,
        "chest_wall": chest_wall_side(mask),
        "view": view,
        "density": found.density,
        "width_px": width,
        "height_px": height,
        "pixel_spacing_mm": spacing,
        **dict(zip(("breast_x1", "breast_y1", "breast_x2", "breast_y2"), breast_box(mask), strict=True)),
    }, (height, width)


def _faults(
    found: FoundFilm, film: DescribedFilm, spacing: float | None, laterality: str | None, view: str | None
) -> Iterator[str]:
    if not spacing:
        yield "neither its row nor its file says the edge of a pixel; give --spacing-mm"
    if laterality is None:
        yield "neither its row nor its file says which breast it is"
    if view not in VIEWS:
        yield f"view {view or 'not said'}; CC and MLO are known"
    said = (("breast", found.laterality, film.laterality), ("view", found.view, film.view))
    for what, row, header in said:
        if row and header and row != header:
            yield f"its row says {what} {row}, its header {header}"


def _lesion(found: FoundLesion, lesion_id: str, shape: tuple[int, int]) -> dict[str, object]:
    height, width = shape
    box = found.box
    if found.mask is not None:
        inside = found.mask(shape)
        if not inside.any():
            raise BadInputError(lesion_id, [f"{found.where}: its mask is empty"])
        box = breast_box(inside)
    row: dict[str, object] = {
        "lesion_id": lesion_id,
        "film_id": found.film_id,
        "kind": found.kind,
        "severity": found.severity,
        "has_location": box is not None,
        "source": found.where,
    }
    if box is None:
        return row
    x1, y1, x2, y2 = box
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        told = ", ".join(f"{edge:g}" for edge in box)
        raise BadInputError(lesion_id, [f"{found.where}: box {told} is not inside its film of {width} x {height} px"])
    circle = {"x_px": (x1 + x2) / 2, "y_px": (y1 + y2) / 2, "radius_px": max(x2 - x1, y2 - y1) / 2}
    return row | circle | dict(zip(BOX_COLUMNS, box, strict=True))


def same_size(mask: NDArray[np.bool_], shape: tuple[int, int], where: str, file: object) -> NDArray[np.bool_]:
    """The mask, when it is of its film's size (H, W).

    Raises:
        BadInputError: it is not.
    """
    if mask.shape != shape:
        sizes = f"{mask.shape[1]} x {mask.shape[0]} px, its film {shape[1]} x {shape[0]}"
        raise BadInputError(str(file), [f"{where}: mask {file} is {sizes}"])
    return mask


def severity_words() -> dict[str, str]:
    """Severities by the words that files use."""
    return PATHOLOGIES | {severity.upper(): severity for severity in SEVERITIES}
