"""Figures of parts of the lesions: by kind, size, density of the breast and severity. The gate's subgroups are these.

A detector works at one threshold whatever it looks at, so its sensitivity in a subgroup is the share of the subgroup's
lesions found at the overall operating point: false positives are counted over all located films, and a box that hits a
lesion of another subgroup counts neither way. A classifier's subgroup sets its lesions against all normal patches;
that of a density, against the normal patches of this density.
Axes: S subgroups, G lesions, D detections, N items.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mammo_ml.datasets.catalog import BOX_COLUMNS, LABELS
from mammo_ml.metrics.classification import MALIGNANT, NORMAL, auc, malignancy
from mammo_ml.metrics.detection import CIRCLE_COLUMNS, MatchedDetections
from mammo_ml.metrics.froc import FP_RATES, FrocCurve
from mammo_ml.metrics.matching import Bools, Detections, Floats, GroundTruth, Integers, match_by_centre
from mammo_ml.metrics.resampling import intervals, resample_women

DETECTOR_FIGURES = ("froc_mean", "sensitivity_at_1_fp")
CLASSIFIER_FIGURES = ("auc_normal_vs_abnormal_patch", "auc_benign_vs_malignant")


@dataclass(frozen=True)
class Subgroup:
    """Lesions (G,) that share one thing: `what` is kind, size, density or severity, `value` which one."""

    what: str
    value: str
    lesions: Bools


# ------------------------------------------------------------------------------------------------------ what they are


def subgroups(lesions: pd.DataFrame, items: pd.DataFrame) -> list[Subgroup]:
    """Every subgroup that has lesions.

    Args:
        lesions: item, kind, diameter_mm, severity (`mammo_ml.truth.LESIONS`), G rows.
        items: item, density (`mammo_ml.truth.ITEMS`).
    """
    density = lesions["item"].map(items.set_index("item")["density"])
    found = [_groups("kind", lesions["kind"]), _sizes(lesions)]
    found += [_groups("density", density), _groups("severity", lesions["severity"])]
    return [group for groups in found for group in groups]


def _groups(what: str, values: pd.Series) -> list[Subgroup]:
    return [Subgroup(what, str(value), (values == value).to_numpy()) for value in sorted(set(values))]


def _sizes(lesions: pd.DataFrame) -> list[Subgroup]:
    """Terciles of the radius; the truth alone decides where they end, to 0.1 mm, each lesion counted once."""
    if not len(lesions):
        return []
    radius_mm = lesions["diameter_mm"].to_numpy(dtype=np.float64) / 2
    once = ~lesions["lesion_id"].duplicated().to_numpy()
    low, high = np.quantile(radius_mm[once], [1 / 3, 2 / 3]).round(1)
    groups = [
        Subgroup("size", f"radius under {low:.1f} mm", radius_mm < low),
        Subgroup("size", f"radius {low:.1f} to {high:.1f} mm", (radius_mm >= low) & (radius_mm < high)),
        Subgroup("size", f"radius from {high:.1f} mm", radius_mm >= high),
    ]
    return [group for group in groups if group.lesions.any()]


def lesion_hit(detections: pd.DataFrame, lesions: pd.DataFrame, items: pd.DataFrame) -> Integers:
    """Row of the lesion that each detection (D,) hits, or -1, by THE hit rule (docs/hit-rules.md).

    Args:
        detections: item, x1 … y2, p_benign, p_malignant.
        lesions: item, x1 … y2, x_px, y_px, radius_px.
        items: item.
    """
    index = pd.Index(items["item"])
    return match_by_centre(
        Detections(
            index.get_indexer(detections["item"]).astype(np.int64),
            detections[BOX_COLUMNS].to_numpy(dtype=np.float64),
            _scores(detections),
        ),
        GroundTruth(
            index.get_indexer(lesions["item"]).astype(np.int64),
            lesions[BOX_COLUMNS].to_numpy(dtype=np.float64),
            lesions[CIRCLE_COLUMNS].to_numpy(dtype=np.float64),
        ),
    )


def thresholds_at(curve: FrocCurve, rates: Sequence[float]) -> Floats:
    """Lowest score called at most at each rate of false positives per film; infinity where nothing may be called."""
    last = np.searchsorted(curve.fp_per_film, rates, side="right") - 1
    thresholds: Floats = curve.thresholds[last]
    return thresholds


def _scores(detections: pd.DataFrame) -> Floats:
    scores: Floats = detections[["p_benign", "p_malignant"]].to_numpy(dtype=np.float64).sum(axis=1)
    return scores


# --------------------------------------------------------------------------------------------------------- their tables


def detector_subgroups(
    matched: MatchedDetections,
    detections: pd.DataFrame,
    lesions: pd.DataFrame,
    items: pd.DataFrame,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """Rows of subgroups.csv for one protocol: `froc_mean` and `sensitivity_at_1_fp` at the overall operating points.

    Args:
        matched: `match_detections` of the same detections, lesions and items.
        detections: item, x1 … y2, p_benign, p_malignant.
        lesions: as `mammo_ml.truth.LESIONS`.
        items: as `mammo_ml.truth.ITEMS`, one unit.
        resamples: of the women, behind each interval.
        seed: of the draws.

    Returns:
        protocol, subgroup, value, figure, n_women, n_films, n_lesions (those of the subgroup's lesions), point, lo, hi;
        empty where undefined.
    """
    groups = subgroups(lesions, items)
    members = np.array([group.lesions for group in groups], dtype=np.float64).reshape(len(groups), len(lesions))
    image = pd.Index(items["item"]).get_indexer(lesions["item"])
    hit, scores = lesion_hit(detections, lesions, items), _scores(detections)
    best = np.full(len(lesions), -np.inf)
    best[hit[hit >= 0]] = scores[hit >= 0]
    rates = list(FP_RATES.values())

    def figures(weights: Floats) -> Floats:
        called = best[:, None] >= thresholds_at(matched.froc(weights), rates)  # (G, rates)
        counted = weights[image]
        found, total = members @ (called * counted[:, None]), (members @ counted)[:, None]
        share = np.divide(found, total, out=np.full_like(found, np.nan), where=total > 0)
        return np.stack([share.mean(axis=1), share[:, rates.index(1.0)]], axis=1)

    return _table(groups, DETECTOR_FIGURES, figures, lesions, items, resamples, seed)


def classifier_subgroups(
    patches: pd.DataFrame, lesions: pd.DataFrame, items: pd.DataFrame, resamples: int, seed: int
) -> pd.DataFrame:
    """Rows of subgroups.csv for one protocol: the two AUCs of lesions, arguments and columns as `detector_subgroups`.

    Args:
        patches: item, p_normal, p_benign, p_malignant; a row per patch.
        lesions: as `mammo_ml.truth.LESIONS`; the item of each is its patch. A lesion seen in several has several rows.
        items: as `mammo_ml.truth.ITEMS`, a row per patch, in the order of `patches`.
        resamples: of the women, behind each interval.
        seed: of the draws.
    """
    groups = subgroups(lesions, items)
    probabilities = patches[[f"p_{label}" for label in LABELS]].to_numpy(dtype=np.float64)
    labels = items["label"].map(LABELS.index).to_numpy(dtype=np.int64)
    abnormality, malignant = 1 - probabilities[:, NORMAL], malignancy(probabilities)
    parts = []
    for group in groups:
        lesion = items["item"].isin(lesions["item"][group.lesions]).to_numpy()
        other = (items["density"] == group.value).to_numpy() if group.what == "density" else np.ones_like(lesion)
        parts.append((np.flatnonzero(lesion | (other & (labels == NORMAL))), np.flatnonzero(lesion)))

    def figures(weights: Floats) -> Floats:
        found = [
            (
                auc(abnormality[both], labels[both] != NORMAL, weights[both]),
                auc(malignant[own], labels[own] == MALIGNANT, weights[own]),
            )
            for both, own in parts
        ]
        return np.array(found).reshape(-1, len(CLASSIFIER_FIGURES))

    return _table(groups, CLASSIFIER_FIGURES, figures, lesions, items, resamples, seed)


def _table(
    groups: list[Subgroup],
    names: tuple[str, ...],
    figures: Callable[[Floats], Floats],
    lesions: pd.DataFrame,
    items: pd.DataFrame,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """A row per subgroup and figure; `figures` gives them (S, F) from item weights (N,)."""
    keys = [(group, name) for group in groups for name in names]
    points = figures(np.ones(len(items))).ravel()
    weights = resample_women(list(items["patient_id"]), resamples, seed)
    bounds = intervals(lambda row: {str(n): float(v) for n, v in enumerate(figures(row).ravel())}, weights)
    of_item = items.set_index("item")
    rows = []
    for number, (group, name) in enumerate(keys):
        in_group = lesions[group.lesions]
        own = of_item.loc[in_group["item"]]
        counts = (own["patient_id"].nunique(), own["film_id"].nunique(), in_group["lesion_id"].nunique())
        rows.append((group.what, group.value, name, *counts, points[number], *bounds[str(number)]))
    columns = ["subgroup", "value", "figure", "n_women", "n_films", "n_lesions", "point", "lo", "hi"]
    table = pd.DataFrame(rows, columns=columns).round(6)
    table.insert(0, "protocol", items["protocol"].iloc[0])
    return table
