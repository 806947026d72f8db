"""Bad input of the detector: what a user is told. Boxes and lists that do not fit each other are in test_ssd.py."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mammo_ml.checkpoints import Checkpoints
from mammo_ml.detector import DetectorTask
from mammo_ml.detector_bases import Base
from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.imaging.augmentation import AugmentationParameters
from mammo_ml.imaging.breast import canonical_transform
from mammo_ml.imaging.canonical import CanonicalFilm
from mammo_ml.imaging.patches import Tiling
from mammo_ml.models.ssd import LesionSSD, SsdParameters, build_detector, detection_loss, predict_boxes
from mammo_ml.models.ssd_bases import BASES
from mammo_ml.models.weights import load_into
from mammo_ml.prediction import FilmDetectionParameters, MergeParameters, detect_on_films
from mammo_ml.training import TrainingParameters, fit, load_weights, save_weights

NO_BOXES, NO_LABELS = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
ONE_BOX, BENIGN = torch.tensor([[40.0, 30.0, 90.0, 80.0]]), torch.tensor([1])
TRAINING = TrainingParameters(
    budget_samples=8,
    epoch_samples=4,
    batch_size=2,
    learning_rate=1e-3,
    weight_decay=0,
    patience=1,
    threads=1,
    seed=1,
)


def detector(base: Base = "small") -> LesionSSD:
    torch.manual_seed(0)
    return build_detector(SsdParameters(base=base, width=8)).eval()


def noise(n: int, side: int = 128) -> Tensor:
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(0))


def task(model: LesionSSD, targets: list | None = None) -> DetectorTask:
    """Four cuts, every second one with a lesion."""
    lesion = (ONE_BOX.double().numpy(), BENIGN.numpy())
    normal = (np.empty((0, 4)), np.empty(0, dtype=np.int64))
    pictures = np.random.default_rng(0).integers(0, 256, (4, 128, 128), dtype=np.uint8)
    names = ["mdb001_1_centred_0", "mdb003_normal_0", "mdb002_1_jittered_1", "mdb004_normal_1"]
    nobody = np.empty(0, dtype=np.int64)
    augmentation = AugmentationParameters(strength=0)
    return DetectorTask(model, pictures, targets or [lesion, normal] * 2, names, np.arange(4), nobody, augmentation)


def test_an_image_without_boxes_beside_one_with_a_lesion_is_no_fault():
    assert torch.isfinite(detection_loss(detector(), noise(2), [NO_BOXES, ONE_BOX], [NO_LABELS, BENIGN]))


def test_a_batch_of_only_negatives_trains():
    normal = (np.empty((0, 4)), np.empty(0, dtype=np.int64))
    model = detector()
    before = model.backbone.stem[0].weight.detach().clone()
    fitted = fit(task(model, [normal] * 4), TRAINING, epochs=1)
    assert fitted.history[0].train_loss > 0
    assert (model.backbone.stem[0].weight - before).abs().max() > 0


@pytest.mark.parametrize("base", BASES)
def test_a_box_of_no_area_and_a_box_outside_the_image_are_named_for_every_base(base):
    model = detector(base)
    side = model.side_px
    boxes = torch.tensor([[10.0, 10.0, 20.0, 10.0], [10.0, 10.0, 20.0, side + 1.0], [10.0, 10.0, 20.0, float(side)]])
    with pytest.raises(BadInputError) as caught:
        detection_loss(model, noise(1, side), [boxes], [torch.tensor([1, 2, 1])])
    assert caught.value.problems == [
        "image 0, box 0 [10.0, 10.0, 20.0, 10.0]: has no area",
        f"image 0, box 1 [10.0, 10.0, 20.0, {side + 1.0}]: leaves the image of {side} x {side} px",
    ]


def test_pictures_cut_for_another_base_are_refused_with_the_size_to_cut():
    with pytest.raises(
        BadInputError, match=r"\(1, 1, 128, 128\)\nGive .* base vgg16 .* of 300 px\. Run stage `cut` again"
    ):
        predict_boxes(detector("vgg16"), noise(1))


def test_nan_stops_the_training_naming_step_and_films():
    model = detector()
    with torch.no_grad():
        model.backbone.stem[0].weight[0, 0, 0, 0] = float("nan")
    sick = task(model)
    with pytest.raises(MammoError) as caught:
        fit(sick, TRAINING, epochs=1)
    assert "the loss is nan in epoch 1, step 1, on cuts " in str(caught.value)
    first = sick.draw(4, np.random.default_rng([TRAINING.seed, 1]))[:2]
    assert sick.describe(first) in str(caught.value)
    assert "mdb00" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_pixel_that_is_no_number_is_an_error_in_prediction_and_not_a_film_without_findings(value):
    images = noise(70)  # more than are predicted at once, so that the numbers count on
    images[66, 0, 5, 5] = value
    with pytest.raises(MammoError, match="not finite for image 66:"):
        predict_boxes(detector(), images)


def test_images_without_a_name_each_are_refused_before_anything_is_computed():
    with pytest.raises(BadInputError, match="3 with 2 names"):
        predict_boxes(detector(), noise(3), names=["a", "b"])


@pytest.mark.parametrize("own", BASES)
@pytest.mark.parametrize("other", BASES)
def test_weights_of_another_base_are_refused_by_its_name(own, other):
    if own == other:
        return
    weights = dict(detector(other).state_dict())
    expected = f"weights of base {other}, this network has base {own}: set `base: {other}` or give others"
    with pytest.raises(BadInputError, match=r"bundle\.safetensors: weights for LesionSSD: 1 problem") as caught:
        load_into(detector(own), weights, "bundle.safetensors")
    assert caught.value.problems == [expected]
    with pytest.raises(BadInputError, match=f"weights of base {other}"):
        detector(own).load_state_dict(weights, strict=False)


def test_a_weights_file_of_another_base_is_refused_by_file_and_base(tmp_path):
    save_weights(detector("six_layer_cnn"), tmp_path / "weights.safetensors")
    with pytest.raises(BadInputError, match=r"weights\.safetensors.*\n.*weights of base six_layer_cnn.*base small"):
        load_weights(detector("small"), tmp_path / "weights.safetensors")


def test_a_checkpoint_of_another_base_is_refused_by_name(tmp_path):
    def checkpoints() -> Checkpoints:
        return Checkpoints(tmp_path, {"made": "of the same things"}, seconds=0)

    fit(task(detector("small")), TRAINING, epochs=1, checkpoints=checkpoints())
    with pytest.raises(BadInputError, match="weights of base small, this network has base six_layer_cnn"):
        fit(task(detector("six_layer_cnn")), TRAINING, epochs=2, checkpoints=checkpoints())


def test_weights_of_another_width_are_refused_by_tensor_and_shape():
    torch.manual_seed(0)
    wide = dict(build_detector(SsdParameters(width=16)).state_dict())
    with pytest.raises(BadInputError, match=r"backbone\.stem\.0\.weight is torch\.float32 of \(16, 1, 5, 5\)"):
        load_into(detector("small"), wide, "weights.safetensors")


def test_a_film_smaller_than_a_tile_is_refused_with_both_sizes():
    pixels = np.full((140, 300), 200, dtype=np.uint8)
    film = CanonicalFilm("mdb001", pixels, pixels > 0, canonical_transform("left", 300, 140, 0.2))
    tiles = Tiling(window_px=256, step_px=128, min_breast_share=0)
    looking = FilmDetectionParameters(tiles=tiles, merge=MergeParameters(nms_iou=0.3, max_per_tile=5, max_per_film=5))
    with pytest.raises(BadInputError) as caught:
        detect_on_films(detector(), [film], looking)
    assert str(caught.value).startswith("film mdb001: ")
    assert caught.value.problems == ["300x140 px is smaller than a tile of 256 px"]
    assert str(caught.value).endswith("Choose a smaller window_px.")
