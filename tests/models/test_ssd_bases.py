import hashlib
import socket
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import box_iou

from mammo_ml.detector_bases import Base
from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.models import ssd_bases
from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
from mammo_ml.models.ssd import BOX_SCALES, LesionSSD, SsdParameters, build_detector, detection_loss, predict_boxes
from mammo_ml.models.ssd_bases import BASES, imagenet_state, scales_for
from mammo_ml.models.weights import load_into
from mammo_ml.parameters import parse_section

NO_BOXES, NO_LABELS = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
BENIGN = torch.tensor([1])


@pytest.fixture(scope="module")
def networks() -> dict[Base, LesionSSD]:
    """One detector per base with fresh weights; a test must leave them as they are."""
    return {base: detector(base) for base in BASES}


def detector(base: Base, width: int = 8, seed: int = 0) -> LesionSSD:
    torch.manual_seed(seed)
    return build_detector(SsdParameters(base=base, width=width)).eval()


def noise(n: int, side: int) -> Tensor:
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(0))


def hash_of(texts: list[bytes]) -> str:
    return hashlib.sha256(b"\n".join(texts)).hexdigest()


def squares(sides: list[float], canvas: float, n_places: int) -> Tensor:
    """Boxes of these sides at places drawn over the canvas, each whole."""
    draw = torch.Generator().manual_seed(1)
    boxes = []
    for side in sides:
        corner = torch.rand(n_places, 2, generator=draw) * (canvas - side)
        boxes.append(torch.cat([corner, corner + side], 1))
    return torch.cat(boxes)


def default_boxes(model: LesionSSD) -> Tensor:
    with torch.inference_mode():
        return model.raw_outputs(noise(1, model.side_px))[1]


# --- every base -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "side", "maps", "n_default_boxes"),
    [
        ("small", 128, [32, 16, 8, 4], 2880),
        ("six_layer_cnn", 128, [64, 32, 16, 8, 4], 11072),
        ("vgg16", 300, [38, 19, 10, 5, 3, 1], 8732),
    ],
)
def test_one_parameter_switches_the_base_its_feature_maps_and_its_input(networks, base, side, maps, n_default_boxes):
    model = networks[base]
    assert SsdParameters(base=base).input_px == model.side_px == side
    with torch.inference_mode():
        outputs, boxes = model.raw_outputs(noise(1, side))
        normalised = torch.zeros(1, len(BASES[base].image_mean), side, side)
        features = model.backbone(normalised)
    assert [feature.shape[-1] for feature in features.values()] == maps
    assert [feature.shape[1] for feature in features.values()] == list(model.backbone.out_channels)
    assert len(boxes) == n_default_boxes
    assert {name: (*output.shape,) for name, output in outputs.items()} == {
        "cls_logits": (1, n_default_boxes, 3),
        "bbox_regression": (1, n_default_boxes, 4),
    }
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in model.parameters() if p.ndim == 4)


@pytest.mark.parametrize("base", BASES)
def test_films_without_lesions_give_ours_a_gradient_in_the_first_layer_and_torchvisions_none(base):
    # Two such films, so that no lesion elsewhere in the batch gives the gradient.
    model = detector(base).train()
    first = next(layer for layer in model.backbone.modules() if isinstance(layer, torch.nn.Conv2d)).weight
    images = noise(2 if base != "vgg16" else 1, model.side_px)
    nothing = {"boxes": NO_BOXES, "labels": NO_LABELS}
    unmatched = [torch.full((len(default_boxes(model)),), -1)] * len(images)

    outputs, boxes = model.raw_outputs(images)
    theirs = SSD.compute_loss(model, [nothing] * len(images), outputs, [boxes] * len(images), unmatched)
    sum(theirs.values()).backward()
    assert sum(theirs.values()).item() == 0
    assert first.grad.abs().max() == 0

    first.grad = None
    detection_loss(model, images, [NO_BOXES] * len(images), [NO_LABELS] * len(images)).backward()
    assert first.grad.abs().max() > 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("base", BASES)
def test_lesions_of_every_size_have_a_default_box_that_fits(networks, base):
    # From 14 px of film, the smallest but five of mini-MIAS's 117, to all of a window of 256 px.
    side = BASES[base].input_px
    lesions = squares([side * film_px / 256 for film_px in (28, 40, 56, 84, 124, 180, 220, 256)], side, 40)
    assert box_iou(lesions, default_boxes(networks[base])).max(1).values.mean() >= 0.7
    assert (box_iou(lesions, default_boxes(networks[base])).max(1).values >= 0.5).float().mean() >= 0.95


@pytest.mark.parametrize("base", BASES)
def test_sixteen_bits_inside_leave_boxes_and_outputs_in_float32_near_what_they_were(networks, base):
    model = networks[base]
    images = noise(1, model.side_px)
    with torch.inference_mode():
        exact, boxes = model.raw_outputs(images)
        with torch.autocast("cpu", torch.bfloat16):
            near, same_boxes = model.raw_outputs(images)
    assert torch.equal(boxes, same_boxes)
    for name, output in exact.items():
        assert near[name].dtype == torch.float32
        assert (near[name] - output).abs().max() < 0.1 * output.std()


def test_scales_given_must_be_as_many_as_the_base_needs():
    with pytest.raises(BadInputError, match="base vgg16: scales must be 7 increasing numbers"):
        parse_section({"scales": {"vgg16": [0.1, 0.2, 0.3]}}, SsdParameters, "params.yaml, section 'x'")
    with pytest.raises(BadInputError, match="base small: scales must be 5 increasing numbers, found"):
        parse_section({"scales": {"small": []}}, SsdParameters, "params.yaml, section 'x'")
    assert parse_section({"scales": None}, SsdParameters, "x").scales is None


def test_scales_given_become_the_sides_of_the_default_boxes():
    torch.manual_seed(0)
    model = build_detector(SsdParameters(width=8, scales={"small": (0.1, 0.2, 0.4, 0.6, 0.9)})).eval()
    boxes = default_boxes(model)
    torch.testing.assert_close(boxes[0, 2:] - boxes[0, :2], torch.tensor([12.8, 12.8]))


# --- default boxes from lesions ---------------------------------------------------------------------------------------


def test_scales_are_quantiles_of_the_lesions_sides_where_the_maps_are_fine_enough():
    # Sides 11 … 111 px: the 2nd to the 98th percentile in five steps are 13, 32.2, 51.4, 70.6, 89.8, 109 px.
    scales = scales_for(np.arange(11, 112), "six_layer_cnn")
    np.testing.assert_allclose(np.array(scales) * 128, [13, 32.2, 51.4, 70.6, 89.8, 109], atol=0.02)


def test_scales_are_never_finer_than_their_map_can_place():
    # Strides 4, 8, 16 and 32: at least 10.8, 21.6, 43.2 and 86.4 px; one beyond the last is 5 % larger.
    np.testing.assert_allclose(
        np.array(scales_for([8.0] * 5, "small")) * 128, [10.8, 21.6, 43.2, 86.4, 90.72], atol=0.02
    )


def test_lesions_of_one_size_still_give_scales_that_increase():
    for base in BASES:
        scales = scales_for([100.0], base)
        assert SsdParameters(base=base, scales={base: scales}).scales == {base: scales}


@pytest.mark.parametrize(("smallest", "largest"), [(7, 30), (10, 128), (40, 128)])
def test_default_boxes_chosen_for_lesions_match_them_wherever_they_lie(smallest, largest):
    sides = torch.linspace(smallest, largest, 24).tolist()
    chosen = SsdParameters(base="six_layer_cnn", width=8, scales={"six_layer_cnn": scales_for(sides, "six_layer_cnn")})
    best = box_iou(squares(sides, 128, 20), default_boxes(build_detector(chosen).eval())).max(1).values
    assert (best >= 0.5).float().mean() >= 0.98


def test_sides_that_are_none_are_named():
    with pytest.raises(BadInputError, match=r"side 1: 0 px\n.*side 2: nan px"):
        scales_for([5.0, 0.0, float("nan")], "small")
    with pytest.raises(BadInputError, match="there is no lesion"):
        scales_for([], "small")


def test_weights_bring_their_default_boxes_with_them():
    torch.manual_seed(0)
    chosen = build_detector(SsdParameters(width=8, scale_factor=0.5).with_scales((0.1, 0.2, 0.4, 0.6, 0.9))).eval()
    other = detector("small")
    assert not torch.equal(default_boxes(other), default_boxes(chosen))
    other.load_state_dict(chosen.state_dict())
    torch.testing.assert_close(default_boxes(other), default_boxes(chosen), rtol=0, atol=1e-4)
    assert other.box_scales.tolist() == pytest.approx([0.05, 0.1, 0.2, 0.3, 0.45])


@pytest.mark.parametrize("load", [LesionSSD.load_state_dict, lambda model, weights: load_into(model, weights, "w")])
def test_weights_from_before_they_told_their_default_boxes_leave_those_of_the_network(load):
    weights = {name: tensor for name, tensor in detector("small", seed=1).state_dict().items() if name != BOX_SCALES}
    model = detector("small")
    before = default_boxes(model)
    load(model, weights)
    assert torch.equal(default_boxes(model), before)
    assert torch.equal(
        model.state_dict()["head.classification_head.module_list.0.weight"],
        weights["head.classification_head.module_list.0.weight"],
    )


@pytest.mark.parametrize(
    "wrong", [(0.0, 0.2, 0.4, 0.6, 0.9), (0.1, 0.2, 0.2, 0.6, 0.9), (0.1, 0.2, float("nan"), 0.6, 0.9)]
)
def test_default_boxes_that_cannot_be_are_refused(wrong):
    weights = detector("small").state_dict() | {BOX_SCALES: torch.tensor(wrong)}
    with pytest.raises(BadInputError, match="box_scales: the sides of default boxes must be above 0 and increase"):
        load_into(detector("small"), weights, "w")


def test_scales_chosen_for_lesions_are_read_again_as_they_were():
    network = SsdParameters(width=8).with_boxes_for([np.array([[10, 10, 40, 40], [0, 5, 18, 77.0]]), np.empty((0, 4))])
    assert network.scales == {"small": scales_for([30, 36], "small")}
    chosen, other = build_detector(network).eval(), detector("small")
    other.load_state_dict(chosen.state_dict())
    assert torch.equal(default_boxes(other), default_boxes(chosen))


# --- small ------------------------------------------------------------------------------------------------------------


def test_the_small_base_is_what_its_starter_weights_were_trained_with():
    # Recorded before there were other bases: names, first weights bit for bit, outputs within float32's rounding.
    model = detector("small", width=8)
    state = {name: tensor for name, tensor in model.state_dict().items() if name != BOX_SCALES}
    assert hash_of([name.encode() for name in state])[:16] == "c046e3c176426b10"
    everything = hashlib.sha256()
    for name, tensor in state.items():
        everything.update(name.encode() + tensor.contiguous().numpy().tobytes())
    assert everything.hexdigest()[:16] == "c79ca14bb9a02f34"
    outputs, boxes = model.raw_outputs(noise(2, 128))
    assert hashlib.sha256(b"d" + boxes.numpy().tobytes()).hexdigest()[:16] == "416bea1bbe56944b"
    sums = [outputs[name].double().abs().sum().item() for name in ("bbox_regression", "cls_logits")]
    np.testing.assert_allclose(sums, [15037.298325, 10902.054539], rtol=1e-5)


# --- six_layer_cnn ----------------------------------------------------------------------------------------------------


def test_the_six_layer_base_begins_with_the_classifiers_own_layers():
    torch.manual_seed(7)
    classifier = build_classifier(ClassifierParameters(variant="exact")).eval()
    trunk = detector("six_layer_cnn").backbone.features
    trunk.load_state_dict(classifier.features.state_dict())
    images = (noise(1, 128) - 0.5) / 0.25
    with torch.inference_mode():
        torch.testing.assert_close(trunk(images), classifier.features(images), rtol=0, atol=0)


@pytest.mark.slow
def test_discs_are_learnt_by_heart_on_the_six_layer_base():
    images, boxes, labels = discs(128)
    torch.manual_seed(0)
    model = build_detector(SsdParameters(base="six_layer_cnn", width=16)).train()
    fit_by_heart(model, images, boxes, labels, steps=120, rate=1e-3)
    assert_found(model, images, boxes, labels)


# --- vgg16 ------------------------------------------------------------------------------------------------------------


def test_vgg16_is_torchvisions_ssd300_in_layers_default_boxes_and_loss(networks):
    theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=3).eval()
    state = theirs.state_dict()
    ours = networks["vgg16"]
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items() if name != BOX_SCALES}
    assert shapes == {name: tensor.shape for name, tensor in state.items()}
    # Theirs see 0..255 less the mean, ours ImageNet's deviations of it: the first layer's weights make them one.
    first = "backbone.features.0.weight"
    own = state | {first: state[first] * (255 * torch.tensor([0.229, 0.224, 0.225]))[:, None, None]}
    model = detector("vgg16")
    model.load_state_dict(own)
    images = noise(1, 300)
    boxes, labels = torch.tensor([[40.0, 60.0, 190.0, 210.0]]), torch.tensor([2])
    with torch.inference_mode():
        seen = ImageList(torch.stack([theirs.transform.normalize(images[0].expand(3, -1, -1))]), [(300, 300)])
        features = list(theirs.backbone(seen.tensors).values())
        expected, their_boxes = theirs.head(features), theirs.anchor_generator(seen, features)[0]
        outputs, our_boxes = model.raw_outputs(images)
        target = [{"boxes": boxes, "labels": labels}]
        matched = [theirs.proposal_matcher(box_iou(boxes, their_boxes))]
        their_loss = sum(theirs.compute_loss(target, expected, [their_boxes], matched).values())
        our_loss = detection_loss(model, images, [boxes], [labels])
    assert torch.equal(our_boxes, their_boxes)
    for name, output in expected.items():
        torch.testing.assert_close(outputs[name], output, rtol=1e-3, atol=1e-3 * output.std().item())
    torch.testing.assert_close(our_loss, their_loss, rtol=1e-3, atol=0)


def vgg_download(monkeypatch, weights) -> None:
    """Let `weights`, or the function that fails to get them, stand in for torchvision's download."""

    def get_state_dict(**_):
        return weights() if callable(weights) else weights

    monkeypatch.setattr(ssd_bases, "DOWNLOAD", SimpleNamespace(get_state_dict=get_state_dict, url="https://host/vgg"))


def test_imagenet_weights_land_in_the_layers_they_were_trained_in(monkeypatch):
    layers = make_layers(cfgs["D"], batch_norm=False).eval()
    downloaded = {f"features.{name}": tensor for name, tensor in layers.state_dict().items()}
    vgg_download(monkeypatch, downloaded | {"classifier.0.weight": torch.zeros(1)})
    model = detector("vgg16")
    tensors = imagenet_state("vgg16")
    told = model.load_state_dict(tensors, strict=False)
    assert len(tensors) == 26
    assert not told.unexpected_keys
    grey = noise(1, 64)
    mean, std = (torch.tensor(values)[:, None, None] for values in (ssd_bases.VGG_MEAN, ssd_bases.VGG_STD))
    with torch.inference_mode():
        conv5_3 = layers[:30](255 * (grey - mean))
        ours = model.backbone.extra[0][:7](model.backbone.features((grey - mean) / std))
    torch.testing.assert_close(ours, conv5_3, rtol=1e-3, atol=1e-4 * conv5_3.abs().max().item())


def test_imagenet_weights_that_cannot_be_had_name_the_ways_on(monkeypatch):
    def unreachable():
        raise URLError("Name or service not known")

    vgg_download(monkeypatch, unreachable)
    with pytest.raises(MammoError) as caught:
        imagenet_state("vgg16")
    text = str(caught.value)
    assert "cannot be had from https://host/vgg: <urlopen error Name or service not known>" in text
    assert "hub/checkpoints" in text
    assert "choose `pretrained: none`, or make weights of our own with `dvc repro" in text


def test_a_server_that_never_answers_is_not_waited_for(monkeypatch, tmp_path):
    monkeypatch.setattr(ssd_bases, "SECONDS_TO_ANSWER", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/vgg-00000000.pth"
        vgg_download(
            monkeypatch, lambda: torch.hub.load_state_dict_from_url(url, model_dir=str(tmp_path), progress=False)
        )
        with pytest.raises(MammoError, match="timed out"):
            imagenet_state("vgg16")
    assert socket.getdefaulttimeout() is None


def test_a_file_in_the_cache_that_is_no_weights_is_not_believed(monkeypatch, tmp_path):
    (tmp_path / "vgg.pth").write_bytes(b"<html>404</html>")

    def cached():
        return torch.hub.load_state_dict_from_url(
            "https://host/vgg.pth", model_dir=str(tmp_path), progress=False, weights_only=True
        )

    vgg_download(monkeypatch, cached)
    with pytest.raises(MammoError, match="deleting what lies there under its name"):
        imagenet_state("vgg16")


def test_only_vgg16_has_imagenet_weights():
    with pytest.raises(BadInputError, match=r"there are none for base six_layer_cnn\nSet `base: vgg16`"):
        imagenet_state("six_layer_cnn")


@pytest.mark.slow
def test_a_disc_is_learnt_by_heart_on_vgg16_from_nothing():
    images, boxes, labels = discs(300, radii=[60.0])
    torch.manual_seed(0)
    model = build_detector(SsdParameters(base="vgg16")).train()
    fit_by_heart(model, images, boxes, labels, steps=25, rate=1e-4)
    assert_found(model, images, boxes, labels)


# --- discs ------------------------------------------------------------------------------------------------------------


def discs(side: int, radii: tuple[float, ...] | list[float] = (8.0, 18.0, 28.0, 40.0)):
    """Dim noise with one disc each; every second one is malignant, and brighter."""
    draw = torch.Generator().manual_seed(3)
    images = 0.2 * torch.rand(len(radii), 1, side, side, generator=draw)
    centres = torch.arange(side) + 0.5
    boxes, labels = [], []
    for i, radius in enumerate(radii):
        x, y = (radius + (side - 2 * radius) * torch.rand(2, generator=draw)).tolist()
        inside = (centres[None, :] - x) ** 2 + (centres[:, None] - y) ** 2 <= radius**2
        images[i, 0] += inside * 0.3 * (1 + i % 2)
        boxes.append(torch.tensor([[x - radius, y - radius, x + radius, y + radius]]))
        labels.append(torch.tensor([1 + i % 2]))
    return images, boxes, labels


def fit_by_heart(model: LesionSSD, images: Tensor, boxes, labels, steps: int, rate: float) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        detection_loss(model, images, boxes, labels).backward()
        optimiser.step()


def assert_found(model: LesionSSD, images: Tensor, boxes, labels) -> None:
    for box, label, found in zip(boxes, labels, predict_boxes(model, images), strict=True):
        assert box_iou(box, found.boxes[:1]).item() >= 0.5
        assert (found.p_malignant[0] > found.p_benign[0]).item() == (label.item() == 2)
