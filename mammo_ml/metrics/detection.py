"""Figures of a detector: tables of detections and lesions in, average precisions and FROC figures out.

Matching is done once; `MatchedDetections.figures(weights)` then only re-weights images, so that intervals can resample
women. Axes: D detections, G ground-truth lesions, N images (items). A figure without ground truth is NaN; one where
nothing was found is 0.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from mammo_ml.datasets.catalog import BOX_COLUMNS, SEVERITIES
from mammo_ml.errors import raise_if_any
from mammo_ml.metrics.average_precision import mean_average_precision_coco, ranked_average_precision
from mammo_ml.metrics.froc import FrocCurve, froc, froc_figures
from mammo_ml.metrics.matching import (
    Bools,
    Detections,
    Floats,
    GroundTruth,
    Integers,
    match_by_centre,
    match_by_iou,
    ranking,
    strongest,
)

Protocol = Literal["cuts", "films"]

IOU_50_95: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""COCO's IoU thresholds (cocoeval.Params.iouThrs), in float64 for the same reason."""
DETECTION_COLUMNS = ["item", *BOX_COLUMNS, "p_benign", "p_malignant"]
CIRCLE_COLUMNS = ["x_px", "y_px", "radius_px"]
LESION_COLUMNS = ["item", *BOX_COLUMNS, "severity"]


@dataclass(frozen=True)
class Ranked:
    """Detections by descending score of one kind, matched: image (D,), and for each threshold the ranks that are true.

    `lesions` (N,) counts each image's lesions of that kind.
    """

    image: Integers
    true_ranks: tuple[Integers, ...]
    lesions: Integers

    def average_precisions(self, weights: Floats) -> list[float]:
        """Average precision at each threshold, images weighted (N,)."""
        ranked = weights[self.image]
        cumulated, n_truth = np.cumsum(ranked), float(weights @ self.lesions)
        return [ranked_average_precision(ranks, ranked, cumulated, n_truth) for ranks in self.true_ranks]


@dataclass(frozen=True)
class MatchedDetections:
    """Detections matched to lesions once; `figures(weights)` is cheap enough for a thousand resamples.

    Attributes:
        items: names (N,), the order of `weights`.
        patient_ids: the woman of each item (N,), for `resample_women`.
        by_class: benign and malignant, at `IOU_50_95`.
        any_class: whatever the class, at IoU 0.5 and 0.1.
        image, scores, hits: detections (D,) with their class-blind score, and whether each is a hit by centre.
        lesions: number of lesions on each item (N,).
        protocol: `films` adds the FROC figures to those of `cuts`.
    """

    items: tuple[str, ...]
    patient_ids: tuple[str, ...]
    by_class: tuple[Ranked, Ranked]
    any_class: Ranked
    image: Integers
    scores: Floats
    hits: Bools
    lesions: Integers
    protocol: Protocol

    def figures(self, weights: Floats | None = None) -> dict[str, float]:
        """Figures of the detector (docs: "The figures"), items weighted (N,).

        `map_50` and `map_50_95` are the mean of benign and malignant: NaN when either is undefined.
        """
        weights = np.ones(len(self.items)) if weights is None else weights
        per_class = np.array([ranked.average_precisions(weights) for ranked in self.by_class]).T
        any_class = np.array(self.any_class.average_precisions(weights))
        figures = _precision_figures(per_class, any_class)
        if self.protocol == "films":
            figures |= froc_figures(self.froc(weights))
            figures |= froc_figures(self.froc(weights, normal_films_only=True), "_normal_films")
        return figures

    def froc(self, weights: Floats | None = None, normal_films_only: bool = False) -> FrocCurve:
        """FROC by the one hit rule; false positives per film over all items, or over those without lesions."""
        weights = np.ones(len(self.items)) if weights is None else weights
        films = self.lesions == 0 if normal_films_only else np.ones(len(self.items), dtype=np.bool_)
        n_lesions = float(weights @ self.lesions)
        n_films = float(weights[films].sum())
        return froc(self.scores, self.hits, n_films, n_lesions, weights[self.image], films[self.image])


def match_detections(
    detections: pd.DataFrame, lesions: pd.DataFrame, items: pd.DataFrame, protocol: Protocol
) -> MatchedDetections:
    """Match a table of detections to a table of lesions.

    Args:
        detections: item, x1, y1, x2, y2 (px of the item), p_benign, p_malignant; other columns are ignored.
        lesions: item, x1, y1, x2, y2, severity, and x_px, y_px, radius_px where circles are known. Lesions that have
            no location, and their films, are the caller's to leave out.
        items: item, patient_id; every image that was looked at, with or without lesions.
        protocol: `cuts` or `films`.

    Raises:
        BadInputError: naming columns and rows at fault.
    """
    _check_tables(detections, lesions, items)
    image, boxes, scores, truth, severity = _arrays(detections, lesions, items)
    n = len(items)
    blind = Detections(image, boxes, scores.sum(axis=1))
    by_class = []
    for number in range(len(SEVERITIES)):
        of_class = severity == number
        lesions_of_class = GroundTruth(truth.image[of_class], truth.boxes[of_class])
        by_class.append(_ranked(Detections(image, boxes, scores[:, number]), lesions_of_class, n, IOU_50_95))
    order = ranking(blind)
    return MatchedDetections(
        items=tuple(items["item"]),
        patient_ids=tuple(items["patient_id"]),
        by_class=(by_class[0], by_class[1]),
        any_class=_ranked(blind, truth, n, (0.5, 0.1)),
        image=blind.image[order],
        scores=blind.scores[order],
        hits=match_by_centre(blind, truth)[order] >= 0,
        lesions=np.bincount(truth.image, minlength=n),
        protocol=protocol,
    )


def detection_figures(
    detections: pd.DataFrame, lesions: pd.DataFrame, items: pd.DataFrame, protocol: Protocol
) -> dict[str, float]:
    """Figures to report: as `match_detections(...).figures()`, average precisions from faster-coco-eval itself.

    Arguments and errors as in `match_detections`, which the intervals come from.
    """
    figures = match_detections(detections, lesions, items, protocol).figures()
    image, boxes, scores, truth, severity = _arrays(detections, lesions, items)
    classes = tuple(range(len(SEVERITIES)))
    # Every box is a detection of each class, with that class's score.
    per_class = mean_average_precision_coco(
        Detections(np.tile(image, 2), np.tile(boxes, (2, 1)), scores.T.reshape(-1)),
        np.repeat(np.array(classes), len(image)),
        truth,
        severity,
        len(items),
        IOU_50_95,
        classes,
    )
    blind = Detections(image, boxes, scores.sum(axis=1))
    zeros, no_class = np.zeros(len(image), dtype=np.int64), np.zeros(len(severity), dtype=np.int64)
    any_class = mean_average_precision_coco(blind, zeros, truth, no_class, len(items), (0.5, 0.1), (0,))
    return figures | _precision_figures(per_class, any_class[:, 0])


def _precision_figures(per_class: Floats, any_class: Floats) -> dict[str, float]:
    """Names for average precisions (10, 2) at IoU 0.5 to 0.95, benign and malignant, and (2,) at 0.5 and 0.1."""
    return {
        "ap_50_benign": float(per_class[0, 0]),
        "ap_50_malignant": float(per_class[0, 1]),
        "map_50": float(per_class[0].mean()),
        "ap_50_any": float(any_class[0]),
        "ap_10_any": float(any_class[1]),
        "map_50_95": float(per_class.mean()),
    }


def _ranked(detections: Detections, truth: GroundTruth, n_images: int, thresholds: tuple[float, ...]) -> Ranked:
    keep = strongest(detections)
    kept = Detections(detections.image[keep], detections.boxes[keep], detections.scores[keep])
    order = ranking(kept)
    true_ranks = tuple(np.flatnonzero(match_by_iou(kept, truth, threshold)[order]) for threshold in thresholds)
    return Ranked(kept.image[order], true_ranks, np.bincount(truth.image, minlength=n_images))


def _arrays(
    detections: pd.DataFrame, lesions: pd.DataFrame, items: pd.DataFrame
) -> tuple[Integers, Floats, Floats, GroundTruth, Integers]:
    """Image index (D,), boxes (D, 4), benign and malignant scores (D, 2); lesions, their severities (G,) as 0 or 1."""
    index = pd.Index(items["item"])
    image = index.get_indexer(detections["item"]).astype(np.int64)
    boxes = detections[BOX_COLUMNS].to_numpy(dtype=np.float64)
    scores = detections[["p_benign", "p_malignant"]].to_numpy(dtype=np.float64)
    has_circles = set(CIRCLE_COLUMNS) <= set(lesions.columns)
    truth = GroundTruth(
        image=index.get_indexer(lesions["item"]).astype(np.int64),
        boxes=lesions[BOX_COLUMNS].to_numpy(dtype=np.float64),
        circles=lesions[CIRCLE_COLUMNS].to_numpy(dtype=np.float64) if has_circles else None,
    )
    severity = np.array([SEVERITIES.index(name) for name in lesions["severity"]], dtype=np.int64)
    return image, boxes, scores, truth, severity


def _check_tables(detections: pd.DataFrame, lesions: pd.DataFrame, items: pd.DataFrame) -> None:
    tables = {
        "detections": (detections, DETECTION_COLUMNS),
        "lesions": (lesions, LESION_COLUMNS),
        "items": (items, ["item", "patient_id"]),
    }
    missing = {name: [c for c in columns if c not in table] for name, (table, columns) in tables.items()}
    raise_if_any("figures of a detector", [f"{name}: columns missing: {c}" for name, c in missing.items() if c])
    problems = [f"items: {name!r} is there twice" for name in items["item"][items["item"].duplicated()]]
    for name, table in (("detections", detections), ("lesions", lesions)):
        unknown = ~table["item"].isin(items["item"])
        problems += [
            f"{name}, row {row}: item {table['item'].iloc[row]!r} is not among the items" for row in _rows(unknown)
        ]
        boxes = table[BOX_COLUMNS].to_numpy(dtype=np.float64)
        # Negated, so that NaN is a fault too.
        flat = ~((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]) & np.isfinite(boxes).all(axis=1))
        problems += [f"{name}, row {row}: {boxes[row].tolist()} is not a box" for row in _rows(flat)]
    scores = detections[["p_benign", "p_malignant"]].to_numpy(dtype=np.float64)
    problems += [
        f"detections, row {row}: scores {scores[row].tolist()}" for row in _rows(~np.isfinite(scores).all(axis=1))
    ]
    strange = ~lesions["severity"].isin(SEVERITIES)
    problems += [f"lesions, row {row}: severity {lesions['severity'].iloc[row]!r}" for row in _rows(strange)]
    raise_if_any("figures of a detector", problems, "Rows are counted from 0. Boxes need x1 < x2 and y1 < y2.")


def _rows(mask: Any) -> list[int]:
    return [int(row) for row in np.flatnonzero(np.asarray(mask, dtype=bool))]
