import pytest
import torch

from mammo_ml.errors import BadInputError
from mammo_ml.models.classifiers import ClassifierParameters, CompactClassifier, build_classifier
from mammo_ml.models.ssd import SsdParameters, build_detector


def compact(seed: int = 0, **others: float) -> CompactClassifier:
    torch.manual_seed(seed)
    network = build_classifier(ClassifierParameters(variant="compact", **others))
    assert isinstance(network, CompactClassifier)
    return network


def test_the_compact_network_maps_patches_to_three_logits_and_its_seed_decides_it():
    first, again, other = compact().eval(), compact().eval(), compact(seed=1).eval()
    patches = torch.rand(2, 1, 128, 128)
    assert first(patches).shape == (2, 3)
    assert torch.equal(first(patches), again(patches))
    assert not torch.equal(first(patches), other(patches))


def test_every_weight_of_the_compact_network_is_learned():
    network = compact(dropout=0.3)
    torch.nn.functional.cross_entropy(network(torch.rand(4, 1, 128, 128)), torch.tensor([0, 1, 2, 0])).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_dropout_is_for_training_alone():
    network, patches = compact(dropout=0.9), torch.rand(1, 1, 128, 128)
    assert not torch.equal(network(patches), network(patches))
    network.eval()
    assert torch.equal(network(patches), network(patches))


def test_it_starts_from_the_base_of_a_small_detector_and_keeps_its_dense_layer():
    network = compact()
    dense = network.dense.weight.clone()
    detector = build_detector(SsdParameters(base="small", width=32)).state_dict()
    network.start_backbone(detector)
    for name, tensor in network.backbone.state_dict().items():
        assert torch.equal(tensor, detector[f"backbone.{name}"]), name
    assert torch.equal(network.dense.weight, dense)


def test_nothing_to_start_from_changes_nothing():
    network = compact()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.start_backbone({})
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_base_of_another_detector_is_refused_by_its_tensors():
    with pytest.raises(BadInputError, match=r"stem\.0\.weight is .*, this network's is"):
        compact().start_backbone(build_detector(SsdParameters(base="small", width=8)).state_dict())
