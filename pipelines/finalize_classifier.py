"""Train the classifier that is registered: on all women, with what the folds found, never evaluated on these films."""

import json
from pathlib import Path

import pandas as pd

from mammo_ml.classifier import PROBABILITY_COLUMNS, ClassifierRecipe, start_of, task_on_patches
from mammo_ml.cutting import PatchSet
from mammo_ml.datasets.catalog import FILMS, read_table
from mammo_ml.imaging.patches import TileParameters
from mammo_ml.models.bundle import BundleConfig, Preprocessing, folds_sha256, write_bundle
from mammo_ml.prediction import fit_scaling
from mammo_ml.recipe import best_on_average
from mammo_ml.splits import read_folds
from mammo_ml.training import median_best_epoch
from pipelines import stage
from pipelines.training_stage import train


def finalize_classifier() -> None:
    paths = stage.arguments(__doc__, "films_table", "patches", "folds", "tuned", "trained", "predicted", "out")
    tiling = stage.section("predict_classifier", TileParameters)
    trials = [pd.read_csv(path) for path in sorted(paths.tuned.glob("fold_*/trials.csv"))]
    recipe = stage.section("train_classifier", ClassifierRecipe).with_values(best_on_average(trials))
    epochs = median_best_epoch(sorted(paths.trained.glob("fold_*/history.csv")))
    patches, films = PatchSet.load(paths.patches), read_table(paths.films_table, FILMS)
    everything = (patches.patches["patch_id"] != "").to_numpy()
    task = task_on_patches(recipe, patches, everything, ~everything)
    train("finalize_classifier", task, recipe, [paths.patches], epochs=epochs)

    notes = [json.loads(path.read_text()) for path in sorted(paths.predicted.glob("fold_*/calibration.json"))]
    scaling = {unit: fit_scaling(_raw(paths.predicted, unit)).to_dict() for unit in ("patches", "films")}
    seen = films[films["film_id"].isin(patches.patches["film_id"])].assign(step="training")
    start = start_of(recipe)
    config = BundleConfig(
        kind="classifier",
        network=recipe.network.model_dump(mode="json"),
        preprocessing=Preprocessing(**tiling.model_dump()),
        calibration=scaling,
        aggregation={"how": pd.Series([note["aggregation"] for note in notes]).mode()[0]},
        thresholds={},
        dataset=stage.dataset(),
        phantom=stage.dataset() == stage.PHANTOM,
        folds_sha256=folds_sha256(read_folds(paths.folds)),
        ancestry=start.ancestry,
    )
    write_bundle(paths.out, config, task.model.state_dict(), pd.concat([seen, start.films]))


def _raw(predicted: Path, unit: str) -> pd.DataFrame:
    """Out-of-fold probabilities of all folds as the networks gave them."""
    table = pd.concat([pd.read_csv(path) for path in sorted(predicted.glob(f"fold_*/{unit}.csv"))], ignore_index=True)
    table[PROBABILITY_COLUMNS] = table[[f"raw_{column}" for column in PROBABILITY_COLUMNS]]
    return table


if __name__ == "__main__":
    stage.main(finalize_classifier)
