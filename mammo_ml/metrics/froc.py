"""Free-response ROC: sensitivity against false positives per film, a step function that nothing is added to.

Axes: D detections, T operating points.
"""

from dataclasses import dataclass

import numpy as np

from mammo_ml.metrics.matching import Bools, Floats

FP_RATES = {"0_125": 0.125, "0_25": 0.25, "0_5": 0.5, "1": 1.0, "2": 2.0, "4": 4.0, "8": 8.0}
"""False positives per film at which sensitivity is read, by their spelling in the names of figures."""


@dataclass(frozen=True)
class FrocCurve:
    """Operating points (T,): nothing called (threshold infinity), then each distinct score from the highest down.

    Neither rate ever falls along them; a rate without films, or without lesions, is NaN throughout.
    """

    fp_per_film: Floats
    sensitivity: Floats
    thresholds: Floats


def froc(
    scores: Floats,
    hits: Bools,
    n_images: float,
    n_lesions: float,
    weights: Floats | None = None,
    counted: Bools | None = None,
) -> FrocCurve:
    """Free-response ROC: a step function over the distinct scores; detections of equal score move together.

    Args:
        scores: (D,).
        hits: (D,), detections that are the one hit of a lesion; all others are false positives.
        n_images: weight of the films false positives are spread over; 0 makes the rate NaN.
        n_lesions: weight of all lesions; 0 makes the sensitivity NaN.
        weights: (D,), of each detection's film.
        counted: (D,), false positives that count (those on normal films, say); all by default.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)])
    weights = np.ones(len(scores)) if weights is None else weights
    false = ~hits if counted is None else ~hits & counted
    found = np.append(0.0, np.cumsum(np.where(hits, weights, 0.0)[order])[last])
    fps = np.append(0.0, np.cumsum(np.where(false, weights, 0.0)[order])[last])
    undefined = np.full(len(fps), np.nan)
    return FrocCurve(
        fp_per_film=fps / n_images if n_images > 0 else undefined,
        sensitivity=found / n_lesions if n_lesions > 0 else undefined,
        thresholds=np.append(np.inf, ranked[last]),
    )


def sensitivity_at(curve: FrocCurve, rate: float) -> float:
    """Highest sensitivity among operating points with at most `rate` false positives per film; 0 where only "nothing".

    Nothing is extrapolated or interpolated. NaN without lesions or without films.
    """
    if np.isnan(curve.fp_per_film[0]):
        return float("nan")
    return float(curve.sensitivity[np.searchsorted(curve.fp_per_film, rate, side="right") - 1])


def froc_mean(curve: FrocCurve) -> float:
    """Mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives per film."""
    return float(np.mean([sensitivity_at(curve, rate) for rate in FP_RATES.values()]))


def froc_figures(curve: FrocCurve, suffix: str = "") -> dict[str, float]:
    """`sensitivity_at_0_125_fp` … `sensitivity_at_8_fp` and `froc_mean`, each name with `suffix`."""
    figures = {f"sensitivity_at_{name}_fp{suffix}": sensitivity_at(curve, rate) for name, rate in FP_RATES.items()}
    return {**figures, f"froc_mean{suffix}": float(np.mean(list(figures.values())))}
