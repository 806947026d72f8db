import copy
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mammo_ml.base_comparison import BaseComparison
from mammo_ml.classifier import ClassifierRecipe
from mammo_ml.classifier_windows import ClassifierPretrainingRecipe
from mammo_ml.comparisons import ClassifierComparison, DetectorComparison
from mammo_ml.cuttings import CuttingComparison, CuttingParameters
from mammo_ml.datasets.phantom import PhantomParameters
from mammo_ml.detector import DetectorRecipe, PretrainingRecipe
from mammo_ml.detector_inputs import InputTuningParameters
from mammo_ml.errors import BadInputError
from mammo_ml.evaluation import EvaluateParameters
from mammo_ml.imaging.patches import CutParameters, TileParameters
from mammo_ml.leakage_lab import LeakageLabParameters
from mammo_ml.locator_evaluation import LocatorEvaluateParameters, SweepParameters
from mammo_ml.parameters import Parameters, parse_section, read_section
from mammo_ml.prediction import FilmDetectionParameters
from mammo_ml.recipe import Recipe
from mammo_ml.registry import GateParameters
from mammo_ml.slides_protocol import SlidesProtocolParameters
from mammo_ml.splits import RandomSplitParameters, SplitParameters
from mammo_ml.transfer import TransferParameters
from mammo_ml.tuning import TuningParameters

ROOT = Path(__file__).resolve().parents[2]
FILES = (ROOT / "params.yaml", ROOT / "pipelines" / "studies" / "params.yaml")
OWN, OF_STUDIES = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in FILES)
# A section of both files is read with one class.
PARAMS: dict[str, Any] = OF_STUDIES | OWN
# For each section: its class, a key of it, and a value out of that key's range.
SECTIONS: dict[str, tuple[type[Parameters], str, object]] = {
    "ingest": (PhantomParameters, "women", 3),
    "split": (SplitParameters, "folds", "all"),
    "cut": (CutParameters, "min_breast_share", 1.5),
    "tune_classifier": (TuningParameters, "trials", 0),
    "train_classifier": (ClassifierRecipe, "training.learning_rate", -0.001),
    "predict_classifier": (TileParameters, "step_px", 0),
    "leaky_classifier": (RandomSplitParameters, "seed", -1),
    "evaluate_classifier": (EvaluateParameters, "resamples", 0),
    "explain_classifier": (EvaluateParameters, "resamples", 0),
    "tune_detector": (TuningParameters, "budget_samples", 0),
    "tune_detector_inputs": (InputTuningParameters, "inputs.overlap", 1.0),
    "train_detector": (DetectorRecipe, "augmentation.strength", -1.0),
    "predict_detector": (FilmDetectionParameters, "merge.nms_iou", 1.0),
    "leaky_detector": (RandomSplitParameters, "seed", -1),
    "evaluate_detector": (EvaluateParameters, "resamples", "many"),
    "predict_locator": (SweepParameters, "step", 0.0),
    "evaluate_locator": (LocatorEvaluateParameters, "seconds_per_tile_detector", 0.0),
    "pretrain_detector": (PretrainingRecipe, "windows.max_offset", 0.6),
    "pretrain_classifier": (ClassifierPretrainingRecipe, "label_smoothing", 1.0),
    "compare_detector": (DetectorComparison, "folds_seed", -1),
    "compare_base": (BaseComparison, "leaky_seed", -1),
    "compare_classifier": (ClassifierComparison, "folds_seed", -1),
    "cut_patches": (CuttingParameters, "min_lesion_share", 0.0),
    "compare_cutting": (CuttingComparison, "resamples", 10),
    "slides_protocol": (SlidesProtocolParameters, "test_fold", 5),
    "compare_transfer": (TransferParameters, "later_samples", 0),
    "leakage_lab": (LeakageLabParameters, "min_visible_share", 0.0),
    "evaluate_leakage_lab": (EvaluateParameters, "resamples", 10),
    "gate": (GateParameters, "classifier", "auc macro"),
}


def place_of(params: dict[str, Any], section: str, key: str) -> tuple[dict[str, Any], str]:
    place, parts = params[section], key.split(".")
    for part in parts[:-1]:
        place = place[part]
    return place, parts[-1]


def written(folder: Path, params: dict[str, Any]) -> Path:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(params), encoding="utf-8")
    return path


def test_every_section_has_its_class_here() -> None:
    assert set(SECTIONS) == {name for name, values in PARAMS.items() if isinstance(values, dict)}


def test_the_stages_read_their_sections_with_these_classes() -> None:
    found = {}
    for script in (ROOT / "pipelines").glob("*.py"):
        found |= dict(re.findall(r'stage\.section\("(\w+)", (?:\w+\.)?(\w+)\)', script.read_text(encoding="utf-8")))
    assert found == {section: kind.__name__ for section, (kind, _, _) in SECTIONS.items()}


@pytest.mark.parametrize(
    ("path", "section"),
    [
        (path, section)
        for path, own in zip(FILES, (OWN, OF_STUDIES), strict=True)
        for section in SECTIONS
        if section in own
    ],
)
def test_the_committed_section_is_accepted(path: Path, section: str) -> None:
    assert isinstance(read_section(path, section, SECTIONS[section][0]), Parameters)


@pytest.mark.parametrize("section", ["compare_detector", "compare_base", "tune_detector_inputs"])
def test_studies_cut_films_as_the_pipeline_does(section: str) -> None:
    assert OF_STUDIES[section]["cut"] == OWN["cut"]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_misspelt_key_stops_the_stage_and_is_named_with_the_right_one(section: str, tmp_path: Path) -> None:
    kind, key, _ = SECTIONS[section]
    params = copy.deepcopy(PARAMS)
    place, last = place_of(params, section, key)
    place[f"{last}x"] = place.pop(last)

    with pytest.raises(BadInputError) as error:
        read_section(written(tmp_path, params), section, kind)

    assert f"section '{section}'" in str(error.value)
    assert f"unknown key '{key}x'; did you mean '{last}'?" in str(error.value)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_value_out_of_range_stops_the_stage_and_is_named_with_its_key(section: str, tmp_path: Path) -> None:
    kind, key, value = SECTIONS[section]
    params = copy.deepcopy(PARAMS)
    place, last = place_of(params, section, key)
    place[last] = value

    with pytest.raises(BadInputError) as error:
        read_section(written(tmp_path, params), section, kind)

    assert len(error.value.problems) == 1
    assert f"section '{section}'" in str(error.value)
    assert f"key '{key}'" in error.value.problems[0]
    assert repr(value) in error.value.problems[0]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_missing_section_is_named(section: str, tmp_path: Path) -> None:
    params = {name: values for name, values in PARAMS.items() if name != section}
    with pytest.raises(BadInputError, match=f"section '{section}' is missing"):
        read_section(written(tmp_path, params), section, SECTIONS[section][0])


def test_a_stage_with_a_misspelt_key_ends_with_1_and_a_message_without_traceback(tmp_path: Path) -> None:
    params = copy.deepcopy(PARAMS)
    params["split"]["sede"] = params["split"].pop("seed")
    written(tmp_path, params)

    finished = subprocess.run(
        [sys.executable, "-m", "pipelines.split", "--films-table", "films.csv", "--out", "folds.csv"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == 1
    assert "params.yaml, section 'split'" in finished.stderr
    assert "unknown key 'sede'" in finished.stderr
    assert "key 'seed' is missing" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "folds.csv").exists()


def searches() -> list[Any]:
    """Recipe of trial 0 and space of every search of both graphs."""
    found = []
    for params in (OWN, OF_STUDIES):
        of_classifier = parse_section(params["train_classifier"], ClassifierRecipe, "classifier")
        of_detector: Recipe = parse_section(params["train_detector"], DetectorRecipe, "detector")
        tuned = "tune_detector" if "tune_detector" in params else "tune_detector_inputs"
        if tuned == "tune_detector_inputs":
            of_detector = parse_section(params[tuned], InputTuningParameters, tuned).recipe(of_detector)
        for name, recipe in (("tune_classifier", of_classifier), (tuned, of_detector)):
            found.append(pytest.param(recipe, parse_section(params[name], SECTIONS[name][0], name), id=name))
    return found


@pytest.mark.parametrize(("recipe", "tuning"), searches())
def test_every_end_of_a_search_space_is_a_recipe(recipe: Recipe, tuning: TuningParameters) -> None:
    for key, span in tuning.space.items():
        for value in span.choices or (span.low, span.high):
            tried = recipe.with_values({key: value})
            assert tried.values([key]) == {key: value}
