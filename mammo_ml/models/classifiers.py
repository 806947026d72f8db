"""Which networks tell normal, benign and malignant patches apart, and how they are built.

- `exact`: the slides' six layers (`mammo_ml.models.cnni_bcc`), 309,731 parameters.
- `normalised`: the same with batch normalisation and dropout.
- `wide`: the same as `normalised` with twice the channels, 624,323 parameters.
- `compact`: the detector's base `small` (`mammo_ml.models.ssd_bases`), its two coarsest maps pooled, 1.2 million
  parameters. It can start from weights that learned from other mammograms.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mammo_ml.models.cnni_bcc import CHANNELS, CLASSES, INPUT_MEAN, INPUT_STD, Activation, CnniBcc, InputScaling
from mammo_ml.models.ssd_bases import SmallBase
from mammo_ml.models.weights import load_into
from mammo_ml.parameters import Parameters

Variant = Literal["exact", "normalised", "wide", "compact"]
COMPACT_WIDTH = 32
"""As the detector's starter has it: its base is what a compact classifier's pre-training starts from."""


class ClassifierParameters(Parameters):
    """Which classifier to build."""

    variant: Variant = Field(
        description="exact: the slides' table; normalised: with batch normalisation after each convolution, and "
        "dropout; wide: that with twice the channels; compact: the base of the small detector"
    )
    activation: Activation = Field(
        default="relu", description="after each convolution of the six layers; the slides do not name it"
    )
    input_scaling: InputScaling = Field(
        default="global",
        description="what the six layers are fed: grey values, centred (global), or how far each pixel lies from the "
        "mean of the 9 x 9 px around it, in spreads of these (local); the slides do not say",
    )
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="before the dense layer, not in the exact network")


class CompactClassifier(nn.Module):
    """The base of the small detector, the means of its maps of stride 16 and 32, and a dense layer.

    Args:
        dropout: before the dense layer.
    """

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = SmallBase(COMPACT_WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(sum(self.backbone.out_channels[-2:]), CLASSES)

    def start_backbone(self, detector: Mapping[str, Tensor]) -> None:
        """Put the base of a small detector of width 32 under the dense layer; no tensors change nothing.

        Raises:
            BadInputError: naming the tensors that are missing, unknown, or of another shape.
        """
        prefix = "backbone."
        tensors = {name.removeprefix(prefix): value for name, value in detector.items() if name.startswith(prefix)}
        if detector:
            load_into(self.backbone, tensors, "the detector's base")

    def forward(self, x: Tensor) -> Tensor:
        """Map patches (N, 1, 128, 128) in 0..1 to logits (N, 3) of normal, benign, malignant."""
        *_, coarse, coarsest = self.backbone((x - INPUT_MEAN) / INPUT_STD).values()  # (N, 160, 8, 8), (N, 192, 4, 4)
        x = torch.cat([coarse.mean((2, 3)), coarsest.mean((2, 3))], dim=1)  # (N, 352)
        logits: Tensor = self.dense(self.dropout(x))  # (N, 3)
        return logits


def build_classifier(parameters: ClassifierParameters) -> nn.Module:
    """Build the network with fresh weights, which `torch.manual_seed` alone decides."""
    match parameters.variant:
        case "exact":
            return CnniBcc(activation=parameters.activation, input_scaling=parameters.input_scaling)
        case "normalised" | "wide":
            return CnniBcc(
                normalised=True,
                activation=parameters.activation,
                dropout=parameters.dropout,
                input_scaling=parameters.input_scaling,
                channels=CHANNELS if parameters.variant == "normalised" else 2 * CHANNELS,
            )
        case "compact":
            return CompactClassifier(parameters.dropout)
