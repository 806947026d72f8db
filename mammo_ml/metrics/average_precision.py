"""Average precision as COCO counts it: our own, whose items can be weighted, and faster-coco-eval's, which is reported.

Axes: D detections, G ground-truth lesions, N images, T thresholds, C classes. Without ground truth it is NaN.
"""

from typing import Any

import numpy as np

from mammo_ml.metrics.matching import Bools, Detections, Floats, GroundTruth, Integers

RECALLS: Floats = np.linspace(0.0, 1.0, 101)
"""COCO's recall levels (cocoeval.Params.recThrs). torchmetrics' are float32, so a recall of 1/10 misses its level."""


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
    return ranked_average_precision(np.flatnonzero(is_true[order]), ranked, np.cumsum(ranked), n_truth)


def ranked_average_precision(true_ranks: Integers, weights: Floats, cumulated: Floats, n_truth: float) -> float:
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
