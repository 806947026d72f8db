"""What a network costs, counted: multiply-adds of one input, every convolution counted as a direct one.

A convolution of C' x H' x W' outputs from kernels of k x k over C/g channels has C' H' W' k² C/g of them, a dense layer
inputs x outputs. Nothing else is counted: normalisation, activations and pooling are a few in a thousand. A measure of
the network, not of the program: our large kernels are computed as products of spectra, with far fewer.
"""

from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor, nn

from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
from mammo_ml.models.large_kernel import LargeKernelDepthwise
from mammo_ml.models.ssd import LesionSSD, SsdParameters, build_detector


def by_layer(network: nn.Module, picture: Tensor) -> dict[str, int]:
    """Multiply-adds of one pass by the name of each layer that has any; `picture` is (1, 1, H, W).

    A detector's pass ends with its raw outputs: decoding and suppression of boxes hold none.
    """
    counted: dict[str, int] = {}

    def count(name: str, layer: nn.Module, _: object, output: Tensor) -> None:
        counted[name] = counted.get(name, 0) + _of_layer(layer, output)

    hooks = [
        layer.register_forward_hook(partial(count, name))
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear | LargeKernelDepthwise)
    ]
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            network.raw_outputs(picture) if isinstance(network, LesionSSD) else network(picture)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return counted


def _of_layer(layer: nn.Module, output: Tensor) -> int:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    # per output number: a convolution's (C/g) k², a dense layer's inputs
    return output[0].numel() * prod(weight.shape[1:])


def multiply_adds(network: nn.Module, input_px: int) -> int:
    """Multiply-adds of one picture of `input_px` x `input_px`."""
    return sum(by_layer(network, torch.zeros(1, 1, input_px, input_px)).values())


@dataclass(frozen=True)
class TileCosts:
    """What a tile costs, in any unit: searched by the detector alone, by the cascade always, and where it searches."""

    detector: float
    always: float
    searched: float

    def saved_ratio(self, tiles: float, searched: float) -> float:
        """Cost of the detector on all tiles over that of the cascade; above 1 the cascade is cheaper."""
        cascade = tiles * self.always + searched * self.searched
        return tiles * self.detector / cascade if cascade > 0 else float("nan")


def cascade_costs(classifier: nn.Module, classifier_px: int, detector: nn.Module, detector_px: int) -> TileCosts:
    """Multiply-adds of a cascade of two networks that share nothing."""
    own = float(multiply_adds(detector, detector_px))
    return TileCosts(own, float(multiply_adds(classifier, classifier_px)), own)


def shared_trunk_costs(width: int) -> TileCosts:
    """Multiply-adds of a cascade whose detector has the base `six_layer_cnn`: its trunk, the classifier's, runs once.

    width: of the detector's extra layers.
    """
    parameters = SsdParameters(base="six_layer_cnn", width=width)
    layers = by_layer(build_detector(parameters), torch.zeros(1, 1, parameters.input_px, parameters.input_px))
    whole = sum(layers.values())
    trunk = sum(count for name, count in layers.items() if name.startswith("backbone.features."))
    classifier = build_classifier(ClassifierParameters(variant="exact"))
    return TileCosts(whole, multiply_adds(classifier, parameters.input_px), whole - trunk)
