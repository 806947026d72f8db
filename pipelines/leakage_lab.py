"""One protocol of the leakage lab: make its items, split them as it says, train, and predict its test items."""

import numpy as np
import pandas as pd

from mammo_ml.cutting import PatchSet
from mammo_ml.datasets.catalog import BOX_COLUMNS, FILMS, LESIONS, read_table, write_table
from mammo_ml.errors import raise_if_any
from mammo_ml.imaging.canonical import canonical_films
from mammo_ml.leakage_lab import LeakageLabParameters, make_items, predict_items, task_for, windows_for
from mammo_ml.leaky_protocols import EXPOSURES, PROTOCOLS, exposure, roles_under
from mammo_ml.splits import folds_for
from pipelines import stage
from pipelines.training_stage import train

ITEM_COLUMNS = ["fold", "item", "film_id", "patient_id", "lesion_id", "label", *EXPOSURES]


def leakage_lab() -> None:
    paths = stage.arguments(__doc__, "protocol", "films", "catalog", "patches", "out")
    parameters = stage.section("leakage_lab", LeakageLabParameters)
    # Read as a path, as every option of a stage; it is a name.
    name = str(paths.protocol)
    raise_if_any("--protocol", [] if name in PROTOCOLS else [f"'{name}' is none of {', '.join(PROTOCOLS)}"])
    protocol = PROTOCOLS[name]
    films, lesions = read_table(paths.catalog / "films.csv", FILMS), read_table(paths.catalog / "lesions.csv", LESIONS)
    patches = PatchSet.load(paths.patches)
    windows = windows_for(protocol.task, patches.patches)
    shown = films[films["film_id"].isin(windows["film_id"])]
    looking = canonical_films(paths.films, shown)
    items = make_items(protocol, windows, looking, lesions, patches.pictures.shape[-1], parameters)
    folds = folds_for(films, parameters.split)
    recipe = parameters.classifier if protocol.model == "classifier" else parameters.detector
    tested, found, truth = [], [], []
    for fold, roles in roles_under(protocol, items.table, folds, parameters.test_folds, parameters.seed).items():
        # Written before the training: who was on which side is also what its checkpoints are keyed by.
        split = paths.out / f"split_{fold}.csv"
        write_table(items.table.assign(role=roles)[["item", "film_id", "patient_id", "role"]], split)
        task = task_for(items, roles, recipe)
        data = [paths.films / "manifest.json", paths.catalog, paths.patches, split]
        train(
            "leakage_lab",
            task,
            recipe,
            data,
            fold=fold if protocol.can_be_promoted else None,
            protocol=name,
            epochs=recipe.training.epochs,
        )
        numbers = np.flatnonzero(roles == "test")
        own = items.table.iloc[numbers]
        tested.append(own.join(exposure(own, items.table[roles == "train"])).assign(fold=fold))
        found.append(predict_items(task, items, numbers, parameters))
        truth.append(items.truth(numbers))
    write_table(pd.concat(tested)[ITEM_COLUMNS], paths.out / "tested.csv")
    write_table(pd.concat(found), paths.out / "predictions.csv")
    if protocol.model == "detector":
        boxes = pd.concat(truth)
        boxes[BOX_COLUMNS] = boxes[BOX_COLUMNS].round(4)
        write_table(boxes, paths.out / "truth.csv")


if __name__ == "__main__":
    stage.main(leakage_lab)
