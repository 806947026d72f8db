"""From predictions to the committed figures: each with its interval and the model that knows nothing beside it.

`metrics.json` is nested one level by protocol; a figure `m` has `m_lo` and `m_hi` (95 %, women resampled, given these
trained models) and `m_baseline`. Undefined figures are null.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from mammo_ml.cutting import CutSet, truth_of_cuts, windows_on_film
from mammo_ml.datasets.catalog import BOX_COLUMNS, LABELS, rows
from mammo_ml.errors import BadInputError, raise_if_any
from mammo_ml.metrics.classification import auc, auc_macro, balanced_accuracy, film_figures, patch_figures
from mammo_ml.metrics.detection import MatchedDetections, detection_figures, match_detections
from mammo_ml.metrics.froc import sensitivity_at
from mammo_ml.metrics.resampling import intervals, resample_women
from mammo_ml.parameters import Parameters

PROBABILITY_COLUMNS = [f"p_{label}" for label in LABELS]
RANDOM_BOXES_PER_FILM = 20
"""Of the detector that knows nothing: as many as a detector may give (`max_per_film` of `predict_detector.merge`)."""
Figures = dict[str, float]


class EvaluateParameters(Parameters):
    """How intervals are drawn."""

    resamples: int = Field(ge=100, description="resamples of the women behind each interval")
    seed: int = Field(ge=0)


def with_bounds(
    point: Figures,
    statistics: Callable[[NDArray[np.float64]], Figures],
    patient_ids: pd.Series,
    baseline: Figures,
    parameters: EvaluateParameters,
) -> Figures:
    """Figures, and beside each its bounds and its baseline.

    Args:
        point: the figures.
        statistics: the same figures from item weights (N,).
        patient_ids: woman (N,) of each item.
        baseline: the same figures of a model that knows nothing.
        parameters: number of resamples and seed.
    """
    weights = resample_women(list(patient_ids), parameters.resamples, parameters.seed)
    bounds = intervals(statistics, weights)
    figures: Figures = {}
    for name, value in point.items():
        low, high = bounds[name]
        figures |= {name: value, f"{name}_lo": low, f"{name}_hi": high, f"{name}_baseline": baseline[name]}
    return figures


def of_folds(folder: Path, file: str) -> pd.DataFrame:
    """One table out of every fold's `file` below a stage's folder, a column `fold` in each."""
    parts = []
    for path in sorted(folder.glob(f"fold_*/{file}")):
        parts.append(pd.read_csv(path).assign(fold=int(path.parent.name.removeprefix("fold_"))))
    if not parts:
        raise BadInputError(str(folder), [f"no fold holds {file}"], "Run the predict stage first: `dvc repro`.")
    return pd.concat(parts, ignore_index=True)


def check_complete(found: set[str], expected: set[str], what: str) -> None:
    """Raise BadInputError naming what is missing or too much, so that a stage that wrote half stops the next one."""
    raise_if_any(
        what,
        [f"{item} has no prediction" for item in sorted(expected - found)]
        + [f"{item} is predicted but not listed" for item in sorted(found - expected)],
        "A stage before this one wrote only part of its output: delete it and run `dvc repro` again.",
    )


# ------------------------------------------------------------------------------------------------------- classifier


def evaluate_patches(patches: pd.DataFrame, parameters: EvaluateParameters) -> Figures:
    """Figures of patches, one row each: patient_id, film_id, label, p_normal, p_benign, p_malignant."""
    probabilities, labels = _probabilities(patches), _classes(patches["label"])
    figures = with_bounds(
        patch_figures(probabilities, labels),
        lambda weights: patch_figures(probabilities, labels, weights=weights),
        patches["patient_id"],
        patch_figures(_class_shares(labels), labels),
        parameters,
    )
    return figures | _counts(patches, "n_patches")


def evaluate_negatives(patches: pd.DataFrame, film_labels: pd.Series, parameters: EvaluateParameters) -> Figures:
    """AUC of lesions' patches against normal patches, those of normal films and those of films with a lesion apart.

    Were it the film that is recognised, or the breast of a woman with a lesion, the second would be near 0.5. Empty
    where no normal patch is of a film with a lesion.

    Args:
        patches: patient_id, film_id, label, p_normal, p_benign, p_malignant; one row each.
        film_labels: by film_id.
        parameters: number of resamples and seed.
    """
    score, lesion = 1 - _probabilities(patches)[:, 0], _classes(patches["label"]) > 0
    of_normal_film = (patches["film_id"].map(film_labels) == LABELS[0]).to_numpy()
    if not (~lesion & ~of_normal_film).any():
        return {}
    parts = {
        "auc_against_normal_films": np.flatnonzero(lesion | of_normal_film),
        "auc_against_abnormal_films": np.flatnonzero(lesion | ~of_normal_film),
    }

    def figures(weights: NDArray[np.float64] | None = None) -> Figures:
        weights = np.ones(len(patches)) if weights is None else weights
        return {name: auc(score[own], lesion[own], weights[own]) for name, own in parts.items()}

    return with_bounds(figures(), figures, patches["patient_id"], dict.fromkeys(parts, 0.5), parameters)


def evaluate_films(films: pd.DataFrame, parameters: EvaluateParameters) -> Figures:
    """Figures of films, one row each: patient_id, film_id, label, p_normal, p_benign, p_malignant."""
    probabilities, labels = _probabilities(films), _classes(films["label"])
    return with_bounds(
        film_figures(probabilities, labels),
        lambda weights: film_figures(probabilities, labels, weights),
        films["patient_id"],
        film_figures(_class_shares(labels), labels),
        parameters,
    )


def evaluate_film_decisions(
    films: pd.DataFrame, shares: Mapping[int, NDArray[np.float64]], parameters: EvaluateParameters
) -> Figures:
    """Balanced accuracy where a film is called by the class whose probability stands highest above its share.

    Two films of three are normal, and the largest probability is nearly always that of normal: right most often, and
    blind to what is rare. Above its share is what is best for the mean of the classes' accuracies.

    Args:
        films: a row per film: fold, patient_id, label, p_normal, p_benign, p_malignant.
        shares: by fold, the classes' shares (3,) among the films of the women outside it.
        parameters: number of resamples and seed.
    """
    labels = _classes(films["label"])
    above = _probabilities(films) / np.array([shares[int(fold)] for fold in films["fold"]])

    def figure(weights: NDArray[np.float64] | None = None) -> Figures:
        return {"film_balanced_accuracy_by_share": balanced_accuracy(above, labels, weights)}

    nothing = {name: 1 / len(LABELS) for name in figure()}
    return with_bounds(figure(), figure, films["patient_id"], nothing, parameters)


def class_shares(labels: pd.Series) -> NDArray[np.float64]:
    """Shares (3,) of the classes among these labels.

    Raises:
        BadInputError: naming every class that none has: nothing can stand above a share of 0.
    """
    counts = np.bincount(_classes(labels), minlength=len(LABELS))
    missing = [f"none is {label}" for label, count in zip(LABELS, counts, strict=True) if not count]
    raise_if_any("labels to take the classes' shares of", missing)
    return np.asarray(counts / counts.sum(), dtype=np.float64)


def shares_outside(labels: pd.Series, tested: Mapping[int, NDArray[np.bool_]]) -> dict[int, NDArray[np.float64]]:
    """The classes' shares (3,) among the films outside each fold: those (N,) its model may have learned from.

    Args:
        labels: (N,), of all films.
        tested: by fold, which films (N,) are of its women.

    Raises:
        BadInputError: as of `class_shares`.
    """
    return {fold: class_shares(labels[~own]) for fold, own in tested.items()}


def fold_mean_auc(patches: pd.DataFrame) -> float:
    """Mean over folds of `auc_macro` within each, which needs no calibration across folds."""
    folds = [auc_macro(_probabilities(part), _classes(part["label"])) for _, part in patches.groupby("fold")]
    return float(np.mean(folds))


def _probabilities(table: pd.DataFrame) -> NDArray[np.float64]:
    return table[PROBABILITY_COLUMNS].to_numpy(dtype=np.float64)


def _classes(labels: pd.Series) -> NDArray[np.int64]:
    return labels.map(LABELS.index).to_numpy(dtype=np.int64)


def _class_shares(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """The classifier that knows nothing: every item gets the classes' shares (N, 3)."""
    return np.tile(np.bincount(labels, minlength=len(LABELS)) / len(labels), (len(labels), 1))


# --------------------------------------------------------------------------------------------------------- detector


def evaluate_detections(
    detections: pd.DataFrame,
    baseline: pd.DataFrame,
    lesions: pd.DataFrame,
    items: pd.DataFrame,
    protocol: Literal["cuts", "films"],
    parameters: EvaluateParameters,
) -> tuple[Figures, MatchedDetections]:
    """Figures of detections, and the matches the curves are drawn from.

    Args:
        detections: item, x1 … y2, p_benign, p_malignant.
        baseline: the same from a detector that knows nothing.
        lesions: item, x1 … y2, severity and the circles.
        items: item, film_id, patient_id of everything that was looked at.
        protocol: `films` adds the FROC figures.
        parameters: number of resamples and seed.
    """
    matched = match_detections(detections, lesions, items, protocol)
    figures = with_bounds(
        detection_figures(detections, lesions, items, protocol),
        matched.figures,
        items["patient_id"],
        detection_figures(baseline, lesions, items, protocol),
        parameters,
    )
    return figures | _counts(items, "n_films" if protocol == "films" else "n_cuts"), matched


def evaluate_cuts(
    detections: pd.DataFrame,
    cut_set: CutSet,
    items: pd.DataFrame,
    films: pd.DataFrame,
    parameters: EvaluateParameters,
) -> Figures:
    """Figures of lesion-centred cuts, against a median box at each cut's centre.

    Args:
        detections: item, x1 … y2 (film file px), p_benign, p_malignant; items not judged are ignored.
        cut_set: the cuts and their boxes.
        items: a row per picture judged: item, cut_id, film_id, patient_id and the cut's window.
        films: films.csv.
        parameters: number of resamples and seed.
    """
    truth = truth_of_cuts(cut_set, items, films)
    judged = items.assign(**dict(zip(BOX_COLUMNS, windows_on_film(items, films).T, strict=True))).reset_index(drop=True)
    own = detections[detections["item"].isin(items["item"])]
    return evaluate_detections(own, median_box(truth, judged), truth, judged, "cuts", parameters)[0]


def all_sets(figures: Figures) -> Figures:
    """The poster's figures with training items included: `map_50`, and each class's, renamed as `map_50_all_sets`."""
    names = [
        (figure, suffix)
        for figure in ("ap_50_benign", "ap_50_malignant", "map_50")
        for suffix in ("", "_lo", "_hi", "_baseline")
    ]
    return {f"{a}_all_sets{b}": figures[a + b] for a, b in names if a + b in figures}


def froc_band(
    matched: MatchedDetections, parameters: EvaluateParameters
) -> tuple[pd.DataFrame, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """FROC from 1/8 to 8 false positives per film, with its 95 % band.

    Returns:
        A table fp_per_film, sensitivity, lo, hi; and the band's lower and upper edge (T,).
    """
    rates = 2.0 ** np.arange(-3, 3.01, 0.125)

    def at_rates(weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
        curve = matched.froc(weights)
        return np.array([sensitivity_at(curve, rate) for rate in rates])

    weights = resample_women(matched.patient_ids, parameters.resamples, parameters.seed)
    drawn = np.array([at_rates(row) for row in weights])
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    table = pd.DataFrame({"fp_per_film": rates, "sensitivity": at_rates(None), "lo": low, "hi": high})
    return table, (low, high)


def best_and_worst_films(detections: pd.DataFrame, truth: pd.DataFrame, n: int) -> list[str]:
    """Films with lesions, by the score of the first box whose centre hits one: the n highest, then the n lowest.

    Args:
        detections: film_id, x1 … y2, p_benign, p_malignant.
        truth: film_id, x_px, y_px, radius_px.
        n: how many of each.
    """
    scores = dict.fromkeys(truth["film_id"], 0.0)
    for row in rows(detections.merge(truth[["film_id", "x_px", "y_px", "radius_px"]], on="film_id")):
        away = np.hypot((row.x1 + row.x2) / 2 - row.x_px, (row.y1 + row.y2) / 2 - row.y_px)
        if away <= row.radius_px:
            scores[row.film_id] = max(scores[row.film_id], row.p_benign + row.p_malignant)
    ranked = sorted(scores, key=lambda film: (-scores[film], film))
    return ranked[:n] + [film for film in ranked[-n:] if film not in ranked[:n]]


def median_box(lesions: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """The detector that knows nothing of a cut: a box of median size at its centre, whatever the picture.

    Args:
        lesions: x1 … y2 of the lesions whose median side is taken, film px.
        items: item, and its window x1 … y2 on the film.
    """
    side = float(np.median(lesions["x2"] - lesions["x1"]))
    centre_x, centre_y = (items["x1"] + items["x2"]) / 2, (items["y1"] + items["y2"]) / 2
    return pd.DataFrame(
        {
            "item": items["item"],
            "x1": centre_x - side / 2,
            "y1": centre_y - side / 2,
            "x2": centre_x + side / 2,
            "y2": centre_y + side / 2,
            "p_benign": 0.5,
            "p_malignant": 0.5,
        }
    )


def random_boxes(
    films: pd.DataFrame, lesions: pd.DataFrame, seed: int, per_film: int = RANDOM_BOXES_PER_FILM
) -> pd.DataFrame:
    """The detector that knows nothing of a film: boxes of lesions' sizes, anywhere on the breast, scored at random.

    Args:
        films: item, breast_x1 … breast_y2.
        lesions: x1 … y2; sides are drawn from theirs.
        seed: of places, sizes and scores.
        per_film: boxes on each film.
    """
    generator = np.random.default_rng(seed)
    each = films.loc[films.index.repeat(per_film)].reset_index(drop=True)
    side = generator.choice((lesions["x2"] - lesions["x1"]).to_numpy(), size=len(each))
    place = generator.random((len(each), 2))
    centre_x = each["breast_x1"] + place[:, 0] * (each["breast_x2"] - each["breast_x1"])
    centre_y = each["breast_y1"] + place[:, 1] * (each["breast_y2"] - each["breast_y1"])
    score, malignant = generator.random(len(each)), generator.random(len(each))
    return pd.DataFrame(
        {
            "item": each["item"],
            "x1": centre_x - side / 2,
            "y1": centre_y - side / 2,
            "x2": centre_x + side / 2,
            "y2": centre_y + side / 2,
            "p_benign": score * (1 - malignant),
            "p_malignant": score * malignant,
        }
    )


def located_films(films: pd.DataFrame, lesions: pd.DataFrame) -> pd.DataFrame:
    """Films the detector is judged on: all whose lesions are located, normal films included."""
    unlocated = set(lesions.loc[~lesions["has_location"], "film_id"])
    return films[~films["film_id"].isin(unlocated)].assign(item=lambda table: table["film_id"]).reset_index(drop=True)


def lesions_of_films(lesions: pd.DataFrame, films: pd.DataFrame) -> pd.DataFrame:
    """Located lesions of these films, `item` naming the film."""
    located = lesions[lesions["has_location"] & lesions["film_id"].isin(films["film_id"])]
    return located.assign(item=located["film_id"]).reset_index(drop=True)


# ------------------------------------------------------------------------------------------------------------ files


def write_metrics(metrics: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Write metrics.json: numbers only, undefined ones null, in the order given."""
    clean = {
        protocol: {name: None if math.isnan(value) else round(float(value), 6) for name, value in figures.items()}
        for protocol, figures in metrics.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(clean, indent=1) + "\n", encoding="utf-8")


def read_metrics(path: Path) -> dict[str, Figures]:
    """Read metrics.json; null becomes NaN."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return {
        protocol: {name: float("nan") if value is None else float(value) for name, value in figures.items()}
        for protocol, figures in found.items()
    }


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Predictions as they are committed, and judged: boxes to 0.1 px (and no thinner), probabilities to five places."""
    places = dict.fromkeys(BOX_COLUMNS, 1) | {
        column: 5 for column in map(str, table.columns) if column.startswith("p_")
    }
    near = table.round({column: digits for column, digits in places.items() if column in table})
    for low, high in (("x1", "x2"), ("y1", "y2")):
        if low in near:
            # A sliver at the edge of a cut must stay a box.
            near[high] = np.maximum(near[high], (near[low] + 0.1).round(1))
    return near


def _counts(table: pd.DataFrame, of_rows: str) -> Figures:
    return {
        "n_women": float(table["patient_id"].nunique()),
        "n_films": float(table["film_id"].nunique()),
        of_rows: float(len(table)),
    }
