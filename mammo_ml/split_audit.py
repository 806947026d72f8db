"""The leak audit of a user's split: shared women, films and pixels, and near-duplicates; what could not be compared."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mammo_ml.leak_audit import Audit
from mammo_ml.near_duplicates import near_duplicates
from mammo_ml.split_file import SplitFile, load_picture

NAMED = 6
"""Items named in one breath; more are counted, and all of them are in the table of pairs."""
TUNED_ON = "tuned on: a foreign file does not say on which items settings were chosen"
RECORD = "tuned on: one side is a model's record of every film it was trained, pre-trained, stopped or tuned on"
EVERY_PAIR = "--pairs FILE writes every pair, also those counted here as 'more'."
CHECKS = {
    "women_shared": ("patient_id", "woman {}"),
    "films_shared": ("film_id", "film {}"),
    "items_shared": ("item", "item {}"),
    "pictures_shared": ("pixel_key", "one picture (turned or mirrored or as it is)"),
}
PAIR_COLUMNS = ["leak", "first", "first_role", "second", "second_role", "what", "similarity"]


@dataclass(frozen=True)
class SplitAudit:
    """Leaks of a split, what was compared, inferred and not checkable (a line each), and every pair, PAIR_COLUMNS."""

    audit: Audit
    scope: tuple[str, ...]
    pairs: pd.DataFrame

    def __str__(self) -> str:
        if self.audit.leak_free:
            return "\n".join([*self.scope, "", "No leak found in what was compared."])
        counts = ", ".join(f"{name} {count:,.0f}" for name, count in self.audit.figures.items())
        leaks = [f"  - {problem}" for problem in self.audit.problems]
        leaks += [EVERY_PAIR] if any(" more (" in leak for leak in leaks) else []
        return "\n".join([*self.scope, "", f"LEAK: {counts}", *leaks, self.audit.remedy])


def audit_split(split: SplitFile, progress: Callable[[int], object] = lambda pairs: None) -> SplitAudit:
    """Compare every two roles of a split; `progress` is told how many more pairs of pictures are done."""
    items = split.items
    counts = items["role"].value_counts().sort_index()
    compared = [" against ".join(f"{role} ({count:,} items)" for role, count in counts.items())]
    problems: list[str] = []
    figures: dict[str, float] = {}
    tables: list[pd.DataFrame] = []
    distinct: list[str] = []
    for figure, (column, what) in CHECKS.items():
        known = items[items[column].notna()] if column in items else items.iloc[:0]
        # An item that is named by its film says no more than the film does.
        known = known[known["item"] != known["film_id"]] if column == "item" else known
        if known.empty:
            continue  # nothing was compared, and no figure says that it was
        found = [(str(value), rows) for value, rows in known.groupby(column) if rows["role"].nunique() > 1]
        problems += [f"{what.format(value)} is on both sides: {_sides(rows)}" for value, rows in found]
        figures[figure] = float(len(found))
        distinct.append(f"{known[column].nunique():,} {figure.removesuffix('_shared')}")
        tables += [_pairs(rows, figure, value if column != "pixel_key" else "") for value, rows in found]
    compared += [", ".join(distinct)] if distinct else []
    not_checkable = _unknown(items)
    if split.has_pictures:
        near, n_compared, n_plain = _near(items, progress)
        problems += _near_lines(near)
        figures["near_duplicates"] = float(len(near))
        tables.append(near)
        compared.append(f"texture of {n_compared:,} pairs of pictures, in every turn")
        if n_plain:
            not_checkable.append(f"near-duplicates of {n_plain:,} pairs: a picture is too small or too plain for it")
    (compared if split.has_record else not_checkable).append(RECORD if split.has_record else TUNED_ON)
    pairs = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=PAIR_COLUMNS)
    scope = [f"compared: {line}" for line in compared]
    scope += [f"note: {line}" for line in split.notes]
    scope += [f"not checkable: {line}" for line in not_checkable]
    return SplitAudit(Audit(tuple(problems), figures), tuple(scope), pairs)


def _unknown(items: pd.DataFrame) -> list[str]:
    """What cannot be compared, because the list does not say it."""
    lines: list[str] = []
    for column, what in (("patient_id", "women"), ("film_id", "films")):
        if n_unknown := int(items[column].isna().sum()):
            part = "" if n_unknown == len(items) else f" of {n_unknown:,} of {len(items):,} items"
            lines.append(f"{what}{part}: {column} not given")
    return lines if "pixel_key" in items else [*lines, "pixels, near-duplicates: no pictures given (--films FOLDER)"]


def _sides(rows: pd.DataFrame) -> str:
    return "; ".join(f"{_some(list(part['item']))} ({role})" for role, part in rows.groupby("role"))


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def _pairs(rows: pd.DataFrame, leak: str, what: str) -> pd.DataFrame:
    """Every pair of these items whose roles differ."""
    sides = rows[["item", "role"]].reset_index()
    both = sides.merge(sides, how="cross", suffixes=("", "_2"))
    both = both[(both["index"] < both["index_2"]) & (both["role"] != both["role_2"])]
    named = both.rename(columns=dict(zip(["item", "role", "item_2", "role_2"], PAIR_COLUMNS[1:5], strict=True)))
    return named.assign(leak=leak, what=what, similarity=np.nan)[PAIR_COLUMNS]


def _near(items: pd.DataFrame, progress: Callable[[int], object]) -> tuple[pd.DataFrame, int, int]:
    """Near-duplicates that are not told by name or equal pixels already; pairs compared, and pairs too plain for it."""
    rows = items.reset_index(drop=True)
    paths = list(rows["path"])
    shapes = list(zip(rows["height_px"], rows["width_px"], strict=True))
    found = near_duplicates(shapes, lambda place: load_picture(paths[place]), rows["role"].to_numpy(str), progress)
    sizes = rows["role"].value_counts()
    pairs = []
    for pair in found.pairs:
        if rows["pixel_key"][pair.first] != rows["pixel_key"][pair.second]:
            # The smaller role, most often the tested one, leads: each of its items gets a line.
            ends = sorted((pair.first, pair.second), key=lambda place: sizes[rows["role"][place]])
            named = [rows[column][end] for end in ends for column in ("item", "role")]
            pairs.append(("near_duplicates", *named, "", round(pair.similarity, 3)))
    table = pd.DataFrame(pairs, columns=PAIR_COLUMNS)
    return table, found.n_compared, found.n_too_plain


def _near_lines(near: pd.DataFrame) -> list[str]:
    """A line for each picture and role in which it has near-duplicates, the most alike first."""
    lines = []
    for (first, role, other), part in near.groupby(["first", "first_role", "second_role"], sort=False):
        ordered = part.sort_values("similarity", ascending=False)
        alike = [f"{row.second} {row.similarity:.2f}" for row in ordered.itertuples()]
        lines.append(f"near-duplicate: {first} ({role}) is like {_some(alike)} ({other})")
    return lines
