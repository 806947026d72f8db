"""Tune the classifier on the inner part of one fold; trial 0 is the defaults."""

from mammo_ml import tuning
from mammo_ml.classifier import ClassifierRecipe, predict_probabilities, task_on_patches
from mammo_ml.cutting import PatchSet
from mammo_ml.datasets.catalog import write_table
from mammo_ml.metrics.classification import auc_macro
from mammo_ml.recipe import Values, save_best
from mammo_ml.splits import read_folds, roles_of
from mammo_ml.training import fit, state_key
from pipelines import stage


def tune_classifier() -> None:
    paths = stage.arguments(__doc__, "patches", "folds", "out", fold=True)
    parameters = stage.section("tune_classifier", tuning.TuningParameters)
    recipe = stage.section("train_classifier", ClassifierRecipe)
    patches = PatchSet.load(paths.patches)
    roles = roles_of(read_folds(paths.folds), patches.patches["patient_id"], paths.fold)
    inner = roles == "inner"
    key = state_key(
        parameters, recipe, paths.fold, paths.patches / "pictures.npy", paths.patches / "patches.csv", paths.folds
    )

    with (
        stage.run("tune_classifier", parameters, [paths.patches, paths.folds], paths.fold) as run,
        stage.bar(parameters.trials * parameters.budget_samples, f"tune classifier, fold {paths.fold}") as advance,
    ):

        def objective(number: int, values: Values) -> float:
            tried = recipe.with_values(values).with_budget(parameters.budget_samples)
            task = task_on_patches(tried, patches, roles == "train", inner)
            with run.trial(number, values) as trial:
                fitted = fit(task, tried.training, on_step=advance)
                probabilities = predict_probabilities(task.model, patches.pictures[inner, 0])
                figure = auc_macro(probabilities, patches.labels[inner])
                trial.log_metrics({"auc_macro": figure, "best_epoch": fitted.best_epoch})
            return figure

        best, trials = tuning.tune(
            objective, recipe.values(parameters.space), parameters, stage.STATE / "tune_classifier" / f"{key}.db"
        )
        run.log_metrics({"auc_macro": trials["value"].max(), "auc_macro_defaults": trials["value"].iloc[0]})
    save_best(best, paths.out / "best.json")
    write_table(trials, paths.out / "trials.csv")


if __name__ == "__main__":
    stage.main(tune_classifier)
