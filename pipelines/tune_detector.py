"""Tune the detector on the inner part of one fold, on whole films; trial 0 is the defaults."""

from mammo_ml.datasets.catalog import FILMS, LESIONS, read_table
from mammo_ml.detector import DetectorRecipe, task_on_cuts
from mammo_ml.evaluation import lesions_of_films, located_films
from mammo_ml.feedback.teaching import Teaching
from mammo_ml.imaging.canonical import canonical_films
from mammo_ml.manifest import MANIFEST
from mammo_ml.metrics.detection import match_detections
from mammo_ml.prediction import FilmDetectionParameters, detect_on_films
from mammo_ml.pretrained import own_files
from mammo_ml.splits import read_folds, roles_of
from mammo_ml.training import Fit, fit
from mammo_ml.tuning import TuningParameters
from pipelines import stage
from pipelines.tuning_stage import KEYS_OF_THE_LOSS, OnEpoch, OnStep, refuse_to_prune_by, tune


def tune_detector() -> None:
    paths = stage.arguments(__doc__, "films", "catalog", "cuts", "feedback", "folds", "out", fold=True)
    looking = stage.section("predict_detector", FilmDetectionParameters)
    parameters = stage.section("tune_detector", TuningParameters)
    recipe = stage.section("train_detector", DetectorRecipe)
    refuse_to_prune_by(KEYS_OF_THE_LOSS, "tune_detector", parameters)
    teaching, folds = Teaching.load(paths.cuts, paths.feedback), read_folds(paths.folds)
    train, inner = teaching.parts(roles_of(folds, teaching.cuts.cuts["patient_id"], paths.fold))
    lesions = read_table(paths.catalog / "lesions.csv", LESIONS)
    films = located_films(read_table(paths.catalog / "films.csv", FILMS), lesions)
    inner_films = films[roles_of(folds, films["patient_id"], paths.fold) == "inner"].reset_index(drop=True)
    inner_lesions = lesions_of_films(lesions, inner_films)
    canonical = list(canonical_films(paths.films, inner_films))

    def score(tried: DetectorRecipe, on_step: OnStep, on_epoch: OnEpoch) -> tuple[float, Fit]:
        task = task_on_cuts(tried, teaching.cuts, train, inner)
        fitted = fit(task, tried.training, on_epoch=on_epoch, on_step=on_step)
        found = detect_on_films(task.model, canonical, looking).rename(columns={"film_id": "item"})
        return match_detections(found, inner_lesions, inner_films, "films").figures()["froc_mean"], fitted

    tune(
        "tune_detector",
        parameters,
        recipe,
        score,
        figure="froc_mean",
        fold=paths.fold,
        data=[paths.cuts, paths.feedback, paths.folds],
        files=[
            paths.cuts / "pictures.npy",
            paths.cuts / "boxes.csv",
            paths.feedback / MANIFEST,
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
    stage.main(tune_detector)
