"""The classifier's committed figures: by patient with intervals, the leaky protocol beside it, curves and pictures."""

import argparse

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mammo_ml import evaluation, figures
from mammo_ml.cutting import PatchSet
from mammo_ml.datasets.catalog import FILMS, LABELS, LESIONS, read_table, write_table
from mammo_ml.metrics.classification import auc, confusion_matrix, malignancy, roc_curve
from mammo_ml.metrics.subgroups import classifier_subgroups
from mammo_ml.patch_baseline import Floats, baseline_probabilities, differences, patch_features
from mammo_ml.splits import RandomSplitParameters, in_folds, read_folds, roles_of, split_at_random_leaky
from mammo_ml.truth import ITEMS_FILE, judged_items, judged_lesions
from pipelines import stage
from pipelines.recording import record_and_register, save_figure

COLUMNS = ["protocol", "fold", "unit", "item", "film_id", "patient_id", "label", *evaluation.PROBABILITY_COLUMNS]


def evaluate_classifier() -> None:
    paths = stage.arguments(
        __doc__, "catalog", "patches", "folds", "predicted", "leaky", "model", "checks", "out", "gallery"
    )
    parameters = stage.section("evaluate_classifier", evaluation.EvaluateParameters)
    patch_set = PatchSet.load(paths.patches)
    patches, films = (
        evaluation.rounded(evaluation.of_folds(paths.predicted, f"{unit}.csv")) for unit in ("patches", "films")
    )
    folds = read_folds(paths.folds)
    expected = patch_set.patches[in_folds(folds, patch_set.patches["patient_id"], stage.folds())]
    evaluation.check_complete(set(patches["item"]), set(expected["patch_id"]), str(paths.predicted))
    leaky = evaluation.rounded(pd.read_csv(paths.leaky))

    honest = evaluation.evaluate_patches(patches, parameters) | evaluation.evaluate_films(films, parameters)
    honest["auc_macro_fold_mean"] = evaluation.fold_mean_auc(patches)
    films_table = read_table(paths.catalog / "films.csv", FILMS)
    women = films_table["patient_id"]
    tested = {fold: np.asarray(roles_of(folds, women, fold) == "test") for fold in stage.folds()}
    shares = evaluation.shares_outside(films_table["label"], tested)
    honest |= evaluation.evaluate_film_decisions(films, shares, parameters)
    features = patch_features(patch_set, films_table)
    nothing = _logistic(patch_set, features, folds)
    nothing_leaky = _logistic_leaky(patch_set, features, stage.section("leaky_classifier", RandomSplitParameters).seed)
    metrics = {
        "by_patient": honest,
        "logistic_baseline": evaluation.evaluate_patches(nothing, parameters),
        "by_patient_minus_logistic": differences(patches, nothing, parameters.resamples, parameters.seed),
        "patches_at_random_leaky": evaluation.evaluate_patches(leaky, parameters),
        "logistic_baseline_leaky": evaluation.evaluate_patches(nothing_leaky, parameters),
        "leaky_minus_logistic": differences(leaky, nothing_leaky, parameters.resamples, parameters.seed),
    }
    if negatives := evaluation.evaluate_negatives(patches, films_table.set_index("film_id")["label"], parameters):
        metrics |= {"by_patient_by_negatives": negatives}
    protocols = {
        "by_patient": [patches, films],
        "patches_at_random_leaky": [leaky],
        "logistic_baseline": [nothing],
        "logistic_baseline_leaky": [nothing_leaky],
    }
    predictions = pd.concat(
        [table.assign(protocol=name) for name, tables in protocols.items() for table in tables], ignore_index=True
    )
    evaluation.write_metrics(metrics, paths.out / "metrics.json")
    write_table(predictions[COLUMNS], paths.out / "predictions.csv")
    units = {"patch": patches, "film": films}
    items = [judged_items("by_patient", unit, judged, films_table) for unit, judged in units.items()]
    write_table(pd.concat(items, ignore_index=True), paths.gallery / ITEMS_FILE)
    lesions = read_table(paths.catalog / "lesions.csv", LESIONS)
    truth = expected[expected["kind"] == "lesion"].rename(columns={"patch_id": "item", "label": "severity"})
    views = patch_set.items_of_views()
    seen = views[(views["kind"] == "lesion") & views["item"].isin(leaky["item"])].rename(columns={"label": "severity"})
    judged = {"by_patient": (patches, truth), "patches_at_random_leaky": (leaky, seen)}
    by_subgroup = [
        classifier_subgroups(
            said,
            judged_lesions(protocol, true, lesions, films_table),
            judged_items(protocol, "patch", said, films_table),
            parameters.resamples,
            parameters.seed,
        )
        for protocol, (said, true) in judged.items()
    ]
    write_table(pd.concat(by_subgroup, ignore_index=True), paths.out / "subgroups.csv")
    _draw(patches, films, paths)
    save_figure(_gallery(patches, patch_set), paths.gallery / "best_and_worst.png")
    record_and_register("classifier", parameters, paths)


def _logistic(patch_set: PatchSet, features: Floats, folds: pd.DataFrame) -> pd.DataFrame:
    """The test patches of every fold as a logistic regression on five numbers sees them, fitted on the others."""
    labels, tables = patch_set.labels, []
    for fold in stage.folds():
        tested = np.asarray(roles_of(folds, patch_set.patches["patient_id"], fold) == "test")
        table = patch_set.patches[tested].assign(fold=fold, unit="patch", item=patch_set.patches["patch_id"])
        table[evaluation.PROBABILITY_COLUMNS] = baseline_probabilities(features, labels, ~tested)[tested]
        tables.append(table)
    return evaluation.rounded(pd.concat(tables, ignore_index=True))


def _logistic_leaky(patch_set: PatchSet, features: Floats, seed: int) -> pd.DataFrame:
    """The same of the leaky protocol's test pictures; the views of a patch have the five numbers of the patch."""
    items = patch_set.items_of_views()
    own = np.repeat(np.arange(len(features)), len(items) // len(features))
    tested = split_at_random_leaky(len(items), seed) == "test"
    found = baseline_probabilities(features[own], patch_set.labels[own], ~tested)[tested]
    table = items[tested].assign(fold="test", unit="patch")
    table[evaluation.PROBABILITY_COLUMNS] = found
    return evaluation.rounded(table.reset_index(drop=True))


def _draw(patches: pd.DataFrame, films: pd.DataFrame, paths: argparse.Namespace) -> None:
    """Curves by patient: ROC as a table and a picture, confusion of films, reliability of patches."""
    probabilities = patches[evaluation.PROBABILITY_COLUMNS].to_numpy()
    labels = patches["label"].map(LABELS.index).to_numpy()
    lesion = labels > 0
    tasks = {
        "normal vs abnormal patch": (1 - probabilities[:, 0], lesion),
        "benign vs malignant": (malignancy(probabilities)[lesion], labels[lesion] == 2),
    }
    points = {name: roc_curve(*task) for name, task in tasks.items()}
    curves = {f"{name} (AUC {auc(*tasks[name]):.2f})": curve for name, curve in points.items()}
    for name, (false_positives, true_positives) in points.items():
        table = pd.DataFrame({"fpr": false_positives, "tpr": true_positives}).round(6)
        write_table(table, paths.out / f"roc_{name.removesuffix(' patch').replace(' ', '_')}.csv")
    save_figure(figures.roc_figure(curves, "Classifier by patient"), paths.out / "roc.png")
    truth = films["label"].map(LABELS.index).to_numpy()
    said = films[evaluation.PROBABILITY_COLUMNS].to_numpy().argmax(axis=1)
    matrix = figures.confusion_figure(confusion_matrix(said, truth), LABELS, "Films by patient")
    save_figure(matrix, paths.out / "confusion.png")
    correct = probabilities.argmax(axis=1) == labels
    save_figure(
        figures.reliability_figure(probabilities.max(axis=1), correct, "Patches by patient, calibrated"),
        paths.out / "reliability.png",
    )


def _gallery(patches: pd.DataFrame, patch_set: PatchSet, n: int = 6) -> Figure:
    """Per class, the patches the fold models got most right and most wrong."""
    own = patches.apply(lambda row: row[f"p_{row['label']}"], axis=1)
    pictures = []
    index = {name: number for number, name in enumerate(patch_set.patches["patch_id"])}
    for label in LABELS:
        of_label = own[patches["label"] == label].sort_values(kind="stable").index
        for position in [*of_label[::-1][:n], *of_label[:n]]:
            row = patches.loc[position]
            pixels = patch_set.pictures[index[row["item"]], 0]
            caption = f"{row['film_id']} {label}\nP = {own[position]:.2f}"
            pictures.append(figures.MarkedPicture(pixels, caption))
    return figures.marked_figure(pictures, "Most right (left) and most wrong, per class", columns=2 * n)


if __name__ == "__main__":
    stage.main(evaluate_classifier)
