"""The poster's protocol, measured: views of lesion-centred cuts split at random. Leaky, and never promoted."""

import numpy as np

from mammo_ml.cutting import CutSet
from mammo_ml.datasets.catalog import FILMS, read_table, write_table
from mammo_ml.detector import DetectorRecipe, task_on_pictures
from mammo_ml.prediction import FilmDetectionParameters, detect_on_cuts
from mammo_ml.splits import RandomSplitParameters, split_at_random_leaky
from pipelines import stage
from pipelines.training_stage import train


def leaky_detector() -> None:
    paths = stage.arguments(__doc__, "films_table", "cuts", "out")
    split = stage.section("leaky_detector", RandomSplitParameters)
    looking = stage.section("predict_detector", FilmDetectionParameters)
    recipe = stage.section("train_detector", DetectorRecipe).with_values(split.values)
    cuts = CutSet.load(paths.cuts)
    cuts = cuts.only((cuts.cuts["kind"] == "centred").to_numpy())
    items = cuts.items_of_views()
    roles = split_at_random_leaky(len(items), split.seed)
    task = task_on_pictures(recipe, cuts, np.flatnonzero(roles == "train"), np.flatnonzero(roles == "validation"))
    train("leaky_detector", task, recipe, [paths.cuts], protocol="cuts_at_random_leaky")
    films = read_table(paths.films_table, FILMS)
    found = detect_on_cuts(task.model, cuts.every_picture, items, films, looking.merge)
    found = found.assign(unit="cut", fold=found["item"].map(dict(zip(items["item"], roles, strict=True))))
    columns = ["fold", "unit", "item", "film_id", "patient_id", "x1", "y1", "x2", "y2", "p_benign", "p_malignant"]
    write_table(found[columns], paths.out)


if __name__ == "__main__":
    stage.main(leaky_detector)
