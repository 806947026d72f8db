"""Precision over recall, as average precision sums it up: at COCO's 101 recalls, items weighted."""

import numpy as np
import pandas as pd

from mammo_ml.metrics.average_precision import RECALLS
from mammo_ml.metrics.detection import MatchedDetections
from mammo_ml.metrics.matching import Floats
from mammo_ml.metrics.resampling import resample_women


def precision_at_recalls(matched: MatchedDetections, weights: Floats | None = None) -> Floats:
    """Precision (101,) at `RECALLS`, whatever the class, at IoU 0.5; its mean is `ap_50_any` of the same weights (N,).

    As COCO has it, precision is the highest at this recall or beyond, and 0 where no threshold reaches the recall.
    NaN without lesions.
    """
    weights = np.ones(len(matched.items)) if weights is None else weights
    ranked = matched.any_class
    n_truth = float(weights @ ranked.lesions)
    if n_truth == 0:
        return np.full(len(RECALLS), np.nan)
    counted = weights[ranked.image]
    true = ranked.true_ranks[0]
    found, called = np.cumsum(counted[true]), np.cumsum(counted)[true]
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    precisions: Floats = envelope[np.searchsorted(found / n_truth, RECALLS, side="left")]
    return precisions


def precision_recall_band(matched: MatchedDetections, resamples: int, seed: int) -> pd.DataFrame:
    """Precision over recall with its 95 % band, women resampled: recall, precision, lo, hi (101 rows)."""
    weights = resample_women(matched.patient_ids, resamples, seed)
    drawn = np.array([precision_at_recalls(matched, row) for row in weights])
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    return pd.DataFrame({"recall": RECALLS, "precision": precision_at_recalls(matched), "lo": low, "hi": high})
