"""Where networks are trained: names that are refused, and that what a network is given goes where it is."""

import numpy as np
import pytest
import torch
from torch import nn

from mammo_ml.classifier import ClassifierTask, ObjectiveParameters, predict_probabilities
from mammo_ml.devices import device_named, device_of
from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.imaging.augmentation import AugmentationParameters
from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
from mammo_ml.models.ssd import SsdParameters, build_detector
from mammo_ml.parameters import parse_section
from mammo_ml.training import TrainingParameters, fit, load_weights, save_weights
from tests.faults import small_trainings as small

HERE = ["cpu", *(["auto"] if torch.accelerator.is_available() else [])]
"""Every device of the machine these tests run on."""
TRAINING = {
    "budget_samples": 8,
    "epoch_samples": 4,
    "batch_size": 4,
    "learning_rate": 0.001,
    "weight_decay": 0.0,
    "patience": 1,
    "threads": 1,
    "seed": 1,
}


@pytest.fixture
def accelerators(monkeypatch):
    """Say how many accelerators of a kind there are."""

    def there(kind: str | None, count: int = 0) -> None:
        device = None if kind is None else torch.device(kind)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: device)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)

    return there


def test_auto_is_an_accelerator_where_there_is_one(accelerators):
    accelerators(None)
    assert device_named("auto") == torch.device("cpu")
    accelerators("cuda", 2)
    assert device_named("auto") == torch.device("cuda")
    assert device_named("cuda:1") == torch.device("cuda:1")
    assert device_named("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("kind", "count", "name", "here"),
    [
        (None, 0, "cuda", "cpu"),
        ("cuda", 2, "cuda:2", "cpu, cuda:0, cuda:1"),
        ("cuda", 1, "mps", "cpu, cuda:0"),
    ],
)
def test_a_device_that_is_not_here_is_refused_with_those_that_are(accelerators, kind, count, name, here):
    accelerators(kind, count)
    with pytest.raises(BadInputError) as caught:
        device_named(name)
    assert str(caught.value).startswith("training.device: ")
    assert caught.value.problems == [f"{name} is not here: there is {here}"]
    assert "Take one of these, or auto." in str(caught.value)


def test_a_name_that_is_none_is_refused():
    with pytest.raises(BadInputError, match="device"):
        parse_section(TRAINING | {"device": "gpu"}, TrainingParameters, "params.yaml, section 'x'")
    assert parse_section(TRAINING, TrainingParameters, "x").device == "cpu"


def test_a_network_without_parameters_is_on_the_processor():
    assert device_of(nn.ReLU()) == torch.device("cpu")


@pytest.mark.parametrize("variant", ["exact", "normalised", "wide", "compact"])
@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "mean_squared_error"])
@pytest.mark.filterwarnings("ignore:.*meta")
def test_what_a_classifier_learns_from_goes_where_it_is(variant, loss):
    # No machine of these tests has an accelerator: on the device `meta` torch refuses to mix, and computes nothing.
    network = build_classifier(ClassifierParameters(variant=variant)).to("meta")
    every = np.arange(4)
    pictures, names = np.zeros((4, 128, 128), dtype=np.uint8), [str(n) for n in every]
    augmentation = AugmentationParameters(strength=1.0)
    objective = ObjectiveParameters(loss=loss, class_balance="weights")
    task = ClassifierTask(network, pictures, every % 3, names, every, every[:0], augmentation, objective)
    value = task.loss(every, torch.Generator().manual_seed(1))
    assert value.device == torch.device("meta")
    assert value.shape == ()


def test_a_detectors_default_boxes_are_made_where_it_is():
    network = build_detector(SsdParameters(width=8)).to("meta")
    outputs, boxes = network.raw_outputs(torch.zeros(2, 1, 128, 128, device="meta"))
    assert {boxes.device, *(output.device for output in outputs.values())} == {torch.device("meta")}


@pytest.mark.parametrize("device", HERE)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("make", [small.classifier_task, small.detector_task], ids=small.MODELS)
def test_a_training_runs_and_its_weights_are_read_on_the_processor(make, precision, device, tmp_path):
    short = {"budget_samples": 16, "epoch_samples": 8, "device": device, "precision": precision}
    task = make()
    fitted = fit(task, small.PARAMETERS.model_copy(update=short))
    assert all(np.isfinite([epoch.train_loss, epoch.inner_loss]).all() for epoch in fitted.history)
    assert device_of(task.model).type == device_named(device).type
    save_weights(task.model, tmp_path / "weights.safetensors")
    other = make().model
    load_weights(other, tmp_path / "weights.safetensors")
    assert device_of(other) == torch.device("cpu")
    for name, value in task.model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value.cpu(), rtol=0, atol=0)


def test_pictures_on_which_a_classifier_gives_no_numbers_are_named():
    class Empty(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            # a dark picture divides by zero
            return (x.sum((1, 2, 3)) / x.sum((1, 2, 3)))[:, None].expand(-1, 3)

    pictures = np.full((5, 16, 16), 9, dtype=np.uint8)
    assert predict_probabilities(Empty(), pictures).shape == (5, 3)
    pictures[[1, 4]] = 0
    with pytest.raises(MammoError, match="output is not finite for picture 1, picture 4: look at the"):
        predict_probabilities(Empty(), pictures)
