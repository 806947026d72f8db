"""Models that differ in one thing, compared as they should be: several seeds, the same folds, the same women.

One training more or less is luck. A configuration's figure is the mean over its seeds of the figure of the pooled
out-of-fold predictions, and a difference between two configurations has an interval of its own, women resampled alike
for both. Seeds are the same for all configurations.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mammo_ml.classifier import ClassifierRecipe
from mammo_ml.detector import DetectorRecipe
from mammo_ml.errors import raise_if_any
from mammo_ml.imaging.patches import CutParameters
from mammo_ml.metrics.classification import patch_figures
from mammo_ml.metrics.paired import paired_difference
from mammo_ml.metrics.resampling import intervals, resample_women
from mammo_ml.parameters import Parameters, parse_section
from mammo_ml.recipe import Recipe

Figures = dict[str, float]
SHOWN_OF_FILMS = (
    *("froc_mean", "sensitivity_at_0_25_fp", "sensitivity_at_1_fp", "sensitivity_at_4_fp", "ap_50_any", "map_50"),
)
SHOWN_OF_PATCHES = ("auc_macro", "auc_normal_vs_abnormal_patch", "auc_benign_vs_malignant", "balanced_accuracy")
R = TypeVar("R", bound=Recipe)
T = TypeVar("T")


class Comparison(Parameters):
    """What is common to all configurations, and how each differs."""

    seeds: tuple[int, ...] = Field(min_length=1, description="each configuration is trained once with each")
    folds_seed: int = Field(ge=0, description="seed of the development folds")
    resamples: int = Field(ge=100, description="resamples of the women behind each interval")
    reference: str = Field(description="the configuration the others are compared with")
    references: dict[str, str] = Field(
        default={}, description="by name: the configuration that one is compared with instead of `reference`"
    )
    common: dict[str, Any] = Field(description="the recipe, as the model's training section of the project's params")
    configurations: dict[str, dict[str, Any]] = Field(
        min_length=1, description="by name: the keys of the recipe that differ from `common`"
    )

    @model_validator(mode="after")
    def _references_are_among_them(self) -> Self:
        for name in (self.reference, *self.references, *self.references.values()):
            if name not in self.configurations:
                raise ValueError(f"reference {name!r} is none of {', '.join(self.configurations)}")
        return self

    @property
    def compared_with(self) -> dict[str, str]:
        """The reference of each configuration, its own where it has one."""
        return dict.fromkeys(self.configurations, self.reference) | self.references

    def _recipe(self, kind: type[R], section: str, configuration: str, seed: int) -> R:
        where = f"{section}, configuration {configuration!r}"
        values = merged(self.common, listed(section, self.configurations, configuration))
        return parse_section(merged(values, {"training": {"seed": seed}}), kind, where)


class DetectorComparison(Comparison):
    """Section `compare_detector`."""

    cut: CutParameters = Field(description="as cut of the project's params.yaml; input_px is the base's own")

    def cutting(self, configuration: str) -> CutParameters:
        """How films are cut for its base."""
        edge = self.recipe(configuration, self.seeds[0]).network.input_px
        return self.cut.model_copy(update={"input_px": edge})

    def recipe(self, configuration: str, seed: int) -> DetectorRecipe:
        """The recipe of one training.

        Raises:
            BadInputError: when the configuration is not listed, or one of its keys is wrong.
        """
        return self._recipe(DetectorRecipe, "compare_detector", configuration, seed)


class ClassifierComparison(Comparison):
    """Section `compare_classifier`."""

    def recipe(self, configuration: str, seed: int) -> ClassifierRecipe:
        """The recipe of one training.

        Raises:
            BadInputError: when the configuration is not listed, or one of its keys is wrong.
        """
        return self._recipe(ClassifierRecipe, "compare_classifier", configuration, seed)


class Judged(Protocol):
    """What one training said of the items left out: figures by name from item weights (N,), and the items' women."""

    @property
    def patient_ids(self) -> Sequence[str]:
        """The woman (N,) of each item."""

    def figures(self, weights: NDArray[np.float64]) -> Mapping[str, float]:
        """Figures by name from item weights (N,)."""


@dataclass(frozen=True)
class JudgedPatches:
    """Probabilities (N, 3) of patches, their classes (N,) and their women (N,)."""

    probabilities: NDArray[np.float64]
    labels: NDArray[np.int64]
    patient_ids: list[str]

    def figures(self, weights: NDArray[np.float64]) -> dict[str, float]:
        """`patch_figures` under these weights (N,)."""
        return patch_figures(self.probabilities, self.labels, weights=weights)


def listed(section: str, configurations: Mapping[str, T], name: str) -> T:
    """A configuration of a section, by name.

    Raises:
        BadInputError: when it is not listed, naming those that are.
    """
    known = ", ".join(configurations)
    raise_if_any(section, [] if name in configurations else [f"configuration {name!r} is none of {known}"])
    return configurations[name]


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with these changes, key by key down to the innermost."""
    found = dict(values)
    for key, change in changes.items():
        inner = found.get(key)
        found[key] = merged(inner, change) if isinstance(inner, Mapping) and isinstance(change, Mapping) else change
    return found


def mean_over_seeds(of_seeds: Sequence[Judged], shown: Sequence[str]) -> Callable[[NDArray[np.float64]], Figures]:
    """These figures, from item weights (N,): the mean of those of each seed's model on the same items."""

    def statistic(weights: NDArray[np.float64]) -> Figures:
        found = [one.figures(weights) for one in of_seeds]
        return {name: float(np.mean([figures[name] for figures in found])) for name in shown}

    return statistic


def compared(
    configurations: Mapping[str, Sequence[Judged]],
    references: Mapping[str, str],
    shown: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, Figures]:
    """Figures of each configuration with intervals, and its differences to its reference.

    Args:
        configurations: by name, what each seed's model said, all of the same items.
        references: by name, the one it is compared with; itself where it is with none.
        shown: names of the figures.
        resamples: of the women, behind each interval.
        seed: of the resampling.

    Returns:
        By configuration: each figure m of `shown` with m_lo and m_hi (95 %), the lowest and highest of a single seed
        as m_seed_min and m_seed_max, and, but for a reference, m_gain with m_gain_lo and m_gain_hi.

    Raises:
        BadInputError: when two configurations were judged on different women.
    """
    found = {}
    for name, of_seeds in configurations.items():
        statistic, women = mean_over_seeds(of_seeds, shown), of_seeds[0].patient_ids
        everyone = np.ones(len(women))
        points, bounds = statistic(everyone), intervals(statistic, resample_women(women, resamples, seed))
        alone = [one.figures(everyone) for one in of_seeds]
        figures: Figures = {}
        for key, point in points.items():
            values = [one[key] for one in alone]
            figures |= {key: point, f"{key}_lo": bounds[key][0], f"{key}_hi": bounds[key][1]}
            figures |= {f"{key}_seed_min": min(values), f"{key}_seed_max": max(values)}
        if name != references[name]:
            rest = configurations[references[name]]
            others = mean_over_seeds(rest, shown)
            gains = paired_difference(statistic, others, women, resamples, seed, rest[0].patient_ids)
            for key, gain in gains.items():
                figures |= {f"{key}_gain": gain.point, f"{key}_gain_lo": gain.lo, f"{key}_gain_hi": gain.hi}
        found[name] = figures | {"n_seeds": len(of_seeds), "n_items": len(women), "n_women": len(set(women))}
    return found
