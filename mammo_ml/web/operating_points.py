"""What a threshold on the score is worth: from the out-of-fold predictions that a registered version keeps.

A score on the page is that of the registered model, which has seen every film of its data set. What is said of a
threshold was measured on films that the model of their fold had not seen, each fold's scores calibrated on its own
inner part: it is the figure of the procedure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_ml.datasets.catalog import BOX_COLUMNS
from mammo_ml.metrics.matching import Detections, GroundTruth, match_by_centre
from mammo_ml.metrics.resampling import resample_women
from mammo_ml.registry.comparison import Evidence
from mammo_ml.truth import CIRCLE

PROTOCOL = "films_by_patient"
RESAMPLES, SEED = 1000, 1
MOST = 150
"""Rows of the table: more are thinned out evenly."""
DEFAULT_FP_PER_FILM = 1.0
"""The page begins at the operating point with at most so many false positives per film."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class OperatingPoints:
    """A row per threshold, and what was judged.

    Attributes:
        table: threshold (descending); sensitivity and fp_per_film of boxes of at least that score, each with _lo and
            _hi, 95 %, women resampled.
        default_threshold: where at most `DEFAULT_FP_PER_FILM` false positives per film are made.
        judged: numbers of films, women, lesions, boxes; share of films with a lesion, and of boxes that are hits.
    """

    table: pd.DataFrame
    default_threshold: float
    judged: Mapping[str, Any]


def operating_points(evidence: Evidence) -> OperatingPoints:
    """Operating points of a locator or a detector; its `score`, where it has one, else p_benign + p_malignant.

    Hits are judged by centres (docs/hit-rules.md), over the films whose lesions are all located.
    """
    own = evidence.of_protocol(PROTOCOL)
    items, boxes, lesions = own.items.reset_index(drop=True), own.predictions, own.lesions
    index = pd.Index(items["item"])
    film = index.get_indexer(boxes["item"]).astype(np.int64)
    raw = boxes[["p_benign", "p_malignant"]].to_numpy(dtype=np.float64).sum(axis=1)
    scores = boxes["score"].to_numpy(dtype=np.float64) if "score" in boxes else raw
    lesion_film = index.get_indexer(lesions["item"]).astype(np.int64)
    truth = GroundTruth(lesion_film, lesions[BOX_COLUMNS].to_numpy(np.float64), lesions[CIRCLE].to_numpy(np.float64))
    hit = match_by_centre(Detections(film, boxes[BOX_COLUMNS].to_numpy(np.float64), raw), truth) >= 0
    thresholds = _worth_a_stop(scores, hit)
    n_lesions = np.bincount(lesion_film, minlength=len(items)).astype(np.float64)
    table = _table(thresholds, film, scores, hit, n_lesions, list(items["patient_id"]))
    allowed = table.loc[table["fp_per_film"] <= DEFAULT_FP_PER_FILM, "threshold"]
    judged = {
        "films": len(items),
        "women": items["patient_id"].nunique(),
        "lesions": int(n_lesions.sum()),
        "share_of_films_with_lesion": round(float((n_lesions > 0).mean()), 4),
        "boxes": len(boxes),
        "share_of_boxes_in_lesion": round(float(hit.mean()), 4) if len(hit) else None,
    }
    return OperatingPoints(table, float(allowed.min()) if len(allowed) else float(table["threshold"].max()), judged)


def _worth_a_stop(scores: Floats, hit: NDArray[np.bool_]) -> Floats:
    """Scores at which a lesion is found: between two of them false positives are added and nothing else."""
    thresholds = np.unique(scores[hit])[::-1] if hit.any() else np.unique(scores)[::-1]
    if len(thresholds) <= MOST:
        return thresholds
    return thresholds[np.unique(np.linspace(0, len(thresholds) - 1, MOST).round().astype(np.int64))]


def _table(
    thresholds: Floats,
    film: NDArray[np.int64],
    scores: Floats,
    hit: NDArray[np.bool_],
    n_lesions: Floats,
    patient_ids: list[str],
) -> pd.DataFrame:
    n_films = len(n_lesions)
    # numbers of hits and of false positives on each film at each threshold, (T, N)
    called = scores[None, :] >= thresholds[:, None]
    hits, false = (
        np.stack([np.bincount(film[row & kind], minlength=n_films) for row in called]).astype(np.float64)
        for kind in (hit, ~hit)
    )
    weights = np.vstack([np.ones(n_films), resample_women(patient_ids, RESAMPLES, SEED)])
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity = hits @ weights.T / (weights @ n_lesions)
        fp_per_film = false @ weights.T / weights.sum(axis=1)
    columns = {"threshold": thresholds}
    for name, drawn in (("sensitivity", sensitivity), ("fp_per_film", fp_per_film)):
        # without lesions there is no sensitivity
        low, high = (
            np.nanquantile(drawn[:, 1:], [0.025, 0.975], axis=1) if np.isfinite(drawn).any() else drawn[:, 1:3].T
        )
        columns |= {name: drawn[:, 0], f"{name}_lo": low, f"{name}_hi": high}
    return pd.DataFrame(columns).round(5)
