"""Figures of a detector: matching, average precision as COCO counts it, FROC by the one hit rule, and their tables.

Matching is done once; `MatchedDetections.figures(weights)` then only re-weights images, so that intervals can resample
women. Axes: D detections, G ground-truth lesions, N images (items), T thresholds. Boxes are those of
`mammo_ml.imaging.boxes`. A figure without ground truth is NaN; one where nothing was found is 0.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_ml.datasets.catalog import BOX_COLUMNS, SEVERITIES
from mammo_ml.errors import raise_if_any
from mammo_ml.imaging import boxes as bx

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]
Protocol = Literal["cuts", "films"]

MAX_DETECTIONS = 100
"""COCO counts the 100 strongest detections of an image, class by class (cocoeval.Params.maxDets)."""
RECALLS: Floats = np.linspace(0.0, 1.0, 101)
"""COCO's recall levels (cocoeval.Params.recThrs). torchmetrics' are float32, so a recall of 1/10 misses its level."""
IOU_50_95: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""COCO's IoU thresholds (cocoeval.Params.iouThrs), in float64 for the same reason."""
FP_RATES = {"0_125": 0.125, "0_25": 0.25, "0_5": 0.5, "1": 1.0, "2": 2.0, "4": 4.0, "8": 8.0}
"""False positives per film at which sensitivity is read, by their spelling in the names of figures."""

DETECTION_COLUMNS = ["item", *BOX_COLUMNS, "p_benign", "p_malignant"]
CIRCLE_COLUMNS = ["x_px", "y_px", "radius_px"]
LESION_COLUMNS = ["item", *BOX_COLUMNS, "severity"]


@dataclass(frozen=True)
class Detections:
    """Detections of many images as flat arrays: image index (D,), boxes (D, 4) in px, scores (D,)."""

    image: Integers
    boxes: Floats
    scores: Floats


@dataclass(frozen=True)
class GroundTruth:
    """Lesions of many images: image index (G,), boxes (G, 4) in px, circles (G, 3) as x, y, radius (NaN: box only)."""

    image: Integers
    boxes: Floats
    circles: Floats | None = None


@dataclass(frozen=True)
class FrocCurve:
    """Operating points (T,): nothing called (threshold infinity), then each distinct score from the highest down.

    Neither rate ever falls along them; a rate without films, or without lesions, is NaN throughout.
    """

    fp_per_film: Floats
    sensitivity: Floats
    thresholds: Floats


# Matching


def match_by_iou(detections: Detections, truth: GroundTruth, threshold: float) -> Bools:
    """Which detections (D,) are true by COCO's rule (cocoeval.evaluateImg).

    Within an image, detections in descending score (equal scores in the order given) each take the lesion of highest
    IoU among those not yet taken whose IoU is at least `threshold`; of equal IoUs the last lesion, as in COCO.
    """
    is_true = np.zeros(len(detections.scores), dtype=np.bool_)
    for found, lesions in _images_with_both(detections, truth):
        overlap = bx.iou(detections.boxes[found], truth.boxes[lesions])
        for row, detection in enumerate(found):
            best = len(lesions) - 1 - int(np.argmax(overlap[row, ::-1]))
            # cocoeval lowers a threshold of 1 by this much, so that equal boxes pass whatever the rounding.
            if overlap[row, best] >= min(threshold, 1 - 1e-10):
                is_true[detection] = True
                overlap[:, best] = -1.0
    return is_true


def match_by_centre(detections: Detections, truth: GroundTruth) -> Integers:
    """Row of the lesion that each detection (D,) hits, or -1, by THE hit rule (docs/hit-rules.md).

    A detection is a hit when its centre lies in the lesion's circle, border included, or, where there is no circle, in
    the ellipse inscribed in its box. One hit a lesion: in descending score (equal scores in the order given) each
    detection takes the nearest lesion, centre to centre, among those around it that are not yet hit; -1 otherwise.
    """
    hit = np.full(len(detections.scores), -1, dtype=np.int64)
    centres, half_axes = _ellipses(truth)
    detected = (detections.boxes[:, :2] + detections.boxes[:, 2:]) / 2
    for found, lesions in _images_with_both(detections, truth):
        offsets = detected[found][:, None, :] - centres[lesions][None, :, :]
        a, b = half_axes[lesions].T
        inside = (offsets[..., 0] * b) ** 2 + (offsets[..., 1] * a) ** 2 <= (a * b) ** 2
        distances = np.where(inside, np.hypot(offsets[..., 0], offsets[..., 1]), np.inf)
        for row, detection in enumerate(found):
            nearest = int(np.argmin(distances[row]))
            if np.isfinite(distances[row, nearest]):
                hit[detection] = lesions[nearest]
                distances[:, nearest] = np.inf
    return hit


def _images_with_both(detections: Detections, truth: GroundTruth) -> list[tuple[Integers, Integers]]:
    """For each image with detections and lesions: rows of its detections by descending score, rows of its lesions."""
    order = _ranking(detections)
    pairs = []
    for image in np.intersect1d(detections.image, truth.image):
        found = order[detections.image[order] == image]
        pairs.append((found, np.flatnonzero(truth.image == image)))
    return pairs


def _ellipses(truth: GroundTruth) -> tuple[Floats, Floats]:
    """Centres (G, 2) and half axes (G, 2) of the lesions: the circle where there is one, else inscribed in the box."""
    centres = (truth.boxes[:, :2] + truth.boxes[:, 2:]) / 2
    half_axes = (truth.boxes[:, 2:] - truth.boxes[:, :2]) / 2
    if truth.circles is None:
        return centres, half_axes
    has_circle = np.isfinite(truth.circles).all(axis=1, keepdims=True)
    return np.where(has_circle, truth.circles[:, :2], centres), np.where(has_circle, truth.circles[:, 2:], half_axes)


def _ranking(detections: Detections) -> Integers:
    """Order (D,) of descending score; equal scores by image, then as given, which is COCO's order."""
    return np.lexsort((detections.image, -detections.scores))


def strongest(detections: Detections, limit: int = MAX_DETECTIONS) -> Bools:
    """Mark (D,) the `limit` strongest detections of each image."""
    keep = np.zeros(len(detections.scores), dtype=np.bool_)
    order = np.lexsort((-detections.scores, detections.image))
    images = detections.image[order]
    keep[order] = np.arange(len(order)) - np.searchsorted(images, images) < limit
    return keep


# Average precision


def average_precision(
    scores: Floats, is_true: Bools, n_truth: float, weights: Floats | None = None, image: Integers | None = None
) -> float:
    """COCO's average precision: precision made non-increasing, read at 101 recalls, averaged (cocoeval.accumulate).

    Args:
        scores: (D,).
        is_true: (D,), as from `match_by_iou`.
        n_truth: weight of all lesions; 0 gives NaN.
        weights: (D,), of each detection's image; 2 counts as the image appearing twice.
        image: (D,), orders equal scores as COCO does; without it they stay in the order given.
    """
    order = np.lexsort((np.zeros(len(scores)) if image is None else image, -scores))
    ranked = np.ones(len(scores)) if weights is None else weights[order]
    return _average_precision(np.flatnonzero(is_true[order]), ranked, np.cumsum(ranked), n_truth)


def _average_precision(true_ranks: Integers, weights: Floats, cumulated: Floats, n_truth: float) -> float:
    """Average precision from the ranks of the true detections, and the weights (D,) by rank with their running sum.

    Only true detections matter: precision peaks and recall grows at them and nowhere else.
    """
    if n_truth == 0:
        return float("nan")
    if len(true_ranks) == 0:
        return 0.0
    found, counted = np.cumsum(weights[true_ranks]), cumulated[true_ranks]
    precision = np.divide(found, counted, out=np.zeros_like(found), where=counted > 0)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    first = np.searchsorted(found / n_truth, RECALLS, side="left")
    return float(np.append(envelope, 0.0)[first].sum() / len(RECALLS))


def mean_average_precision_coco(
    detections: Detections,
    detected_class: Integers,
    truth: GroundTruth,
    true_class: Integers,
    n_images: int,
    iou_thresholds: tuple[float, ...],
    classes: tuple[int, ...],
) -> Floats:
    """Average precision (T, C) by IoU threshold and class, computed by faster-coco-eval through torchmetrics.

    COCO's -1 (a class without ground truth) becomes NaN.

    Args:
        detections: of all images, image indices below `n_images`.
        detected_class: class (D,) each score is about.
        truth: lesions of all images.
        true_class: class (G,).
        n_images: N.
        iou_thresholds: T of them.
        classes: C of them.
    """
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    metric: Any = MeanAveragePrecision(
        iou_thresholds=list(iou_thresholds),
        rec_thresholds=RECALLS.tolist(),
        extended_summary=True,
        class_metrics=True,
        backend="faster_coco_eval",
    )
    metric.warn_on_many_detections = False  # The limit of 100 is meant.
    predictions, targets = [], []
    for image in range(n_images):
        found, lesions = detections.image == image, truth.image == image
        predictions.append(
            {
                "boxes": torch.from_numpy(detections.boxes[found]),
                "scores": torch.from_numpy(detections.scores[found]),
                "labels": torch.from_numpy(detected_class[found]),
            }
        )
        targets.append(
            {"boxes": torch.from_numpy(truth.boxes[lesions]), "labels": torch.from_numpy(true_class[lesions])}
        )
    metric.update(predictions, targets)
    result = metric.compute()
    known = result["classes"].reshape(-1).tolist()
    precision = np.asarray(result["precision"], dtype=np.float64)[:, :, :, 0, -1]  # (T, recalls, known classes)
    answer = np.full((len(iou_thresholds), len(classes)), np.nan)
    for column, number in enumerate(classes):
        if number in known:
            of_class = precision[:, :, known.index(number)]
            answer[:, column] = np.where((of_class > -1).all(axis=1), of_class.mean(axis=1), np.nan)
    return answer


# FROC


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


# Tables in, figures out


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
        return [_average_precision(ranks, ranked, cumulated, n_truth) for ranks in self.true_ranks]


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
    order = _ranking(blind)
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
    order = _ranking(kept)
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
