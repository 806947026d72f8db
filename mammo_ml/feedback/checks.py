"""Whether exported corrections can be believed: suites of expectations, and beside them what no suite can express.

A suite sees one table. Here films are told by the hash of their bytes, rows of one table by those of another, and
readings by those that were imported before.
"""

import re
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from mammo_ml.data_quality import validate
from mammo_ml.feedback.export import ROW
from mammo_ml.feedback.tables import Tables, readings

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)")
OF_FILM = ("author", "model")
"""What a row of another table repeats of its film's."""
MAX_LINE = 400
ALL_NULL = "values are null, so nothing was checked"
"""What the gate says of a column of nulls. Here every cell that must not be null was told when it was read."""


def problems_of(tables: Tables, catalog: pd.DataFrame, imported: Tables, suites: Path) -> list[str]:
    """Every problem of exported tables, each with its file, table and row.

    Args:
        tables: films, lesions and rejected of one file, as `read_export` gives them.
        catalog: films.csv of the data set.
        imported: the tables the project holds already.
        suites: folder of the expectation suites.
    """
    found = [*_of_suites(tables, suites), *_of_films(tables["films"], catalog, imported["films"])]
    for name in ("lesions", "rejected"):
        found += _of_other_table(tables[name], tables["films"])
    lesions = tables["lesions"]
    same = lesions.duplicated(["film_id", "lesion_id"]) | lesions.duplicated(["film_id", "x1", "y1", "x2", "y2"])
    found += [f"{row}: the same finding stands in an earlier row" for row in lesions.loc[same, ROW]]
    rejected = tables["rejected"]
    same = rejected.duplicated(["film_id", "x1", "y1", "x2", "y2"])
    found += [f"{row}: the same box stands in an earlier row" for row in rejected.loc[same, ROW]]
    return list(dict.fromkeys(map(printable, found)))


def printable(text: str) -> str:
    """A line that cannot write to a terminal what the terminal would obey, nor fill it."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in text)
    return clean if len(clean) <= MAX_LINE else f"{clean[:MAX_LINE]}…"


def normal_time(text: str) -> str | None:
    """A time with its zone as UTC to the millisecond, ISO 8601; None where it is none."""
    if not TIME.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def film_of(name: str, sha256: str, catalog: pd.DataFrame) -> str | None:
    """The catalog's film of these bytes; of two copies the one of this name."""
    same = list(catalog.loc[catalog["sha256"] == sha256, "film_id"])
    return name if name in same else next(iter(same), None)


# --------------------------------------------------------------------------------------------------------------- suites


def _of_suites(tables: Tables, suites: Path) -> list[str]:
    """What contradicts the suites; a table without rows has nothing to contradict them."""
    sizes = tables["films"].drop_duplicates("film_id")[["film_id", "width_px", "height_px"]]
    checked: dict[str, pd.DataFrame] = {}
    for name, table in tables.items():
        frame = table
        if name != "films":
            frame = table.merge(sizes, on="film_id", how="inner").assign(film_x1=0.0, film_y1=0.0)
        if name == "lesions":
            frame = frame.assign(of_model=frame["action"] != "drawn")
        if len(frame):
            checked[f"feedback_{name}"] = _plain_types(frame)
    if not checked:
        return []
    with tempfile.TemporaryDirectory() as pages:
        report = validate(checked, suites, Path(pages))
    return [
        f"{row}: {failure.expectation} ({failure.suite}: {failure.found})"
        for failure in report.failures
        for row in failure.rows or (failure.suite,)
        if not failure.found.endswith(ALL_NULL)
    ]


def _plain_types(table: pd.DataFrame) -> pd.DataFrame:
    """Without pandas' nullable types, which Great Expectations does not count on."""
    kinds = {"Int64": "float64", "boolean": "object"}
    return table.astype({name: kinds[str(dtype)] for name, dtype in table.dtypes.items() if str(dtype) in kinds})


# ------------------------------------------------------------------------------------------------------------ our own


def _of_films(films: pd.DataFrame, catalog: pd.DataFrame, imported: pd.DataFrame) -> list[str]:
    found = []
    before = set(readings(imported))
    sizes = catalog.set_index("film_id")[["width_px", "height_px"]].to_dict("index")
    for film in films.to_dict("records"):
        row, name = film[ROW], film["film_id"]
        known = film_of(name, film["sha256"], catalog)
        if known is None:
            found.append(
                f"{row}: film {name} (sha256 {film['sha256'][:12]}…) is not of this data set; only its films can be "
                "corrected: leave this one out on the page and export again"
            )
        elif known != name and name in sizes:
            found.append(
                f"{row}: film {name} has the bytes of film {known} (sha256 {film['sha256'][:12]}…); "
                "find out which of the two was read, give the file its right name and read it again"
            )
        else:
            found += _size_fault(film, known, sizes[known])
        time = normal_time(film["read_at"])
        if time is None:
            found.append(f"{row}: read_at {film['read_at']!r} is no time with a zone, as in 2026-05-04T12:30:00.000Z")
        elif (known, film["author"], time) in before:
            found.append(f"{row}: film {known}, read by {film['author']} at {time}, was imported already; leave it out")
    for column in ("film_id", "sha256"):
        twice = films[films[column].duplicated() & (films[column] != "")]
        found += [f"{row}: a film with this {column} stands in an earlier row" for row in twice[ROW]]
    return found


def _size_fault(film: Mapping[Any, Any], known: str, size: Mapping[Any, Any]) -> list[str]:
    told = (film["width_px"], film["height_px"])
    if any(pd.isna(edge) for edge in told) or told == (size["width_px"], size["height_px"]):
        return []
    return [
        f"{film[ROW]}: the film is told to have {told[0]} x {told[1]} px, film {known} has {size['width_px']} x "
        f"{size['height_px']} px; its boxes would lie elsewhere: read the film itself, not a picture of it"
    ]


def _of_other_table(table: pd.DataFrame, films: pd.DataFrame) -> list[str]:
    """Rows whose film is not in films.csv, or tells another author or model than they do."""
    known = films.drop_duplicates("film_id").set_index("film_id")[list(OF_FILM)].to_dict("index")
    found = []
    for row in table.to_dict("records"):
        film = known.get(row["film_id"])
        if film is None:
            found.append(f"{row[ROW]}: film {row['film_id']!r} has no row in films.csv")
            continue
        found += [
            f"{row[ROW]}: {column} is {row[column]!r}, that of its film is {film[column]!r}"
            for column in OF_FILM
            if row[column] != film[column]
        ]
    return found
