"""Scores of anyone's predictions under the benchmark: figures with intervals, as a table and as JSON."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammo_ml import evaluation
from mammo_ml.benchmark import LESIONS_SHA256, PROTOCOLS, Benchmark, Task, committed_file, sha256_of
from mammo_ml.datasets.catalog import LABELS
from mammo_ml.errors import BadInputError
from mammo_ml.foreign_predictions import Predictions
from mammo_ml.metrics.classification import film_figures, patch_figures
from mammo_ml.metrics.detection import match_detections
from mammo_ml.metrics.paired import Difference, Floats, Statistic, paired_difference
from mammo_ml.reporting.results_table import REPORT, ROWS

INTERVALS = evaluation.EvaluateParameters(resamples=1000, seed=1)
"""Fixed, so that the same file gives the same interval everywhere; those of the committed figures."""
OF_CLASSES = ("ap_50_benign", "ap_50_malignant", "map_50", "map_50_95")
"""Figures that need a score of each class."""
ENDINGS = ("", "_lo", "_hi", "_baseline")
OUT_OF_FOLD = (
    "Out of fold by declaration: whether a film was predicted by a model that saw its woman cannot be checked from "
    "a file."
)
HOW_TO_READ = "Brackets: 95 % interval, {women:.0f} women resampled {resamples:,} times, given these predictions."
CLASS_BLIND = "No scores of classes: figures that need them are left out."


def score(predictions: Predictions, benchmark: Benchmark) -> evaluation.Figures:
    """Figures, each with its interval and its baseline, named as in metrics.json."""
    if predictions.task == "detector":
        return _score_detections(predictions, benchmark)
    figures: evaluation.Figures = {}
    if len(predictions.patches):
        figures |= evaluation.evaluate_patches(predictions.patches, INTERVALS)
        figures["auc_macro_fold_mean"] = evaluation.fold_mean_auc(predictions.patches)
    if len(predictions.films):
        figures |= evaluation.evaluate_films(predictions.films, INTERVALS)
        facts = benchmark.facts_of(benchmark.films["film_id"])
        tested = {int(fold): (facts["fold"] == fold).to_numpy(dtype=bool) for fold in facts["fold"].dropna().unique()}
        shares = evaluation.shares_outside(facts["label"], tested)
        figures |= evaluation.evaluate_film_decisions(predictions.films, shares, INTERVALS)
    return figures


def _score_detections(predictions: Predictions, benchmark: Benchmark) -> evaluation.Figures:
    films, truth = _films_and_lesions(benchmark)
    nothing = evaluation.random_boxes(films, truth, INTERVALS.seed)
    detections = predictions.rows.assign(item=predictions.rows["film_id"])
    figures, _ = evaluation.evaluate_detections(detections, nothing, truth, films, "films", INTERVALS)
    left_out = set() if predictions.classes else {name + ending for name in OF_CLASSES for ending in ENDINGS}
    return {name: value for name, value in figures.items() if name not in left_out}


def _films_and_lesions(benchmark: Benchmark) -> tuple[pd.DataFrame, pd.DataFrame]:
    films = evaluation.located_films(benchmark.films, benchmark.lesions)
    return films, evaluation.lesions_of_films(benchmark.lesions, films)


def differences(first: Predictions, second: Predictions, benchmark: Benchmark) -> dict[str, Difference]:
    """Paired differences first minus second, by figure, of the main figures that both have.

    Raises:
        BadInputError: when the two are of different tasks, or have no figure in common.
    """
    if first.task != second.task:
        raise BadInputError("comparison", [f"a {first.task} and a {second.task} have no figure in common"])
    judged = _judged_boxes if first.task == "detector" else _judged_items
    (ours, women), (theirs, other_women) = judged(first, benchmark), judged(second, benchmark)
    found = paired_difference(ours, theirs, women, INTERVALS.resamples, INTERVALS.seed, other_women)
    main = [row.figure for row in ROWS if (row.model, row.protocol) == (first.task, PROTOCOLS[first.task])]
    return {name: found[name] for name in main if name in found}


def _judged_boxes(predictions: Predictions, benchmark: Benchmark) -> tuple[Statistic, list[str]]:
    films, truth = _films_and_lesions(benchmark)
    detections = predictions.rows.assign(item=predictions.rows["film_id"])
    matched = match_detections(detections, truth, films, "films")
    left_out = set() if predictions.classes else set(OF_CLASSES)

    def figures(weights: Floats) -> evaluation.Figures:
        return {name: value for name, value in matched.figures(weights).items() if name not in left_out}

    return figures, list(matched.patient_ids)


def _judged_items(predictions: Predictions, benchmark: Benchmark) -> tuple[Statistic, list[str]]:
    """The weights are those of the patches, then those of the films."""
    patches, films = predictions.patches, predictions.films
    n = len(patches)
    said = [table[evaluation.PROBABILITY_COLUMNS].to_numpy(dtype=np.float64) for table in (patches, films)]
    true = [table["label"].map(LABELS.index).to_numpy(dtype=np.int64) for table in (patches, films)]

    def figures(weights: Floats) -> evaluation.Figures:
        found = patch_figures(said[0], true[0], weights=weights[:n]) if n else {}
        return found | (film_figures(said[1], true[1], weights[n:]) if len(films) else {})

    return figures, [*patches["patient_id"], *films["patient_id"]]


def committed_figures(task: Task, workspace: Path) -> evaluation.Figures:
    """Our own committed figures; none where the workspace has no report."""
    path = workspace / REPORT.format(model=task)
    return evaluation.read_metrics(path)[PROTOCOLS[task]] if path.is_file() else {}


def figures_table(task: Task, figures: evaluation.Figures, ours: evaluation.Figures) -> pd.DataFrame:
    """The main figures: each with its interval, the model that knows nothing, and ours where they are given."""
    rows = [row for row in ROWS if (row.model, row.protocol) == (task, PROTOCOLS[task]) and row.figure in figures]
    table = pd.DataFrame(
        {
            "figure": [row.title for row in rows],
            "name": [row.figure for row in rows],
            "predictions [95 %]": [_with_interval(figures, row.figure) for row in rows],
            "knowing nothing": [_text(figures[f"{row.figure}_baseline"]) for row in rows],
        }
    )
    return table.assign(**{"committed [95 %]": [_with_interval(ours, row.figure) for row in rows]}) if ours else table


def how_to_read(predictions: Predictions, benchmark: Benchmark) -> list[str]:
    """Lines below the table: what it rests on and what nobody checked."""
    unit = "patches" if predictions.task == "classifier" and len(predictions.films) == 0 else "films"
    judged = set(benchmark.patches["film_id"]) if unit == "patches" else set(benchmark.films["film_id"])
    judged -= benchmark.unlocated if predictions.task == "detector" else set()
    women = benchmark.facts_of(pd.Series(sorted(judged)))["patient_id"].nunique()
    lines = [HOW_TO_READ.format(women=women, resamples=INTERVALS.resamples), OUT_OF_FOLD, *predictions.notes]
    return lines if predictions.classes else [*lines, CLASS_BLIND]


def _with_interval(figures: evaluation.Figures, name: str) -> str:
    return f"{_text(figures[name])} [{_text(figures[f'{name}_lo'])}, {_text(figures[f'{name}_hi'])}]"


def _text(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"


def write_scores(path: Path, file: Path, predictions: Predictions, figures: evaluation.Figures) -> None:
    """Write figures as JSON, and with them what they rest on: hashes of the file and of folds, lesions and patches."""
    content: dict[str, Any] = {
        "task": predictions.task,
        "predictions": {"file": file.name, "sha256": sha256_of(file)},
        "benchmark": {
            "folds_sha256": sha256_of(committed_file("folds")),
            "patches_sha256": sha256_of(committed_file("patches")),
            "lesions_sha256": LESIONS_SHA256,
            **INTERVALS.model_dump(),
        },
        "notes": [OUT_OF_FOLD, *predictions.notes],
        "figures": {name: None if math.isnan(value) else round(value, 6) for name, value in figures.items()},
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
