"""The literature's protocol, measured: patches split at random after augmentation. Leaky, and never promoted."""

import numpy as np

from mammo_ml.classifier import PROBABILITY_COLUMNS, ClassifierRecipe, predict_probabilities, task_on_pictures
from mammo_ml.cutting import PatchSet
from mammo_ml.datasets.catalog import write_table
from mammo_ml.splits import RandomSplitParameters, split_at_random_leaky
from pipelines import stage
from pipelines.training_stage import train


def leaky_classifier() -> None:
    paths = stage.arguments(__doc__, "patches", "out")
    split = stage.section("leaky_classifier", RandomSplitParameters)
    recipe = stage.section("train_classifier", ClassifierRecipe).with_values(split.values)
    patches = PatchSet.load(paths.patches)
    items = patches.items_of_views()
    roles = split_at_random_leaky(len(items), split.seed)
    task = task_on_pictures(recipe, patches, np.flatnonzero(roles == "train"), np.flatnonzero(roles == "validation"))
    train("leaky_classifier", task, recipe, [paths.patches], protocol="patches_at_random_leaky")
    tested = items[roles == "test"].assign(fold="test", unit="patch")
    tested[PROBABILITY_COLUMNS] = predict_probabilities(task.model, patches.every_picture[roles == "test"])
    write_table(tested[["fold", "unit", "item", "film_id", "patient_id", "label", *PROBABILITY_COLUMNS]], paths.out)


if __name__ == "__main__":
    stage.main(leaky_classifier)
