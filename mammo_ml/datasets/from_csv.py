"""A user's own films with one file films.csv: a row per lesion, one row for a film without any (`TEMPLATE`)."""

from pathlib import Path

import numpy as np

from mammo_ml.datasets.adapter import (
    ALL_KINDS,
    BIRADS,
    SIDES,
    VIEWS,
    Found,
    FoundFilm,
    FoundLesion,
    Read,
    Report,
    holds,
    number,
    publish,
    same_size,
    severity_words,
    table,
    word,
)
from mammo_ml.datasets.catalog import BOX_COLUMNS
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.readers import read_film

FILE = "films.csv"
COLUMNS = ("file", "patient_id", "laterality", "view", "density", "pixel_spacing_mm", "pathology", "kind", "mask")
TEMPLATE = """\
file,patient_id,laterality,view,density,pixel_spacing_mm,pathology,kind,x1,y1,x2,y2,mask
a_left_cc.png,woman1,L,CC,B,0.1,malignant,MASS,400,520,480,610,
a_left_cc.png,woman1,L,CC,B,0.1,benign,CALC,,,,,a_left_cc_calc.png
b_right.dcm,woman2,,,C,,normal,,,,,,
"""
"""Box in px of the file, right and bottom edge excluded; a mask (white is the lesion) in its place; neither when the
place is not known. Breast, view and spacing may be empty where a DICOM header says them."""
DENSITIES = BIRADS | {"F": "F", "G": "G"}
"""MIAS's D (dense-glandular) and BI-RADS D share a letter."""


class Table:
    """films.csv beside the images."""

    name = "csv"
    collection = ""
    needs: tuple[str, ...] = (FILE,)

    def recognise(self, folder: Path) -> str | None:
        """Why the folder is of this form; None when it is not."""
        return f"films with a table of the template: it holds {FILE}" * holds(folder, self.needs) or None

    def read(self, folder: Path, out: Path, dataset: str, spacing_mm: float | None, report: Report) -> Read:
        """Write the films into `out`; problems are collected, not raised."""
        found = Found("column pixel_spacing_mm, else the DICOM headers", "said by the user: films.csv", "film")
        films: dict[str, tuple[tuple[str, ...], str]] = {}
        for where, raw in table(folder / FILE, ("file", "patient_id"), found.problems):
            cells = dict.fromkeys((*COLUMNS, *BOX_COLUMNS), "") | raw
            cells["density"] = cells["density"] or cells.get("breast_density", "")
            film_id = Path(cells["file"]).with_suffix("").as_posix().replace("/", "_")
            said = tuple(cells[column] for column in COLUMNS[:6])
            first, line = films.setdefault(film_id, (said, where))
            if first != said:
                found.problems.append(f"{where}: says another thing of {cells['file']} than {line}")
            elif line == where:
                found.films.append(_film(where, film_id, cells, found.problems))
            if cells["pathology"].lower() != "normal":
                found.lesions.append(_lesion(where, film_id, cells, folder, found.problems))
        return publish(found, folder, out, dataset, spacing_mm, report)


def _film(where: str, film_id: str, cells: dict[str, str], problems: list[str]) -> FoundFilm:
    side, view, edge = cells["laterality"], cells["view"], cells["pixel_spacing_mm"]
    spacing = number(where, "pixel_spacing_mm", edge, problems) if edge else None
    if not cells["patient_id"]:
        problems.append(f"{where}: patient_id is empty")
    return FoundFilm(
        where,
        film_id,
        Path(cells["file"]),
        cells["patient_id"],
        word(where, "laterality", side, SIDES, problems) if side else None,
        word(where, "view", view, VIEWS, problems) if view else None,
        word(where, "density", cells["density"], DENSITIES, problems),
        lambda shape: spacing,
    )


def _lesion(where: str, film_id: str, cells: dict[str, str], folder: Path, problems: list[str]) -> FoundLesion:
    severity = word(where, "pathology", cells["pathology"], severity_words() | {"UNKNOWN": "unknown"}, problems)
    kind = word(where, "kind", cells["kind"] or "MISC", ALL_KINDS, problems)
    edges = [cells[column] for column in BOX_COLUMNS]
    if any(edges):
        x1, y1, x2, y2 = (number(where, column, cells[column], problems) for column in BOX_COLUMNS)
        return FoundLesion(where, film_id, kind, severity, (x1, y1, x2, y2))
    if not cells["mask"]:
        return FoundLesion(where, film_id, kind, severity)

    def mask(shape: tuple[int, int]) -> np.ndarray:
        path = folder / cells["mask"]
        try:
            film = read_film(path)
        except BadInputError as error:
            raise BadInputError(str(path), [f"{where}: mask {problem}" for problem in error.problems]) from None
        return same_size(film.to_unit() > 0.5, shape, where, cells["mask"])

    return FoundLesion(where, film_id, kind, severity, mask=mask)
