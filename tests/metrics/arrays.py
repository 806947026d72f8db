"""Detections and lesions of tests, from rows a person can read."""

import numpy as np

from mammo_ml.metrics.matching import Detections, GroundTruth


def detections(*rows) -> Detections:
    """Rows of (image, box, score)."""
    return Detections(
        np.array([r[0] for r in rows], dtype=np.int64),
        np.array([r[1] for r in rows], dtype=np.float64).reshape(-1, 4),
        np.array([r[2] for r in rows], dtype=np.float64),
    )


def lesions(*rows) -> GroundTruth:
    """Rows of (image, box) or (image, box, circle)."""
    circles = [r[2] if len(r) > 2 else [np.nan] * 3 for r in rows]
    return GroundTruth(
        np.array([r[0] for r in rows], dtype=np.int64),
        np.array([r[1] for r in rows], dtype=np.float64).reshape(-1, 4),
        np.array(circles, dtype=np.float64).reshape(-1, 3),
    )


def around(x, y, half=1.0):
    """A small box whose centre is (x, y)."""
    return [x - half, y - half, x + half, y + half]


def random_case(seed: int, n_images: int = 14, per_image: int = 12, decimals: int = 6):
    """Jittered copies of lesions and noise, on images 300 x 200 px, some without lesions, some without detections."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for image in range(n_images):
        for _ in range(rng.integers(0, 4)):
            x, y = rng.uniform([0, 0], [240, 160])
            w, h = rng.uniform(15, 60, 2)
            truth.append((image, [x, y, x + w, y + h]))
        for _ in range(rng.integers(0, per_image)):
            own = [box for number, box in truth if number == image]
            x, y = rng.uniform([0, 0], [240, 160])
            box = [x, y, x + 40, y + 30]
            if own and rng.random() < 0.6:
                box = (np.array(own[rng.integers(len(own))]) + rng.normal(0, 4, 4)).tolist()
            found.append((image, box, round(float(rng.random()), decimals)))
    return detections(*found), lesions(*truth), n_images, rng
