import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.large_kernel import with_conv2d
from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
from mammo_ml.models.ssd import SsdParameters, build_detector
from mammo_ml.multiply_adds import TileCosts, by_layer, cascade_costs, multiply_adds, shared_trunk_costs


def as_torch_counts(network: torch.nn.Module, input_px: int) -> float:
    """Half of torch's floating-point operations, large kernels put in as plain convolutions."""
    picture = torch.zeros(1, 1, input_px, input_px)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        raw = getattr(with_conv2d(network.eval()), "raw_outputs", None)
        network(picture) if raw is None else raw(picture)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("variant", ["exact", "normalised", "wide"])
def test_the_classifier_costs_what_torch_counts(variant: str) -> None:
    network = build_classifier(ClassifierParameters(variant=variant))
    assert multiply_adds(network, 128) == as_torch_counts(network, 128)


@pytest.mark.parametrize("base", ["small", "six_layer_cnn"])
def test_the_detector_costs_what_torch_counts(base: str) -> None:
    network = build_detector(SsdParameters(base=base, width=8))
    assert multiply_adds(network, 128) == as_torch_counts(network, 128)


def test_the_exact_classifier_costs_what_the_slides_layers_do() -> None:
    layers = by_layer(build_classifier(ClassifierParameters(variant="exact")), torch.zeros(1, 1, 128, 128))
    outputs_and_taps = [(64 * 64 * 32, 9), (64 * 64 * 32, 32**2), (64 * 64 * 64, 32), (32 * 32 * 64, 64**2), (3, 4096)]
    assert list(layers.values()) == [outputs * taps for outputs, taps in outputs_and_taps]
    assert sum(layers.values()) == 412_233_728


def test_counting_leaves_the_network_as_it_was() -> None:
    network = build_detector(SsdParameters(width=8)).train()
    multiply_adds(network, 128)
    assert network.training
    assert not any(layer._forward_hooks for layer in network.modules())


def test_a_shared_trunk_runs_once() -> None:
    classifier = build_classifier(ClassifierParameters(variant="exact"))
    detector = build_detector(SsdParameters(base="six_layer_cnn", width=8))
    apart, shared = cascade_costs(classifier, 128, detector, 128), shared_trunk_costs(width=8)
    assert shared.detector == apart.detector
    assert shared.always == apart.always
    dense = 3 * 4096
    assert shared.always + shared.searched == apart.detector + dense
    assert shared.saved_ratio(100, 100) > apart.saved_ratio(100, 100)


def test_the_ratio_of_costs() -> None:
    costs = TileCosts(detector=10, always=1, searched=10)
    assert costs.saved_ratio(100, 0) == 10
    assert costs.saved_ratio(100, 100) == pytest.approx(10 / 11)  # the cascade costs more where it skips nothing
    assert costs.saved_ratio(100, 10) == 5
