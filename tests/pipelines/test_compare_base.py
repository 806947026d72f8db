"""The study of bases on drawn films: its own size of image for each, all three protocols, only the women asked for."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from mammo_ml.base_comparison import PROTOCOLS, BaseComparison
from mammo_ml.cutting import CutSet
from mammo_ml.errors import BadInputError
from mammo_ml.parameters import parse_section
from mammo_ml.splits import make_folds
from pipelines import compare_base, evaluate_compare_base
from tests.pipelines.test_compare_transfer import run
from tests.transfer_sets import ASKED as TRANSFER
from tests.transfer_sets import write_sets

STUDIES = yaml.safe_load(
    (Path(__file__).resolve().parents[2] / "pipelines/studies/params.yaml").read_text(encoding="utf-8")
)
ASKED: dict[str, Any] = STUDIES["compare_base"] | {
    "resamples": 100,
    "common": {
        "network": {"base": "small", "width": 8},
        "pretrained": "none",
        "augmentation": {"strength": 0.0},
        "training": TRANSFER["training"] | {"budget_samples": 8},
    },
    "configurations": {
        "small": {"folds": [0, 3], "recipe": {}, "leaky": {"training": {"budget_samples": 16}}},
        "vgg16": {"folds": [1], "recipe": {"network": {"base": "vgg16"}}, "leaky": {}},
    },
}
PLACES = ["--films", "sets/mini_mias/films", "--catalog", "sets/mini_mias/catalog"]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    params = {key: STUDIES[key] for key in ("dataset", "folds", "predict_detector")} | {"compare_base": ASKED}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    write_sets(tmp_path / "sets")
    return tmp_path


def test_from_the_films_to_the_table(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_small = ASKED | {"configurations": {"small": ASKED["configurations"]["small"]}}
    params = yaml.safe_load((workspace / "params.yaml").read_text(encoding="utf-8")) | {"compare_base": only_small}
    (workspace / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    run(monkeypatch, compare_base, "--configuration", "small", *PLACES, "--out", "predicted/small")
    found = pd.read_csv(workspace / "predicted/small/predictions.csv", dtype="str")
    films = pd.read_csv(workspace / "sets/mini_mias/catalog/films.csv", dtype="str")
    folds = make_folds(films, ASKED["folds_seed"]).set_index("patient_id")["fold"]
    assert set(found["protocol"]) == set(PROTOCOLS)
    by_patient = found[found["protocol"] != "cuts_at_random_leaky"]
    assert set(by_patient["fold"]) == {"0", "3"}
    assert (by_patient["patient_id"].map(folds).astype(str) == by_patient["fold"]).all()
    assert set(found.loc[found["protocol"] == "cuts_at_random_leaky", "fold"]) <= {"train", "validation", "test"}
    # two folds and the leaky protocol
    assert len(list((workspace / ".state" / "compare_base").iterdir())) == 3

    run(monkeypatch, evaluate_compare_base, "--catalog", PLACES[-1], "--predicted", "predicted", "--out", "compared")
    metrics = json.loads((workspace / "compared/small/metrics.json").read_text(encoding="utf-8"))
    n_women = int(folds.isin([0, 3]).sum())
    assert {name: figures["n_women"] for name, figures in metrics.items()} == {
        "films_by_patient": n_women,
        "cuts_by_patient": metrics["cuts_by_patient"]["n_cuts"],
        "cuts_at_random_leaky": metrics["cuts_at_random_leaky"]["n_women"],
    }
    assert "map_50_all_sets" in metrics["cuts_at_random_leaky"]
    rows = (workspace / "compared/table.md").read_text(encoding="utf-8").splitlines()
    assert rows[2].startswith(f"| `small` | 8, 16 | {n_women} |")
    assert (workspace / "compared/small/predictions.csv").is_file()


def test_every_base_gets_pictures_of_its_own_size(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class SeenEnoughError(Exception):
        pass

    def stop(recipe: Any, cuts: CutSet, *parts: Any) -> None:
        assert cuts.pictures.shape[2:] == (300, 300)
        raise SeenEnoughError

    monkeypatch.setattr(compare_base, "task_on_pictures", stop)
    with pytest.raises(SeenEnoughError):
        run(monkeypatch, compare_base, "--configuration", "vgg16", *PLACES, "--out", "predicted/vgg16")


@pytest.mark.parametrize("folds", [[], [5], [0, 0]])
def test_folds_that_are_not_there_are_named(folds: list[int]) -> None:
    wrong = {"configurations": {"small": ASKED["configurations"]["small"] | {"folds": folds}}}
    with pytest.raises(BadInputError, match="folds"):
        parse_section(ASKED | wrong, BaseComparison, "compare_base")


def test_a_configuration_that_is_not_listed_is_named(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInputError, match="'vgg19' is none of small, vgg16"):
        run(monkeypatch, compare_base, "--configuration", "vgg19", *PLACES, "--out", "predicted/vgg19")
    assert not (workspace / "predicted").exists()
