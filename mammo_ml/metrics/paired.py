"""How much better one model is than another, judged on the same women: differences with paired intervals.

Both models' figures are taken under the same draws of women, so that what is hard for both cancels out: the interval of
the difference is narrower than either model's own, and says what two intervals side by side cannot.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mammo_ml.errors import BadInputError
from mammo_ml.metrics.resampling import intervals, resample_women

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Mapping[str, float]]
"""Figures by name from item weights (N,), as `MatchedDetections.figures`."""


class Difference(NamedTuple):
    """The first model's figure, the second's, first minus second, and the 95 % interval of that; NaN if undefined."""

    first: float
    second: float
    point: float
    lo: float
    hi: float


def paired_difference(
    first: Statistic,
    second: Statistic,
    patient_ids: Sequence[str],
    resamples: int,
    seed: int,
    second_ids: Sequence[str] | None = None,
) -> dict[str, Difference]:
    """Differences first minus second of every figure both have, women resampled, the same draws for both.

    Args:
        first: figures of the first model from the weights of its items, (N,).
        second: the same figures of the second model.
        patient_ids: the woman of each of the first model's items, (N,).
        resamples: number of draws.
        seed: of the draws.
        second_ids: the woman of each of the second model's items, (M,), where those are other items of the same women;
            None: the same items in the same order.

    Raises:
        BadInputError: when the two were judged on different women, or have no figure in common.
    """
    other_ids = patient_ids if second_ids is None else second_ids
    _check_women(set(patient_ids), set(other_ids))
    n = len(patient_ids)
    # the draws depend on the set of women alone: both sides get the same ones, whatever their items
    weights = np.hstack([resample_women(ids, resamples, seed) for ids in (patient_ids, other_ids)])

    def differences(row: Floats) -> dict[str, float]:
        ours, theirs = first(row[:n]), second(row[n:])
        return {name: ours[name] - theirs[name] for name in ours if name in theirs}

    everyone = np.ones(weights.shape[1])
    points, ours, theirs = differences(everyone), first(everyone[:n]), second(everyone[n:])
    if not points:
        raise BadInputError("paired difference", [f"no figure in common: {sorted(ours)} and {sorted(theirs)}"])
    bounds = intervals(differences, weights)
    return {name: Difference(ours[name], theirs[name], points[name], *bounds[name]) for name in points}


def _check_women(first: set[str], second: set[str]) -> None:
    if first != second:
        problem = f"judged on different women: {len(first)} and {len(second)}, {len(first & second)} of them the same"
        raise BadInputError("paired difference", [problem], "Compare models that were evaluated on the same women.")
