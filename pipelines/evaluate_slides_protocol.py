"""Figures of the slides' experiment at full size, under both splits side by side."""

import pandas as pd

from mammo_ml.datasets.catalog import write_table
from mammo_ml.evaluation import EvaluateParameters, evaluate_patches, write_metrics
from mammo_ml.slides_protocol import SlidesProtocolParameters
from pipelines import stage

NAMES = dict.fromkeys(["fold", "item", "film_id", "patient_id", "label"], "str")


def evaluate_slides_protocol() -> None:
    paths = stage.arguments(__doc__, "predicted", "out")
    asked = stage.section("slides_protocol", SlidesProtocolParameters)
    parameters = EvaluateParameters(resamples=asked.resamples, seed=asked.folds_seed)
    tables = [pd.read_csv(path, dtype=NAMES) for path in sorted(paths.predicted.glob("*/predictions.csv"))]
    every = pd.concat(tables, ignore_index=True)
    found = {str(name): evaluate_patches(own, parameters) for name, own in every.groupby("protocol")}
    write_metrics(found, paths.out / "metrics.json")
    write_table(every, paths.out / "predictions.csv")


if __name__ == "__main__":
    stage.main(evaluate_slides_protocol)
