"""Intervals that resample women: the bootstrap whose unit is the patient, for any figure that takes item weights.

Films of one woman are alike, so a bootstrap over films is too narrow. Women are drawn with replacement and every item
(film, patch, cut) counts as often as its woman was drawn: both films of a woman always move together. The trained
models stay what they are; the interval is "given these trained models".
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mammo_ml.errors import BadInputError

Floats = NDArray[np.float64]
Interval = tuple[float, float]

MAX_UNDEFINED_SHARE = 0.5
"""With more resamples than this undefined, the rest describe only lucky draws: no interval is given."""


def resample_women(patient_ids: Sequence[str], n_resamples: int, seed: int) -> Floats:
    """Item weights (R, N): how often each item's woman was drawn, with replacement, in each of R resamples.

    The draws depend on the set of women and the seed alone, not on the order of the items, so that two models' items
    may be compared under the same draws.

    Args:
        patient_ids: the woman of each item, (N,).
        n_resamples: R.
        seed: of the draws.

    Raises:
        BadInputError: without items, with an item that has no woman, or with `n_resamples` below 1.
    """
    ids = list(patient_ids)
    problems = [f"item {row}: patient_id is {name!r}" for row, name in enumerate(ids) if not _is_name(name)]
    if not ids:
        problems.append("there are no items")
    if n_resamples < 1:
        problems.append(f"n_resamples is {n_resamples}, expected at least 1")
    if problems:
        raise BadInputError("resampling women", problems, "Every item needs the patient_id of its woman, as text.")
    women, woman_of_item = np.unique(np.array(ids, dtype=np.str_), return_inverse=True)
    draws = np.random.default_rng(seed).multinomial(len(women), np.full(len(women), 1 / len(women)), size=n_resamples)
    return draws[:, woman_of_item].astype(np.float64)


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name != ""


def interval(statistic: Callable[[Floats], float], weights: Floats, level: float = 0.95) -> Interval:
    """Percentile interval of a figure over resamples.

    Resamples where the figure is undefined (NaN, as when no positive was drawn) are left out; when they are more than
    half, the answer is (nan, nan).

    Args:
        statistic: the figure from item weights (N,).
        weights: (R, N) of `resample_women`.
        level: between 0 and 1.
    """
    return _percentiles(np.array([statistic(row) for row in weights], dtype=np.float64), level)


def intervals(
    statistics: Callable[[Floats], dict[str, float]], weights: Floats, level: float = 0.95
) -> dict[str, Interval]:
    """Percentile intervals of many figures, each resample evaluated once; rules as in `interval`.

    Raises:
        BadInputError: when a resample gives other figures than the first one did.
    """
    rows = [statistics(row) for row in weights]
    for number, row in enumerate(rows):
        if row.keys() != rows[0].keys():
            differing = sorted(row.keys() ^ rows[0].keys())
            raise BadInputError("intervals", [f"resample {number}: figures come and go: {differing}"])
    return {name: _percentiles(np.array([row[name] for row in rows]), level) for name in rows[0]} if rows else {}


def paired_interval(
    first: Callable[[Floats], float], second: Callable[[Floats], float], weights: Floats, level: float = 0.95
) -> Interval:
    """Percentile interval of `first - second`, both under the same women; undefined where either is."""
    return interval(lambda row: first(row) - second(row), weights, level)


def _percentiles(values: Floats, level: float) -> Interval:
    if not 0 < level < 1:
        raise BadInputError("interval", [f"level is {level}, expected between 0 and 1, as 0.95"])
    defined = values[~np.isnan(values)]
    if len(defined) == 0 or len(defined) < (1 - MAX_UNDEFINED_SHARE) * len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
