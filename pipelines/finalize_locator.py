"""Put the two registered models together as the locator, its threshold from the inner parts of all folds."""

from mammo_ml import locator_evaluation as cascade
from mammo_ml.datasets.catalog import FILMS, LESIONS, read_table
from mammo_ml.evaluation import lesions_of_films, located_films
from mammo_ml.locator import Calibration
from mammo_ml.locator_bundle import write_locator
from mammo_ml.models.bundle import read_bundle
from mammo_ml.prediction import FilmDetectionParameters
from pipelines import stage


def finalize_locator() -> None:
    paths = stage.arguments(__doc__, "catalog", "predicted", "classifier", "detector", "out")
    sweeping = stage.section("predict_locator", cascade.SweepParameters)
    merge = stage.section("predict_detector", FilmDetectionParameters).merge
    lesions = read_table(paths.catalog / "lesions.csv", LESIONS)
    films = located_films(read_table(paths.catalog / "films.csv", FILMS), lesions)
    inner = cascade.pooled(
        [
            cascade.read_looked(folder, films, "inner", f"{folder.name} ")
            for folder in sorted(paths.predicted.glob("fold_*"))
        ]
    )
    truth = lesions_of_films(lesions, films)
    threshold = cascade.choose_threshold(cascade.sweep(inner, truth, merge, sweeping), sweeping)
    classifier, detector = read_bundle(paths.classifier), read_bundle(paths.detector)
    tiles = classifier.config.calibration["patches"]
    fitted = Calibration.from_dict(cascade.fit_calibration(tiles, inner, truth, merge, threshold))
    write_locator(paths.out, classifier, detector, fitted, threshold)


if __name__ == "__main__":
    stage.main(finalize_locator)
