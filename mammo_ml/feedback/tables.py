"""THE schema of the corrections a project keeps in git: `feedback/films.csv`, `lesions.csv`, `rejected.csv`.

A reading is one film, read by one author at one time; its three values tell the rows of one reading in every table.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_ml.datasets import catalog
from mammo_ml.datasets.catalog import BOX_COLUMNS, LABELS, Column, dtypes, names
from mammo_ml.errors import raise_if_any

FOLDER = "feedback"
SOURCE = "feedback"
ACTIONS = ("accepted", "moved", "relabelled", "moved and relabelled", "drawn")
READING = ["film_id", "author", "read_at"]

_AUTHOR = Column("author", "str", "who read the film")
_MODEL = Column("model", "str", "name/version of the model whose boxes were judged")
_SHOWN = Column("prediction_shown", "bool", "the model's boxes were shown before this was made")
_READ_AT = Column("read_at", "str", "when the reading was exported: UTC, ISO 8601")

FILMS = (
    Column("film_id", "str", "film of the catalog"),
    Column("sha256", "str", "hash of the file's bytes"),
    Column("width_px", "int64", "columns"),
    Column("height_px", "int64", "rows"),
    Column("label", "str", "the reader's; empty where it cannot be known", LABELS, nullable=True),
    Column("complete", "bool", "the whole film was read"),
    Column("threshold", "float64", "boxes of a lower score were hidden"),
    _AUTHOR,
    _MODEL,
    _SHOWN,
    Column("seen_in_training", "boolean", "the model had learned from the film; empty: not told", nullable=True),
    _READ_AT,
)
LESIONS = (
    # the detector learns no kinds, and COCO does not ask for them
    *(replace(column, nullable=True) if column.name == "kind" else column for column in catalog.LESIONS),
    Column("action", "str", "what the reader did", ACTIONS),
    Column("score", "float64", "the model's; empty for what was drawn", nullable=True),
    _AUTHOR,
    _MODEL,
    _SHOWN,
    _READ_AT,
)
REJECTED = (
    Column("film_id", "str", "film of the catalog"),
    *(Column(name, "float64", "edge of the box, px") for name in BOX_COLUMNS),
    Column("score", "float64", "the model's"),
    Column("source", "str", "feedback"),
    _AUTHOR,
    _MODEL,
    _SHOWN,
    _READ_AT,
)
TABLES: Mapping[str, tuple[Column, ...]] = {"lesions": LESIONS, "rejected": REJECTED, "films": FILMS}
"""In the order they are written: an import that was killed has not told of its films yet."""
REMEDY = "Restore the folder from git (`git checkout feedback`); where an import was killed, import its file again."

Tables = Mapping[str, pd.DataFrame]


def empty_tables() -> dict[str, pd.DataFrame]:
    """The three tables without rows."""
    return {
        name: pd.DataFrame({column: pd.Series(dtype=dtype) for column, dtype in dtypes(columns).items()})
        for name, columns in TABLES.items()
    }


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Read the three tables with the schema's types.

    Raises:
        BadInputError: naming every table that is missing or not of the schema.
    """
    found, problems = {}, []
    for name, columns in TABLES.items():
        path = folder / f"{name}.csv"
        try:
            table = pd.read_csv(
                path, dtype=dtypes(columns), keep_default_na=False, na_values=[""], float_precision="round_trip"
            )
        except FileNotFoundError:
            problems.append(f"{path.name} is missing")
            continue
        except ValueError as error:
            problems.append(f"{path.name}: a value does not have its column's type: {error}")
            continue
        if list(table.columns) != names(columns):
            problems.append(f"{path.name}: columns are {list(table.columns)}, expected {names(columns)}")
        found[name] = table
    raise_if_any(str(folder), problems, REMEDY)
    return found


def check_readings(tables: Tables, folder: Path) -> None:
    """Refuse findings and rejected boxes of a reading that films.csv does not tell of.

    Raises:
        BadInputError: naming every such table and film.
    """
    known = set(readings(tables["films"]))
    problems = [
        f"{name}.csv: film {film_id}, read by {author} at {read_at}, has no row in films.csv"
        for name in ("lesions", "rejected")
        for film_id, author, read_at in sorted(set(readings(tables[name])) - known)
    ]
    raise_if_any(str(folder), problems, REMEDY)


def check_films(tables: Tables, films: pd.DataFrame, folder: Path) -> None:
    """Refuse corrections of films that the catalog has not, or has with other bytes.

    Raises:
        BadInputError: naming every such film.
    """
    known = films.set_index("film_id")["sha256"]
    problems = [
        f"films.csv: film {film_id} {'has other bytes in the catalog' if film_id in known else 'is not in the catalog'}"
        for film_id, sha256 in tables["films"][["film_id", "sha256"]].itertuples(index=False, name=None)
        if known.get(film_id) != sha256
    ]
    raise_if_any(str(folder), problems, "Corrections belong to one data set: those of another need their own project.")


def readings(table: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Film, author and time of each row."""
    return list(table[READING].itertuples(index=False, name=None))


def of_readings(table: pd.DataFrame, wanted: Collection[tuple[str, str, str]]) -> pd.DataFrame:
    """The rows of some readings."""
    return table[np.array([reading in wanted for reading in readings(table)], dtype=np.bool_)]


def newest_readings(tables: Tables) -> dict[str, pd.DataFrame]:
    """The rows of the newest reading of each film: what is older it has replaced."""
    newest = set(readings(tables["films"].sort_values(["read_at", "author"]).groupby("film_id").tail(1)))
    return {name: of_readings(table, newest).reset_index(drop=True) for name, table in tables.items()}
