"""Train the classifier of one fold with its tuned values; the inner part decides when to stop."""

from mammo_ml.classifier import ClassifierRecipe, task_on_patches
from mammo_ml.cutting import PatchSet
from mammo_ml.datasets.catalog import LABELS, write_table
from mammo_ml.recipe import load_best
from mammo_ml.splits import read_folds, roles_of
from mammo_ml.training import save_weights
from pipelines import stage
from pipelines.training_stage import refuse_one_sided_fold, train


def train_classifier() -> None:
    paths = stage.arguments(__doc__, "patches", "folds", "best", "out", fold=True)
    recipe = stage.section("train_classifier", ClassifierRecipe).with_values(load_best(paths.best))
    patches = PatchSet.load(paths.patches)
    roles = roles_of(read_folds(paths.folds), patches.patches["patient_id"], paths.fold)
    refuse_one_sided_fold(paths.fold, roles, patches.patches["label"], LABELS, "patch")
    task = task_on_patches(recipe, patches, roles == "train", roles == "inner")
    fitted = train("train_classifier", task, recipe, [paths.patches, paths.folds], fold=paths.fold)
    save_weights(task.model, paths.out / "weights.safetensors")
    write_table(fitted.table(), paths.out / "history.csv")


if __name__ == "__main__":
    stage.main(train_classifier)
