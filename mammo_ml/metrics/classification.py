"""Figures of a classifier: pure functions from probabilities and labels to numbers.

Every figure takes optional `weights` (N,), at least 0, so that intervals can resample women: an item of weight 2 counts
as two items. A figure that is undefined (no items, no positives, no negatives) is NaN, never a made-up value.
Classes are those of `catalog.LABELS`: 0 normal, 1 benign, 2 malignant; probabilities (N, C) sum to 1 in each row.
"""

import numpy as np
from numpy.typing import NDArray

from mammo_ml.datasets.catalog import LABELS
from mammo_ml.errors import BadInputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

NORMAL, BENIGN, MALIGNANT = range(len(LABELS))
SMALLEST_PROBABILITY = 1e-7
"""Probabilities are clipped to at least this inside logarithms: one certain error costs 16.1 nats, not infinity."""
N_BINS = 15
"""Bins of the calibration error (Guo et al. 2017, On calibration of modern neural networks, section 4)."""
SPECIFICITY = 0.9


def accuracy(probabilities: Floats, labels: Integers, weights: Floats | None = None) -> float:
    """Share of items whose most probable class (the first of equals) is their label; NaN without items."""
    return _mean((probabilities.argmax(axis=1) == labels).astype(np.float64), weights)


def cross_entropy(probabilities: Floats, labels: Integers, weights: Floats | None = None) -> float:
    """Mean of -ln P(label), in nats, P clipped to at least 1e-7; NaN without items."""
    own = probabilities[np.arange(len(labels)), labels]
    return _mean(-np.log(np.maximum(own, SMALLEST_PROBABILITY)), weights)


def binary_cross_entropy(probabilities: Floats, labels: Integers, weights: Floats | None = None) -> float:
    """Mean over items and outputs of -ln P of what is true of the output, in nats: Keras' loss of that name.

    Each of the C outputs is told apart from the rest by itself, so the figure is smaller than the cross-entropy of the
    same probabilities. P is clipped to at least 1e-7; NaN without items.
    """
    own = np.where(np.eye(probabilities.shape[1], dtype=np.bool_)[labels], probabilities, 1 - probabilities)
    losses: Floats = -np.log(np.maximum(own, SMALLEST_PROBABILITY))
    return _mean(losses.mean(axis=1), weights)


def mean_squared_error(probabilities: Floats, labels: Integers, weights: Floats | None = None) -> float:
    """Mean over items and outputs of the squared distance from the label: the Brier score over C; NaN without items."""
    return brier(probabilities, labels, weights) / int(probabilities.shape[1])


def brier(probabilities: Floats, labels: Integers, weights: Floats | None = None) -> float:
    """Mean squared distance of the probabilities from the label, summed over classes: 0 to 2; NaN without items."""
    truth = np.eye(probabilities.shape[1])[labels]
    return _mean(((probabilities - truth) ** 2).sum(axis=1), weights)


def ece(probabilities: Floats, labels: Integers, weights: Floats | None = None, n_bins: int = N_BINS) -> float:
    """Calibration error of the most probable class: |accuracy - confidence|, its mean over equal-width bins.

    Bins hold their lower edge; a confidence of exactly 1 is in the last one. NaN without items.
    """
    weights = _weights(weights, len(labels))
    total = weights.sum()
    if total == 0:
        return float("nan")
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, n_bins + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, n_bins - 1)
    gaps = np.bincount(bins, weights * (correct - confidence), minlength=n_bins)
    return float(np.abs(gaps).sum() / total)


def confusion_matrix(
    predicted: Integers, labels: Integers, weights: Floats | None = None, n_classes: int = len(LABELS)
) -> Floats:
    """Weights (C, C) of items by their label (row) and their predicted class (column)."""
    cells = np.bincount(labels * n_classes + predicted, _weights(weights, len(labels)), minlength=n_classes**2)
    return cells.astype(np.float64).reshape(n_classes, n_classes)


def balanced_accuracy(probabilities: Floats, labels: Integers, weights: Floats | None = None) -> float:
    """Mean recall over the classes that are present (with weight) among the labels; NaN without items."""
    matrix = confusion_matrix(probabilities.argmax(axis=1), labels, weights, probabilities.shape[1])
    items = matrix.sum(axis=1)
    present = items > 0
    return float((matrix.diagonal()[present] / items[present]).mean()) if present.any() else float("nan")


def auc(scores: Floats, positives: Bools, weights: Floats | None = None) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counted half.

    Exact (Mann-Whitney), by one sort. NaN without positives or without negatives.

    Raises:
        BadInputError: when a score is NaN.
    """
    _refuse_nan(scores)
    weights = _weights(weights, len(scores))
    of_positives = np.where(positives, weights, 0.0)
    order, starts = _tie_groups(scores)
    positive = _sums(of_positives[order], starts)
    negative = _sums((weights - of_positives)[order], starts)
    pairs = positive.sum() * negative.sum()
    if pairs == 0:
        return float("nan")
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / pairs)


def auc_macro(probabilities: Floats, labels: Integers, weights: Floats | None = None) -> float:
    """Mean over the classes of the AUC of that class against the rest; NaN when a class is absent."""
    areas = [auc(probabilities[:, c], labels == c, weights) for c in range(probabilities.shape[1])]
    return float(np.mean(areas))


def roc_curve(scores: Floats, positives: Bools, weights: Floats | None = None) -> tuple[Floats, Floats]:
    """Points (T,) of the ROC curve, false and true positive rate, from (0, 0) to (1, 1); items of equal score together.

    A rate is NaN throughout where it has no items to be a rate of. Raises BadInputError when a score is NaN.
    """
    false_positives, true_positives = _counts_above(scores, positives, weights)
    return _share(false_positives), _share(true_positives)


def sensitivity_at_specificity(
    scores: Floats, positives: Bools, specificity: float = SPECIFICITY, weights: Floats | None = None
) -> float:
    """Highest sensitivity among thresholds whose specificity is at least this; nothing is interpolated.

    "Positive" is a score at or above the threshold. NaN without positives or without negatives; 0 when every
    threshold that finds a positive costs too many negatives. Raises BadInputError when a score is NaN.
    """
    false_positives, true_positives = _counts_above(scores, positives, weights)
    if false_positives[-1] == 0 or true_positives[-1] == 0:
        return float("nan")
    # Not 1 - false positive rate: 9/10 must equal 0.9 to the last bit.
    allowed = (false_positives[-1] - false_positives) / false_positives[-1] >= specificity
    return float(true_positives[allowed].max() / true_positives[-1])


def patch_figures(
    probabilities: Floats,
    labels: Integers,
    lesion_centred: Bools | None = None,
    weights: Floats | None = None,
) -> dict[str, float]:
    """Figures of the classifier over patches (docs: "The figures"), each item counted once in its original view.

    Args:
        probabilities: (N, 3).
        labels: (N,), 0 normal, 1 benign, 2 malignant.
        lesion_centred: (N,), the one patch of each located lesion; by default every patch that is not normal.
            The two lesion AUCs and `sensitivity_at_specificity_90` leave out abnormal patches that are not marked.
        weights: (N,).

    Raises:
        BadInputError: naming rows whose probabilities or label are not what they should be.
    """
    _check(probabilities, labels, weights, "patches")
    normal = labels == NORMAL
    lesion = ~normal if lesion_centred is None else lesion_centred & ~normal
    weights = _weights(weights, len(labels))
    either = normal | lesion
    abnormality = (1 - probabilities[:, NORMAL])[either], lesion[either]
    return {
        "accuracy": accuracy(probabilities, labels, weights),
        "cross_entropy": cross_entropy(probabilities, labels, weights),
        "balanced_accuracy": balanced_accuracy(probabilities, labels, weights),
        "auc_macro": auc_macro(probabilities, labels, weights),
        "auc_normal_vs_abnormal_patch": auc(*abnormality, weights[either]),
        "auc_benign_vs_malignant": auc(malignancy(probabilities[lesion]), labels[lesion] == MALIGNANT, weights[lesion]),
        "sensitivity_at_specificity_90": sensitivity_at_specificity(*abnormality, SPECIFICITY, weights[either]),
        "ece": ece(probabilities, labels, weights),
        "brier": brier(probabilities, labels, weights),
        "binary_cross_entropy": binary_cross_entropy(probabilities, labels, weights),
        "mean_squared_error": mean_squared_error(probabilities, labels, weights),
    }


def film_figures(probabilities: Floats, labels: Integers, weights: Floats | None = None) -> dict[str, float]:
    """Figures of the classifier over films: probabilities (F, 3) aggregated over tiles, labels (F,).

    Raises:
        BadInputError: naming rows whose probabilities or label are not what they should be.
    """
    _check(probabilities, labels, weights, "films")
    return {
        "film_accuracy": accuracy(probabilities, labels, weights),
        "film_balanced_accuracy": balanced_accuracy(probabilities, labels, weights),
        "film_auc_normal_vs_abnormal": auc(1 - probabilities[:, NORMAL], labels != NORMAL, weights),
        "film_auc_benign": auc(probabilities[:, BENIGN], labels == BENIGN, weights),
        "film_auc_malignant": auc(probabilities[:, MALIGNANT], labels == MALIGNANT, weights),
        "film_auc_macro": auc_macro(probabilities, labels, weights),
    }


def malignancy(probabilities: Floats) -> Floats:
    """P(malignant | abnormal) (N,) from (N, 3); one half where both abnormal classes have probability 0."""
    abnormal = probabilities[:, BENIGN] + probabilities[:, MALIGNANT]
    half = np.full(len(abnormal), 0.5)
    share: Floats = np.divide(probabilities[:, MALIGNANT], abnormal, out=half, where=abnormal > 0)
    return share


def _check(probabilities: Floats, labels: Integers, weights: Floats | None, what: str) -> None:
    """Refuse arrays that do not fit, rows that are no probabilities, and unknown labels, all in one error."""
    n = len(labels)
    if probabilities.shape != (n, len(LABELS)):
        raise BadInputError(what, [f"probabilities are {probabilities.shape}, expected ({n}, {len(LABELS)})"])
    sound = np.isfinite(probabilities).all(axis=1) & (np.abs(probabilities.sum(axis=1) - 1) < 1e-3)
    sound &= (probabilities >= 0).all(axis=1)
    problems = [f"row {i}: {probabilities[i].tolist()} are not probabilities" for i in np.flatnonzero(~sound)]
    unknown = np.flatnonzero((labels < 0) | (labels >= len(LABELS)))
    problems += [f"row {i}: label {labels[i]}, expected 0 to {len(LABELS) - 1}" for i in unknown]
    if weights is not None and weights.shape != (n,):
        problems.append(f"weights are {weights.shape}, expected ({n},)")
    if problems:
        raise BadInputError(what, problems, "Probabilities are at least 0 and sum to 1 in each row.")


def _refuse_nan(scores: Floats) -> None:
    rows = np.flatnonzero(np.isnan(scores))
    if len(rows):
        raise BadInputError("scores", [f"row {row}: score is NaN" for row in rows])


def _weights(weights: Floats | None, n: int) -> Floats:
    return np.ones(n) if weights is None else weights


def _mean(values: Floats, weights: Floats | None) -> float:
    weights = _weights(weights, len(values))
    total = weights.sum()
    return float(weights @ values / total) if total > 0 else float("nan")


def _tie_groups(scores: Floats) -> tuple[Integers, Integers]:
    """Ascending order (N,) of the scores, and where in it each group of equal scores starts."""
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    return order, np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])[: len(ranked)])


def _sums(values: Floats, starts: Integers) -> Floats:
    return np.add.reduceat(values, starts) if len(values) else np.zeros(0)


def _counts_above(scores: Floats, positives: Bools, weights: Floats | None) -> tuple[Floats, Floats]:
    """Weight of negatives and of positives at or above each distinct score, highest first, after a leading 0."""
    _refuse_nan(scores)
    weights = _weights(weights, len(scores))
    of_positives = np.where(positives, weights, 0.0)
    order, starts = _tie_groups(-scores)
    negative, positive = (_sums(part[order], starts) for part in (weights - of_positives, of_positives))
    return np.concatenate([[0.0], np.cumsum(negative)]), np.concatenate([[0.0], np.cumsum(positive)])


def _share(cumulated: Floats) -> Floats:
    total = cumulated[-1]
    return cumulated / total if total > 0 else np.full(len(cumulated), np.nan)
