"""Train one configuration of the detector with every seed on every development fold, and predict the films left out."""

import pandas as pd

from mammo_ml.comparisons import DetectorComparison
from mammo_ml.cutting import cut_detector_cuts
from mammo_ml.datasets.catalog import BOX_COLUMNS, FILMS, LESIONS, read_table, write_table
from mammo_ml.detector import task_on_cuts
from mammo_ml.evaluation import rounded
from mammo_ml.prediction import FilmDetectionParameters, detect_on_films
from mammo_ml.splits import N_FOLDS, make_folds, roles_of
from pipelines import stage
from pipelines.film_stage import canonical_by_name
from pipelines.training_stage import train


def compare_detector() -> None:
    paths = stage.arguments(__doc__, "configuration", "films", "catalog", "out")
    asked, name = stage.section("compare_detector", DetectorComparison), str(paths.configuration)
    looking = stage.section("predict_detector", FilmDetectionParameters)
    films = read_table(paths.catalog / "films.csv", FILMS)
    lesions = read_table(paths.catalog / "lesions.csv", LESIONS)
    folds = make_folds(films, asked.folds_seed)
    canonical = canonical_by_name(paths.films, films)
    cuts = cut_detector_cuts(films, canonical, lesions, asked.cutting(name))
    # Kept beside the predictions: checkpoints are keyed by it.
    cuts.save(paths.out / "cuts")
    tables = []
    for seed in asked.seeds:
        recipe = asked.recipe(name, seed)
        for fold in range(N_FOLDS):
            roles = roles_of(folds, cuts.cuts["patient_id"], fold)
            task = task_on_cuts(recipe, cuts, roles == "train", roles == "inner")
            train("compare_detector", task, recipe, [paths.out / "cuts"], fold=fold, protocol="films_by_patient")
            own = films.loc[roles_of(folds, films["patient_id"], fold) == "test", "film_id"]
            found = detect_on_films(task.model, (canonical[film_id] for film_id in own), looking)
            tables.append(found.assign(seed=seed, fold=fold))
    columns = ["seed", "fold", "film_id", *BOX_COLUMNS, "p_benign", "p_malignant"]
    write_table(rounded(pd.concat(tables, ignore_index=True))[columns], paths.out / "predictions.csv")


if __name__ == "__main__":
    stage.main(compare_detector)
