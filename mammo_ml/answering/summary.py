"""Answers of a few films as a table for the terminal."""

from collections.abc import Sequence

import pandas as pd

from mammo_ml.answering.film_answers import FilmAnswer, Lesions


def summary_table(answers: Sequence[FilmAnswer]) -> pd.DataFrame:
    """A row per film: its name, what was found, and whether the model learned from it."""
    return pd.DataFrame([_row(answer) for answer in answers])


def _row(answer: FilmAnswer) -> dict[str, object]:
    found = answer.findings
    if isinstance(found, Lesions):
        first = found.boxes[0] if found.boxes else None
        place = "" if first is None else f"{first.x1:.0f}, {first.y1:.0f} to {first.x2:.0f}, {first.y2:.0f}"
        told = {
            "p_abnormal": None if found.p_abnormal is None else f"{found.p_abnormal:.3f}",
            "boxes": len(found.boxes),
            "highest score": None if first is None else f"{first.score:.3f}",
            "its box (px)": place,
        }
        # a detector alone has no film-level probability
        told = {name: value for name, value in told.items() if name != "p_abnormal" or value is not None}
    else:
        told = {name: f"{value:.3f}" for name, value in found.model_dump().items()}
    return {"film": answer.film.file, **told, "seen in training": "YES" if answer.seen_in_training else "no"}
