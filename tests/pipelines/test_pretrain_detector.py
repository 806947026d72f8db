"""The detector's pre-training on drawn films: who teaches, which default boxes it gets, and what starts from it."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from mammo_ml.datasets.catalog import BOX_COLUMNS
from mammo_ml.models.ssd_bases import scales_for
from mammo_ml.pretrained import resolve
from pipelines import pretrain_detector
from pipelines.pretraining_stage import inner_women
from tests.pipelines.test_compare_transfer import run
from tests.transfer_sets import ASKED, write_sets

ROOT = Path(__file__).resolve().parents[2]
SEED = ASKED["training"]["seed"]
SIDES = [40.0, 50.0, 60.0]
WIDEST = 90.0


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four women of CBIS-DDSM: one, kept apart, has the widest mass, another a second lesion that nobody located."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_sets(tmp_path / "sets")
    catalog = tmp_path / "sets/cbis_ddsm/catalog"
    films = pd.read_csv(catalog / "films.csv", dtype={"patient_id": "str"})
    lesions = pd.read_csv(catalog / "lesions.csv")
    apart = films["patient_id"].isin(inner_women(films, 1, SEED))
    # The last woman who is not kept apart has the lesion without a place.
    learned = [*films.loc[~apart, "film_id"]]
    side = dict(zip(learned, SIDES, strict=True)) | dict.fromkeys(films.loc[apart, "film_id"], WIDEST)
    sides = lesions["film_id"].map(side)
    lesions = lesions.assign(x2=lesions["x1"] + sides, y2=lesions["y1"] + sides)
    unlocated = lesions[lesions["film_id"] == learned[-1]].assign(lesion_id="unlocated", has_location=False)
    unlocated[[*BOX_COLUMNS, "x_px", "y_px", "radius_px"]] = float("nan")
    pd.concat([lesions, unlocated]).to_csv(catalog / "lesions.csv", index=False)
    studies = yaml.safe_load((ROOT / "pipelines/studies/params.yaml").read_text(encoding="utf-8"))
    section = {key: ASKED[key] for key in ("windows", "augmentation", "training")}
    section |= {"network": {"base": "small", "width": 8}, "inner_women": 1}
    params = {key: studies[key] for key in ("dataset", "folds", "predict_detector")} | {"pretrain_detector": section}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return catalog


def test_a_pre_training_can_be_started_from_and_learned_from_located_lesions_alone(
    catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films = pd.read_csv(catalog / "films.csv", dtype={"patient_id": "str"})
    places = ["--films", str(catalog.parent / "films"), "--catalog", str(catalog)]
    run(monkeypatch, pretrain_detector, "--base", "small", *places, "--out", "made", "--report", "metrics.json")

    start = resolve("made", "detector", "small")
    lesions = pd.read_csv(catalog / "lesions.csv")
    not_located = set(lesions.loc[~lesions["has_location"], "film_id"])
    assert len(not_located) == 1
    assert set(start.films["film_id"]) == set(films["film_id"]) - not_located
    # Half as large in the input; neither the woman kept apart nor the film left out takes part in the choice.
    assert start.weights is not None
    assert start.weights["box_scales"].tolist() == list(scales_for([20.0, 25.0], "small"))
    judged = json.loads(Path("metrics.json").read_text(encoding="utf-8"))["films_of_inner_women"]
    assert judged["n_women"] == 1
    assert 0 <= judged["froc_mean"] <= 1
