"""Train one configuration of the classifier with every seed on every development fold; predict the patches left out."""

import pandas as pd

from mammo_ml.classifier import PROBABILITY_COLUMNS, predict_patches, task_on_patches
from mammo_ml.comparisons import ClassifierComparison
from mammo_ml.cutting import PatchSet
from mammo_ml.datasets.catalog import FILMS, read_table, write_table
from mammo_ml.evaluation import rounded
from mammo_ml.splits import N_FOLDS, make_folds, roles_of
from pipelines import stage
from pipelines.training_stage import train


def compare_classifier() -> None:
    paths = stage.arguments(__doc__, "configuration", "films_table", "patches", "out")
    asked = stage.section("compare_classifier", ClassifierComparison)
    patches = PatchSet.load(paths.patches)
    folds = make_folds(read_table(paths.films_table, FILMS), asked.folds_seed)
    tables = []
    for seed in asked.seeds:
        recipe = asked.recipe(str(paths.configuration), seed)
        for fold in range(N_FOLDS):
            roles = roles_of(folds, patches.patches["patient_id"], fold)
            task = task_on_patches(recipe, patches, roles == "train", roles == "inner")
            train("compare_classifier", task, recipe, [paths.patches], fold=fold)
            own = patches.patches[roles == "test"].assign(seed=seed, fold=fold)
            own[PROBABILITY_COLUMNS] = predict_patches(task.model, patches.pictures[roles == "test"])
            tables.append(own)
    columns = ["seed", "fold", "patch_id", "film_id", "patient_id", "label", *PROBABILITY_COLUMNS]
    write_table(rounded(pd.concat(tables, ignore_index=True))[columns], paths.out)


if __name__ == "__main__":
    stage.main(compare_classifier)
