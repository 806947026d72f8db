"""Copies of one film under two women: no split by patient can keep them apart, so they stop the pipeline."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_ml.leak_audit import Audit
from mammo_ml.near_duplicates import near_duplicates

MIN_SIMILARITY = 0.4
"""Higher than `near_duplicates` asks: what stops a pipeline must be sure. The weakest of 133 planted copies of films
reached 0.48, real films of different women 0.17, phantoms, whose texture lies on a grid, 0.31: docs/leak-audit.md."""
REMEDY = "They are one film: give both rows of films.csv the same patient_id, or leave one film out."


def audit_copies(
    films: pd.DataFrame,
    load: Callable[[str], NDArray[np.uint8]],
    progress: Callable[[int], object] = lambda pairs: None,
) -> Audit:
    """Compare the fine texture of every two films of different women, turned and mirrored in all eight ways.

    Args:
        films: films.csv: film_id, patient_id, path, height_px, width_px.
        load: pixels uint8 (H, W) of a film by its path; called once for each film.
        progress: told how many more pairs are done.
    """
    rows = films.reset_index(drop=True)
    shapes = list(zip(rows["height_px"], rows["width_px"], strict=True))
    women = rows["patient_id"].to_numpy(dtype=np.str_)
    found = near_duplicates(shapes, lambda place: load(rows["path"][place]), women, progress)
    copies = [pair for pair in found.pairs if pair.similarity >= MIN_SIMILARITY]
    names = rows["film_id"] + " (woman " + rows["patient_id"] + ")"
    problems = tuple(
        f"film {names[pair.first]} and film {names[pair.second]} are copies: similarity {pair.similarity:.2f}"
        for pair in copies
    )
    return Audit(problems, {"copied_films": float(len(copies))}, REMEDY)


def pairs_of_different_women(films: pd.DataFrame) -> int:
    """Number of pairs that `audit_copies` compares."""
    own = films["patient_id"].value_counts().to_numpy()
    return int(len(films) * (len(films) - 1) // 2 - (own * (own - 1) // 2).sum())
