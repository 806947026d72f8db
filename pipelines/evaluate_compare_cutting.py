"""Figures of each way of cutting under both protocols, and what it does to lesions, side by side."""

from shutil import copyfile

import pandas as pd

from mammo_ml.cuttings import CuttingComparison
from mammo_ml.cuttings_table import cuttings_table
from mammo_ml.datasets.catalog import FILMS, read_table
from mammo_ml.evaluation import (
    EvaluateParameters,
    Figures,
    evaluate_negatives,
    evaluate_patches,
    read_metrics,
    write_metrics,
)
from mammo_ml.patch_baseline import differences
from pipelines import stage

LARGEST_COMMITTED_BYTES = 1_000_000
"""Larger tables of predictions, those of the grids, are kept by DVC alone."""
NAMES = dict.fromkeys(["fold", "item", "film_id", "patient_id", "label"], "str")


def evaluate_compare_cutting() -> None:
    paths = stage.arguments(__doc__, "films_table", "predicted", "cut", "out")
    asked = stage.section("compare_cutting", CuttingComparison)
    parameters = EvaluateParameters(resamples=asked.resamples, seed=asked.folds_seed)
    film_labels = read_table(paths.films_table, FILMS).set_index("film_id")["label"]
    found: dict[str, dict[str, Figures]] = {}
    with stage.bar(len(asked.configurations), "ways of cutting judged", "way") as advance:
        for name, choice in asked.configurations.items():
            every = pd.read_csv(paths.predicted / name / "predictions.csv", dtype=NAMES)
            parts = {str(protocol): part.reset_index(drop=True) for protocol, part in every.groupby("protocol")}
            gains = differences(parts["by_patient"], parts["logistic_baseline"], parameters.resamples, parameters.seed)
            found[name] = {protocol: evaluate_patches(part, parameters) for protocol, part in parts.items()}
            found[name] |= {"by_patient_minus_logistic": gains}
            if negatives := evaluate_negatives(parts["by_patient"], film_labels, parameters):
                found[name] |= {"by_patient_by_negatives": negatives}
            found[name] |= read_metrics(paths.cut / choice.cutting / "metrics.json")
            write_metrics(found[name], paths.out / name / "metrics.json")
            if (predictions := paths.predicted / name / "predictions.csv").stat().st_size <= LARGEST_COMMITTED_BYTES:
                copyfile(predictions, paths.out / name / "predictions.csv")
            advance(1)
    (paths.out / "table.md").write_text(cuttings_table(found), encoding="utf-8")


if __name__ == "__main__":
    stage.main(evaluate_compare_cutting)
