"""Train the detector of one fold with its tuned values; the inner part decides when to stop."""

from mammo_ml.datasets.catalog import LABELS, write_table
from mammo_ml.detector import DetectorRecipe, task_on_cuts
from mammo_ml.feedback.teaching import Teaching
from mammo_ml.recipe import load_best
from mammo_ml.splits import read_folds, roles_of
from mammo_ml.training import save_weights
from pipelines import stage
from pipelines.training_stage import refuse_one_sided_fold, train


def train_detector() -> None:
    paths = stage.arguments(__doc__, "cuts", "feedback", "folds", "best", "out", fold=True)
    recipe = stage.section("train_detector", DetectorRecipe).with_values(load_best(paths.best))
    teaching = Teaching.load(paths.cuts, paths.feedback)
    folds, cuts = read_folds(paths.folds), teaching.cuts
    learned, inner = teaching.parts(roles_of(folds, cuts.cuts["patient_id"], paths.fold))
    of_boxes = roles_of(folds, cuts.boxes["patient_id"], paths.fold)
    refuse_one_sided_fold(paths.fold, of_boxes, cuts.boxes["severity"], LABELS[1:], "lesion box")
    task = task_on_cuts(recipe, cuts, learned, inner)
    data = [paths.cuts, paths.feedback, paths.folds]
    fitted = train("train_detector", task, recipe, data, fold=paths.fold, protocol="films_by_patient")
    save_weights(task.model, paths.out / "weights.safetensors")
    write_table(fitted.table(), paths.out / "history.csv")


if __name__ == "__main__":
    stage.main(train_detector)
