"""Which detections are true: COCO's rule by overlap, and THE hit rule by centre (docs/hit-rules.md).

Axes: D detections, G ground-truth lesions. Boxes are those of `mammo_ml.imaging.boxes`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mammo_ml.imaging import boxes as bx

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

MAX_DETECTIONS = 100
"""COCO counts the 100 strongest detections of an image, class by class (cocoeval.Params.maxDets)."""


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
    order = ranking(detections)
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


def ranking(detections: Detections) -> Integers:
    """Order (D,) of descending score; equal scores by image, then as given, which is COCO's order."""
    return np.lexsort((detections.image, -detections.scores))


def strongest(detections: Detections, limit: int = MAX_DETECTIONS) -> Bools:
    """Mark (D,) the `limit` strongest detections of each image."""
    keep = np.zeros(len(detections.scores), dtype=np.bool_)
    order = np.lexsort((-detections.scores, detections.image))
    images = detections.image[order]
    keep[order] = np.arange(len(order)) - np.searchsorted(images, images) < limit
    return keep
