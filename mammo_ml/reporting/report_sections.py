"""The parts of the report, each a function from the outputs of a pass to what is shown of them."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from mammo_ml.datasets.catalog import LABELS, rows
from mammo_ml.metrics.classification import MALIGNANT, malignancy, roc_curve
from mammo_ml.metrics.resampling import resample_women
from mammo_ml.reporting import charts
from mammo_ml.reporting.blocks import Block, Cell, Chart, Table, Text, Value, number
from mammo_ml.reporting.leakage import value_of
from mammo_ml.reporting.outputs import Metrics, Outputs
from mammo_ml.reporting.results_table import Model

Floats = charts.Floats
PROBABILITY_COLUMNS = [f"p_{label}" for label in LABELS]
TITLES: Mapping[str, str] = {
    "auc_macro": "AUC, mean of three classes",
    "auc_normal_vs_abnormal_patch": "AUC, normal against abnormal",
    "auc_benign_vs_malignant": "AUC, benign against malignant",
    "sensitivity_at_specificity_90": "sensitivity at specificity 0.90",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "film_auc_normal_vs_abnormal": "whole films: AUC, normal against abnormal",
    "film_auc_macro": "whole films: AUC, mean of three classes",
    "film_balanced_accuracy": "whole films: balanced accuracy",
    "film_balanced_accuracy_by_share": "whole films: balanced accuracy, called by what stands highest above its share",
    "froc_mean": "lesions found, mean of 1/8 to 8 false positives per film",
    "sensitivity_at_0_25_fp": "lesions found at 1/4 false positive per film",
    "sensitivity_at_1_fp": "lesions found at 1 false positive per film",
    "sensitivity_at_4_fp": "lesions found at 4 false positives per film",
    "ap_50_any": "AP at IoU 0.5, whatever the class",
    "ap_10_any": "AP at IoU 0.1, whatever the class",
    "map_50": "mAP at IoU 0.5",
    "map_50_95": "mAP at IoU 0.5 to 0.95",
    "ece": "calibration error (lower is better)",
    "brier": "Brier score (lower is better)",
    "cross_entropy": "cross-entropy (lower is better)",
    "binary_cross_entropy": "binary cross-entropy of each output (lower is better)",
    "mean_squared_error": "mean squared error of each output (lower is better)",
}
CALIBRATION = ("ece", "brier", "cross_entropy", "binary_cross_entropy", "mean_squared_error")
OF_CUTS = ("map_50", "ap_50_any", "ap_10_any", "map_50_95")
OF_FILMS = (
    "froc_mean",
    *(f"sensitivity_at_{rate}_fp" for rate in ("0_25", "1", "4")),
    "ap_50_any",
    "ap_10_any",
    "map_50",
)
OF_PATCHES = tuple(name for name in TITLES if name not in (*CALIBRATION, *OF_CUTS, *OF_FILMS))
OF_LOCATOR = ("sensitivity_lost", "compute_saved_ratio", "seconds_saved_ratio")
UNITS = {"n_women": "women", "n_films": "films", "n_patches": "patches", "n_cuts": "cuts"}
SUFFIXES = ("_lo", "_hi", "_baseline")
RESAMPLES = 300
"""Behind the bands that are drawn here; the figures' own intervals stand in metrics.json."""
SEED = 1
N_BINS = 10


# ------------------------------------------------------------------------------------------------------------ protocols


def classifier_protocols(outputs: Outputs) -> list[Block]:
    """The classifier by patient beside the leaky protocol and knowing nothing."""
    metrics = outputs.metrics("evaluate_classifier")
    rows = _side_by_side(metrics, OF_PATCHES, "by_patient", "patches_at_random_leaky")
    head = ["classifier", "by patient", "leaky: patches at random", "knows nothing"]
    caption = f"Classifier. {_both_counts(metrics, 'by_patient', 'patches_at_random_leaky')}"
    return [Table(caption, head, rows), *_everything(metrics, "classifier")]


def detector_protocols(outputs: Outputs) -> list[Block]:
    """The detector on films by patient, and on cuts by patient beside the leaky protocol, with knowing nothing."""
    metrics = outputs.metrics("evaluate_detector")
    films = _side_by_side(metrics, OF_FILMS, "films_by_patient", None)
    cuts = _side_by_side(metrics, OF_CUTS, "cuts_by_patient", "cuts_at_random_leaky")
    all_sets = value_of(metrics, "cuts_at_random_leaky", "map_50_all_sets")
    if all_sets:
        cuts.append(["mAP at IoU 0.5, training cuts included", "-", all_sets, "-"])
    told = f"Detector on whole films, by patient: {_counts(metrics, 'films_by_patient')}."
    caption = f"Detector on cuts round a lesion. {_both_counts(metrics, 'cuts_by_patient', 'cuts_at_random_leaky')}"
    return [
        Table(told, ["detector, whole films", "by patient", "random boxes"], films),
        Table(caption, ["detector, cuts", "by patient", "leaky: cuts at random", "median box"], cuts),
        *_everything(metrics, "detector"),
    ]


def locator_protocols(outputs: Outputs) -> list[Block]:
    """The locator on films by patient, where a pass has one."""
    if not outputs.has("reports/evaluate_locator/metrics.json"):
        return []
    metrics = outputs.metrics("evaluate_locator")
    names = (*OF_FILMS, *(name for name in TITLES if name.startswith("film_")), *OF_LOCATOR)
    lines = _side_by_side(metrics, names, "films_by_patient", None)
    caption = f"Locator on whole films, by patient: {_counts(metrics, 'films_by_patient')}."
    return [Table(caption, ["locator", "by patient", "knows nothing"], lines), *_everything(metrics, "locator")]


def _side_by_side(metrics: Metrics, names: tuple[str, ...], honest: str, leaky: str | None) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for name in names:
        values = [value_of(metrics, honest, name)]
        values += [value_of(metrics, leaky, name)] if leaky else []
        values.append(value_of(metrics, honest, f"{name}_baseline"))
        if any(value is not None for value in values):
            rows.append(
                [TITLES.get(name, name.replace("_", " ")), *("-" if value is None else value for value in values)]
            )
    return rows


def _counts(metrics: Metrics, protocol: str) -> str:
    figures = metrics.get(protocol, {})
    return ", ".join(f"{figures[key]:,.0f} {unit}" for key, unit in UNITS.items() if key in figures) or "no counts"


def _both_counts(metrics: Metrics, honest: str, leaky: str) -> str:
    return f"By patient: {_counts(metrics, honest)}; leaky: {_counts(metrics, leaky)}."


def _everything(metrics: Metrics, model: str) -> list[Block]:
    """Every figure of metrics.json, folded away."""
    tables: list[Block] = []
    for protocol, figures in metrics.items():
        names = [name for name in figures if not name.endswith(SUFFIXES) and name not in UNITS]
        rows: list[list[Cell]] = [
            [name, value_of(metrics, protocol, name) or "-", number(figures.get(f"{name}_baseline"))] for name in names
        ]
        caption = f"Every figure of the {model}, protocol {protocol} ({_counts(metrics, protocol)})"
        tables.append(Table(caption, ["figure", "value [95 %]", "knows nothing"], rows, folded=True))
    return tables


# --------------------------------------------------------------------------------------------------------------- curves


def _patches(outputs: Outputs) -> pd.DataFrame:
    table = outputs.table("reports/evaluate_classifier/predictions.csv")
    return table[(table["protocol"] == "by_patient") & (table["unit"] == "patch")].reset_index(drop=True)


def roc_curves(outputs: Outputs) -> list[Block]:
    """The two committed ROC curves; the bands are drawn from the predictions."""
    patches, metrics = _patches(outputs), outputs.metrics("evaluate_classifier")
    probabilities = patches[PROBABILITY_COLUMNS].to_numpy(dtype=np.float64)
    labels = patches["label"].map(LABELS.index).to_numpy()
    tasks = {
        "normal_vs_abnormal": ("auc_normal_vs_abnormal_patch", labels >= 0, 1 - probabilities[:, 0], labels > 0),
        "benign_vs_malignant": ("auc_benign_vs_malignant", labels > 0, malignancy(probabilities), labels == MALIGNANT),
    }
    blocks: list[Block] = []
    for file, (figure, used, scores, positives) in tasks.items():
        curve = outputs.table(f"reports/evaluate_classifier/roc_{file}.csv")
        value = value_of(metrics, "by_patient", figure) or Value(math.nan)
        grid = np.linspace(0, 1, 101)
        band = _roc_band(scores[used], positives[used], patches["patient_id"][used], grid)
        title = f"Patches by patient: {file.replace('_vs_', ' against ')}"
        told = f"{title}. AUC {value} {value.interval}."
        points = (curve["fpr"].to_numpy(), curve["tpr"].to_numpy())
        blocks.append(Chart(charts.roc_chart(points, grid, band, title), f"ROC curve. {told}", told))
    return blocks


def _roc_band(scores: Floats, positives: np.ndarray, women: pd.Series, grid: Floats) -> tuple[Floats, Floats]:
    """2.5 and 97.5 % of the sensitivity at each false positive rate, women resampled."""
    drawn = []
    for weights in resample_women(list(women), RESAMPLES, SEED):
        false_positives, true_positives = roc_curve(scores, positives, weights)
        drawn.append(true_positives[np.searchsorted(false_positives, grid, side="right") - 1])
    low, high = np.nanquantile(np.array(drawn), [0.025, 0.975], axis=0)
    return low, high


def froc_curve(outputs: Outputs) -> list[Block]:
    """The committed FROC with its band, and precision over recall where it is there."""
    metrics, curve = outputs.metrics("evaluate_detector"), outputs.table("reports/evaluate_detector/froc.csv")
    films = metrics.get("films_by_patient", {})
    rates = ("0_125", "0_25", "0_5", "1", "2", "4", "8")
    nothing = np.array([films.get(f"sensitivity_at_{rate}_fp_baseline", math.nan) for rate in rates])
    value = value_of(metrics, "films_by_patient", "froc_mean") or Value(math.nan)
    at_one = value_of(metrics, "films_by_patient", "sensitivity_at_1_fp") or Value(math.nan)
    told = (
        f"Whole films by patient. Lesions found at 1 false positive per film: {at_one} {at_one.interval}; "
        f"mean of 1/8 to 8: {value} {value.interval}."
    )
    band = (curve["lo"].to_numpy(), curve["hi"].to_numpy())
    source = charts.froc_chart(
        curve["fp_per_film"].to_numpy(),
        curve["sensitivity"].to_numpy(),
        band,
        nothing,
        "Lesions found on films by patient",
    )
    return [Chart(source, f"FROC curve. {told}", told)]


def precision_recall_curve(outputs: Outputs) -> list[Block]:
    """Precision over recall, from the committed pr.csv."""
    curve = outputs.table("reports/evaluate_detector/pr.csv")
    recall, precision, low, high = (curve[name].to_numpy() for name in ("recall", "precision", "lo", "hi"))
    value = value_of(outputs.metrics("evaluate_detector"), "films_by_patient", "ap_50_any") or Value(math.nan)
    title = "Boxes of IoU 0.5 or more on films by patient"
    told = f"{title}. Average precision {value} {value.interval}."
    source = charts.precision_recall_chart(recall, precision, (low, high), title)
    return [Chart(source, f"Precision over recall. {told}", told)]


# ---------------------------------------------------------------------------------------------------------- calibration


def calibration(outputs: Outputs) -> list[Block]:
    """Reliability of the patches by patient, and the figures of calibration."""
    patches, metrics = _patches(outputs), outputs.metrics("evaluate_classifier")
    probabilities = patches[PROBABILITY_COLUMNS].to_numpy(dtype=np.float64)
    confidence = probabilities.max(axis=1)
    correct = (probabilities.argmax(axis=1) == patches["label"].map(LABELS.index).to_numpy()).astype(np.float64)
    bins = np.clip((confidence * N_BINS).astype(int), 0, N_BINS - 1)
    members = np.array([bins == one for one in np.unique(bins)], dtype=np.float64)
    weights = np.vstack([np.ones(len(bins)), resample_women(list(patches["patient_id"]), RESAMPLES, SEED)])
    total = weights @ members.T
    share = np.divide(weights * correct @ members.T, total, out=np.full_like(total, np.nan), where=total > 0)
    low, high = np.nanquantile(share[1:], [0.025, 0.975], axis=0)
    counts = members.sum(axis=1)
    source = charts.reliability_chart(members @ confidence / counts, share[0], (low, high), counts)
    told = "; ".join(
        f"at {x:.2f}: {y:.2f} of {n:.0f}"
        for x, y, n in zip(members @ confidence / counts, share[0], counts, strict=True)
    )
    rows = _side_by_side(metrics, CALIBRATION, "by_patient", "patches_at_random_leaky")
    return [
        Chart(source, f"Share correct over probability. {told}.", "Bars: 95 %, women resampled."),
        Table(
            "Calibration of the classifier",
            ["classifier", "by patient", "leaky: patches at random", "class shares"],
            rows,
        ),
        Text("The detector's scores are not calibrated: they order boxes and are no probabilities.", "note"),
    ]


# ------------------------------------------------------------------------------------------------------------ subgroups


def subgroups(outputs: Outputs, model: Model) -> list[Block]:
    """Figures of subgroups with their counts, from subgroups.csv."""
    table = outputs.table(f"reports/evaluate_{model}/subgroups.csv")
    if table.empty:
        return [Text(f"The {model} has no subgroup with lesions.", "note")]
    metrics = outputs.metrics(f"evaluate_{model}")
    drawn: list[Block] = []
    tables: list[Block] = []
    for (protocol, figure), own in table.groupby(["protocol", "figure"], sort=False):
        title = f"{model.capitalize()}, {TITLES.get(str(figure), str(figure))}"
        cells = [(row, f"{row.subgroup}: {row.value}", Value(row.point, row.lo, row.hi)) for row in rows(own)]
        if "leaky" not in str(protocol):
            whole = value_of(metrics, str(protocol), str(figure)) or Value(math.nan)
            shown = [(f"{name} ({row.n_lesions})", value) for row, name, value in cells if not math.isnan(value.point)]
            told = f"{title}, by patient; in brackets the number of lesions."
            listed = "; ".join(f"{name} {value} {value.interval}" for name, value in shown)
            chart = charts.forest_chart([name for name, _ in shown], [value for _, value in shown], whole)
            drawn.append(Chart(chart, f"{told} All together {whole}. {listed}", told))
        lines: list[list[Cell]] = [
            [name, f"{row.n_women}", f"{row.n_films}", f"{row.n_lesions}", value] for row, name, value in cells
        ]
        head = ["subgroup", "women", "films", "lesions", "value [95 %]"]
        tables.append(Table(f"{title} ({protocol})", head, lines, folded=True))
    return [*drawn, *tables]
