"""Train one recipe on one way of cutting, by patient on every development fold, and once under the leaky protocol."""

from pathlib import Path

import numpy as np
import pandas as pd

from mammo_ml.classifier import (
    PROBABILITY_COLUMNS,
    ClassifierRecipe,
    predict_patches,
    predict_probabilities,
    task_on_patches,
    task_on_pictures,
)
from mammo_ml.cutting import PatchSet
from mammo_ml.cuttings import CuttingComparison, named
from mammo_ml.datasets.catalog import FILMS, LABELS, read_table, write_table
from mammo_ml.evaluation import rounded
from mammo_ml.patch_baseline import baseline_probabilities, patch_features
from mammo_ml.splits import N_FOLDS, make_folds, roles_of, split_at_random_leaky
from pipelines import stage
from pipelines.training_stage import refuse_one_sided_fold, train

COLUMNS = ["protocol", "fold", "item", "film_id", "patient_id", "label", *PROBABILITY_COLUMNS]
LEAKY = "patches_at_random_leaky"


def compare_cutting() -> None:
    paths = stage.arguments(__doc__, "configuration", "films_table", "patches", "out")
    asked = stage.section("compare_cutting", CuttingComparison)
    choice, recipe = asked.choice(str(paths.configuration)), asked.classifier()
    folder, names = paths.patches / choice.cutting, paths.out / "labels.csv"
    films = read_table(paths.films_table, FILMS)
    patches = named(PatchSet.load(folder), choice.patch_label)
    # Written before the training: what patches are called is also what its checkpoints are keyed by.
    write_table(patches.patches[["patch_id", "label"]], names)
    data = [folder, names]
    folds = make_folds(films, asked.folds_seed)
    features = patch_features(patches, films)
    tables = []
    for fold in range(N_FOLDS):
        roles = roles_of(folds, patches.patches["patient_id"], fold)
        refuse_one_sided_fold(fold, roles, patches.patches["label"], LABELS, "patch")
        task = task_on_patches(recipe, patches, roles == "train", roles == "inner")
        train("compare_cutting", task, recipe, data, fold=fold)
        tested = np.asarray(roles == "test")
        said = {
            "by_patient": predict_patches(task.model, patches.pictures[tested]),
            "logistic_baseline": baseline_probabilities(features, patches.labels, ~tested)[tested],
        }
        for protocol, probabilities in said.items():
            own = patches.patches[tested].assign(protocol=protocol, fold=fold, item=patches.patches["patch_id"])
            own[PROBABILITY_COLUMNS] = probabilities
            tables.append(own)
    tables.append(_leaky(patches, recipe, asked.leaky_seed, data))
    write_table(rounded(pd.concat(tables, ignore_index=True))[COLUMNS], paths.out / "predictions.csv")


def _leaky(patches: PatchSet, recipe: ClassifierRecipe, seed: int, data: list[Path]) -> pd.DataFrame:
    """The pictures that a split at random of all views tests, as a network trained on the others sees them."""
    items = patches.items_of_views()
    roles = split_at_random_leaky(len(items), seed)
    task = task_on_pictures(recipe, patches, np.flatnonzero(roles == "train"), np.flatnonzero(roles == "validation"))
    train("compare_cutting", task, recipe, data, protocol=LEAKY)
    tested: pd.DataFrame = items[roles == "test"].assign(protocol=LEAKY, fold="test")
    tested[PROBABILITY_COLUMNS] = predict_probabilities(task.model, patches.every_picture[roles == "test"])
    return tested


if __name__ == "__main__":
    stage.main(compare_cutting)
