"""The detector's side of training and prediction: which cuts, which loss, which boxes."""

from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from mammo_ml.classifier import to_tensor
from mammo_ml.cutting import CutSet, targets_of_views
from mammo_ml.detector_bases import Base
from mammo_ml.errors import raise_if_any
from mammo_ml.imaging import boxes as bx
from mammo_ml.imaging.augmentation import AugmentationParameters, augment
from mammo_ml.models.ssd import (
    BOX_SCALES,
    EDGE_TOLERANCE_PX,
    LesionSSD,
    SsdParameters,
    build_detector,
    detection_loss,
    predict_boxes,
)
from mammo_ml.pretrained import Start, resolve
from mammo_ml.recipe import Recipe, Values
from mammo_ml.windows import WindowParameters

PREDICTION_BATCH = 64
Target = tuple[bx.Boxes, NDArray[np.int64]]


class DetectorRecipe(Recipe):
    """Section `train_detector`."""

    network: SsdParameters
    pretrained: str = Field(
        description="starter (vgg16's is imagenet), starter_if_any (none for a base that none is shipped for), "
        "imagenet (vgg16), none, or a folder of weights"
    )


class PretrainingRecipe(Recipe):
    """Section `pretrain_detector`: windows of whole films in place of cuts."""

    network: SsdParameters
    windows: WindowParameters
    inner_women: int = Field(ge=1, description="women kept apart to choose the best epoch by")
    by_base: dict[Base, Values] = Field(default={}, description="single keys that differ for a base")

    def of_base(self, base: Base) -> Self:
        """The same recipe for this base."""
        return self.with_values({"base": base, **self.by_base.get(base, {})})


class DetectorTask:
    """SSD's loss on pictures half of which show a lesion; satisfies `mammo_ml.training.Task`.

    Args:
        model: the detector.
        pictures: uint8 (M, H, W).
        targets: per picture, boxes (G, 4) in its px and classes (G,), 1 benign or 2 malignant.
        names: name (M,) of each picture, for messages.
        train: indices of the training pictures.
        inner: indices of the inner part's pictures; may be empty.
        augmentation: random changes on top of the fixed views.
    """

    def __init__(
        self,
        model: LesionSSD,
        pictures: NDArray[np.uint8],
        targets: Sequence[Target],
        names: list[str],
        train: NDArray[np.int64],
        inner: NDArray[np.int64],
        augmentation: AugmentationParameters,
    ) -> None:
        self.model, self._pictures, self._targets, self._names = model, pictures, targets, names
        self._inner, self._augmentation = inner, augmentation
        refuse_bad_boxes(names, targets, model.side_px)
        has_lesion = np.array([len(labels) > 0 for _, labels in targets])
        groups = [train[has_lesion[train]], train[~has_lesion[train]]]
        self._groups = [group for group in groups if len(group)]

    def draw(self, n: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """An epoch's pictures: half of them with lesions, half without, where there are both."""
        groups = generator.permutation(np.arange(n) % len(self._groups))
        return np.array([generator.choice(self._groups[group]) for group in groups], dtype=np.int64)

    def loss(self, samples: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        """Confidence plus localisation loss of a batch."""
        boxes = [torch.from_numpy(self._targets[index][0]).float() for index in samples]
        labels = [torch.from_numpy(self._targets[index][1]) for index in samples]
        images, moved, kept = augment(to_tensor(self._pictures[samples]), boxes, generator, self._augmentation)
        assert moved is not None
        assert kept is not None
        return detection_loss(self.model, images, moved, [own[left] for own, left in zip(labels, kept, strict=True)])

    @torch.no_grad()
    def inner_loss(self) -> float:
        """Loss over the inner part."""
        if len(self._inner) == 0:
            return float("nan")
        self.model.eval()
        total = 0.0
        for start in range(0, len(self._inner), PREDICTION_BATCH):
            batch = self._inner[start : start + PREDICTION_BATCH]
            boxes = [torch.from_numpy(self._targets[index][0]).float() for index in batch]
            labels = [torch.from_numpy(self._targets[index][1]) for index in batch]
            total += float(detection_loss(self.model, to_tensor(self._pictures[batch]), boxes, labels)) * len(batch)
        return total / len(self._inner)

    def describe(self, samples: NDArray[np.int64]) -> str:
        """Names of the cuts."""
        return "cuts " + ", ".join(self._names[index] for index in samples)


def refuse_bad_boxes(names: Sequence[str], targets: Sequence[Target], side_px: int) -> None:
    """Stop before a training that would teach lesions as background: augmentation drops a box it cannot show.

    Args:
        names: name (M,) of each picture.
        targets: per picture, boxes (G, 4) in its px and classes (G,).
        side_px: of the pictures.

    Raises:
        BadInputError: naming the picture of every box that is not finite, has no area, or lies outside it.
    """
    faults = []
    for name, (boxes, _) in zip(names, targets, strict=True):
        inside = bx.clip(boxes, side_px, side_px)
        fit = (boxes[:, :2] < boxes[:, 2:]).all(1) & (np.abs(boxes - inside) <= EDGE_TOLERANCE_PX).all(1)
        faults += [f"{name}: {box.tolist()}" for box in boxes[~fit]]
    rule = f"0 <= x1 < x2 <= {side_px} and 0 <= y1 < y2 <= {side_px}"
    raise_if_any("boxes to train on", faults, f"A box is x1, y1, x2, y2 in px, {rule}: run stage `cut` again.")


def new_detector(recipe: DetectorRecipe, lesions: Iterable[bx.Boxes]) -> LesionSSD:
    """A network to train: fresh weights, which the recipe's seed decides, with those it starts from put over them.

    Its default boxes are the recipe's where it names some, else those of the weights it starts from, whose heads belong
    to them; heads that are fresh get boxes that fit the lesions to learn from, and no others.

    Args:
        recipe: of the training.
        lesions: boxes (G, 4) of each training picture, in px of the network's input.
    """
    start, network = start_of(recipe), recipe.network
    given = network.base in (network.scales or {})
    if not given and (start.weights is None or start.is_of_the_base_alone):
        network = network.with_boxes_for(lesions)
    torch.manual_seed(recipe.training.seed)
    model = build_detector(network)
    wanted = model.box_scales.clone()
    start.load_into(model)
    if BOX_SCALES in (start.weights or {}):
        model.use_boxes(wanted if given else network.scale_factor * model.box_scales)
    return model


def start_of(recipe: DetectorRecipe) -> Start:
    """The weights a training with this recipe starts from."""
    return resolve(recipe.pretrained, "detector", recipe.network.base)


def task_on_cuts(
    recipe: DetectorRecipe, cuts: CutSet, train: NDArray[np.bool_], inner: NDArray[np.bool_]
) -> DetectorTask:
    """A new network and its data: all views of the training cuts, the identity of the inner ones.

    Args:
        recipe: network, augmentation, training; its seed also sets the first weights.
        cuts: the cuts.
        train: (N,) whether a cut is trained on.
        inner: (N,) whether a cut belongs to the inner part.
    """
    n_views = cuts.pictures.shape[1]
    first = np.arange(len(cuts.cuts)) * n_views
    every_view = (first[train][:, None] + np.arange(n_views)).ravel()
    return task_on_pictures(recipe, cuts, every_view, first[inner])


def task_on_pictures(
    recipe: DetectorRecipe, cuts: CutSet, train: NDArray[np.int64], inner: NDArray[np.int64]
) -> DetectorTask:
    """A new network and its data, given as indices into the pictures of all views, cut by cut."""
    n_views, edge = cuts.pictures.shape[1], cuts.pictures.shape[2]
    targets, names = targets_of_views(cuts.targets(), edge), list(np.repeat(cuts.cuts["cut_id"], n_views))
    refuse_bad_boxes(names, targets, edge)
    return DetectorTask(
        new_detector(recipe, [targets[index][0] for index in train]),
        cuts.every_picture,
        targets,
        names,
        train,
        inner,
        recipe.augmentation,
    )


def detect(
    model: LesionSSD, pictures: NDArray[np.uint8], nms_iou: float, max_detections: int, names: Sequence[str]
) -> list[pd.DataFrame]:
    """Boxes found on each of pictures uint8 (N, H, W), called `names` in messages: x1 … y2 (picture px), p_*."""
    found = []
    for start in range(0, len(pictures), PREDICTION_BATCH):
        part = slice(start, start + PREDICTION_BATCH)
        batch, called = to_tensor(pictures[part]), names[part]
        for boxes, benign, malignant in predict_boxes(model, batch, max_detections, nms_iou, names=called):
            table = pd.DataFrame(boxes.double().numpy(), columns=["x1", "y1", "x2", "y2"])
            found.append(table.assign(p_benign=benign.double().numpy(), p_malignant=malignant.double().numpy()))
    return found
