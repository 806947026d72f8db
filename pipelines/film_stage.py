"""What the stages that look at whole films share."""

from pathlib import Path

import pandas as pd

from mammo_ml.imaging.canonical import CanonicalFilm, canonical_films
from pipelines import stage


def canonical_by_name(folder: Path, films: pd.DataFrame) -> dict[str, CanonicalFilm]:
    """Every film of a table as models see it, by film_id, with a bar."""
    found = {}
    with stage.bar(len(films), "canonical films", "film") as advance:
        for film in canonical_films(folder, films):
            found[film.film_id] = film
            advance(1)
    return found
