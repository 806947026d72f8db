"""What two lists of items share: women, films, pixels. One thing in common is a leak."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_ml.errors import BadInputError, raise_if_any

SPLIT_REMEDY = "The figures of such a split measure memory. Split by patient first, augment after."
ANCESTRY_REMEDY = "Figures on films a model or its ancestors learned from measure memory. Test on other women."


@dataclass(frozen=True)
class Audit:
    """Leaks found; `problems` names each, `figures` counts them, `remedy` says what to do."""

    problems: tuple[str, ...]
    figures: dict[str, float]
    remedy: str = SPLIT_REMEDY

    @property
    def leak_free(self) -> bool:
        """True when nothing is shared."""
        return not self.problems

    def raise_if_leaking(self) -> None:
        """Raise BadInputError naming every shared woman, film and picture."""
        if self.problems:
            raise BadInputError("leak audit", list(self.problems), self.remedy)


def pixel_keys(images: NDArray[np.uint8]) -> list[str]:
    """One key per image (N, H, W) that its eight rotations and mirrorings share."""
    return [_symmetric_key(image) for image in images]


def _symmetric_key(image: NDArray[np.uint8]) -> str:
    turns = [np.rot90(image, k) for k in range(4)]
    views = turns + [np.fliplr(turn) for turn in turns]
    # The shape belongs to the key: 2 x 3 and 3 x 2 pixels can have the same bytes.
    return min(hashlib.sha256(repr(view.shape).encode() + view.tobytes()).hexdigest() for view in views)


def audit_roles(items: pd.DataFrame, roles: NDArray[np.str_], where: str) -> Audit:
    """Compare the items of every two roles.

    Args:
        items: columns item, patient_id, film_id and, where pictures exist, pixel_key.
        roles: (N,) role of each item.
        where: starts each line of the findings, as in "fold 0".
    """
    problems: list[str] = []
    figures = {"women_shared": 0.0, "films_shared": 0.0, "pictures_shared": 0.0}
    columns = {"women_shared": "patient_id", "films_shared": "film_id", "pictures_shared": "pixel_key"}
    for first, second in combinations(sorted(set(roles)), 2):
        for figure, column in columns.items():
            if column not in items:
                continue
            shared = sorted(set(items[column][roles == first]) & set(items[column][roles == second]))
            figures[figure] += len(shared)
            problems += [_describe(items, roles, column, value, first, second, where) for value in shared]
    return Audit(tuple(problems), figures)


def _describe(
    items: pd.DataFrame, roles: NDArray[np.str_], column: str, value: str, first: str, second: str, where: str
) -> str:
    sides = [items[(items[column] == value).to_numpy() & (roles == role)]["item"].iloc[0] for role in (first, second)]
    what = {"patient_id": f"woman {value}", "film_id": f"film {value}", "pixel_key": "one picture"}[column]
    return f"{where}: {what} is on both sides: {sides[0]} ({first}), {sides[1]} ({second})"


def merge(audits: Iterable[Audit]) -> Audit:
    """One audit out of several: findings joined, counts added."""
    audits = list(audits)
    figures: dict[str, float] = {}
    for audit in audits:
        for name, value in audit.figures.items():
            figures[name] = figures.get(name, 0.0) + value
    return Audit(tuple(problem for audit in audits for problem in audit.problems), figures)


def audit_ancestry(training_films: pd.DataFrame, tested: pd.DataFrame, stage: str) -> Audit:
    """Compare every film that a model or its ancestors learned from, were tuned or stopped on, with a test set.

    Women and films are those of a data set: the same name in another one is another. Bytes are compared whatever
    their name.

    Args:
        training_films: columns film_id, sha256, dataset, patient_id, step (as in "training", "pretraining").
        tested: columns film_id, sha256, dataset, patient_id; for cuts and tiles, those of the films they come from.
        stage: starts each line of the findings.

    Raises:
        BadInputError: when a table lacks a column or has none or unknown values: nothing could then be shown.
    """
    _raise_if_silent(training_films, ["film_id", "sha256", "dataset", "patient_id", "step"], f"{stage}: training films")
    _raise_if_silent(tested, ["film_id", "sha256", "dataset", "patient_id"], f"{stage}: tested films")
    keys = {
        "women_shared": ["dataset", "patient_id"],
        "films_shared": ["dataset", "film_id"],
        "sha256_shared": ["sha256"],
    }
    learned = training_films.assign(seen=training_films["film_id"] + " (" + training_films["step"] + ")")
    figures: dict[str, float] = {}
    problems: list[str] = []
    for figure, columns in keys.items():
        seen = learned.groupby(columns)["seen"].agg(lambda films: ", ".join(sorted(set(films)))).reset_index()
        shared = tested.drop_duplicates(columns).merge(seen, on=columns).sort_values(columns)
        figures[figure] = float(len(shared))
        problems += [
            f"{stage}: {_shared_thing(columns[-1], row)} is on both sides: {row.film_id} (tested), {row.seen}"
            for row in shared.itertuples()
        ]
    return Audit(tuple(problems), figures, ANCESTRY_REMEDY)


def _shared_thing(column: str, row: Any) -> str:
    return {
        "patient_id": f"woman {row.patient_id} of {row.dataset}",
        "film_id": f"film {row.film_id} of {row.dataset}",
        "sha256": f"a file (sha256 {row.sha256[:12]}…)",
    }[column]


def _raise_if_silent(table: pd.DataFrame, columns: list[str], what: str) -> None:
    """Refuse a table that shares nothing only because it says nothing."""
    problems = [f"column '{column}' is missing" for column in columns if column not in table]
    problems += [] if len(table) else ["no rows, so nothing was compared"]
    for column in (column for column in columns if column in table):
        unknown = table[column].isna() | (table[column] == "")
        problems += [f"row {number}: {column} is unknown" for number in np.flatnonzero(unknown)]
    raise_if_any(what, problems, "Name every film with its data set, woman and hash: the model bundle holds them.")
