"""Figures of each configuration of the classifier, the mean over its seeds, and its paired gain over its reference."""

from shutil import copyfile

import numpy as np
import pandas as pd

from mammo_ml.classifier import PROBABILITY_COLUMNS
from mammo_ml.comparisons import SHOWN_OF_PATCHES, ClassifierComparison, JudgedPatches, compared
from mammo_ml.datasets.catalog import LABELS
from mammo_ml.evaluation import write_metrics
from pipelines import stage


def evaluate_compare_classifier() -> None:
    paths = stage.arguments(__doc__, "predicted", "out")
    asked = stage.section("compare_classifier", ClassifierComparison)
    judged = {
        name: [_judged(part) for _, part in pd.read_csv(paths.predicted / f"{name}.csv").groupby("seed")]
        for name in asked.configurations
    }
    found = compared(judged, asked.compared_with, SHOWN_OF_PATCHES, asked.resamples, asked.folds_seed)
    for name, figures in found.items():
        write_metrics({"by_patient": figures}, paths.out / name / "metrics.json")
        copyfile(paths.predicted / f"{name}.csv", paths.out / name / "predictions.csv")


def _judged(patches: pd.DataFrame) -> JudgedPatches:
    """One seed's patches, in an order that all seeds and configurations share."""
    table = patches.sort_values("patch_id")
    return JudgedPatches(
        table[PROBABILITY_COLUMNS].to_numpy(dtype=np.float64),
        table["label"].map(LABELS.index).to_numpy(dtype=np.int64),
        list(table["patient_id"]),
    )


if __name__ == "__main__":
    stage.main(evaluate_compare_classifier)
