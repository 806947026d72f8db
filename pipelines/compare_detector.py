"""Train one configuration of the detector with every seed on every development fold, and predict the films left out."""

import pandas as pd

from mammo_ml.comparisons import DetectorComparison
from mammo_ml.cutting import CutSet
from mammo_ml.datasets.catalog import BOX_COLUMNS, FILMS, read_table, write_table
from mammo_ml.detector import task_on_cuts
from mammo_ml.evaluation import rounded
from mammo_ml.imaging.canonical import canonical_films
from mammo_ml.prediction import FilmDetectionParameters, detect_on_films
from mammo_ml.splits import N_FOLDS, make_folds, roles_of
from pipelines import stage
from pipelines.training_stage import train


def compare_detector() -> None:
    paths = stage.arguments(__doc__, "configuration", "films", "films_table", "cuts", "out")
    asked = stage.section("compare_detector", DetectorComparison)
    looking = stage.section("predict_detector", FilmDetectionParameters)
    films, cuts = read_table(paths.films_table, FILMS), CutSet.load(paths.cuts)
    folds = make_folds(films, asked.folds_seed)
    with stage.bar(len(films), "films at the scale of the input", "film") as advance:
        canonical = {}
        for film in canonical_films(paths.films, films):
            canonical[film.film_id] = film
            advance(1)
    tables = []
    for seed in asked.seeds:
        recipe = asked.recipe(str(paths.configuration), seed)
        for fold in range(N_FOLDS):
            roles = roles_of(folds, cuts.cuts["patient_id"], fold)
            task = task_on_cuts(recipe, cuts, roles == "train", roles == "inner")
            train("compare_detector", task, recipe, [paths.cuts], fold=fold, protocol="films_by_patient")
            own = films.loc[roles_of(folds, films["patient_id"], fold) == "test", "film_id"]
            found = detect_on_films(task.model, (canonical[name] for name in own), looking)
            tables.append(found.assign(seed=seed, fold=fold))
    columns = ["seed", "fold", "film_id", *BOX_COLUMNS, "p_benign", "p_malignant"]
    write_table(rounded(pd.concat(tables, ignore_index=True))[columns], paths.out)


if __name__ == "__main__":
    stage.main(compare_detector)
