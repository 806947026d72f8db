"""`train_detector.network.base` alone switches the detector's base: cuts, leaky recipe and films follow it."""

from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import yaml

from mammo_ml.cutting import CutSet, PatchSet
from mammo_ml.detector import DetectorRecipe, new_detector
from mammo_ml.detector_bases import Base
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.breast import canonical_transform
from mammo_ml.imaging.canonical import CanonicalFilm
from mammo_ml.models.ssd import build_detector
from mammo_ml.models.ssd_bases import BASES, scales_for
from mammo_ml.parameters import parse_section
from mammo_ml.prediction import FilmDetectionParameters, detect_on_films
from mammo_ml.splits import RandomSplitParameters
from pipelines import cut
from tests.pipelines.test_compare_transfer import run
from tests.transfer_sets import write_sets

ROOT = Path(__file__).resolve().parents[2]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
CUTS_PX = {"small": 128, "six_layer_cnn": 128, "vgg16": 300}


def recipe(base: str) -> DetectorRecipe:
    section = PARAMS["train_detector"]
    return parse_section(section | {"network": section["network"] | {"base": base}}, DetectorRecipe, "train_detector")


@pytest.mark.parametrize("base", get_args(Base))
def test_the_leaky_training_has_default_boxes_chosen_for_it_or_those_of_its_start(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    # VGG16's start has no heads: its default boxes fit the lesions to learn from.
    monkeypatch.setattr("mammo_ml.pretrained.imagenet_state", lambda base: {})
    lesions = [np.array([[20.0, 20.0, 20.0 + side, 20.0 + side]]) for side in (30, 60, 90)]
    of_start = {"six_layer_cnn": BASES["six_layer_cnn"].scales, "vgg16": scales_for([30, 60, 90], "vgg16")}
    leaky = parse_section(PARAMS["leaky_detector"], RandomSplitParameters, "leaky_detector")
    changed = recipe(base).with_values(leaky.values)
    chosen = (changed.network.scales or {}).get(base) or of_start[base]
    assert new_detector(changed, lesions).anchor_generator.scales == pytest.approx(list(chosen))


@pytest.mark.parametrize("base", get_args(Base))
def test_cuts_have_the_size_of_the_base_and_patches_that_of_the_classifier(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sets(tmp_path / "sets")
    # Films of a window and a half have no lesion-free place with 90 % of breast.
    small_films = {"min_breast_share": 0.3, "lesion_free_per_lesion": 0}
    parameters = PARAMS | {"cut": PARAMS["cut"] | small_films}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(parameters), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    places = [f"--{name}={tmp_path}/{name}" for name in ("patches", "cuts", "feedback")]
    inputs = ["--films", "sets/mini_mias/films", "--catalog", "sets/mini_mias/catalog"]
    run(monkeypatch, cut, "--base", base, *inputs, "--corrections", str(ROOT / "feedback"), *places)

    cuts, patches = CutSet.load(tmp_path / "cuts"), PatchSet.load(tmp_path / "patches")
    assert cuts.pictures.shape[2:] == (CUTS_PX[base], CUTS_PX[base])
    assert patches.pictures.shape[2:] == (128, 128)
    boxes = cuts.boxes[["x1", "y1", "x2", "y2"]].to_numpy()
    assert boxes.max() <= CUTS_PX[base]
    assert boxes.max() > 0.5 * CUTS_PX[base]


def test_the_stage_that_cuts_is_told_the_base_of_the_parameters() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert "--base ${train_detector.network.base}" in stages["cut"]["cmd"]


def test_a_base_that_is_none_is_refused_with_those_there_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS), encoding="utf-8")
    inputs = [f"--{name}={name}" for name in ("films", "catalog", "corrections", "patches", "cuts", "feedback")]
    with pytest.raises(BadInputError, match="'vgg17' is none of small, six_layer_cnn, vgg16"):
        run(monkeypatch, cut, "--base", "vgg17", *inputs)


@pytest.mark.parametrize("base", get_args(Base))
def test_films_are_looked_at_in_the_size_of_the_base(base: Base) -> None:
    pixels = np.random.default_rng(0).integers(100, 200, (300, 280)).astype(np.uint8)
    film = CanonicalFilm("mdb001", pixels, pixels > 0, canonical_transform("left", 280, 300, 0.2))
    looking = parse_section(PARAMS["predict_detector"], FilmDetectionParameters, "predict_detector")
    found: pd.DataFrame = detect_on_films(build_detector(recipe(base).network).eval(), [film], looking)
    assert len(found) > 0
    assert found[["x2", "y2"]].max().tolist() <= [280.0, 300.0]
