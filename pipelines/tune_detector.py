"""Tune the detector on the inner part of one fold, on whole films; trial 0 is the defaults."""

from mammo_ml import tuning
from mammo_ml.cutting import CutSet
from mammo_ml.datasets.catalog import FILMS, LESIONS, read_table, write_table
from mammo_ml.detector import DetectorRecipe, task_on_cuts
from mammo_ml.evaluation import lesions_of_films, located_films
from mammo_ml.imaging.canonical import canonical_films
from mammo_ml.metrics.detection import match_detections
from mammo_ml.prediction import FilmDetectionParameters, detect_on_films
from mammo_ml.recipe import Values, save_best
from mammo_ml.splits import read_folds, roles_of
from mammo_ml.training import fit, state_key
from pipelines import stage


def tune_detector() -> None:
    paths = stage.arguments(__doc__, "films", "catalog", "cuts", "folds", "out", fold=True)
    parameters = stage.section("tune_detector", tuning.TuningParameters)
    recipe = stage.section("train_detector", DetectorRecipe)
    looking = stage.section("predict_detector", FilmDetectionParameters)
    cuts, folds = CutSet.load(paths.cuts), read_folds(paths.folds)
    roles = roles_of(folds, cuts.cuts["patient_id"], paths.fold)
    lesions = read_table(paths.catalog / "lesions.csv", LESIONS)
    films = located_films(read_table(paths.catalog / "films.csv", FILMS), lesions)
    inner_films = films[roles_of(folds, films["patient_id"], paths.fold) == "inner"].reset_index(drop=True)
    inner_lesions = lesions_of_films(lesions, inner_films)
    canonical = list(canonical_films(paths.films, inner_films))
    key = state_key(
        parameters, recipe, looking, paths.fold, paths.cuts / "pictures.npy", paths.cuts / "boxes.csv", paths.folds
    )

    with (
        stage.run("tune_detector", parameters, [paths.cuts, paths.folds], paths.fold, "films_by_patient") as run,
        stage.bar(parameters.trials * parameters.budget_samples, f"tune detector, fold {paths.fold}") as advance,
    ):

        def objective(number: int, values: Values) -> float:
            tried = recipe.with_values(values).with_budget(parameters.budget_samples)
            task = task_on_cuts(tried, cuts, roles == "train", roles == "inner")
            with run.trial(number, values) as trial:
                fitted = fit(task, tried.training, on_step=advance)
                found = detect_on_films(task.model, canonical, looking).rename(columns={"film_id": "item"})
                figure = match_detections(found, inner_lesions, inner_films, "films").figures()["froc_mean"]
                trial.log_metrics({"froc_mean": figure, "best_epoch": fitted.best_epoch})
            return figure

        best, trials = tuning.tune(
            objective, recipe.values(parameters.space), parameters, stage.STATE / "tune_detector" / f"{key}.db"
        )
        run.log_metrics({"froc_mean": trials["value"].max(), "froc_mean_defaults": trials["value"].iloc[0]})
    save_best(best, paths.out / "best.json")
    write_table(trials, paths.out / "trials.csv")


if __name__ == "__main__":
    stage.main(tune_detector)
