"""`mammo-ml feedback import`: exported corrections, checked, become rows of the tables a project keeps in git."""

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mammo_ml.datasets import catalog
from mammo_ml.datasets.catalog import read_table, write_table
from mammo_ml.errors import BadInputError, raise_if_any
from mammo_ml.feedback.checks import film_of, normal_time, printable, problems_of
from mammo_ml.feedback.export import Export, read_export
from mammo_ml.feedback.tables import (
    FOLDER,
    READING,
    REMEDY,
    TABLES,
    Tables,
    check_films,
    empty_tables,
    of_readings,
    read_tables,
    readings,
)
from mammo_ml.pipeline_run import only_run
from mammo_ml.tracking import computed_md5

REFUSED = "Nothing was imported. Correct it on the page and export again; a file is never mended by hand."
DRAFTS = Path(".state") / "feedback"
"""Beside the lock, not beside the tables: what a kill leaves there is no new data version."""


@dataclass(frozen=True)
class Imported:
    """What an import brought.

    Attributes:
        films: a row per film: film, accepted, moved, relabelled, drawn, rejected, author, shown.
        totals: rows of each table now.
        version: md5 of the folder, as DVC forms it and dvc.lock tells it.
    """

    films: pd.DataFrame
    totals: dict[str, int]
    version: str


def import_feedback(files: Sequence[Path], workspace: Path, *, dry_run: bool = False) -> Imported:
    """Check exported corrections and append them to `feedback/` of a workspace: all of them, or none.

    Args:
        files: ZIP or JSON files of the web page.
        workspace: folder with dvc.yaml and data/catalog.
        dry_run: check and count, write nothing.

    Raises:
        BadInputError: naming every problem of every file.
        MammoError: when a run is going on in the workspace.
    """
    workspace = workspace.resolve()
    films_table = workspace / "data" / "catalog" / "films.csv"
    if not films_table.is_file():
        problem = f"{films_table} is not there: which films can be corrected is not known"
        raise BadInputError(str(workspace), [problem], "Name the project's folder (--workspace); `make repro` first.")
    films = read_table(films_table, catalog.FILMS)
    with contextlib.nullcontext() if dry_run else only_run(workspace):
        before = read_tables(workspace / FOLDER)
        # an import that was killed may have left findings whose films are not told yet: its file brings them again
        told = set(readings(before["films"]))
        arriving = _checked(files, films, before, workspace / "expectations")
        torn = {reading for name in ("lesions", "rejected") for reading in readings(before[name])} - told
        lost = sorted(torn - set(readings(arriving["films"])))
        raise_if_any(
            str(workspace / FOLDER), [f"{' '.join(reading)} has findings and no row in films.csv" for reading in lost],
            REMEDY,
        )  # fmt: skip
        kept = {name: of_readings(table, told) for name, table in before.items()}
        after = {name: _sorted(name, kept[name], arriving[name]) for name in TABLES}
        check_films(after, films, workspace / FOLDER)
        return _written(after, workspace, _summary(arriving), dry_run=dry_run)


def _checked(files: Sequence[Path], films: pd.DataFrame, before: Tables, suites: Path) -> dict[str, pd.DataFrame]:
    """What the files bring, as rows of our tables."""
    problems, arriving = [], [empty_tables()]
    seen: set[tuple[str, str, str]] = set()
    for file in files:
        export = read_export(file)
        found = [*map(printable, export.problems), *problems_of(export.tables, films, before, suites)]
        if not found and export.tables["films"].empty:
            found.append(f"{file.name}: holds no film: mark films as read on the page, or accept, reject, draw")
        if not found:
            ours = _our_tables(export, films)
            twice = seen & set(readings(ours["films"]))
            found += [
                f"{file.name}: film {film}, read by {who} at {at}, is in an earlier file" for film, who, at in twice
            ]
            seen |= set(readings(ours["films"]))
            arriving.append(ours)
        problems += found
    raise_if_any("corrections", problems, REFUSED)
    return {name: pd.concat([one[name] for one in arriving[1:]], ignore_index=True) for name in TABLES}


def _our_tables(export: Export, catalog_films: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Exported tables with the catalog's names of films, names of findings of our own, and the time of the reading."""
    exported = export.tables["films"].to_dict("records")
    name = {film["film_id"]: film_of(film["film_id"], film["sha256"], catalog_films) for film in exported}
    time = {film["film_id"]: normal_time(film["read_at"]) for film in exported}
    found = {}
    for table, columns in TABLES.items():
        rows = export.tables[table]
        rows = rows.assign(read_at=rows["film_id"].map(time), film_id=rows["film_id"].map(name))
        if table == "lesions":
            numbers = rows.groupby("film_id").cumcount() + 1
            own = [_finding_id(*reading, n) for reading, n in zip(readings(rows), numbers, strict=True)]
            rows = rows.assign(lesion_id=pd.Series(own, index=rows.index, dtype="str"))
        found[table] = rows[[column.name for column in columns]].astype({c.name: c.dtype for c in columns})
    return found


def _finding_id(film_id: str, author: str, read_at: str, number: int) -> str:
    """A name that two readings of one film do not share."""
    return f"{film_id}_feedback_{hashlib.sha256(f'{author} {read_at}'.encode()).hexdigest()[:8]}_{number}"


def _sorted(name: str, before: pd.DataFrame, arriving: pd.DataFrame) -> pd.DataFrame:
    order = {"films": READING, "lesions": [*READING, "lesion_id"], "rejected": [*READING, "x1", "y1", "x2", "y2"]}
    both = pd.concat([table for table in (before, arriving) if len(table)] or [before])
    return both.sort_values(order[name], kind="stable").reset_index(drop=True)


def _summary(arriving: Tables) -> pd.DataFrame:
    rows = []
    for film in arriving["films"].to_dict("records"):
        reading = (film["film_id"], film["author"], film["read_at"])
        own = {name: of_readings(table, {reading}) for name, table in arriving.items()}
        actions = own["lesions"]["action"]
        rows.append(
            {
                "film": film["film_id"],
                "accepted": (actions == "accepted").sum(),
                "moved": actions.isin(["moved", "moved and relabelled"]).sum(),
                "relabelled": (actions == "relabelled").sum(),
                "drawn": (actions == "drawn").sum(),
                "rejected": len(own["rejected"]),
                "author": film["author"],
                "shown": "yes" if film["prediction_shown"] else "no",
            }
        )
    return pd.DataFrame(rows)


def _written(tables: Tables, workspace: Path, summary: pd.DataFrame, *, dry_run: bool) -> Imported:
    drafts, folder = workspace / DRAFTS, workspace / FOLDER
    totals = {name: len(table) for name, table in tables.items()}
    if dry_run:
        return Imported(summary, totals, "")
    for name, table in tables.items():
        write_table(table, drafts / f"{name}.csv")
    for name in TABLES:
        (drafts / f"{name}.csv").replace(folder / f"{name}.csv")
    drafts.rmdir()
    return Imported(summary, totals, computed_md5(folder))
