"""The baseline of the classifier: what a logistic regression tells from five numbers of a patch.

Mean and spread of the grey values, share of breast, place in the breast: what a patch tells by how it was cut and
exposed. A network that is no better than these has learned nothing about lesions.
"""

from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mammo_ml.classifier import PROBABILITY_COLUMNS
from mammo_ml.cutting import PatchSet
from mammo_ml.datasets.catalog import BOX_COLUMNS, LABELS
from mammo_ml.errors import raise_if_any
from mammo_ml.imaging.breast import canonical_transform
from mammo_ml.metrics.classification import patch_figures
from mammo_ml.metrics.paired import paired_difference

Floats = NDArray[np.float64]
FEATURES = ("mean", "spread", "breast_share", "place_x", "place_y")
COMPARED = ("auc_macro", "auc_normal_vs_abnormal_patch", "auc_benign_vs_malignant")
BREAST_COLUMNS = ["breast_x1", "breast_y1", "breast_x2", "breast_y2"]


def patch_features(patch_set: PatchSet, films: pd.DataFrame) -> Floats:
    """`FEATURES` of each patch (N, 5): grey values 0 to 1, shares of the breast's bounding box from chest and top.

    Args:
        patch_set: the patches; their upright view is looked at.
        films: films.csv.
    """
    upright = patch_set.pictures[:, 0] / 255
    patches = patch_set.patches
    boxes = {film.film_id: _breast(film) for film in films.itertuples(index=False)}
    breast = np.array([boxes[name] for name in patches["film_id"]])
    windows = patches[BOX_COLUMNS].to_numpy(dtype=np.float64)
    place = ((windows[:, :2] + windows[:, 2:]) / 2 - breast[:, :2]) / (breast[:, 2:] - breast[:, :2])
    share = patches["breast_share"].to_numpy(dtype=np.float64)
    return np.column_stack([upright.mean(axis=(1, 2)), upright.std(axis=(1, 2)), share, place])


def _breast(film: object) -> Floats:
    """Bounding box (4,) of the breast on the canonical film."""
    values = film._asdict()  # type: ignore[attr-defined]
    transform = canonical_transform(
        values["chest_wall"], values["width_px"], values["height_px"], values["pixel_spacing_mm"]
    )
    box: Floats = transform.boxes_to_canonical(np.array([[values[column] for column in BREAST_COLUMNS]], np.float64))[0]
    return box


def baseline_probabilities(features: Floats, labels: NDArray[np.int64], learned_from: NDArray[np.bool_]) -> Floats:
    """Class probabilities (N, 3) of every patch by a regression fitted on those that may be learned from.

    Args:
        features: (N, F).
        labels: class index (N,).
        learned_from: (N,) whether a patch is in the fold's training or inner part.

    Raises:
        BadInputError: when a class is missing among them.
    """
    missing = [label for n, label in enumerate(LABELS) if n not in labels[learned_from]]
    raise_if_any("baseline of the classifier", [f"no {label} patch to learn from" for label in missing])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    found: Floats = model.fit(features[learned_from], labels[learned_from]).predict_proba(features)
    return found


def differences(patches: pd.DataFrame, baseline: pd.DataFrame, resamples: int, seed: int) -> dict[str, float]:
    """Each of `COMPARED` less the baseline's, with the bounds of the difference: the same women in every resample.

    Args:
        patches: item, patient_id, label, p_normal, p_benign, p_malignant.
        baseline: the same items from the baseline.
        resamples: resamples of the women.
        seed: of the resamples.
    """
    pairs = patches.merge(
        baseline[["item", *PROBABILITY_COLUMNS]], on="item", suffixes=("", "_baseline"), validate="1:1"
    )
    labels = pairs["label"].map(LABELS.index).to_numpy(dtype=np.int64)
    ours = pairs[PROBABILITY_COLUMNS].to_numpy(dtype=np.float64)
    theirs = pairs[[f"{column}_baseline" for column in PROBABILITY_COLUMNS]].to_numpy(dtype=np.float64)

    def figures(probabilities: Floats, weights: Floats) -> dict[str, float]:
        found = patch_figures(probabilities, labels, weights=weights)
        return {name: found[name] for name in COMPARED}

    gains = paired_difference(
        partial(figures, ours), partial(figures, theirs), list(pairs["patient_id"]), resamples, seed
    )
    found: dict[str, float] = {}
    for name, gain in gains.items():
        found |= {name: gain.point, f"{name}_lo": gain.lo, f"{name}_hi": gain.hi}
    return found
