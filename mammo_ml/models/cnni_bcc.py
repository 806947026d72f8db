"""The six-layer classifier of the slides (after CNNI-BCC: Ting, Tan and Sim 2019), exactly, and variants of it.

Variants have batch normalisation after each convolution, and one has twice the channels. What was learned with it can
be `folded` into a network without: in evaluation a batch normalisation is a scale and a shift of each channel, which
the convolution before it can take over.

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

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mammo_ml.models.large_kernel import LargeKernelDepthwise, same_padding

PATCH_PX = 128
INPUT_MEAN, INPUT_STD = 0.5, 0.25
"""Inputs are centred before the first layer (inferred: the slides do not say). Fed 0 to 1 as they are, the exact
network stayed at chance for 400 steps on real patches; centred, it learned (docs/experiments.md)."""
CLASSES = 3  # normal, benign, malignant: the order of catalog.LABELS
CHANNELS = 32
TRUNK_CHANNELS = 2 * CHANNELS
Activation = Literal["relu", "linear"]
InputScaling = Literal["global", "local"]
LOCAL_WINDOW_PX = 9
LOCAL_FLOOR = 0.5 / 255
"""Half a grey level beside the spread: where nothing varies, nothing is blown up."""
LOCAL_LIMIT = 4.0


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


def local_contrast(x: Tensor) -> Tensor:
    """How far each pixel lies from the mean of the 9 x 9 px around it, in spreads of these: (N, 1, H, W), within 4.

    What is left of a film is its fine structure: edges, specks, and the grain by which a patch can be known again.
    Patches are mirrored at their edges. Pixels in 0 to 1; it commutes with turning and mirroring.
    """

    def mean_around(values: Tensor) -> Tensor:
        wide = F.pad(values, (LOCAL_WINDOW_PX // 2,) * 4, mode="reflect")
        # Rows, then columns: far fewer sums than over squares.
        return F.avg_pool2d(F.avg_pool2d(wide, (LOCAL_WINDOW_PX, 1), 1), (1, LOCAL_WINDOW_PX), 1)

    distance = x - mean_around(x)
    spread = mean_around(distance.square()).sqrt()
    return (distance / (spread + LOCAL_FLOOR)).clamp(-LOCAL_LIMIT, LOCAL_LIMIT)


class CnniBcc(nn.Module):
    """The six layers; `features` is the convolutional trunk, without pooling and dense layer.

    Args:
        normalised: with batch normalisation after each convolution, which the slides do not have.
        activation: after each convolution; the slides do not name it, relu is inferred.
        dropout: before the dense layer.
        input_scaling: what the first layer is fed: grey values, centred, or their `local_contrast`.
        channels: of the first convolution, 32 in the slides; the second half of the trunk has twice as many.
    """

    def __init__(
        self,
        *,
        normalised: bool = False,
        activation: Activation = "relu",
        dropout: float = 0.0,
        input_scaling: InputScaling = "global",
        channels: int = CHANNELS,
    ) -> None:
        super().__init__()
        self.activation, self.input_scaling, self.channels = activation, input_scaling, channels
        trunk = 2 * channels

        def convolution(layer: nn.Module, out_channels: int) -> nn.Sequential:
            block = nn.Sequential(layer)
            if normalised:
                block.append(nn.BatchNorm2d(out_channels))
            if activation == "relu":
                block.append(nn.ReLU(inplace=True))
            return block

        self.features = nn.Sequential(
            convolution(SameConv2d(1, channels, 3, stride=2), channels),  # (N, C, 64, 64)
            convolution(LargeKernelDepthwise(channels, 32), channels),  # (N, C, 64, 64)
            convolution(SameConv2d(channels, trunk, 1), trunk),  # (N, 2C, 64, 64)
            convolution(LargeKernelDepthwise(trunk, 64, stride=2), trunk),  # (N, 2C, 32, 32)
        )
        self.pool = nn.AvgPool2d(4)  # (N, 2C, 8, 8)
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(trunk * (PATCH_PX // 16) ** 2, CLASSES)
        _initialise_as_keras(self.dense)

    def forward(self, x: Tensor) -> Tensor:
        """Map patches (N, 1, 128, 128) in 0..1 to logits (N, 3) of normal, benign, malignant."""
        scaled = local_contrast(x) if self.input_scaling == "local" else (x - INPUT_MEAN) / INPUT_STD
        x = self.features(scaled)  # (N, 2C, 32, 32)
        x = self.pool(x).flatten(1)  # (N, 128C)
        logits: Tensor = self.dense(self.dropout(x))  # (N, 3)
        return logits

    @torch.no_grad()
    def folded(self) -> "CnniBcc":
        """The network without normalisation that says in evaluation what this one says: each in its convolution.

        Without batch normalisation it is a copy. It is in evaluation mode.
        """
        exact = CnniBcc(activation=self.activation, input_scaling=self.input_scaling, channels=self.channels)
        for block, into in zip(self.features, exact.features, strict=True):
            own, target = (cast(nn.Conv2d, cast(nn.Sequential, part)[0]) for part in (block, into))
            target.load_state_dict(own.state_dict())
            norm = cast(nn.Sequential, block)[1] if len(cast(nn.Sequential, block)) > 1 else None
            if isinstance(norm, nn.BatchNorm2d):
                mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
                scale = norm.weight / (variance + norm.eps).sqrt()
                target.weight.mul_(scale[:, None, None, None])
                cast(Tensor, target.bias).sub_(mean).mul_(scale).add_(norm.bias)
        exact.dense.load_state_dict(self.dense.state_dict())
        return exact.eval()


def _initialise_as_keras(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
