"""What two lists of items share: women, films, pixels. One thing in common is a leak."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_ml.errors import BadInputError


@dataclass(frozen=True)
class Audit:
    """Leaks found; `problems` names each, `figures` counts them."""

    problems: tuple[str, ...]
    figures: dict[str, float]

    @property
    def leak_free(self) -> bool:
        """True when nothing is shared."""
        return not self.problems

    def raise_if_leaking(self) -> None:
        """Raise BadInputError naming every shared woman, film and picture."""
        if self.problems:
            raise BadInputError(
                "leak audit",
                list(self.problems),
                "The figures of such a split measure memory. Split by patient first, augment after.",
            )


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
