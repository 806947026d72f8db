"""Teach a detector one way, with every seed, and look with it at the women of each set that it has not seen."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch

from mammo_ml.datasets.catalog import BOX_COLUMNS, FILMS, LESIONS, read_table, write_table
from mammo_ml.evaluation import rounded
from mammo_ml.imaging.canonical import CanonicalFilm, canonical_films
from mammo_ml.models.ssd import LesionSSD, build_detector
from mammo_ml.prediction import FilmDetectionParameters, detect_on_films
from mammo_ml.splits import make_folds, roles_of
from mammo_ml.transfer import (
    MINI_MIAS,
    SETS,
    Phases,
    TransferParameters,
    balanced,
    films_of_study,
    folds_taught,
    is_taught,
)
from mammo_ml.windows import WindowTask, window_films
from pipelines import stage
from pipelines.training_stage import train

_PARTS = ("films", "catalog")
COLUMNS = ["dataset", "seed", "fold", "film_id", *BOX_COLUMNS, "p_benign", "p_malignant"]


class _Set:
    """Films of one set: what may teach as windows, what is looked at as it is."""

    def __init__(self, name: str, folder: Path, catalog: Path, asked: TransferParameters, teaches: bool) -> None:
        self.name, self.data = name, [folder / "manifest.json", catalog]
        every_lesion = read_table(catalog / "lesions.csv", LESIONS)
        self.films = films_of_study(name, read_table(catalog / "films.csv", FILMS), every_lesion, asked)
        lesions = every_lesion[every_lesion["film_id"].isin(self.films["film_id"])]
        shown = self.films if teaches else self.films[self.films["apart"]]
        looked_at = set(self.films.loc[self.films["apart"], "film_id"])
        self.canonical: dict[str, CanonicalFilm] = {}
        with stage.bar(len(shown), f"{name}: films at 0.2 mm", "film") as advance:

            def seen() -> Iterator[CanonicalFilm]:
                for film in canonical_films(folder, shown):
                    if film.film_id in looked_at:
                        self.canonical[film.film_id] = film
                    advance(1)
                    if teaches:
                        yield film

            edge = build_detector(asked.network).side_px
            self.windows = {film.film_id: film for film in window_films(seen(), lesions, asked.windows, edge)}


def compare_transfer() -> None:
    paths = stage.arguments(__doc__, "configuration", *(f"{name}_{part}" for name in SETS for part in _PARTS), "out")
    asked = stage.section("compare_transfer", TransferParameters)
    looking = stage.section("predict_detector", FilmDetectionParameters)
    phases = asked.phases_of(str(paths.configuration))
    teaching = {name for phase in phases for name in phase}
    sets = {}
    for name in SETS:
        folder, catalog = (getattr(paths, f"{name}_{part}") for part in _PARTS)
        sets[name] = _Set(name, folder, catalog, asked, name in teaching)
    folds = make_folds(sets[MINI_MIAS].films, asked.folds_seed)
    tables = []
    for seed in asked.seeds:
        for fold in folds_taught(phases):
            model = _taught(phases, seed, fold, asked, sets, folds)
            for own in sets.values():
                tables += [
                    found.assign(dataset=own.name, seed=seed, fold=fold)
                    for found in _found(model, own, fold, folds, phases, looking)
                ]
    write_table(rounded(pd.concat(tables, ignore_index=True))[COLUMNS], paths.out)


def _taught(
    phases: Phases, seed: int, fold: int, asked: TransferParameters, sets: dict[str, _Set], folds: pd.DataFrame
) -> LesionSSD:
    """A network after all phases; a phase in which mini-MIAS teaches nothing is the same for every fold."""
    torch.manual_seed(seed)
    model = build_detector(asked.network)
    for number in range(1, len(phases) + 1):
        so_far = phases[:number]
        recipe = asked.recipe(so_far, seed)
        own = {}
        for name in so_far[-1]:
            one = sets[name]
            chosen = is_taught(one.films, folds, fold) if name == MINI_MIAS else ~one.films["apart"]
            own[name] = [one.windows[film_id] for film_id in one.films.loc[chosen, "film_id"]]
        task = WindowTask(model, balanced(own), [], recipe.windows, recipe.augmentation, seed)
        data = [path for name in SETS if any(name in phase for phase in so_far) for path in sets[name].data]
        train(
            "compare_transfer",
            task,
            recipe,
            data,
            fold=fold if any(MINI_MIAS in phase for phase in so_far) else None,
            protocol="films_by_patient",
            epochs=recipe.training.epochs,
        )
    return model


def _found(
    model: LesionSSD, own: _Set, fold: int, folds: pd.DataFrame, phases: Phases, looking: FilmDetectionParameters
) -> list[pd.DataFrame]:
    """Boxes on the films of a set that this network may be judged by; the other sets are looked at once, by fold 0."""
    films = own.films[own.films["apart"]]
    if own.name == MINI_MIAS:
        if len(folds_taught(phases)) > 1:
            films = films[roles_of(folds, films["patient_id"], fold) == "test"]
    elif fold:
        return []
    with stage.bar(len(films), f"{own.name}: looked at", "film") as advance:
        found = []
        for name in films["film_id"]:
            found.append(detect_on_films(model, [own.canonical[name]], looking))
            advance(1)
    return found


if __name__ == "__main__":
    stage.main(compare_transfer)
