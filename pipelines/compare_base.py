"""Train the detector on one base, by patient and under the poster's protocol, and look at films and cuts with it."""

from pathlib import Path

import numpy as np
import pandas as pd

from mammo_ml.base_comparison import CUTS, FILMS, LEAKY, BaseComparison
from mammo_ml.cutting import CutSet, cut_detector_cuts
from mammo_ml.datasets.catalog import BOX_COLUMNS, LABELS, LESIONS, read_table, write_table
from mammo_ml.datasets.catalog import FILMS as FILM_TABLE
from mammo_ml.detector import task_on_cuts, task_on_pictures
from mammo_ml.evaluation import rounded
from mammo_ml.prediction import FilmDetectionParameters, detect_on_cuts, detect_on_films
from mammo_ml.splits import make_folds, roles_of, split_at_random_leaky
from pipelines import stage
from pipelines.film_stage import canonical_by_name
from pipelines.training_stage import refuse_one_sided_fold, train

COLUMNS = ["protocol", "fold", "item", "film_id", "patient_id", *BOX_COLUMNS, "p_benign", "p_malignant"]


def compare_base() -> None:
    paths = stage.arguments(__doc__, "configuration", "films", "catalog", "out")
    asked = stage.section("compare_base", BaseComparison)
    name = str(paths.configuration)
    cutting, recipe = asked.cutting(name), asked.recipe(name, leaky=False)
    looking = stage.section("predict_detector", FilmDetectionParameters)
    films = read_table(paths.catalog / "films.csv", FILM_TABLE)
    lesions = read_table(paths.catalog / "lesions.csv", LESIONS)
    canonical = canonical_by_name(paths.films, films)
    cuts = cut_detector_cuts(films, canonical, lesions, cutting)
    # Kept beside the predictions: evaluation reads the lesions' boxes from it, and checkpoints are keyed by it.
    cuts.save(paths.out / "cuts")
    data = [paths.out / "cuts"]
    folds = make_folds(films, asked.folds_seed)
    women = films.set_index("film_id")["patient_id"]
    tables = [_leaky(asked, name, cuts, films, looking, data)]
    for fold in asked.choice(name).folds:
        roles = roles_of(folds, cuts.cuts["patient_id"], fold)
        of_boxes = roles_of(folds, cuts.boxes["patient_id"], fold)
        refuse_one_sided_fold(fold, of_boxes, cuts.boxes["severity"], LABELS[1:], "lesion box")
        task = task_on_cuts(recipe, cuts, roles == "train", roles == "inner")
        train("compare_base", task, recipe, data, fold=fold, protocol=FILMS)
        tested = (roles == "test") & (cuts.cuts["kind"] == "centred")
        own = cuts.cuts[tested].assign(item=cuts.cuts["cut_id"], view="identity")
        on_cuts = detect_on_cuts(task.model, cuts.pictures[tested, 0], own, films, looking.merge)
        tables.append(on_cuts.assign(protocol=CUTS, fold=str(fold)))
        left_out = films.loc[roles_of(folds, films["patient_id"], fold) == "test", "film_id"]
        with stage.bar(len(left_out), f"compare_base@{fold}: films looked at", "film") as advance:
            for film_id in left_out:
                found = detect_on_films(task.model, [canonical[film_id]], looking)
                tables.append(found.assign(protocol=FILMS, fold=str(fold), item=film_id, patient_id=women[film_id]))
                advance(1)
    write_table(rounded(pd.concat(tables, ignore_index=True))[COLUMNS], paths.out / "predictions.csv")


def _leaky(
    asked: BaseComparison,
    name: str,
    cuts: CutSet,
    films: pd.DataFrame,
    looking: FilmDetectionParameters,
    data: list[Path],
) -> pd.DataFrame:
    """Boxes on every view of the lesion-centred cuts, after a split of these views at random; `fold` says the part."""
    recipe = asked.recipe(name, leaky=True)
    centred = cuts.only((cuts.cuts["kind"] == "centred").to_numpy())
    items = centred.items_of_views()
    roles = split_at_random_leaky(len(items), asked.leaky_seed)
    task = task_on_pictures(recipe, centred, np.flatnonzero(roles == "train"), np.flatnonzero(roles == "validation"))
    train("compare_base", task, recipe, data, protocol=LEAKY)
    found = detect_on_cuts(task.model, centred.every_picture, items, films, looking.merge)
    return found.assign(protocol=LEAKY, fold=found["item"].map(dict(zip(items["item"], roles, strict=True))))


if __name__ == "__main__":
    stage.main(compare_base)
