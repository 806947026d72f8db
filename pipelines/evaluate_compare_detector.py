"""Figures of each configuration of the detector, the mean over its seeds, and its paired gain over its reference."""

from shutil import copyfile

import pandas as pd

from mammo_ml.comparisons import SHOWN_OF_FILMS, DetectorComparison, compared
from mammo_ml.datasets.catalog import FILMS, LESIONS, read_table
from mammo_ml.evaluation import lesions_of_films, located_films, write_metrics
from mammo_ml.metrics.detection import match_detections
from pipelines import stage


def evaluate_compare_detector() -> None:
    paths = stage.arguments(__doc__, "catalog", "predicted", "out")
    asked = stage.section("compare_detector", DetectorComparison)
    lesions = read_table(paths.catalog / "lesions.csv", LESIONS)
    films = located_films(read_table(paths.catalog / "films.csv", FILMS), lesions)
    truth = lesions_of_films(lesions, films)
    matched = {}
    for name in asked.configurations:
        found = pd.read_csv(paths.predicted / name / "predictions.csv")
        found = found[found["film_id"].isin(films["film_id"])].rename(columns={"film_id": "item"})
        matched[name] = [match_detections(part, truth, films, "films") for _, part in found.groupby("seed")]
    by_configuration = compared(matched, asked.compared_with, SHOWN_OF_FILMS, asked.resamples, asked.folds_seed)
    for name, figures in by_configuration.items():
        write_metrics({"films_by_patient": figures}, paths.out / name / "metrics.json")
        copyfile(paths.predicted / name / "predictions.csv", paths.out / name / "predictions.csv")


if __name__ == "__main__":
    stage.main(evaluate_compare_detector)
