"""Let both networks of one fold look at every tile; threshold and calibration come from the inner part alone."""

import json

import pandas as pd

from mammo_ml import locator_evaluation as cascade
from mammo_ml.classifier import ClassifierRecipe
from mammo_ml.datasets.catalog import FILMS, LESIONS, read_table, write_table
from mammo_ml.detector import DetectorRecipe
from mammo_ml.evaluation import lesions_of_films, located_films
from mammo_ml.imaging.canonical import canonical_films
from mammo_ml.imaging.patches import TileParameters
from mammo_ml.metrics.calibration import VectorScaling
from mammo_ml.models.classifiers import build_classifier
from mammo_ml.models.ssd import build_detector
from mammo_ml.prediction import FilmDetectionParameters, calibrated, classify_tiles
from mammo_ml.recipe import load_best
from mammo_ml.splits import read_folds, roles_of
from mammo_ml.training import load_weights
from pipelines import stage


def predict_locator() -> None:
    names = ("best_classifier", "classifier", "classified", "best_detector", "detector")
    paths = stage.arguments(__doc__, "films", "catalog", "folds", *names, "out", fold=True)
    sweeping = stage.section("predict_locator", cascade.SweepParameters)
    tiling = stage.section("predict_classifier", TileParameters)
    looking = stage.section("predict_detector", FilmDetectionParameters)
    films, lesions = read_table(paths.catalog / "films.csv", FILMS), read_table(paths.catalog / "lesions.csv", LESIONS)
    classifier = build_classifier(
        stage.section("train_classifier", ClassifierRecipe).with_values(load_best(paths.best_classifier)).network
    )
    load_weights(classifier, paths.classifier)
    detector = build_detector(
        stage.section("train_detector", DetectorRecipe).with_values(load_best(paths.best_detector)).network
    )
    load_weights(detector, paths.detector)

    films["role"] = roles_of(read_folds(paths.folds), films["patient_id"], paths.fold)
    films = films[films["role"] != "train"]
    role = dict(zip(films["film_id"], films["role"], strict=True))
    # of the test films the classifier has told already
    told = cascade.read_tiles(paths.classified / "tiles.csv")
    known = dict(list(told.groupby("film_id")))
    tiles, boxes = [], []
    with stage.bar(len(films), f"predict locator, fold {paths.fold}", "film") as advance:
        for film in canonical_films(paths.films, films):
            own = known[film.film_id] if film.film_id in known else classify_tiles(classifier, film, tiling)
            tiles.append(own.assign(role=role[film.film_id], tile=range(len(own))))
            boxes.append(cascade.search(film, own, detector, looking))
            advance(1)
    scaling = json.loads((paths.classified / "calibration.json").read_text(encoding="utf-8"))["patches"]
    every_tile = calibrated(pd.concat(tiles, ignore_index=True), VectorScaling.from_dict(scaling))
    every_box = pd.concat(boxes, ignore_index=True)
    write_table(every_tile, paths.out / cascade.TILES_FILE)
    write_table(every_box, paths.out / cascade.BOXES_FILE)

    located = located_films(films, lesions)
    inner = cascade.read_looked(paths.out, located, "inner")
    truth = lesions_of_films(lesions, located)
    threshold = cascade.choose_threshold(cascade.sweep(inner, truth, looking.merge, sweeping), sweeping)
    fitted = cascade.fit_calibration(scaling, inner, truth, looking.merge, threshold)
    notes = {"threshold": threshold, "calibration": fitted}
    (paths.out / cascade.FITTED_FILE).write_text(json.dumps(notes, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    stage.main(predict_locator)
