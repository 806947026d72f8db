"""Calibration of a classifier's probabilities: vector scaling, fitted on the inner part of a fold and nothing else."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from mammo_ml.errors import BadInputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SMALLEST_PROBABILITY = 1e-7
"""Probabilities are clipped to at least this before the logarithm."""
SMALLEST_SCALE = 1e-3
"""Scales stay positive: calibration may flatten a class's evidence, never turn it round."""


@dataclass(frozen=True)
class VectorScaling:
    """softmax(scale * ln p + bias), a scale and a bias for each class (Guo et al. 2017, section 4.2)."""

    scale: tuple[float, ...]
    bias: tuple[float, ...]

    def apply(self, probabilities: Floats) -> Floats:
        """Calibrated probabilities (N, C) from a network's (N, C).

        Raises:
            BadInputError: when the number of classes is not the one that was fitted.
        """
        if probabilities.ndim != 2 or probabilities.shape[1] != len(self.scale):
            problem = f"probabilities are {probabilities.shape}, expected (N, {len(self.scale)})"
            raise BadInputError("calibration", [problem])
        logits = _log(probabilities) * np.array(self.scale) + np.array(self.bias)
        return np.asarray(softmax(logits, axis=1), dtype=np.float64)

    def to_dict(self) -> dict[str, list[float]]:
        """Give the fitted numbers, ready for JSON."""
        return {"scale": list(self.scale), "bias": list(self.bias)}

    @classmethod
    def from_dict(cls, values: dict[str, list[float]]) -> "VectorScaling":
        """Restore what `to_dict` gave.

        Raises:
            BadInputError: when a key is missing or unknown, or there are not as many scales as biases.
        """
        if set(values) != {"scale", "bias"} or len(values["scale"]) != len(values["bias"]):
            problem = f"expected 'scale' and 'bias' of equal length, found {values}"
            raise BadInputError("calibration", [problem])
        return cls(scale=tuple(values["scale"]), bias=tuple(values["bias"]))

    @classmethod
    def identity(cls, n_classes: int) -> "VectorScaling":
        """Leave probabilities (above the clip) as they are."""
        return cls(scale=(1.0,) * n_classes, bias=(0.0,) * n_classes)


def fit(probabilities: Floats, labels: Integers, pull: float = 1.0) -> VectorScaling:
    """Vector scaling of least cross-entropy on (N, C) probabilities and their labels (N,), pulled toward identity.

    The penalty `pull / 2 * (|scale - 1|² + |bias|²)` is added to the summed cross-entropy (nats): a prior of standard
    deviation 1 / sqrt(pull) that a few dozen items outweigh, and that keeps the fit finite when they are separable or
    a class is absent.

    Raises:
        BadInputError: when the labels hold fewer than two classes (the best fit would always answer the one seen),
            or a row is not finite or its label unknown.
    """
    _check(probabilities, labels)
    log_p, n_classes = _log(probabilities), probabilities.shape[1]
    truth = np.eye(n_classes)[labels]
    start = np.concatenate([np.ones(n_classes), np.zeros(n_classes)])

    def loss(theta: Floats) -> tuple[float, Floats]:
        log_q = log_softmax(log_p * theta[:n_classes] + theta[n_classes:], axis=1)
        residual = np.exp(log_q) - truth
        gradient = np.concatenate([(residual * log_p).sum(axis=0), residual.sum(axis=0)]) + pull * (theta - start)
        value = -(truth * log_q).sum() + pull / 2 * ((theta - start) ** 2).sum()
        return float(value / len(labels)), gradient / len(labels)

    bounds: list[tuple[float | None, float | None]] = [(SMALLEST_SCALE, None)] * n_classes + [(None, None)] * n_classes
    best = minimize(
        loss, start, method="L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-9}
    ).x
    return VectorScaling(scale=tuple(best[:n_classes].tolist()), bias=tuple(best[n_classes:].tolist()))


def _log(probabilities: Floats) -> Floats:
    logs: Floats = np.log(np.maximum(probabilities.astype(np.float64), SMALLEST_PROBABILITY))
    return logs


def _check(probabilities: Floats, labels: Integers) -> None:
    if probabilities.ndim != 2 or len(probabilities) != len(labels):
        raise BadInputError("calibration", [f"probabilities are {probabilities.shape} for {len(labels)} labels"])
    rows = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    problems = [f"row {row}: {probabilities[row].tolist()} are not probabilities" for row in rows]
    n_classes = probabilities.shape[1]
    unknown = np.flatnonzero((labels < 0) | (labels >= n_classes))
    problems += [f"row {row}: label {labels[row]}, expected 0 to {n_classes - 1}" for row in unknown]
    if len(np.unique(labels)) < 2:
        problems.append(f"labels hold only {np.unique(labels).tolist()}, expected at least two classes")
    if problems:
        raise BadInputError("calibration", problems, "Calibrate on an inner part that holds several classes.")
