"""SSD (Liu et al. 2016, "SSD: Single Shot MultiBox Detector"): lesions as boxes, learning from lesion-free films too.

The network is torchvision's SSD on a base of `mammo_ml.models.ssd_bases`. What differs: grey-scale input of one size,
default boxes that fit lesions, a minimum of hard negatives per image, and one non-maximum suppression for both classes,
because two boxes on one lesion are one finding whatever their labels.

Boxes are those of `mammo_ml.imaging.boxes`, here as float tensors in pixels of the network's input.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou, clip_boxes_to_image, nms

from mammo_ml.detector_bases import Base
from mammo_ml.devices import device_of
from mammo_ml.errors import BadInputError, MammoError, raise_if_any
from mammo_ml.imaging.boxes import Boxes, area
from mammo_ml.models.ssd_bases import BASES, base_of, build_base, scales_for
from mammo_ml.parameters import Parameters

CLASSES = ("background", "benign", "malignant")
BOX_SCALES = "box_scales"
"""Name of the tensor that tells a detector's default boxes."""
CANDIDATES_PER_IMAGE = 200
"""The surest boxes of an image, which alone are decoded and suppressed."""
PIXELS_AT_ONCE = 64 * 128**2
"""Pixels of the images that are predicted together: bounds the memory."""
EDGE_TOLERANCE_PX = 1e-3
"""How far float32 rounding may put a box over the edge of its image."""

Scale = Annotated[float, Field(gt=0, le=2)]


class SsdParameters(Parameters):
    """What the detector is built from."""

    base: Base = Field(default="small", description="the convolutional base; the side of the input follows from it")
    width: int = Field(
        default=32,
        ge=8,
        le=128,
        multiple_of=8,
        description="channels of `small`'s stem, the rest scale with it, as do the extra layers of `six_layer_cnn`; "
        "`vgg16` has its own",
    )
    scales: dict[Base, tuple[Scale, ...]] | None = Field(
        default=None,
        description="sides of the default boxes over the input's side, by base: one per feature map, and one beyond "
        "the last; a base that is not named has those of the weights it starts from, or, with fresh heads, those that "
        "fit the lesions it is trained on",
    )
    scale_factor: float = Field(
        default=1.0, ge=0.5, le=2.0, description="all default boxes are so many times as large, those of a start too"
    )
    negative_to_positive_ratio: float = Field(default=3.0, gt=0, description="hard negatives per matched default box")
    min_negatives: int = Field(
        default=8, gt=0, description="hard negatives an image gives at least, also without boxes"
    )

    @property
    def input_px(self) -> int:
        """Side of the images the network sees."""
        return BASES[self.base].input_px

    def with_scales(self, scales: Sequence[float]) -> Self:
        """The same with these scales for its base."""
        return self.model_copy(update={"scales": {**(self.scales or {}), self.base: tuple(scales)}})

    def with_boxes_for(self, lesions: Iterable[Boxes]) -> Self:
        """The same with default boxes that fit lesions: boxes (G, 4) of each picture, in px of the network's input.

        A lesion that a picture's edge cuts counts with the side of the square of its area, one larger than the input
        with the input's side.

        Raises:
            BadInputError: when there is no lesion, or one has no area.
        """
        sides = np.sqrt(area(np.concatenate([np.empty((0, 4)), *lesions])))
        return self.with_scales(scales_for(np.minimum(sides, self.input_px), self.base))

    @model_validator(mode="after")
    def _scales_fit_the_feature_maps(self) -> Self:
        for base, scales in (self.scales or {}).items():
            wanted = len(BASES[base].scales)
            if len(scales) != wanted or any(small >= large for small, large in pairwise(scales)):
                raise ValueError(f"base {base}: scales must be {wanted} increasing numbers, found {list(scales)}")
        return self


class LesionSSD(SSD):  # type: ignore[misc]  # torchvision has no types
    """torchvision's SSD for one-channel images of one size, with a loss that images without boxes take part in.

    What its heads learn are offsets from its default boxes, so these travel with the weights: `box_scales`, their sides
    over the input's side, is one of its tensors, and weights that are loaded bring their own.
    """

    box_scales: Tensor

    def __init__(self, parameters: SsdParameters) -> None:
        design = BASES[parameters.base]
        scales = (parameters.scales or {}).get(parameters.base, design.scales)
        sides = [parameters.scale_factor * scale for scale in scales]
        super().__init__(
            build_base(parameters.base, parameters.width),
            _default_boxes(parameters.base, sides),
            size=(design.input_px, design.input_px),
            num_classes=len(CLASSES),
            image_mean=list(design.image_mean),
            image_std=list(design.image_std),
        )
        self.base, self.side_px = parameters.base, design.input_px
        self.neg_to_pos_ratio = parameters.negative_to_positive_ratio
        self.min_negatives = parameters.min_negatives
        self.register_buffer(BOX_SCALES, torch.tensor(sides))

    def raw_outputs(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Head outputs (N, A, 3) and (N, A, 4) of images (N, 1, S, S) in 0..1, and their default boxes (A, 4) in px.

        The same as torchvision's forward pass without its per-image resizing, which an image of the right size
        does not need. All float32, also where the network runs in a narrower type (autocast): bfloat16 would move
        a default box by up to a pixel.
        """
        statistics = (self.transform.image_mean, self.transform.image_std)
        # Three means make three channels of a grey image.
        mean, std = (images.new_tensor(values)[:, None, None] for values in statistics)
        features = list(self.backbone((images - mean) / std).values())
        grids = [feature[:1, :1].float() for feature in features]
        default_boxes = self.anchor_generator(ImageList(images[:1], [(self.side_px, self.side_px)]), grids)[0]
        return {name: output.float() for name, output in self.head(features).items()}, default_boxes

    def refusal_of(self, weights: Mapping[str, Tensor]) -> str:
        """Say why weights cannot be this detector's: another base's, or of impossible default boxes; "" if they can."""
        found = base_of(weights)
        if found not in (self.base, None):
            return f"weights of base {found}, this network has base {self.base}: set `base: {found}` or give others"
        scales = weights.get(BOX_SCALES)
        if scales is None or scales.shape != self.box_scales.shape:  # another shape is told with those of all tensors
            return ""
        increasing = all(small < large for small, large in pairwise([0.0, *scales.tolist()]))
        told = f"{BOX_SCALES}: the sides of default boxes must be above 0 and increase, found {scales.tolist()}"
        return "" if increasing else told

    def completed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights, with this network's default boxes where they do not tell theirs, as older ones do not."""
        return {BOX_SCALES: self.box_scales, **weights}

    def use_boxes(self, scales: Tensor) -> None:
        """Have default boxes of these sides (L + 1,) over the input's side, one per feature map and one beyond."""
        if not torch.equal(self.box_scales, scales):
            self.box_scales.copy_(scales)
            self.anchor_generator = _default_boxes(self.base, scales.tolist())

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As in torch, default boxes included; weights of another base are refused by its name (BadInputError)."""
        raise_if_any("weights for the detector", filter(None, [self.refusal_of(state_dict)]))
        own = {name: tensor for name, tensor in state_dict.items() if name != BOX_SCALES}
        found = super().load_state_dict(self.completed(own), strict=strict, assign=assign)
        if BOX_SCALES in state_dict:
            self.use_boxes(state_dict[BOX_SCALES])
        return found

    def match(self, boxes: Tensor, default_boxes: Tensor) -> Tensor:
        """Index (A,) of the box (G, 4) each default box (A, 4) answers for, -1 for background (SSD paper, p. 5)."""
        if len(boxes) == 0:
            return torch.full((len(default_boxes),), -1, dtype=torch.int64, device=default_boxes.device)
        matched: Tensor = self.proposal_matcher(box_iou(boxes, default_boxes))
        return matched

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Regression and classification loss, each the mean over images of a sum over default boxes.

        torchvision takes 3 negatives per matched default box: an image without boxes gives no negatives, no loss and
        no gradient, though it is what teaches a detector where nothing is. Here each image gives at least
        `min_negatives`, and is normalised by itself, so that the loss of a batch does not depend on how many of its
        films are normal. An image's normaliser is its number of matched default boxes, or what its negatives would
        be matched with at the ratio, when that is more.
        """
        matched = torch.stack(matched_idxs)
        is_lesion = matched >= 0
        labels, boxes = _answers(targets, matched, anchors)

        positives = is_lesion.sum(1)
        negatives = (self.neg_to_pos_ratio * positives).clamp(min=self.min_negatives).round().long()
        normaliser = torch.maximum(positives.float(), negatives / self.neg_to_pos_ratio)

        offsets = torch.stack([self.box_coder.encode_single(*pair) for pair in zip(boxes, anchors, strict=True)])
        errors = F.smooth_l1_loss(head_outputs["bbox_regression"], offsets, reduction="none").sum(2)
        regression = (errors * is_lesion).sum(1)

        losses = F.cross_entropy(head_outputs["cls_logits"].transpose(1, 2), labels, reduction="none")
        # A cross-entropy is not negative: lesions set to 0 rank after every negative and add nothing.
        of_negatives = losses.masked_fill(is_lesion, 0.0)
        hardest = of_negatives.topk(min(int(negatives.max()), losses.shape[1]), dim=1).values
        is_taken = torch.arange(hardest.shape[1], device=hardest.device) < negatives[:, None]
        classification = (losses * is_lesion).sum(1) + (hardest * is_taken).sum(1)
        return {
            "bbox_regression": (regression / normaliser).mean(),
            "classification": (classification / normaliser).mean(),
        }


def _default_boxes(base: Base, scales: Sequence[float]) -> DefaultBoxGenerator:
    design = BASES[base]
    ratios = [list(own) for own in design.aspect_ratios]
    return DefaultBoxGenerator(ratios, scales=list(scales), steps=list(design.strides))


def _answers(targets: list[dict[str, Tensor]], matched: Tensor, anchors: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Class (N, A) and box (A, 4) per image that each default box should give; a negative's box is itself."""
    labels = torch.zeros_like(matched)
    boxes = [default_boxes.clone() for default_boxes in anchors]
    for image, target in enumerate(targets):
        lesions = torch.where(matched[image] >= 0)[0]
        labels[image, lesions] = target["labels"][matched[image, lesions]]
        boxes[image][lesions] = target["boxes"][matched[image, lesions]].to(boxes[image].dtype)
    return labels, boxes


def build_detector(parameters: SsdParameters) -> LesionSSD:
    """Build a detector with fresh weights, drawn from torch's global random state (seed it for the same weights)."""
    # Channels last: a third faster in training and prediction on CPU, measured; load_state_dict keeps the layout.
    detector: LesionSSD = LesionSSD(parameters).to(memory_format=torch.channels_last)
    return detector


def detection_loss(model: LesionSSD, images: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """Return the training loss, a scalar: regression plus classification, the mean over the batch.

    Args:
        model: the detector; in training mode for training, in evaluation mode for the loss of an inner part.
        images: (N, 1, S, S) float in 0..1, S the detector's `side_px`.
        boxes: for each image its lesions (G, 4) in px of the image, (0, 4) for none.
        labels: for each image its lesions' classes (G,), int64, 1 benign or 2 malignant.

    Raises:
        BadInputError: naming every image or box that is not as described.
    """
    _check_images(model, images)
    _check_targets(model, len(images), boxes, labels)
    head_outputs, default_boxes = model.raw_outputs(images.to(device_of(model)))
    targets = [
        {"boxes": b.to(default_boxes), "labels": c.to(default_boxes.device)} for b, c in zip(boxes, labels, strict=True)
    ]
    matched = [model.match(target["boxes"], default_boxes) for target in targets]
    losses = model.compute_loss(targets, head_outputs, [default_boxes] * len(images), matched)
    return losses["bbox_regression"] + losses["classification"]


class Detections(NamedTuple):
    """One image's findings, the highest score first: p_benign + p_malignant, which is 1 - P(background)."""

    boxes: Tensor
    p_benign: Tensor
    p_malignant: Tensor


def predict_boxes(
    model: LesionSSD,
    images: Tensor,
    max_detections: int = 20,
    nms_iou: float = 0.3,
    score_floor: float = 0.01,
    names: Sequence[str] | None = None,
) -> list[Detections]:
    """Find lesions whatever their class: ranked by 1 - P(background), suppressed without regard to the class.

    Args:
        model: the detector; it predicts in evaluation mode and is left in the mode it came in.
        images: (N, 1, S, S) float in 0..1, S the detector's `side_px`.
        max_detections: boxes kept per image.
        nms_iou: of two boxes that overlap more than this, the one of lower score goes.
        score_floor: boxes of this score or less are left out.
        names: what the images (N,) are called in messages; else by number.

    Returns:
        For each image its boxes (D, 4) in px, clipped to the image, with P(benign) (D,) and P(malignant) (D,), on cpu.
        A box that lies wholly outside the image is left out.

    Raises:
        BadInputError: when the images are not as described.
        MammoError: naming the images for which the network gives numbers that are not finite.
    """
    _check_images(model, images)
    names = [f"image {n}" for n in range(len(images))] if names is None else names
    raise_if_any(
        "images for the detector", [] if len(names) == len(images) else [f"{len(images)} with {len(names)} names"]
    )
    at_once, device = max(1, PIXELS_AT_ONCE // model.side_px**2), device_of(model)
    was_training = model.training
    model.eval()
    try:
        found: list[Detections] = []
        with torch.inference_mode():
            for start in range(0, len(images), at_once):
                head_outputs, default_boxes = model.raw_outputs(images[start : start + at_once].to(device))
                _check_outputs(head_outputs, names[start : start + at_once])
                probabilities = head_outputs["cls_logits"].softmax(2)
                for offsets, p in zip(head_outputs["bbox_regression"], probabilities, strict=True):
                    found.append(_suppress(model, offsets, p, default_boxes, max_detections, nms_iou, score_floor))
        return found
    finally:
        model.train(was_training)


def _suppress(
    model: LesionSSD,
    offsets: Tensor,
    probabilities: Tensor,
    default_boxes: Tensor,
    max_detections: int,
    nms_iou: float,
    score_floor: float,
) -> Detections:
    scores, candidates = probabilities[:, 1:].sum(1).topk(min(CANDIDATES_PER_IMAGE, len(probabilities)))
    candidates = candidates[scores > score_floor]
    boxes = model.box_coder.decode_single(offsets[candidates], default_boxes[candidates])
    boxes = clip_boxes_to_image(boxes, (model.side_px, model.side_px))
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    boxes, p = boxes[inside], probabilities[candidates[inside]]
    keep = nms(boxes, p[:, 1:].sum(1), nms_iou)[:max_detections]
    return Detections(boxes[keep].cpu(), p[keep, 1].cpu(), p[keep, 2].cpu())


def _check_images(model: LesionSSD, images: Tensor) -> None:
    wanted = (1, model.side_px, model.side_px)
    if images.ndim != 4 or images.shape[1:] != wanted or not images.is_floating_point():
        raise BadInputError(
            "images for the detector",
            [f"found {images.dtype} of shape {tuple(images.shape)}"],
            f"Give float images in 0..1 of shape (N, {', '.join(map(str, wanted))}): base {model.base} sees cuts and "
            f"tiles of {model.side_px} px. Run stage `cut` again if they were made for another base.",
        )


def _check_outputs(head_outputs: dict[str, Tensor], names: Sequence[str]) -> None:
    """Without this, NaN would rank below every floor and read as a film without findings."""
    finite = torch.stack([output.isfinite().flatten(1).all(1) for output in head_outputs.values()]).all(0)
    if not finite.all():
        bad = ", ".join(names[int(i)] for i in torch.where(~finite)[0])
        raise MammoError(f"the detector's output is not finite for {bad}: look at the pixels and the weights")


def _check_targets(model: LesionSSD, n_images: int, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> None:
    what = "lesion boxes for the detector"
    if n_images == 0:
        raise BadInputError(what, ["the batch has no images, and so no mean"])
    if not n_images == len(boxes) == len(labels):
        raise BadInputError(what, [f"{n_images} images, {len(boxes)} lists of boxes, {len(labels)} lists of labels"])
    raise_if_any(
        what,
        [
            f"image {i}: boxes of shape {tuple(b.shape)} with labels {c.dtype} of shape {tuple(c.shape)}"
            for i, (b, c) in enumerate(zip(boxes, labels, strict=True))
            if b.ndim != 2 or b.shape[1] != 4 or c.shape != b.shape[:1] or c.dtype != torch.int64
        ],
        "Give (G, 4) boxes with (G,) int64 labels, (0, 4) and (0,) for an image without lesions.",
    )
    raise_if_any(
        what,
        [
            f"image {i}, box {j} {box}: {fault}"
            for i, (b, c) in enumerate(zip(boxes, labels, strict=True))
            for j, (box, label) in enumerate(zip(b.tolist(), c.tolist(), strict=True))
            for fault in _faults(box, label, model.side_px)
        ],
        "Boxes are x1, y1, x2, y2 in px, right and bottom edge excluded, 0 <= x1 < x2 <= width; classes are 1 and 2.",
    )


def _faults(box: list[float], label: int, side_px: int) -> list[str]:
    x1, y1, x2, y2 = box
    faults = []
    # Written so that NaN is a fault as well.
    if not (x1 < x2 and y1 < y2):
        faults.append("has no area")
    if not (min(box) >= -EDGE_TOLERANCE_PX and max(box) <= side_px + EDGE_TOLERANCE_PX):
        faults.append(f"leaves the image of {side_px} x {side_px} px")
    if label not in (1, 2):
        faults.append(f"has class {label}")
    return faults
