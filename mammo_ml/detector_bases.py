"""The detector's convolutional bases by name: all that whoever cuts pictures for them needs to know."""

from typing import Literal

Base = Literal["small", "six_layer_cnn", "vgg16"]

INPUT_PX: dict[Base, int] = {"small": 128, "six_layer_cnn": 128, "vgg16": 300}
"""Side of the images each sees."""
