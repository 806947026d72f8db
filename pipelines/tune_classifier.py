"""Tune the classifier on the inner part of one fold; trial 0 is the defaults."""

from mammo_ml.classifier import ClassifierRecipe, predict_patches, task_on_patches
from mammo_ml.cutting import PatchSet
from mammo_ml.datasets.catalog import LABELS
from mammo_ml.metrics.classification import auc_macro
from mammo_ml.pretrained import own_files
from mammo_ml.splits import read_folds, roles_of
from mammo_ml.training import Fit, fit
from mammo_ml.tuning import TuningParameters
from pipelines import stage
from pipelines.training_stage import refuse_one_sided_fold
from pipelines.tuning_stage import OnEpoch, OnStep, tune


def tune_classifier() -> None:
    paths = stage.arguments(__doc__, "patches", "folds", "out", fold=True)
    recipe = stage.section("train_classifier", ClassifierRecipe)
    patches = PatchSet.load(paths.patches)
    roles = roles_of(read_folds(paths.folds), patches.patches["patient_id"], paths.fold)
    inner = roles == "inner"
    for part in ("train", "inner"):
        refuse_one_sided_fold(paths.fold, roles, patches.patches["label"], LABELS, "patch", part)

    def score(tried: ClassifierRecipe, on_step: OnStep, on_epoch: OnEpoch) -> tuple[float, Fit]:
        task = task_on_patches(tried, patches, roles == "train", inner)
        fitted = fit(task, tried.training, on_epoch=on_epoch, on_step=on_step)
        probabilities = predict_patches(task.model, patches.pictures[inner])
        return auc_macro(probabilities, patches.labels[inner]), fitted

    tune(
        "tune_classifier",
        stage.section("tune_classifier", TuningParameters),
        recipe,
        score,
        figure="auc_macro",
        fold=paths.fold,
        data=[paths.patches, paths.folds],
        files=[
            paths.patches / "pictures.npy",
            paths.patches / "patches.csv",
            paths.folds,
            *own_files(recipe.pretrained),
        ],
        out=paths.out,
    )


if __name__ == "__main__":
    stage.main(tune_classifier)
