"""Predict the patches and films of one test fold; calibration and aggregation come from the inner part alone."""

import json

import pandas as pd

from mammo_ml.classifier import PROBABILITY_COLUMNS, ClassifierRecipe, predict_patches
from mammo_ml.cutting import PatchSet
from mammo_ml.datasets.catalog import FILMS, read_table, write_table
from mammo_ml.imaging.canonical import canonical_films
from mammo_ml.imaging.patches import TileParameters
from mammo_ml.models.classifiers import build_classifier
from mammo_ml.prediction import aggregate, calibrated, choose_aggregation, classify_tiles, fit_scaling
from mammo_ml.recipe import load_best
from mammo_ml.splits import read_folds, roles_of
from mammo_ml.training import load_weights
from pipelines import stage


def predict_classifier() -> None:
    paths = stage.arguments(__doc__, "films", "films_table", "patches", "folds", "best", "weights", "out", fold=True)
    tiling = stage.section("predict_classifier", TileParameters)
    recipe = stage.section("train_classifier", ClassifierRecipe).with_values(load_best(paths.best))
    folds, films = read_folds(paths.folds), read_table(paths.films_table, FILMS)
    model = build_classifier(recipe.network)
    load_weights(model, paths.weights)

    patch_set = PatchSet.load(paths.patches)
    role = roles_of(folds, patch_set.patches["patient_id"], paths.fold)
    patches = patch_set.patches.assign(fold=paths.fold, unit="patch", item=patch_set.patches["patch_id"])
    patches[PROBABILITY_COLUMNS] = predict_patches(model, patch_set.pictures)
    patch_scaling = fit_scaling(patches[role == "inner"])

    films = films.assign(fold=paths.fold, unit="film", item=films["film_id"])
    films["role"] = roles_of(folds, films["patient_id"], paths.fold)
    films = films[films["role"] != "train"].set_index("film_id", drop=False)
    tiles = []
    with stage.bar(len(films), f"predict classifier, fold {paths.fold}", "film") as advance:
        for film in canonical_films(paths.films, films):
            tiles.append(classify_tiles(model, film, tiling))
            advance(1)
    every_tile = pd.concat(tiles, ignore_index=True)
    inner_ids = set(films.loc[films["role"] == "inner", "film_id"])
    of_inner = every_tile["film_id"].isin(inner_ids)
    how = choose_aggregation(every_tile[of_inner], films["label"])
    films[PROBABILITY_COLUMNS] = aggregate(every_tile, how).set_index("film_id")[PROBABILITY_COLUMNS]
    film_scaling = fit_scaling(films[films["role"] == "inner"])

    kept = ["fold", "unit", "item", "film_id", "patient_id", "label", *PROBABILITY_COLUMNS]
    kept += [f"raw_{column}" for column in PROBABILITY_COLUMNS]
    write_table(calibrated(patches[role == "test"], patch_scaling)[kept], paths.out / "patches.csv")
    write_table(calibrated(films[films["role"] == "test"], film_scaling)[kept], paths.out / "films.csv")
    write_table(every_tile[~of_inner], paths.out / "tiles.csv")
    notes = {"aggregation": how, "patches": patch_scaling.to_dict(), "films": film_scaling.to_dict()}
    (paths.out / "calibration.json").write_text(json.dumps(notes, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    stage.main(predict_classifier)
