import pytest
import torch
from torch import Tensor
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from mammo_ml.errors import BadInputError
from mammo_ml.models.ssd import LesionSSD, SsdParameters, build_detector, detection_loss, predict_boxes
from mammo_ml.parameters import parse_section

NO_BOXES, NO_LABELS = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
ONE_BOX, BENIGN = torch.tensor([[40.0, 30.0, 90.0, 80.0]]), torch.tensor([1])
SMALL = SsdParameters(width=8)  # as deep as the real one, a sixteenth of its weights


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def detector(parameters: SsdParameters = SMALL, seed: int = 0) -> LesionSSD:
    torch.manual_seed(seed)
    return build_detector(parameters)


def noise(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 128, 128, generator=torch.Generator().manual_seed(seed))


def films_with_discs(n: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Dim noise with one disc each; the malignant ones are brighter."""
    draw = torch.Generator().manual_seed(3)
    images = 0.2 * torch.rand(n, 1, 128, 128, generator=draw)
    boxes, labels = [], []
    centres = torch.arange(128) + 0.5
    for i in range(n):
        radius = 8.0 + 40.0 * i / n
        x, y = (radius + (128 - 2 * radius) * torch.rand(2, generator=draw)).tolist()
        inside = (centres[None, :] - x) ** 2 + (centres[:, None] - y) ** 2 <= radius**2
        label = 1 + i % 2
        images[i, 0] += inside * 0.3 * label
        boxes.append(torch.tensor([[x - radius, y - radius, x + radius, y + radius]]))
        labels.append(torch.tensor([label]))
    return images, boxes, labels


def targets(boxes: list[Tensor], labels: list[Tensor]) -> list[dict[str, Tensor]]:
    return [{"boxes": b, "labels": c} for b, c in zip(boxes, labels, strict=True)]


def torchvisions_loss(model: LesionSSD, images: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> dict[str, Tensor]:
    """What torchvision's own loss makes of the same network, images and boxes."""
    outputs, default_boxes = model.raw_outputs(images)
    matched = [model.match(b, default_boxes) for b in boxes]
    losses: dict[str, Tensor] = SSD.compute_loss(
        model, targets(boxes, labels), outputs, [default_boxes] * len(images), matched
    )
    return losses


def test_a_film_without_lesions_still_teaches_the_detector():
    model = detector().train()
    loss = detection_loss(model, noise(2), [NO_BOXES] * 2, [NO_LABELS] * 2)
    loss.backward()
    # Fresh weights know nothing: each of the 8 hardest negatives costs at least ln 3 = 1.1, over 8 / 3 positives.
    assert loss.item() > 3.3
    assert model.backbone.stem[0].weight.grad.abs().max() > 0
    assert all(layer.weight.grad.abs().max() > 0 for layer in model.backbone.stages[0][0] if hasattr(layer, "weight"))


def test_torchvisions_own_loss_learns_nothing_from_a_film_without_lesions():
    losses = torchvisions_loss(detector().train(), noise(2), [NO_BOXES] * 2, [NO_LABELS] * 2)
    assert sum(losses.values()).item() == 0.0


def test_the_loss_is_torchvisions_where_one_image_has_a_lesion():
    # With a lesion's matched default boxes giving more than the minimum of negatives, both are the same sum over N.
    model = detector(SsdParameters(width=8, min_negatives=1)).eval()
    ours = detection_loss(model, noise(1), [ONE_BOX], [BENIGN])
    theirs = torchvisions_loss(model, noise(1), [ONE_BOX], [BENIGN])
    torch.testing.assert_close(ours, sum(theirs.values()))


def test_the_loss_of_a_batch_is_the_mean_over_its_images():
    model = detector().eval()
    images = noise(3)
    boxes, labels = [ONE_BOX, NO_BOXES, ONE_BOX / 3], [BENIGN, NO_LABELS, BENIGN + 1]
    apart = [detection_loss(model, images[i : i + 1], boxes[i : i + 1], labels[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(detection_loss(model, images, boxes, labels), torch.stack(apart).mean())


def test_torchvisions_forward_pass_gives_the_same_loss():
    model = detector().train()
    images, boxes, labels = noise(2), [ONE_BOX, NO_BOXES], [BENIGN, NO_LABELS]
    theirs = model(list(images), targets(boxes, labels))
    torch.testing.assert_close(detection_loss(model, images, boxes, labels), sum(theirs.values()))


def test_more_negatives_are_taken_when_asked_for():
    few, many = (detector(SsdParameters(width=8, min_negatives=n)).eval() for n in (1, 100))
    outputs, default_boxes = few.raw_outputs(noise(1))
    args = (targets([NO_BOXES], [NO_LABELS]), outputs, [default_boxes], [few.match(NO_BOXES, default_boxes)])
    hardest = torch.nn.functional.cross_entropy(
        outputs["cls_logits"][0], torch.zeros(len(default_boxes), dtype=torch.int64), reduction="none"
    ).sort(descending=True)[0]
    # Normalised by the positives that the negatives stand for: n / 3.
    torch.testing.assert_close(few.compute_loss(*args)["classification"], hardest[0] * 3)
    torch.testing.assert_close(many.compute_loss(*args)["classification"], hardest[:100].mean() * 3)


@pytest.mark.parametrize("side", [14, 20, 28, 42, 50, 62, 75, 90, 105, 120])
def test_every_lesion_has_a_default_box_that_fits_wherever_it_lies(side):
    _, default_boxes = detector().eval().raw_outputs(noise(1))
    centres = torch.linspace(side / 2, 128 - side / 2, 29)  # every place where the lesion is whole
    x, y = (grid.flatten() for grid in torch.meshgrid(centres, centres, indexing="ij"))
    half = side / 2
    lesions = torch.stack([x - half, y - half, x + half, y + half], 1)
    assert box_iou(lesions, default_boxes).max(1).values.min() >= 0.5


def test_the_real_network_has_about_1_2_million_parameters():
    assert 1.1e6 < sum(p.numel() for p in build_detector(SsdParameters()).parameters()) < 1.4e6


def test_eight_discs_are_learnt_by_heart_and_found():
    images, boxes, labels = films_with_discs(8)
    model = detector(SsdParameters(width=16)).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        detection_loss(model, images, boxes, labels).backward()
        optimiser.step()
    for box, label, found in zip(boxes, labels, predict_boxes(model, images), strict=True):
        assert box_iou(box, found.boxes[:1]).item() >= 0.5
        assert (found.p_malignant[0] > found.p_benign[0]).item() == (label.item() == 2)


class Scripted(LesionSSD):
    """A detector whose head says what a test wants: (default box, logits), background elsewhere."""

    said: dict[int, list[float]]

    def raw_outputs(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        outputs, default_boxes = super().raw_outputs(images)
        logits = torch.tensor([20.0, 0.0, 0.0]).repeat(len(images), len(default_boxes), 1)
        for index, values in self.said.items():
            logits[:, index] = torch.tensor(values)
        return {"cls_logits": logits, "bbox_regression": torch.zeros_like(outputs["bbox_regression"])}, default_boxes


def scripted(said: dict[int, list[float]]) -> Scripted:
    model = detector().eval()
    model.__class__ = Scripted
    model.said = said
    return model


# The last map is 4 x 4 with 4 boxes a place: 80, 110, then 2:1 both ways. Taken at row 1, column 1: centre (48, 48).
LAST = 2880 - 64
BOX_80, BOX_110 = LAST + 5 * 4, LAST + 5 * 4 + 1
FAR_AWAY = 0  # the 14 px box in the top left corner


def test_suppression_ignores_the_class():
    # 80² / 110² = 0.53 overlap before clipping: one finding, though one is called benign and the other malignant.
    model = scripted({BOX_80: [0.0, 3.0, 0.0], BOX_110: [0.0, 0.0, 2.0]})
    found = predict_boxes(model, noise(1))[0]
    torch.testing.assert_close(found.boxes, torch.tensor([[8.0, 8.0, 88.0, 88.0]]), atol=1e-3, rtol=0)
    # The box that stays has both probabilities of its own softmax: e³ and 1 of 1 + e³ + 1.
    torch.testing.assert_close(found.p_benign, torch.tensor([3.0]).exp() / (2 + torch.tensor([3.0]).exp()))
    torch.testing.assert_close(found.p_malignant, 1 / (2 + torch.tensor([3.0]).exp()))


def test_a_box_torn_between_the_classes_outranks_a_box_sure_of_one():
    # 1 - P(background): 2 e² / (1 + 2 e²) = 0.94 against (e² + e^-5) / (1 + e² + e^-5) = 0.88.
    model = scripted({FAR_AWAY: [0.0, 2.0, -5.0], BOX_80: [0.0, 2.0, 2.0]})
    found = predict_boxes(model, noise(1))[0]
    assert len(found.boxes) == 2
    assert found.boxes[0, 2] > 80
    scores = found.p_benign + found.p_malignant
    assert scores[0] > scores[1]


def test_the_overlap_allowed_the_floor_and_the_number_of_boxes_are_the_callers():
    model = scripted({BOX_80: [0.0, 3.0, 0.0], BOX_110: [0.0, 0.0, 2.0], FAR_AWAY: [0.0, -2.0, -2.0]})
    assert len(predict_boxes(model, noise(1))[0].boxes) == 2
    assert len(predict_boxes(model, noise(1), nms_iou=0.9)[0].boxes) == 3
    assert len(predict_boxes(model, noise(1), max_detections=1)[0].boxes) == 1
    # 2 e^-2 / (1 + 2 e^-2) = 0.21
    assert len(predict_boxes(model, noise(1), score_floor=0.3)[0].boxes) == 1


def test_nothing_suspicious_gives_no_boxes():
    found = predict_boxes(scripted({}), noise(2))
    assert [tuple(f.boxes.shape) for f in found] == [(0, 4), (0, 4)]
    assert found[0].p_benign.shape == found[0].p_malignant.shape == (0,)
    assert predict_boxes(scripted({}), noise(0)) == []


def test_predicted_boxes_lie_in_the_image_and_have_an_area():
    for found in predict_boxes(detector(), noise(3), nms_iou=0.95, max_detections=200):
        assert len(found.boxes)
        assert ((found.boxes >= 0) & (found.boxes <= 128)).all()
        assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()


def test_predicting_leaves_the_model_as_it_was():
    model = detector().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predict_boxes(model, noise(2))
    assert model.training
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_an_image_is_found_the_same_in_a_large_batch():
    # More than one internal batch, so that the seam is crossed; float32 sums may differ with the size of the batch.
    model, images = detector(), noise(70)
    together, alone = predict_boxes(model, images)[69], predict_boxes(model, images[69:])[0]
    torch.testing.assert_close(together.p_benign, alone.p_benign, rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_weights_after_three_steps():
    images, boxes, labels = films_with_discs(4)
    boxes[3], labels[3] = NO_BOXES, NO_LABELS

    def trained(seed: int) -> dict[str, Tensor]:
        model = detector(seed=seed).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(3):
            optimiser.zero_grad()
            detection_loss(model, images, boxes, labels).backward()
            optimiser.step()
        return dict(model.state_dict())

    first = trained(seed=1)
    torch.testing.assert_close(trained(seed=1), first, rtol=0, atol=0)
    assert (trained(seed=2)["backbone.stem.0.weight"] - first["backbone.stem.0.weight"]).abs().max() > 0.01


def test_every_wrong_box_is_refused_in_one_error_naming_image_and_box():
    boxes = [
        torch.tensor([[10.0, 10.0, 20.0, 20.0], [30.0, 30.0, 30.0, 40.0]]),  # no width
        torch.tensor([[100.0, 100.0, 140.0, 120.0]]),  # 12 px over the right edge
        torch.tensor([[float("nan"), 1.0, 2.0, 3.0]]),
        torch.tensor([[10.0, 10.0, 20.0, 20.0]]),
    ]
    labels = [torch.tensor([1, 1]), torch.tensor([2]), torch.tensor([1]), torch.tensor([0])]
    with pytest.raises(BadInputError) as error:
        detection_loss(detector(), noise(4), boxes, labels)
    text = str(error.value)
    assert "image 0, box 1 [30.0, 30.0, 30.0, 40.0]: has no area" in text
    assert "image 1, box 0 [100.0, 100.0, 140.0, 120.0]: leaves the image of 128 x 128 px" in text
    assert "image 2, box 0" in text
    assert "image 3, box 0 [10.0, 10.0, 20.0, 20.0]: has class 0" in text
    assert "image 0, box 0" not in text


def test_lists_and_shapes_that_do_not_fit_are_refused():
    with pytest.raises(BadInputError, match="no images"):
        detection_loss(detector(), noise(0), [], [])
    with pytest.raises(BadInputError, match="2 images, 1 lists of boxes, 1 lists of labels"):
        detection_loss(detector(), noise(2), [ONE_BOX], [BENIGN])
    with pytest.raises(BadInputError, match=r"image 0: boxes of shape \(1, 4\) with labels .* of shape \(0,\)"):
        detection_loss(detector(), noise(1), [ONE_BOX], [NO_LABELS])
    with pytest.raises(BadInputError, match=r"\(1, 1, 100, 128\)"):
        predict_boxes(detector(), noise(1)[:, :, :100])
    with pytest.raises(BadInputError, match="uint8"):
        predict_boxes(detector(), noise(1).byte())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("min_negatives", 0),
        ("negative_to_positive_ratio", 0),
        ("base", "vgg17"),
        ("scales", {"small": [0.1, 0.3]}),
        ("width", 7),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(key, value):
    with pytest.raises(BadInputError, match=key):
        parse_section({key: value}, SsdParameters, "params.yaml, section 'detector'")


def test_scales_must_increase():
    with pytest.raises(BadInputError, match="5 increasing numbers"):
        parse_section(
            {"scales": {"small": [0.1, 0.3, 0.2, 0.5, 1.0]}}, SsdParameters, "params.yaml, section 'detector'"
        )
