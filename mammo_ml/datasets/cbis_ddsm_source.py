"""The published files of the CBIS-DDSM mass films: rows of four CSV files, read strictly and checked on each other."""

import csv
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from mammo_ml.datasets.catalog import UNKNOWN_SEVERITY, label_of
from mammo_ml.errors import BadInputError

IMAGES, BOXES = "images.csv", "boxes.csv"
MASSES, CALCIFICATIONS = "mass_case_description_train_set.csv", "calc_case_description_train_set.csv"
TABLES = (IMAGES, BOXES, MASSES, CALCIFICATIONS)
JPEG_PX = 800
"""Every film was stretched to a square of this edge, whatever its own shape."""

_SIDES = {"LEFT": "L", "RIGHT": "R"}
_VIEWS = {"CC": "CC", "MLO": "MLO"}
_DENSITIES = {"1": "A", "2": "B", "3": "C", "4": "D"}
"""BI-RADS density, numbered in the CSV files (Lee et al. 2017, doi 10.1038/sdata.2017.177, table 1)."""
_PATHOLOGIES = {"MALIGNANT": "malignant", "BENIGN": "benign", "BENIGN_WITHOUT_CALLBACK": "benign"}
"""Without callback: no biopsy was asked for, and follow-up found nothing."""
_BOX_PATHOLOGIES = {"MALIGNANT": "malignant", "BENIGN": "benign", "MIXED": UNKNOWN_SEVERITY}
"""MIXED: the film has masses of both kinds, and a box does not say which of them it is round."""

_CASE_COLUMNS = ("patient_id", "breast_density", "left_or_right_breast", "image_view", "abnormality_id", "pathology")
_COLUMNS = {
    IMAGES: (
        "file",
        "patient_id",
        "side",
        "view",
        "breast_density",
        "n_abnormalities",
        "pathology",
        "est_orig_width",
        "est_orig_height",
    ),
    BOXES: ("file", "x", "y", "w", "h", "pathology"),
    MASSES: _CASE_COLUMNS,
    CALCIFICATIONS: _CASE_COLUMNS,
}


@dataclass(frozen=True)
class FilmRow:
    """One film of images.csv; its original size, px, is an estimate and may be missing."""

    line: int
    film_id: str
    file: str
    patient_id: str
    laterality: str
    view: str
    density: str
    label: str
    n_boxes: int
    original_size: tuple[int, int] | None


@dataclass(frozen=True)
class BoxRow:
    """One mass of boxes.csv: left, top, width and height in the stretched film of `JPEG_PX` x `JPEG_PX` px."""

    line: int
    file: str
    x: float
    y: float
    w: float
    h: float
    severity: str


@dataclass(frozen=True)
class CaseRow:
    """One abnormality of a TCIA CSV file."""

    line: int
    film_id: str
    number: int
    density: str
    severity: str


@dataclass(frozen=True)
class Source:
    """The rows of the four files, and what is wrong with them, a line each."""

    films: tuple[FilmRow, ...]
    boxes: tuple[BoxRow, ...]
    masses: tuple[CaseRow, ...]
    calcifications: tuple[CaseRow, ...]
    problems: tuple[str, ...]


def read_source(folder: Path) -> Source:
    """Read and cross-check the four CSV files of `folder`; every fault of all of them is in `problems`."""
    tables = {name: _Table(folder / name) for name in TABLES}
    films = tables[IMAGES].parse(_film)
    boxes = tables[BOXES].parse(_box)
    masses = tables[MASSES].parse(_case)
    calcifications = tables[CALCIFICATIONS].parse(_case)
    problems = [problem for table in tables.values() for problem in table.problems]
    problems += _repeated(IMAGES, {film.line: film.film_id for film in films}, "film")
    problems += _repeated(BOXES, {box.line: (box.file, box.x, box.y, box.w, box.h) for box in boxes}, "box")
    for name, cases in ((MASSES, masses), (CALCIFICATIONS, calcifications)):
        problems += _repeated(name, {case.line: (case.film_id, case.number) for case in cases}, "abnormality")
    if all(tables[name].complete for name in (IMAGES, BOXES, MASSES)):
        problems += _contradictions(films, boxes, masses)
    return Source(tuple(films), tuple(boxes), tuple(masses), tuple(calcifications), tuple(problems))


# --- one file -------------------------------------------------------------------------------------------------------

_Parsed = TypeVar("_Parsed")


@dataclass
class _Row:
    """Cells of one row by column, and the faults found while they are read."""

    where: str
    line: int
    cells: Mapping[str, str]
    problems: list[str] = field(default_factory=list)

    def text(self, column: str) -> str:
        """A cell that may not be empty."""
        if not self.cells[column]:
            self.problems.append(f"{self.where}: {column} is empty")
        return self.cells[column]

    def word(self, column: str, words: Mapping[str, str]) -> str:
        """Our word for one of the file's."""
        found = self.cells[column]
        if found not in words:
            self.problems.append(f"{self.where}: {column} '{found}' is not one of {', '.join(words)}")
        return words.get(found, "")

    def number(self, column: str) -> float:
        """A finite number of 0 or more."""
        try:
            value = float(self.cells[column])
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            self.problems.append(f"{self.where}: {column} '{self.cells[column]}' is not a number of 0 or more")
        return value

    def count(self, column: str) -> int:
        """A whole number of 1 or more."""
        value = self.number(column)
        if value >= 1 and value == int(value):
            return int(value)
        if value == value:
            self.problems.append(f"{self.where}: {column} '{self.cells[column]}' is not a whole number of 1 or more")
        return 0


class _Table:
    """Rows of a CSV file, as far as they can be told apart, and every fault found in them.

    Attributes:
        complete: whether the file could be read as a table, so that what it does not say can be held against it.
    """

    def __init__(self, path: Path) -> None:
        self.problems: list[str] = []
        self.complete = False
        self._rows: list[_Row] = []
        name = path.name
        if not path.is_file():
            self.problems.append(f"{name}: no such file")
            return
        try:
            # A byte-order mark and Windows line ends are read; they are no part of a cell.
            text = path.read_bytes().decode("utf-8-sig")
            lines = list(_records(text))
        except (UnicodeDecodeError, csv.Error) as error:
            self.problems.append(f"{name}: cannot be read as CSV: {error}")
            return
        # The mass file writes `breast_density` where the calcification file writes `breast density`.
        header = [cell.strip().replace(" ", "_") for cell in lines[0][1]] if lines else []
        missing = [column for column in _COLUMNS[name] if header.count(column) != 1]
        if missing:
            self.problems.append(f"{name} line 1: columns missing or there twice: {', '.join(missing)}")
            return
        self.complete = True
        for line, cells in lines[1:]:
            if len(cells) != len(header):
                self.problems.append(f"{name} line {line}: {len(cells)} fields, the header has {len(header)}")
            else:
                # Path columns end in a line break inside their quotes.
                stripped = (cell.strip() for cell in cells)
                self._rows.append(_Row(f"{name} line {line}", line, dict(zip(header, stripped, strict=True))))
        if len(lines) < 2:
            self.problems.append(f"{name}: no rows")

    def parse(self, parser: Callable[[_Row], _Parsed]) -> list[_Parsed]:
        """What `parser` makes of the rows in which it finds no fault; faults go to `problems`."""
        parsed = []
        for row in self._rows:
            value = parser(row)
            if row.problems:
                self.problems += row.problems
            else:
                parsed.append(value)
        return parsed


def _records(text: str) -> Iterator[tuple[int, list[str]]]:
    """Line on which each record begins (from 1) and its fields; quotes may hold line breaks, empty lines hold none."""
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    begins = 1
    for cells in reader:
        if cells:
            yield begins, cells
        begins = reader.line_num + 1


def _film(row: _Row) -> FilmRow:
    file, patient_id = row.text("file"), row.text("patient_id")
    side, view = row.word("side", _SIDES), row.word("view", _VIEWS)
    expected = f"{patient_id.removeprefix('P_')}_{row.cells['side']}_{view}.jpg"
    if side and view and file != expected:
        row.problems.append(f"{row.where}: file '{file}' is not that of its woman, side and view, {expected}")
    return FilmRow(
        row.line,
        _film_id(patient_id, row.cells["side"], view),
        file,
        patient_id,
        side,
        view,
        row.word("breast_density", _DENSITIES),
        row.word("pathology", _PATHOLOGIES),
        row.count("n_abnormalities"),
        _original_size(row),
    )


def _original_size(row: _Row) -> tuple[int, int] | None:
    columns = ("est_orig_width", "est_orig_height")
    if not any(row.cells[column] for column in columns):
        return None
    width, height = (row.count(column) for column in columns)
    return width, height


def _box(row: _Row) -> BoxRow:
    file = row.text("file")
    x, y, w, h = (row.number(column) for column in ("x", "y", "w", "h"))
    if w == 0 or h == 0:
        row.problems.append(f"{row.where}: the box on {file} has no area ({w:g} x {h:g})")
    if x + w > JPEG_PX or y + h > JPEG_PX:
        ends = f"ends at {x + w:g}, {y + h:g}"
        row.problems.append(f"{row.where}: the box on {file} {ends}, outside the film of {JPEG_PX} x {JPEG_PX} px")
    return BoxRow(row.line, file, x, y, w, h, row.word("pathology", _BOX_PATHOLOGIES))


def _case(row: _Row) -> CaseRow:
    patient_id = row.text("patient_id")
    side, view = row.word("left_or_right_breast", _SIDES), row.word("image_view", _VIEWS)
    return CaseRow(
        row.line,
        _film_id(patient_id, row.cells["left_or_right_breast"], view) if side else "",
        row.count("abnormality_id"),
        row.word("breast_density", _DENSITIES),
        row.word("pathology", _PATHOLOGIES),
    )


def _film_id(patient_id: str, side: str, view: str) -> str:
    return f"{patient_id}_{side}_{view}"


# --- the files against each other -----------------------------------------------------------------------------------


def _repeated(name: str, keys: Mapping[int, object], what: str) -> list[str]:
    first: dict[object, int] = {}
    return [
        f"{name} line {line}: the {what} of line {first[key]} again: {_plain(key)}"
        for line, key in keys.items()
        if first.setdefault(key, line) != line
    ]


def _plain(key: object) -> str:
    return ", ".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _contradictions(films: Iterable[FilmRow], boxes: Iterable[BoxRow], masses: Iterable[CaseRow]) -> Iterator[str]:
    """What images.csv, boxes.csv and the mass file say differently of one film."""
    by_file = {film.file: film for film in films}
    by_film = {film.film_id: film for film in by_file.values()}
    for box in boxes:
        if box.file not in by_file:
            yield f"{BOXES} line {box.line}: film {box.file} has no row in {IMAGES}"
    for case in masses:
        film = by_film.get(case.film_id)
        if film is None:
            yield f"{MASSES} line {case.line}: film {case.film_id} has no row in {IMAGES}"
        elif film.density != case.density:
            yield f"{MASSES} line {case.line}: density {case.density}, {IMAGES} line {film.line} says {film.density}"
    box_severities = _grouped((box.file, box.severity) for box in boxes)
    case_severities = _grouped((case.film_id, case.severity) for case in masses)
    for film in by_film.values():
        found = _film_contradiction(film, box_severities.get(film.file, []), case_severities.get(film.film_id, []))
        if found:
            yield f"{IMAGES} line {film.line}: film {film.file}: {found}"


def _film_contradiction(film: FilmRow, boxes: list[str], cases: list[str]) -> str:
    if not len(boxes) == len(cases) == film.n_boxes:
        return f"{film.n_boxes} abnormalities, but {len(boxes)} boxes and {len(cases)} rows in {MASSES}"
    if film.label != label_of(cases):
        return f"{film.label}, but its most severe row in {MASSES} is {label_of(cases)}"
    is_mixed = len(set(cases)) > 1
    if is_mixed != (UNKNOWN_SEVERITY in boxes) or (not is_mixed and Counter(boxes) != Counter(cases)):
        return f"its boxes are {', '.join(boxes)}, its rows in {MASSES} {', '.join(cases)}"
    return ""


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def raise_if_faulty(folder: Path, problems: Iterable[str]) -> None:
    """Raise one BadInputError that names every fault of a folder of CBIS-DDSM films, or return."""
    found = list(problems)
    if found:
        raise BadInputError(
            f"CBIS-DDSM in {folder}",
            found,
            "Nothing was published. Restore the files named from their source; line numbers count from the header, 1.",
        )
