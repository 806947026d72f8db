"""Train the detector that is registered: on all women, with what the folds found, never evaluated on these films."""

import numpy as np
import pandas as pd

from mammo_ml.datasets.catalog import FILMS, read_table
from mammo_ml.detector import DetectorRecipe, start_of, task_on_cuts
from mammo_ml.feedback.teaching import Teaching
from mammo_ml.models.bundle import BundleConfig, Preprocessing, folds_sha256, write_bundle
from mammo_ml.prediction import FilmDetectionParameters
from mammo_ml.recipe import best_on_average
from mammo_ml.splits import read_folds
from mammo_ml.training import median_best_epoch
from pipelines import stage
from pipelines.training_stage import train


def finalize_detector() -> None:
    paths = stage.arguments(__doc__, "films_table", "cuts", "feedback", "folds", "tuned", "trained", "out")
    looking = stage.section("predict_detector", FilmDetectionParameters)
    trials = [pd.read_csv(path) for path in sorted(paths.tuned.glob("fold_*/trials.csv"))]
    recipe = stage.section("train_detector", DetectorRecipe).with_values(best_on_average(trials))
    epochs = median_best_epoch(sorted(paths.trained.glob("fold_*/history.csv")))
    teaching, films = Teaching.load(paths.cuts, paths.feedback), read_table(paths.films_table, FILMS)
    cuts = teaching.cuts
    task = task_on_cuts(recipe, cuts, teaching.taught, np.zeros(len(cuts.cuts), dtype=np.bool_))
    train("finalize_detector", task, recipe, [paths.cuts, paths.feedback], epochs=epochs, protocol="films_by_patient")

    seen = films[films["film_id"].isin(cuts.cuts["film_id"])].assign(step="training")
    start = start_of(recipe)
    config = BundleConfig(
        kind="detector",
        network=recipe.network.model_dump(mode="json"),
        preprocessing=Preprocessing(**looking.tiles.model_dump(), input_px=recipe.network.input_px),
        calibration={},
        aggregation=looking.merge.model_dump(),
        thresholds={},
        dataset=stage.dataset(),
        phantom=stage.dataset() == stage.PHANTOM,
        folds_sha256=folds_sha256(read_folds(paths.folds)),
        ancestry=start.ancestry,
    )
    write_bundle(paths.out, config, task.model.state_dict(), pd.concat([seen, start.films]))


if __name__ == "__main__":
    stage.main(finalize_detector)
