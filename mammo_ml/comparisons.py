"""Detectors that differ in one thing, compared as they should be: several seeds, the same folds, the same women.

One training more or less is luck. A configuration's figure is the mean over its seeds of the figure of the pooled
out-of-fold predictions, and a difference between two configurations has an interval of its own, women resampled alike
for both. Seeds are the same for all configurations.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mammo_ml.detector import DetectorRecipe
from mammo_ml.metrics.detection import MatchedDetections
from mammo_ml.metrics.paired import paired_difference
from mammo_ml.metrics.resampling import intervals, resample_women
from mammo_ml.parameters import Parameters, parse_section

Figures = dict[str, float]
SHOWN = ("froc_mean", "sensitivity_at_0_25_fp", "sensitivity_at_1_fp", "sensitivity_at_4_fp", "ap_50_any", "map_50")


class DetectorComparison(Parameters):
    """Section `compare_detector`: what is common to all configurations, and how each differs."""

    seeds: tuple[int, ...] = Field(min_length=1, description="each configuration is trained once with each")
    folds_seed: int = Field(ge=0, description="seed of the development folds")
    resamples: int = Field(ge=100, description="resamples of the women behind each interval")
    reference: str = Field(description="the configuration the others are compared with")
    common: dict[str, Any] = Field(description="the recipe, as section train_detector of the project's params.yaml")
    configurations: dict[str, dict[str, Any]] = Field(
        min_length=1, description="by name: the keys of the recipe that differ from `common`"
    )

    @model_validator(mode="after")
    def _reference_is_one_of_them(self) -> Self:
        if self.reference not in self.configurations:
            raise ValueError(f"reference {self.reference!r} is none of {', '.join(self.configurations)}")
        return self

    def recipe(self, configuration: str, seed: int) -> DetectorRecipe:
        """The recipe of one training.

        Raises:
            BadInputError: when the configuration is not listed, or one of its keys is wrong.
        """
        where = f"compare_detector, configuration {configuration!r}"
        values = merged(self.common, self.configurations.get(configuration, {configuration: "is not listed"}))
        return parse_section(merged(values, {"training": {"seed": seed}}), DetectorRecipe, where)


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with these changes, key by key down to the innermost."""
    found = dict(values)
    for key, change in changes.items():
        inner = found.get(key)
        found[key] = merged(inner, change) if isinstance(inner, Mapping) and isinstance(change, Mapping) else change
    return found


def mean_over_seeds(matched: Sequence[MatchedDetections]) -> Callable[[NDArray[np.float64]], Figures]:
    """The figures `SHOWN`, from item weights (N,): the mean of those of each seed's detections on the same items."""

    def statistic(weights: NDArray[np.float64]) -> Figures:
        of_seeds = [one.figures(weights) for one in matched]
        return {name: float(np.mean([figures[name] for figures in of_seeds])) for name in SHOWN}

    return statistic


def compared(
    configurations: Mapping[str, Sequence[MatchedDetections]], reference: str, resamples: int, seed: int
) -> dict[str, Figures]:
    """Figures of each configuration with intervals, and its differences to the reference.

    Args:
        configurations: by name, the matched detections of each seed, all on the same items.
        reference: the one the others are compared with.
        resamples: of the women, behind each interval.
        seed: of the resampling.

    Returns:
        By configuration: each figure m of `SHOWN` with m_lo and m_hi (95 %), the lowest and highest of a single seed
        as m_seed_min and m_seed_max, and, but for the reference, m_gain with m_gain_lo and m_gain_hi.

    Raises:
        BadInputError: when two configurations were judged on different women.
    """
    found = {}
    for name, matched in configurations.items():
        statistic, women = mean_over_seeds(matched), matched[0].patient_ids
        everyone = np.ones(len(women))
        points, bounds = statistic(everyone), intervals(statistic, resample_women(women, resamples, seed))
        of_seeds = [one.figures(everyone) for one in matched]
        figures: Figures = {}
        for key, point in points.items():
            values = [one[key] for one in of_seeds]
            figures |= {key: point, f"{key}_lo": bounds[key][0], f"{key}_hi": bounds[key][1]}
            figures |= {f"{key}_seed_min": min(values), f"{key}_seed_max": max(values)}
        if name != reference:
            rest = configurations[reference]
            gains = paired_difference(statistic, mean_over_seeds(rest), women, resamples, seed, rest[0].patient_ids)
            for key, gain in gains.items():
                figures |= {f"{key}_gain": gain.point, f"{key}_gain_lo": gain.lo, f"{key}_gain_hi": gain.hi}
        found[name] = figures | {"n_seeds": len(matched), "n_films": len(women), "n_women": len(set(women))}
    return found
