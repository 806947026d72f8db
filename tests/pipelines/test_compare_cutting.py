"""The study of ways to cut, on drawn films: from the cutting to the table, and no training taken for another's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from mammo_ml.datasets.catalog import FILMS, LABELS, LESIONS, names, write_table
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.readers import write_pgm
from mammo_ml.manifest import file_sha256, write_manifest
from pipelines import compare_cutting, cut_patches, evaluate_compare_cutting
from tests.pipelines.test_compare_transfer import run
from tests.test_cuttings import ASKED as CUT
from tests.transfer_sets import ASKED as TRANSFER
from tests.transfer_sets import film_row, lesion_row

ROOT = Path(__file__).resolve().parents[2]
WOMEN, EDGE = 15, 1024
WAYS = {
    "grid_256_film": {"cutting": "grid_256", "patch_label": "film"},
    "grid_256_lesion_overlap": {"cutting": "grid_256", "patch_label": "lesion_overlap"},
}
COMPARED = {
    "folds_seed": 20,
    "leaky_seed": 1,
    "resamples": 100,
    "recipe": {
        "network": {"variant": "compact"},
        "pretrained": "none",
        "augmentation": {"strength": 0.0},
        "training": TRANSFER["training"] | {"budget_samples": 8},
    },
    "configurations": WAYS,
}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    params = {"dataset": "mini_mias", "folds": [0], "cut_patches": CUT, "compare_cutting": COMPARED}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    folder, films, lesions = tmp_path / "films", [], []
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(WOMEN):
        film_id, label = f"film_{number:02d}", LABELS[number % 3]
        pixels = generator.integers(60, 90, (EDGE, EDGE)).astype(np.uint8)
        path = folder / f"{film_id}.pgm"
        write_pgm(path, pixels)
        films.append(film_row(film_id, "mini_mias", f"woman_{number:02d}", label, file_sha256(path), EDGE))
        if label != LABELS[0]:
            lesions.append(lesion_row(film_id, label, (300.0, 300.0, 340.0, 340.0)))
    write_manifest(folder)
    write_table(pd.DataFrame(films)[names(FILMS)], tmp_path / "catalog" / "films.csv")
    write_table(pd.DataFrame(lesions)[names(LESIONS)], tmp_path / "catalog" / "lesions.csv")
    return tmp_path


def cut(monkeypatch: pytest.MonkeyPatch, cutting: str) -> None:
    places = ["--films", "films", "--catalog", "catalog", "--patches", f"cut/{cutting}"]
    run(monkeypatch, cut_patches, "--cutting", cutting, *places, "--report", f"told/{cutting}/metrics.json")


def test_from_the_films_to_the_table(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, "grid_256")
    for way in WAYS:
        places = ["--films-table", "catalog/films.csv", "--patches", "cut", "--out", f"predicted/{way}"]
        run(monkeypatch, compare_cutting, "--configuration", way, *places)
    # five folds and the leaky protocol, of each way: patches under other names are another training
    assert len(list((workspace / ".state" / "compare_cutting").iterdir())) == 12
    by_film, by_lesion = (pd.read_csv(workspace / "predicted" / way / "predictions.csv") for way in WAYS)
    for found, n_lesion_patches in ((by_film, 80), (by_lesion, 10)):
        honest = found[found["protocol"] == "by_patient"]
        assert honest["item"].is_unique
        assert len(honest) == 8 * WOMEN
        assert (honest["label"] != "normal").sum() == n_lesion_patches
        leaky = found[found["protocol"] == "patches_at_random_leaky"]
        assert len(leaky) == round(0.2 * 5 * 8 * WOMEN)

    places = ["--films-table", "catalog/films.csv", "--predicted", "predicted"]
    run(monkeypatch, evaluate_compare_cutting, *places, "--cut", "told", "--out", "compared")
    metrics = json.loads((workspace / "compared/grid_256_film/metrics.json").read_text(encoding="utf-8"))
    assert metrics["lesions"] == {
        "n_lesions": 10,
        "lesions_whole": 10,
        "lesions_broken": 0,
        "lesions_lost": 0,
        "lesion_share_in_best_patch": 1,
        "n_patches_cut": 120,
        "n_pictures": 600,
    }
    assert metrics["by_patient"]["n_women"] == WOMEN
    assert set(metrics) == {
        *("by_patient", "logistic_baseline", "by_patient_minus_logistic", "patches_at_random_leaky", "lesions")
    }
    by_lesion = json.loads((workspace / "compared/grid_256_lesion_overlap/metrics.json").read_text(encoding="utf-8"))
    assert set(by_lesion) - set(metrics) == {"by_patient_by_negatives"}
    for way in WAYS:
        copied = (workspace / "compared" / way / "predictions.csv").read_bytes()
        assert copied == (workspace / "predicted" / way / "predictions.csv").read_bytes()
    monkeypatch.setattr(evaluate_compare_cutting, "LARGEST_COMMITTED_BYTES", 1000)
    run(monkeypatch, evaluate_compare_cutting, *places, "--cut", "told", "--out", "again")
    assert not list((workspace / "again").glob("*/predictions.csv"))
    assert (workspace / "compared/table.md").read_text(encoding="utf-8").count("\n") == 4


def test_a_cutting_that_does_not_exist_is_named(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInputError, match="'grid_64' is none of grid_128, grid_256, lesion_128, lesion_256"):
        cut(monkeypatch, "grid_64")
    assert not (workspace / "cut").exists()


def test_patches_that_do_not_match_their_index_are_refused(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, "lesion_128")
    table = workspace / "cut/lesion_128/patches.csv"
    table.write_text(table.read_text(encoding="utf-8").rpartition("film_14")[0], encoding="utf-8")
    params: dict[str, Any] = yaml.safe_load((workspace / "params.yaml").read_text(encoding="utf-8"))
    params["compare_cutting"]["configurations"] = {"lesion_128": {"cutting": "lesion_128"}}
    (workspace / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    places = ["--films-table", "catalog/films.csv", "--patches", "cut", "--out", "predicted/lesion_128"]
    with pytest.raises(BadInputError, match=r"patches\.csv"):
        run(monkeypatch, compare_cutting, "--configuration", "lesion_128", *places)
    assert not (workspace / "predicted").exists()
