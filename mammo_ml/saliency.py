"""What a classifier looks at: Grad-CAM, and the pointing game that scores it against the lesions.

Grad-CAM (Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization"):
maps of a convolution, weighted by what a change of each would do to the score, and only what speaks for it. The score
is the log odds of abnormal against normal. Pointing game (Zhang et al. 2018, "Top-down Neural Attention by Excitation
Backprop"): a hit where the strongest pixel lies in the lesion.
"""

import numpy as np
import pandas as pd
import torch
from captum.attr import LayerAttribution, LayerGradCam  # type: ignore[import-untyped]
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from mammo_ml.classifier import PREDICTION_BATCH, to_tensor
from mammo_ml.imaging.boxes import Boxes
from mammo_ml.models.classifiers import CompactClassifier
from mammo_ml.models.cnni_bcc import CnniBcc

Floats = NDArray[np.float64]
BLUR_PX = 3.0
"""Of the picture in which the brightest place is sought: a mass is larger than a scratch."""
RULES = ("pointing_game", "pointing_game_centre", "pointing_game_brightest", "pointing_game_chance")


def grad_cam(model: nn.Module, pictures: NDArray[np.uint8]) -> Floats:
    """How much each place of a picture speaks for a lesion: (N, S, S), at least 0, of pictures uint8 (N, S, S).

    Raises:
        TypeError: when the model is none of the classifiers of `mammo_ml.models.classifiers`.
    """
    model.eval()
    batches = [pictures[start : start + PREDICTION_BATCH] for start in range(0, len(pictures), PREDICTION_BATCH)]
    found = [_grad_cam(model, to_tensor(batch)) for batch in batches]
    return np.concatenate([np.empty((0, *pictures.shape[1:])), *found])


def _grad_cam(model: nn.Module, images: Tensor) -> Floats:
    def abnormal(pictures: Tensor) -> Tensor:
        logits: Tensor = model(pictures)
        return torch.logsumexp(logits[:, 1:], dim=1) - logits[:, 0]

    speaking = LayerGradCam(abnormal, _looked_at(model)).attribute(images, relu_attributions=True)  # (N, 1, h, w)
    sized = LayerAttribution.interpolate(speaking, images.shape[-2:], "bilinear")
    found: Floats = sized[:, 0].detach().double().numpy()
    return found


def _looked_at(model: nn.Module) -> nn.Module:
    """The last layer whose maps can point: 8 x 8 of the compact network, 32 x 32 of the six layers."""
    if isinstance(model, CompactClassifier):
        return model.backbone.stages[-2]
    if isinstance(model, CnniBcc):
        return model.features[-1]
    raise TypeError(f"{type(model).__name__} is no classifier with maps to look at")


def strongest(maps: Floats) -> Floats:
    """Where each map (N, H, W) is highest: x and y (N, 2) of a pixel's middle; NaN where it is 0 everywhere."""
    flat = maps.reshape(len(maps), -1)
    at = flat.argmax(axis=1)
    places = np.stack([at % maps.shape[2], at // maps.shape[2]], axis=1) + 0.5
    return np.where(flat.max(axis=1, keepdims=True) > 0, places, np.nan)


def pointing_game(maps: Floats, pictures: NDArray[np.uint8], boxes: Boxes) -> pd.DataFrame:
    """Whether each map's strongest place lies in its lesion, and what pointing without a classifier would hit.

    The lesion is the ellipse in its box: the annotated circle, where the picture shows all of it.

    Args:
        maps: (N, S, S), as `grad_cam` gives them.
        pictures: uint8 (N, S, S).
        boxes: the one lesion (N, 4) of each picture, in its px.

    Returns:
        x_px, y_px: the strongest place; `RULES`: 1 or 0 for it, for the middle of the picture and for its brightest
        place, and the share of the picture that the lesion covers.
    """
    side = pictures.shape[1]
    blurred = np.stack([ndimage.gaussian_filter(picture.astype(np.float64), BLUR_PX) for picture in pictures])
    points = strongest(maps)
    covered = np.pi / 4 * (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / side**2
    places = (points, np.full((len(boxes), 2), side / 2), strongest(blurred + 1))
    table = pd.DataFrame(points, columns=["x_px", "y_px"])
    for rule, place in zip(RULES, places, strict=False):
        table[rule] = _inside(place, boxes).astype(np.float64)
    return table.assign(**{RULES[-1]: covered})


def _inside(points: Floats, boxes: Boxes) -> NDArray[np.bool_]:
    """Whether points (N, 2) lie in the ellipses of boxes (N, 4); NaN does not."""
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    inside: NDArray[np.bool_] = (((points - middle) / half) ** 2).sum(axis=1) <= 1
    return inside
