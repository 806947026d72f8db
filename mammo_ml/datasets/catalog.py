"""THE schema of the two tables every data set becomes: films.csv and lesions.csv.

Coordinates are those of the film file as read, in the convention of `mammo_ml.imaging.boxes`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mammo_ml.errors import BadInputError, raise_if_any

LABELS = ("normal", "benign", "malignant")
"""Classes in order of severity; a film's label is the most severe of its lesions."""
SEVERITIES = ("benign", "malignant")
UNKNOWN_SEVERITY = "unknown"
"""Severity of a lesion that is one of a film's benign and malignant ones, its set does not say which. It teaches where
lesions are and not of which class: nothing that has classes may count it."""
KINDS = ("CALC", "CIRC", "SPIC", "MISC", "ARCH", "ASYM")
"""Classes of abnormality of mini-MIAS's Info.txt."""
MASS = "MASS"
"""Kind of a lesion whose set says that it is a mass, and not which of CIRC, SPIC, MISC, ARCH, ASYM."""
LATERALITIES = ("L", "R")
SIDES = ("left", "right")
DENSITIES = ("F", "G", "D", "A", "B", "C")
"""MIAS background tissue (F fatty, G fatty-glandular, D dense-glandular) or BI-RADS A to D."""


@dataclass(frozen=True)
class Column:
    """One column: its pandas dtype, unit or meaning, allowed values (empty: any), and whether it may be null."""

    name: str
    dtype: str
    meaning: str
    allowed: tuple[str, ...] = ()
    nullable: bool = False


FILMS = (
    Column("film_id", "str", "unique name of the film"),
    Column("dataset", "str", "name of the data set"),
    Column("path", "str", "file, relative to the data set's folder"),
    Column("sha256", "str", "hash of the file's bytes"),
    Column("patient_id", "str", "the woman; the unit of every split and every interval"),
    Column("laterality", "str", "breast, left or right", LATERALITIES),
    Column("chest_wall", "str", "side of the film file where the chest wall is", SIDES),
    Column("view", "str", "projection", ("MLO", "CC")),
    Column("density", "str", "density of the breast", DENSITIES),
    Column("label", "str", "most severe of the film's lesions", LABELS),
    Column("width_px", "int64", "columns"),
    Column("height_px", "int64", "rows"),
    Column("pixel_spacing_mm", "float64", "edge of a pixel, mm"),
    Column("breast_x1", "float64", "left edge of the breast's bounding box, px"),
    Column("breast_y1", "float64", "top edge, px"),
    Column("breast_x2", "float64", "right edge, excluded, px"),
    Column("breast_y2", "float64", "bottom edge, excluded, px"),
)

LESIONS = (
    Column("lesion_id", "str", "unique name of the annotated abnormality"),
    Column("film_id", "str", "the film it is on"),
    Column("kind", "str", "class of abnormality (Info.txt, 3rd column)", (*KINDS, MASS)),
    Column("severity", "str", "benign or malignant, or not told which", (*SEVERITIES, UNKNOWN_SEVERITY)),
    Column("has_location", "bool", "False: a positive for the classifier, ignored by the detector"),
    Column("x_px", "float64", "centre, px from the left edge", nullable=True),
    Column("y_px", "float64", "centre, px from the top edge", nullable=True),
    Column("radius_px", "float64", "radius of the circle, or of the one round the box's ellipse, px", nullable=True),
    Column("x1", "float64", "box: left edge, px", nullable=True),
    Column("y1", "float64", "box: top edge, px", nullable=True),
    Column("x2", "float64", "box: right edge, excluded, px", nullable=True),
    Column("y2", "float64", "box: bottom edge, excluded, px", nullable=True),
    Column("source", "str", "where the annotation comes from (file and line)"),
)

BOX_COLUMNS = ["x1", "y1", "x2", "y2"]
BREAST_COLUMNS = ["breast_x1", "breast_y1", "breast_x2", "breast_y2"]


def names(columns: tuple[Column, ...]) -> list[str]:
    """Names of the columns, in the order they are written."""
    return [column.name for column in columns]


def dtypes(columns: tuple[Column, ...]) -> dict[str, str]:
    """Map each column to its pandas dtype, as `pandas.read_csv` takes them."""
    return {column.name: column.dtype for column in columns}


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV with Unix line ends and shortest exact floats: same table, same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, lineterminator="\n")


def read_table(path: Path, columns: tuple[Column, ...]) -> pd.DataFrame:
    """Read films.csv or lesions.csv with the schema's types.

    Raises:
        BadInputError: naming the columns that are missing or unknown, or the value that has the wrong type; or when
            there is no film.
    """
    found = list(pd.read_csv(path, nrows=0).columns)
    if found != names(columns):
        missing = sorted(set(names(columns)) - set(found))
        unknown = sorted(set(found) - set(names(columns)))
        problem = f"columns missing: {missing}; unknown: {unknown}; expected, in order: {names(columns)}"
        raise BadInputError(str(path), [problem])
    try:
        # A film may be called "NA": nothing but an empty field is a missing value.
        table = pd.read_csv(path, dtype=dtypes(columns), keep_default_na=False, na_values=[""])
    except ValueError as error:
        raise BadInputError(str(path), [f"a value does not have its column's type: {error}"]) from None
    raise_if_any(str(path), ["it lists no film"] if columns is FILMS and table.empty else [])
    return table


def rows(table: pd.DataFrame) -> Iterator[Any]:
    """Rows of a table as named tuples, column by attribute."""
    return iter(table.itertuples())


def label_of(severities: list[str]) -> str:
    """Label of a film from the severities of its lesions: the most severe, `normal` without any."""
    return max(severities, key=LABELS.index, default="normal")
