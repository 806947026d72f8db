"""The detector's convolutional bases, what each asks of the detector round it, and weights a base can start from.

- `small`: 1.3 million parameters, feature maps of stride 4 to 32; made for cuts of 128 px.
- `six_layer_cnn`: the classifier's trunk with its large kernels, then extra layers as SSD adds them; cuts of 128 px.
- `vgg16`: SSD300 (Liu et al. 2016, "SSD: Single Shot MultiBox Detector"), torchvision's layers; cuts of 300 px.
"""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torchvision.models.detection.ssd import SSDFeatureExtractorVGG
from torchvision.models.vgg import VGG16_Weights, cfgs, make_layers

from mammo_ml.detector_bases import INPUT_PX, Base
from mammo_ml.errors import BadInputError, MammoError, raise_if_any
from mammo_ml.models.cnni_bcc import INPUT_MEAN, INPUT_STD, TRUNK_CHANNELS, CnniBcc

GROUPS = 8
FIRST_L2_SCALE = TRUNK_CHANNELS**0.5
"""What an L2-normalised map is multiplied by before the network learns better: a channel's mean square is then 1. SSD's
20 for VGG's 512 channels gives 0.8 (Liu et al. 2016, section 3.1)."""
LEAST_STRIDES = 2.7
"""Sides of a default box in strides from which it is matched wherever a lesion of its size lies: two equal squares
half a stride apart in x and y have IoU 0.5 there."""
LEAST_STEP = 1.05
"""From one level's scale to the next, where lesions of one size would make them equal."""
SIZE_QUANTILES = (0.02, 0.98)

VGG_MEAN, VGG_STD = (0.48235, 0.45882, 0.40784), (0.229, 0.224, 0.225)
DOWNLOAD = VGG16_Weights.IMAGENET1K_FEATURES
DOWNLOAD_RANGE = 255.0
"""The downloaded layers were trained on 0..255 less the mean; ours see the same divided by ImageNet's deviation."""
VGG_CONV5 = 23
"""Index in VGG16 of the pooling before conv5, where SSD300 cuts it in two."""
SECONDS_TO_ANSWER = 10.0
"""How long the server of the ImageNet weights may be silent."""


class BaseDesign(NamedTuple):
    """What a base asks of the detector round it, the finest feature map first.

    Attributes:
        input_px: side of the images it sees.
        strides: distance of each map's default boxes, input px.
        aspect_ratios: of each map's default boxes beside the squares.
        scales: sides of the default boxes over `input_px`, one per map and one beyond the last, where no others are
            chosen: those of the starters, whose weights do not say theirs.
        image_mean: taken from images in 0..1; three of them make three channels of a grey image.
        image_std: divided by after that.
        mark: a tensor that detectors on this base alone have.
    """

    input_px: int
    strides: tuple[int, ...]
    aspect_ratios: tuple[tuple[int, ...], ...]
    scales: tuple[float, ...]
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    mark: str


# Lesion boxes are squares, but the edge of an image halves some of them: 2:1 where lesions are large enough for that.
BASES: dict[Base, BaseDesign] = {
    "small": BaseDesign(
        input_px=INPUT_PX["small"],
        strides=(4, 8, 16, 32),
        aspect_ratios=((), (), (2,), (2,)),
        # Sides of 14, 26, 46, 80 px; with the geometric means between neighbours: 19, 35, 61, 110 px.
        scales=(14 / 128, 26 / 128, 46 / 128, 80 / 128, 150 / 128),
        image_mean=(0.5,),
        image_std=(0.25,),
        mark="backbone.stem.0.weight",
    ),
    "six_layer_cnn": BaseDesign(
        input_px=INPUT_PX["six_layer_cnn"],
        strides=(2, 4, 8, 16, 32),
        aspect_ratios=((), (), (), (2,), (2,)),
        # `scales_for` the 117 located lesions of mini-MIAS as windows of 256 px show them: its starter's.
        scales=(8 / 128, 26 / 128, 35 / 128, 48 / 128, 86 / 128, 128 / 128),
        image_mean=(INPUT_MEAN,),
        image_std=(INPUT_STD,),
        mark="backbone.features.0.0.weight",
    ),
    "vgg16": BaseDesign(
        input_px=INPUT_PX["vgg16"],
        strides=(8, 16, 32, 64, 100, 300),
        aspect_ratios=((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
        # The paper's, as torchvision has them. They fit: half a stride off, 99 % of mini-MIAS's lesions as windows of
        # 256 px show them have a box of IoU 0.5, as many as with `scales_for` (mean best IoU 0.73 and 0.74).
        scales=(0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
        image_mean=VGG_MEAN,
        image_std=VGG_STD,
        mark="backbone.extra.0.1.weight",
    ),
}


def scales_for(sides_px: ArrayLike, base: Base) -> tuple[float, ...]:
    """Choose the default boxes' scales from lesions: quantiles of their sides, no finer than a map can place.

    The scales lie at even steps from the 2nd to the 98th percentile. One that a map is too coarse for, less than 2.7
    of its strides, would match lesions only where they happen to lie well, and is raised to that.

    Args:
        sides_px: sides (L,) of the training lesions' boxes, in px of the network's input.
        base: whose feature maps.

    Returns:
        Sides over the input's side, increasing, one per feature map and one beyond the last, each a float32.

    Raises:
        BadInputError: naming every side that is not above 0; when there is none.
    """
    sides = np.asarray(sides_px, dtype=np.float64).ravel()
    bad = [f"side {n}: {side:g} px" for n, side in enumerate(sides) if not 0 < side < np.inf]
    raise_if_any("lesions to choose default boxes from", bad if len(sides) else ["there is no lesion"])
    design = BASES[base]
    wanted = np.quantile(sides, np.linspace(*SIZE_QUANTILES, len(design.strides) + 1))
    least = [min(LEAST_STRIDES * stride, design.input_px) for stride in design.strides] + [0.0]
    scales: list[float] = []
    for side, floor in zip(wanted, least, strict=True):
        last = scales[-1] if scales else 0.0
        scales.append(max(float(side) / design.input_px, floor / design.input_px, last * LEAST_STEP))
    return tuple(float(np.float32(round(scale, 4))) for scale in scales)


def build_base(base: Base, width: int) -> nn.Module:
    """Build a base with fresh weights, drawn from torch's global random state."""
    match base:
        case "small":
            return SmallBase(width)
        case "six_layer_cnn":
            return SixLayerBase(width)
        case "vgg16":
            return Vgg16Base()


class SmallBase(nn.Module):
    """A plain convolutional base: feature maps of stride 4, 8, 16 and 32 with 2, 3, 5 and 6 times `width` channels.

    The finest has stride 4, for lesions of 14 px (`LEAST_STRIDES`).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_channels = [2 * width, 3 * width, 5 * width, 6 * width]
        self.stem = _convolution(1, width, kernel=5, stride=2)
        self.stages = nn.ModuleList(_stage(*pair) for pair in pairwise([width, *self.out_channels]))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Feature maps of normalised images (N, 1, S, S): (N, C, S/4, S/4) … (N, C, S/32, S/32), finest first."""
        features = {}
        x = self.stem(images)
        for level, stage in enumerate(self.stages):
            x = stage(x)
            features[str(level)] = x
        return features


class SixLayerBase(nn.Module):
    """The exact six-layer classifier's trunk, and extra layers down to stride 32.

    Feature maps of stride 2 and 4 are the trunk's, after the 1x1 convolution and after the 64x64 kernels; those of
    stride 8, 16 and 32 have 3, 5 and 6 times `width` channels. The trunk's maps are L2-normalised over channels and
    multiplied by a learned factor, as SSD does with VGG's: with fresh weights the second is of the order of 0.001.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_channels = [TRUNK_CHANNELS, TRUNK_CHANNELS, 3 * width, 5 * width, 6 * width]
        self.features = CnniBcc().features
        self.scale_weights = nn.Parameter(torch.full((2, TRUNK_CHANNELS), FIRST_L2_SCALE))
        self.extra = nn.ModuleList(_stage(*pair) for pair in pairwise(self.out_channels[1:]))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Feature maps of normalised images (N, 1, S, S): (N, C, S/2, S/2) … (N, C, S/32, S/32), finest first."""
        half = self.features[:3](images)
        quarter = self.features[3](half)
        maps = [
            scale[:, None, None] * F.normalize(x) for scale, x in zip(self.scale_weights, (half, quarter), strict=True)
        ]
        for stage in self.extra:
            maps.append(stage(maps[-1]))
        return {str(level): x for level, x in enumerate(maps)}


class Vgg16Base(SSDFeatureExtractorVGG):  # type: ignore[misc]  # torchvision has no types
    """VGG16 as SSD300 uses it, every layer trained: torchvision's, names and all, without VGG's dense layers."""

    out_channels = (512, 1024, 512, 256, 256, 256)

    def __init__(self) -> None:
        layers = make_layers(cfgs["D"], batch_norm=False)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                # As torchvision's VGG does for training from nothing.
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        super().__init__(layers, highres=False)


def _stage(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(_convolution(channels_in, channels_out, stride=2), _convolution(channels_out, channels_out))


def _convolution(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False),
        # Not batch norm: its running statistics would be those of lesion-centred cuts, not of the tiles of a film.
        nn.GroupNorm(GROUPS, channels_out),
        nn.ReLU(inplace=True),
    )


def base_of(weights: Mapping[str, Tensor]) -> Base | None:
    """Tell by the names of a detector's tensors which base it has; None where they tell none."""
    return next((base for base, design in BASES.items() if design.mark in weights), None)


def imagenet_state(base: str) -> dict[str, Tensor]:
    """The tensors of a detector that VGG16 trained on ImageNet has, under the detector's names.

    Those of the SSD paper's authors, by way of torchvision: the thirteen convolutions, not the dense layers. Downloaded
    once (56 MB) into torch's cache, checked by hash. Load them with `load_state_dict(tensors, strict=False)`. The first
    layer's weights are scaled to our input's deviation, which changes nothing in what the layers compute.

    Raises:
        BadInputError: when the base is not `vgg16`.
        MammoError: when they cannot be downloaded, saying how to go on without.
    """
    if base != "vgg16":
        remedy = "Set `base: vgg16`, or `pretrained: starter` or `none`."
        raise BadInputError("ImageNet weights", [f"there are none for base {base}"], remedy)
    try:
        with _impatient_sockets():
            weights = DOWNLOAD.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # what a broken download raises is torch's own business
        cache = f"{torch.hub.get_dir()}/checkpoints"
        raise MammoError(
            f"ImageNet weights for base vgg16 cannot be had from {DOWNLOAD.url}: {error}. "
            f"Download that file on another machine into {cache}, deleting what lies there under its name, "
            "or choose `pretrained: none`, or make weights of our own with `dvc repro "
            "pipelines/studies/dvc.yaml:pretrain_detector@vgg16`: `starter` finds them."
        ) from None
    return _as_detector_tensors(weights)


def _as_detector_tensors(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """VGG16's convolutions under the names they have in SSD300, for input of our deviation."""
    named = {}
    for name, tensor in weights.items():
        part, number, kind = name.split(".")
        if part == "features":
            # SSD300 continues after the fourth pooling, layer 23, in its first block of extra layers.
            index = int(number)
            place = f"features.{index}" if index < VGG_CONV5 else f"extra.0.{index - VGG_CONV5}"
            named[f"backbone.{place}.{kind}"] = tensor
    first = "backbone.features.0.weight"
    named[first] = named[first] * (DOWNLOAD_RANGE * torch.tensor(VGG_STD))[:, None, None]
    return named


@contextmanager
def _impatient_sockets() -> Iterator[None]:
    """Torch's downloads take no time limit of their own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS_TO_ANSWER)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
