"""What a detector is trained with: its default boxes, and the boxes of lesions that are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mammo_ml.cutting import DETECTOR_VIEWS, CutSet
from mammo_ml.detector import DetectorRecipe, new_detector, task_on_cuts
from mammo_ml.errors import BadInputError
from mammo_ml.models.ssd import SsdParameters, build_detector
from mammo_ml.models.ssd_bases import BASES, scales_for
from mammo_ml.parameters import parse_section
from mammo_ml.pretrained import write_start

SIDES = [20.0, 30.0, 44.0, 60.0]
LESIONS = [np.array([[10.0, 12.0, 10.0 + side, 12.0 + side]]) for side in SIDES]
ANCESTOR = {"name": "own", "dataset": "cbis_ddsm", "command": "by hand"}
FILMS = pd.DataFrame({"film_id": ["f1"], "sha256": ["a" * 64], "dataset": ["cbis_ddsm"], "patient_id": ["P1"]})


def recipe(pretrained: str = "none", **network: Any) -> DetectorRecipe:
    training = {"budget_samples": 10, "epoch_samples": 10, "batch_size": 2, "learning_rate": 0.001}
    section = {
        "network": {"base": "six_layer_cnn", "width": 8} | network,
        "pretrained": pretrained,
        "augmentation": {"strength": 0.0},
        "training": training | {"weight_decay": 0.0, "patience": 1, "threads": 1, "seed": 1},
    }
    return parse_section(section, DetectorRecipe, "train_detector")


def scales_of(recipe: DetectorRecipe) -> list[float]:
    return new_detector(recipe, LESIONS).box_scales.tolist()


def cut_set(boxes: list[list[float]]) -> CutSet:
    """A cut of 128 px for each box."""
    names = [f"cut_{n}" for n in range(len(boxes))]
    corners = pd.DataFrame(boxes, columns=["x1", "y1", "x2", "y2"])
    pictures = np.zeros((len(boxes), len(DETECTOR_VIEWS), 128, 128), dtype=np.uint8)
    return CutSet(pd.DataFrame({"cut_id": names}), corners.assign(cut_id=names, severity="benign"), pictures)


def test_fresh_heads_get_default_boxes_that_fit_the_lesions_to_learn_from() -> None:
    fitting = scales_for(SIDES, "six_layer_cnn")
    assert scales_of(recipe()) == list(fitting)
    assert scales_of(recipe(scale_factor=1.25)) == pytest.approx([1.25 * scale for scale in fitting])


def test_heads_on_imagenets_base_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mammo_ml.pretrained.imagenet_state", lambda base: {})
    for pretrained in ("imagenet", "starter"):
        assert scales_of(recipe(pretrained, base="vgg16")) == list(scales_for(SIDES, "vgg16"))


def test_scales_of_the_recipe_win_over_the_lesions_and_over_the_start(tmp_path: Path) -> None:
    given = (0.1, 0.2, 0.4, 0.6, 0.8, 0.9)
    write_start(tmp_path, build_detector(SsdParameters(base="six_layer_cnn", width=8)), FILMS, ANCESTOR)
    for pretrained in ("none", str(tmp_path)):
        assert scales_of(recipe(pretrained, scales={"six_layer_cnn": given})) == pytest.approx(given)


def test_heads_that_have_learned_keep_the_default_boxes_they_learned_with(tmp_path: Path) -> None:
    torch.manual_seed(3)
    learned = build_detector(SsdParameters(base="six_layer_cnn", width=8).with_scales((0.1, 0.2, 0.3, 0.4, 0.5, 0.6)))
    write_start(tmp_path, learned, FILMS, ANCESTOR)
    model = new_detector(recipe(str(tmp_path)), LESIONS)
    assert all(torch.equal(value, learned.state_dict()[name]) for name, value in model.state_dict().items())
    assert scales_of(recipe(str(tmp_path), scale_factor=2.0)) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.2])


@pytest.mark.parametrize("base", ["small", "six_layer_cnn"])
def test_a_shipped_starter_keeps_the_default_boxes_of_its_base(base: str) -> None:
    assert scales_of(recipe("starter", base=base, width=32)) == list(BASES[base].scales)


def test_weights_of_another_base_are_refused_by_its_name_whatever_default_boxes_they_have(tmp_path: Path) -> None:
    write_start(tmp_path, build_detector(SsdParameters(base="small", width=8)), FILMS, ANCESTOR)
    with pytest.raises(BadInputError, match="weights of base small, this network has base six_layer_cnn"):
        new_detector(recipe(str(tmp_path)), LESIONS)


@pytest.mark.parametrize(
    "box",
    [
        [10, 10, 20, 10],
        [30, 30, 10, 10],
        [200, 200, 220, 220],
        [10, 10, 20, 140],
        [-2, 10, 20, 30],
        [10, np.nan, 20, 30],
    ],
)
def test_a_box_that_no_picture_could_show_stops_a_training_and_is_named(box: list[float]) -> None:
    cuts = cut_set([[10.0, 10.0, 40.0, 40.0], box])
    learned = np.array([True, True])
    with pytest.raises(BadInputError) as caught:
        task_on_cuts(recipe(), cuts, learned, ~learned)
    assert caught.value.problems
    assert all(problem.startswith("cut_1: [") for problem in caught.value.problems)
    assert "0 <= x1 < x2 <= 128 and 0 <= y1 < y2 <= 128: run stage `cut` again" in str(caught.value)


def test_a_training_without_a_lesion_has_nothing_to_choose_default_boxes_by() -> None:
    with pytest.raises(BadInputError, match=r"lesions to choose default boxes from.*\n.*there is no lesion"):
        new_detector(recipe(), [np.empty((0, 4))])
