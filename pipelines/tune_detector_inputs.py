"""Tune the detector together with what it is taught on and how films are looked at; trial 0 is the defaults."""

from mammo_ml.cutting import cut_detector_cuts
from mammo_ml.datasets.catalog import FILMS, LESIONS, read_table
from mammo_ml.detector import DetectorRecipe, task_on_cuts
from mammo_ml.detector_inputs import InputParameters, InputRecipe, InputTuningParameters
from mammo_ml.evaluation import lesions_of_films, located_films
from mammo_ml.manifest import MANIFEST
from mammo_ml.metrics.detection import match_detections
from mammo_ml.prediction import FilmDetectionParameters, detect_on_films
from mammo_ml.pretrained import own_files
from mammo_ml.splits import read_folds, roles_of
from mammo_ml.training import Fit, fit
from pipelines import stage
from pipelines.film_stage import canonical_by_name
from pipelines.tuning_stage import KEYS_OF_THE_LOSS, OnEpoch, OnStep, refuse_to_prune_by, tune


def tune_detector_inputs() -> None:
    paths = stage.arguments(__doc__, "films", "catalog", "folds", "out", fold=True)
    looking = stage.section("predict_detector", FilmDetectionParameters)
    parameters = stage.section("tune_detector_inputs", InputTuningParameters)
    recipe = parameters.recipe(stage.section("train_detector", DetectorRecipe))
    refuse_to_prune_by((*KEYS_OF_THE_LOSS, *InputParameters.model_fields), "tune_detector_inputs", parameters)
    folds, lesions = read_folds(paths.folds), read_table(paths.catalog / "lesions.csv", LESIONS)
    films = read_table(paths.catalog / "films.csv", FILMS)
    # Nothing of the test fold is needed, nor read.
    films = films[roles_of(folds, films["patient_id"], paths.fold) != "test"].reset_index(drop=True)
    lesions = lesions[lesions["film_id"].isin(films["film_id"])].reset_index(drop=True)
    canonical = canonical_by_name(paths.films, films)
    judged = located_films(films, lesions)
    inner_films = judged[roles_of(folds, judged["patient_id"], paths.fold) == "inner"].reset_index(drop=True)
    inner_lesions = lesions_of_films(lesions, inner_films)

    def score(tried: InputRecipe, on_step: OnStep, on_epoch: OnEpoch) -> tuple[float, Fit]:
        cuts = cut_detector_cuts(films, canonical, lesions, tried.cutting(parameters.cut))
        roles = roles_of(folds, cuts.cuts["patient_id"], paths.fold)
        task = task_on_cuts(tried, cuts, roles == "train", roles == "inner")
        fitted = fit(task, tried.training, on_epoch=on_epoch, on_step=on_step)
        shown = [canonical[name] for name in inner_films["film_id"]]
        found = detect_on_films(task.model, shown, tried.looking(looking)).rename(columns={"film_id": "item"})
        return match_detections(found, inner_lesions, inner_films, "films").figures()["froc_mean"], fitted

    tune(
        "tune_detector_inputs",
        parameters,
        recipe,
        score,
        figure="froc_mean",
        fold=paths.fold,
        data=[paths.films, paths.catalog, paths.folds],
        files=[
            paths.folds,
            *own_files(recipe.pretrained),
            paths.films / MANIFEST,
            paths.catalog / "films.csv",
            paths.catalog / "lesions.csv",
        ],
        out=paths.out,
        others={"predict_detector": looking},
        protocol="films_by_patient",
    )


if __name__ == "__main__":
    stage.main(tune_detector_inputs)
