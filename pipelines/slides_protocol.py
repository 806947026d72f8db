"""The slides' experiment at full size under one split: at random after augmentation, or by patient."""

from typing import cast, get_args

import numpy as np

from mammo_ml.classifier import PROBABILITY_COLUMNS, predict_probabilities, task_on_patches, task_on_pictures
from mammo_ml.cutting import PatchSet
from mammo_ml.datasets.catalog import FILMS, LABELS, read_table, write_table
from mammo_ml.errors import raise_if_any
from mammo_ml.evaluation import rounded
from mammo_ml.models.cnni_bcc import CnniBcc
from mammo_ml.slides_protocol import SlidesProtocolParameters, SplitName
from mammo_ml.splits import make_folds, roles_of, split_at_random_leaky
from mammo_ml.training import save_weights
from pipelines import stage
from pipelines.training_stage import refuse_one_sided_fold, train

COLUMNS = ["protocol", "fold", "item", "film_id", "patient_id", "label", *PROBABILITY_COLUMNS]


def slides_protocol() -> None:
    paths = stage.arguments(__doc__, "protocol", "films_table", "patches", "out")
    asked = stage.section("slides_protocol", SlidesProtocolParameters)
    # Read as a path, as every option of a stage; it is a name.
    name = str(paths.protocol)
    known = get_args(SplitName)
    raise_if_any("--protocol", [] if name in known else [f"'{name}' is none of {', '.join(known)}"])
    protocol = cast(SplitName, name)
    recipe = asked.classifier(protocol)
    folder, called = paths.patches / asked.patches.cutting, paths.out / "labels.csv"
    patches = asked.shown(PatchSet.load(folder))
    # Written before the training: what patches are called is also what its checkpoints are keyed by.
    write_table(patches.patches[["patch_id", "label"]], called)
    if protocol == "by_patient":
        folds = make_folds(read_table(paths.films_table, FILMS), asked.folds_seed)
        roles = roles_of(folds, patches.patches["patient_id"], asked.test_fold)
        refuse_one_sided_fold(asked.test_fold, roles, patches.patches["label"], LABELS, "patch")
        task = task_on_patches(recipe, patches, roles == "train", roles == "inner")
        tested = np.asarray(roles == "test")
        items = patches.patches[tested].assign(item=patches.patches["patch_id"], fold=asked.test_fold)
        pictures = patches.pictures[tested, 0]
    else:
        items = patches.items_of_views()
        drawn = split_at_random_leaky(len(items), asked.leaky_seed)
        task = task_on_pictures(
            recipe, patches, np.flatnonzero(drawn == "train"), np.flatnonzero(drawn == "validation")
        )
        items = items[drawn == "test"].assign(fold="test")
        pictures = patches.every_picture[drawn == "test"]
    train("slides_protocol", task, recipe, [folder, called], protocol=protocol)
    exact = cast(CnniBcc, task.model).folded()
    save_weights(exact, paths.out / "weights.safetensors")
    items = items.assign(protocol=protocol)
    items[PROBABILITY_COLUMNS] = predict_probabilities(exact, pictures)
    write_table(rounded(items)[COLUMNS], paths.out / "predictions.csv")


if __name__ == "__main__":
    stage.main(slides_protocol)
