"""What the pre-training stages share: CBIS-DDSM's films of the women of the list's pre-training part, as windows."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from mammo_ml.datasets.catalog import FILMS, LESIONS, UNKNOWN_SEVERITY, read_table
from mammo_ml.datasets.cbis_ddsm import DATASET
from mammo_ml.datasets.cbis_ddsm_split import PRETRAINING, pretraining_films, women
from mammo_ml.imaging.canonical import CanonicalFilm, canonical_films
from mammo_ml.pretrained import write_start
from mammo_ml.windows import WindowFilm, WindowParameters, window_films
from pipelines import stage


def teaching(catalog: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Films, and their lesions, of the women who may be learned from, without films of masses of an unknown class."""
    films = read_table(catalog / "films.csv", FILMS)
    lesions = read_table(catalog / "lesions.csv", LESIONS)
    mixed = lesions.loc[lesions["has_location"] & (lesions["severity"] == UNKNOWN_SEVERITY), "film_id"]
    chosen = films[films["patient_id"].isin(women(PRETRAINING)) & ~films["film_id"].isin(mixed)].reset_index(drop=True)
    return pretraining_films(chosen), lesions[lesions["film_id"].isin(chosen["film_id"])]


def inner_women(films: pd.DataFrame, n: int, seed: int) -> set[str]:
    """Women whose films choose the best epoch."""
    everyone = np.array(sorted(set(films["patient_id"])))
    return set(np.random.default_rng(seed).permutation(everyone)[:n].tolist())


def write_weights(folder: Path, model: nn.Module, films: pd.DataFrame, kind: str, choice: str) -> None:
    """Write what was learned as a folder to start from: weights, the films they know, and the stage that made them.

    Args:
        folder: the stage's output.
        model: the network.
        films: `FILM_COLUMNS` of the films it learned from or was chosen on.
        kind: `detector` or `classifier`.
        choice: its base or variant.
    """
    command = f"dvc repro pipelines/studies/dvc.yaml:pretrain_{kind}@{choice}"
    write_start(folder, model, films, {"name": f"{kind}_{choice}", "dataset": DATASET, "command": command})


def windows_by_film(
    folder: Path, films: pd.DataFrame, lesions: pd.DataFrame, parameters: WindowParameters, input_px: int
) -> dict[str, WindowFilm]:
    """Every film at the scale of the network's input, by name, with a bar."""
    with stage.bar(len(films), "films at the scale of the input", "film") as advance:

        def counted() -> Iterator[CanonicalFilm]:
            for film in canonical_films(folder, films):
                yield film
                advance(1)

        return {film.film_id: film for film in window_films(counted(), lesions, parameters, input_px)}
