"""The six-layer classifier of the slides (after CNNI-BCC: Ting, Tan and Sim 2019), exactly, and one variant of it.

The slides' layer table, one row per layer, for patches of 128 x 128 x 1:

    layer                                        output          parameters
    convolution 3x3, stride 2                    64 x 64 x 32           320
    depthwise convolution 32x32                  64 x 64 x 32        32,800
    convolution 1x1                              64 x 64 x 64         2,112
    depthwise convolution 64x64, stride 2        32 x 32 x 64       262,208
    average pooling 4x4, flatten                 4096                     0
    dense                                        3                   12,291
    total                                                           309,731
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from mammo_ml.models.large_kernel import LargeKernelDepthwise, same_padding

PATCH_PX = 128
INPUT_MEAN, INPUT_STD = 0.5, 0.25
"""Inputs are centred before the first layer (inferred: the slides do not say). Fed 0 to 1 as they are, the exact
network stayed at chance for 400 steps on real patches; centred, it learned (docs/experiments.md)."""
CLASSES = 3  # normal, benign, malignant: the order of catalog.LABELS
TRUNK_CHANNELS = 64
Activation = Literal["relu", "linear"]


class SameConv2d(nn.Conv2d):
    """Square convolution with Keras' "same" padding and Keras' initial weights."""

    def reset_parameters(self) -> None:
        """Draw Glorot uniform weights and zero biases, as Keras does."""
        _initialise_as_keras(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        top, bottom = same_padding(x.shape[-2], self.kernel_size[0], self.stride[0])
        left, right = same_padding(x.shape[-1], self.kernel_size[1], self.stride[1])
        return super().forward(F.pad(x, (left, right, top, bottom)) if any((left, right, top, bottom)) else x)


class CnniBcc(nn.Module):
    """The six layers; `features` is the convolutional trunk, without pooling and dense layer.

    Args:
        normalised: with batch normalisation after each convolution, which the slides do not have.
        activation: after each convolution; the slides do not name it, relu is inferred.
        dropout: before the dense layer.
    """

    def __init__(self, *, normalised: bool = False, activation: Activation = "relu", dropout: float = 0.0) -> None:
        super().__init__()

        def convolution(layer: nn.Module, channels: int) -> nn.Sequential:
            block = nn.Sequential(layer)
            if normalised:
                block.append(nn.BatchNorm2d(channels))
            if activation == "relu":
                block.append(nn.ReLU(inplace=True))
            return block

        self.features = nn.Sequential(
            convolution(SameConv2d(1, 32, 3, stride=2), 32),  # (N, 32, 64, 64)
            convolution(LargeKernelDepthwise(32, 32), 32),  # (N, 32, 64, 64)
            convolution(SameConv2d(32, TRUNK_CHANNELS, 1), TRUNK_CHANNELS),  # (N, 64, 64, 64)
            convolution(LargeKernelDepthwise(TRUNK_CHANNELS, 64, stride=2), TRUNK_CHANNELS),  # (N, 64, 32, 32)
        )
        self.pool = nn.AvgPool2d(4)  # (N, 64, 8, 8)
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(TRUNK_CHANNELS * (PATCH_PX // 16) ** 2, CLASSES)
        _initialise_as_keras(self.dense)

    def forward(self, x: Tensor) -> Tensor:
        """Map patches (N, 1, 128, 128) in 0..1 to logits (N, 3) of normal, benign, malignant."""
        x = self.features((x - INPUT_MEAN) / INPUT_STD)  # (N, 64, 32, 32)
        x = self.pool(x).flatten(1)  # (N, 4096)
        logits: Tensor = self.dense(self.dropout(x))  # (N, 3)
        return logits


def _initialise_as_keras(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
