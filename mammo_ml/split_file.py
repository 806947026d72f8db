"""A user's split: a CSV of items with their roles, and, where they are given, the pictures of the items.

Every fault is named with its line, all of them in one error: a split is audited whole or not at all.
"""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_ml.datasets.catalog import FILMS, read_table
from mammo_ml.datasets.mini_mias import patient_of
from mammo_ml.errors import BadInputError, MammoError, raise_if_any
from mammo_ml.imaging.canonical import eight_bits
from mammo_ml.imaging.readers import read_film
from mammo_ml.leak_audit import pixel_keys

COLUMNS = ("item", "role", "fold", "patient_id", "film_id", "label")
RECORD_COLUMN = "step"
"""Of training_films.csv, in which a model's bundle records the films it learned from."""
TEMPLATE = """item,role,patient_id,label
mdb001.png,train,p001,benign
mdb003.png,train,p002,normal
mdb006_rot90.png,test,p003,normal
mdb013.png,test,p007,benign
"""
REMEDY = f"Nothing was audited. A file as it should be (docs/leak-audit.md has the columns):\n{TEMPLATE}"
SUFFIXES = ("", ".png", ".pgm", ".tif", ".tiff", ".jpg", ".jpeg")
"""Tried in turn on an item that is named without one."""
_MINI_MIAS = re.compile(r"(mdb\d{3})(?![0-9])[lr]?", re.IGNORECASE)
_N_MINI_MIAS = 322


@dataclass(frozen=True)
class SplitFile:
    """A sound split.

    Attributes:
        items: a row per item: item, role, place ("line 3"), patient_id, film_id (both null where unknown) and, where
            pictures were given, path, pixel_key, height_px, width_px.
        notes: what was inferred and what was not read, a sentence each.
        has_record: one side is the films a model learned from, as its bundle records them.
    """

    items: pd.DataFrame
    notes: tuple[str, ...]
    has_record: bool

    @property
    def has_pictures(self) -> bool:
        """Whether pictures were given."""
        return "pixel_key" in self.items


def read_split(
    path: Path,
    against: Path | None = None,
    films: Path | None = None,
    catalog: Path | None = None,
    progress: Callable[[int], object] = lambda pictures: None,
) -> SplitFile:
    """Read and check a split and its pictures.

    Args:
        path: CSV with `role` or `fold`, and with `item`, `film_id` or, given a catalog, `patient_id` alone.
        against: a second CSV; each file is then one side, and names no role.
        films: folder with the pictures that the items name.
        catalog: films.csv, which tells films, women and labels.
        progress: told how many more pictures were read.

    Raises:
        BadInputError: naming every fault with its line, of the tables and of the pictures.
    """
    known = None if catalog is None else read_table(catalog, FILMS)
    sides = {path: None} if against is None else {path: str(path), against: str(against)}
    tables, problems, notes = [], [], []
    for file, side in sides.items():
        table, faults = _read_rows(file, side)
        table, unknown = _films_of_women(table, known)
        tables.append(table)
        problems += faults + unknown
        if unread := [str(name) for name in table if name not in (*COLUMNS, "place", RECORD_COLUMN)]:
            notes.append(f"columns not read: {', '.join(unread)}")
    items = pd.concat(tables, ignore_index=True)
    items, inferred, faults = _name_films(items, known)
    problems += faults + _repeated(items) + _thin_roles(items)
    if films is not None:
        items, faults = _read_pictures(items, films, progress)
        problems += faults
    raise_if_any(" against ".join(map(str, sides)), problems, REMEDY)
    return SplitFile(items, (*inferred, *notes), RECORD_COLUMN in items)


def load_picture(path: Path) -> NDArray[np.uint8]:
    """Pixels (H, W) of a picture, deeper ones scaled to 8 bits.

    Raises:
        BadInputError: when it is not a picture that `readers.read_film` accepts.
    """
    return eight_bits(read_film(path))


def mini_mias_film(name: str | None) -> str | None:
    """Film mdbNNN that the name of a file begins with (also mdb001_rot90.png and mdb001l), None for other names."""
    found = _MINI_MIAS.match(Path(name or "").name)
    return found[1].lower() if found else None


def _read_rows(path: Path, side: str | None) -> tuple[pd.DataFrame, list[str]]:
    """Rows of one file as text, each with its role and place, and what is wrong with them; `side` stands for a role."""
    rows: list[dict[str, str]] = []
    problems: list[str] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            reader.fieldnames = columns = [name.strip() for name in reader.fieldnames or []]
            raise_if_any(str(path), _column_problems(columns, side), REMEDY)
            for row in reader:
                place = f"line {reader.line_num}" if side is None else f"{side} line {reader.line_num}"
                if None in row or None in row.values():
                    problems.append(f"{place}: not as many fields as the header has, {len(columns)}")
                    row.pop(None, None)
                rows.append({name: (value or "").strip() for name, value in row.items()} | {"place": place})
    except FileNotFoundError:
        raise BadInputError(str(path), ["no such file"], REMEDY) from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInputError(str(path), [f"not a CSV file: {error}"], REMEDY) from None
    raise_if_any(str(path), [] if rows else ["it lists no item"], REMEDY)
    table = pd.DataFrame(rows, columns=[*columns, "place"], dtype=object)
    if side is not None:
        table["role"] = side
    elif "role" not in table:
        table["role"] = ("fold " + table["fold"]).where(table["fold"] != "", "")
    problems += [f"{place}: role or fold is empty" for place in table["place"][table["role"] == ""]]
    return table, problems


def _column_problems(columns: list[str], side: str | None) -> list[str]:
    problems = [f"column '{name}' is there twice" for name in sorted({n for n in columns if columns.count(n) > 1})]
    if not {"item", "film_id", "patient_id"} & set(columns):
        problems.append("column 'item' (a picture file) or 'film_id' is missing")
    given = [name for name in ("role", "fold") if name in columns]
    if side is None and len(given) != 1:
        found = "both are there" if given else "neither is there"
        problems.append(f"one column 'role' (train, test …) or 'fold' (a number) is needed; {found}")
    if side is not None and given:
        problems.append(f"column '{given[0]}': with --against each file is one side, and has none")
    return problems


def _films_of_women(table: pd.DataFrame, catalog: pd.DataFrame | None) -> tuple[pd.DataFrame, list[str]]:
    """A row per item; where rows are women, as in folds.csv, a row per film of theirs, and women without films."""
    if "item" in table or "film_id" in table:
        named = table.assign(item=table["item"] if "item" in table else table["film_id"])
        return named, [f"{place}: item is empty" for place in named["place"][named["item"] == ""]]
    if catalog is None:
        raise BadInputError("rows that are women", ["their films are not known: give --catalog films.csv"], REMEDY)
    films = catalog[["patient_id", "film_id", *([] if "label" in table else ["label"])]]
    merged = table.merge(films, on="patient_id")
    unknown = table[~table["patient_id"].isin(films["patient_id"])]
    return merged.assign(item=merged["film_id"]), [
        f"{row.place}: the catalog has no film of woman {row.patient_id!r}" for row in unknown.itertuples()
    ]


def _name_films(items: pd.DataFrame, catalog: pd.DataFrame | None) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Items with film_id and patient_id, null where unknown; what was inferred; what is wrong."""
    blank = pd.Series([None] * len(items), index=items.index, dtype=object)
    film_id, women = (
        items[name].where(items[name].notna() & (items[name] != ""), None) if name in items else blank
        for name in ("film_id", "patient_id")
    )
    numbered = film_id.where(film_id.notna(), items["item"]).map(mini_mias_film)
    if catalog is not None:
        stems = items["item"].map(lambda name: Path(name).stem)
        film_id = film_id.where(film_id.notna(), numbered.where(numbered.notna(), stems))
        known = film_id.map(catalog.set_index("film_id")["patient_id"])
        notes, strange, fault = ["women and films: as the catalog says"], known.isna(), "is not in the catalog"
    else:
        film_id = film_id.where(film_id.notna(), numbered)
        strange = numbered.notna() & ~numbered.isin([f"mdb{n:03d}" for n in range(1, _N_MINI_MIAS + 1)])
        known = numbered.mask(strange, None).map(patient_of, na_action="ignore")
        notes, fault = [], f"is none of mini-MIAS's mdb001 to mdb{_N_MINI_MIAS}"
        if known.notna().any():
            notes.append(
                f"women of {known.notna().sum():,} items follow from the film's number in their name: "
                "films 2k-1 and 2k of mini-MIAS are one woman"
            )
    problems = [
        f"{place}: film {film!r} {fault}" for place, film in zip(items["place"][strange], film_id[strange], strict=True)
    ]
    problems += _contradictions(items, women, known)
    return items.assign(film_id=film_id, patient_id=known.where(known.notna(), women)), notes, problems


def _contradictions(items: pd.DataFrame, given: pd.Series, known: pd.Series) -> list[str]:
    """Women the file keeps apart although the data set says they are one: their leak would go unseen."""
    both = pd.DataFrame({"given": given, "known": known, "item": items["item"]}).dropna()
    return [
        f"patient_id: {part['item'].iloc[0]} and {part.drop_duplicates('given')['item'].iloc[1]} are of one woman "
        f"({woman}), the file says {' and '.join(map(repr, part['given'].unique()[:2]))}"
        for woman, part in both.groupby("known")
        if part["given"].nunique() > 1
    ]


def _repeated(items: pd.DataFrame) -> list[str]:
    named = items[items["item"] != ""]
    return [
        f"{part['item'].iloc[0]} is there {len(part)} times as {part['role'].iloc[0]}: {', '.join(part['place'])}"
        for _, part in named.groupby(["item", "role"], sort=False)
        if len(part) > 1
    ]


def _thin_roles(items: pd.DataFrame) -> list[str]:
    """Roles that can measure nothing: alone, of one item, or of one class."""
    by_role = [(str(role), part) for role, part in items[items["role"] != ""].groupby("role")]
    problems = [] if len(by_role) != 1 else [f"every item is {by_role[0][0]}: there is nothing to compare it with"]
    problems += [f"{role} has one item: {part['item'].iloc[0]}" for role, part in by_role if len(part) == 1]
    if "label" not in items:
        return problems
    problems += [f"{place}: label is empty" for place in items["place"][items["label"] == ""]]
    problems += [
        f"{role} has one class only: {part['label'].iloc[0]} ({len(part)} items)"
        for role, part in by_role
        if len(part) > 1 and part["label"].nunique() == 1
    ]
    return problems


def _read_pictures(
    items: pd.DataFrame, folder: Path, progress: Callable[[int], object]
) -> tuple[pd.DataFrame, list[str]]:
    """Items with path, pixel_key, height_px and width_px, and the pictures that are missing or cannot be read."""
    if not folder.is_dir():
        return items, [f"--films {folder}: no such folder"]
    found: dict[str, tuple[Path, str, int, int]] = {}
    problems: list[str] = []
    for item, place in items[items["item"] != ""].drop_duplicates("item")[["item", "place"]].itertuples(index=False):
        path = next((folder / (item + suffix) for suffix in SUFFIXES if (folder / (item + suffix)).is_file()), None)
        if path is None:
            problems.append(f"{place}: no picture {item!r} in {folder}")
            continue
        try:
            pixels = load_picture(path)
        except MammoError as error:
            problems += [f"{place}: {fault}" for fault in getattr(error, "problems", [str(error)])]
            continue
        found[item] = (path, pixel_keys(pixels[None])[0], *pixels.shape)
        progress(1)
    columns = ["path", "pixel_key", "height_px", "width_px"]
    pictures = pd.DataFrame.from_dict(found, orient="index", columns=columns)
    return items.join(pictures, on="item"), problems
