"""A registered phantom model is built again from its commit: byte for byte, and nothing of the workspace changes."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from tests.pipelines.phantom_run import PhantomRun, run_in

MODELS = ("mammo-classifier", "mammo-detector")


def hashes(folder: Path) -> dict[str, str]:
    """Every file but MLflow's store, which opening it writes to, byte code, and what is built again."""
    left_out = {".mlflow", "__pycache__", "reproduce"}
    files = [path for path in folder.rglob("*") if path.is_file() and not left_out & set(path.parts)]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


@pytest.fixture(scope="module")
def reproduced(run: PhantomRun) -> dict[str, subprocess.CompletedProcess[str]]:
    before = hashes(run.project)
    done = {
        name: run_in(run.project, "mammo_ml.cli", "reproduce", f"{name}@challenger", "--workspace", str(run.workspace))
        for name in MODELS
    }
    assert hashes(run.project) == before
    return done


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_phantom_model_is_reproduced_byte_for_byte(
    reproduced: dict[str, subprocess.CompletedProcess[str]], name: str
) -> None:
    done = reproduced[name]
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "REPRODUCED byte for byte" in done.stdout
    kind = name.removeprefix("mammo-")
    # one epoch of 32 samples was trained again
    assert f"finalize_{kind}: 100%" in done.stderr


def test_the_lineage_of_a_phantom_model_goes_back_to_its_films(run: PhantomRun, tmp_path: Path) -> None:
    file = tmp_path / "lineage.json"
    arguments = ["lineage", "mammo-detector@challenger", "--json", str(file), "--workspace", str(run.workspace)]
    done = run_in(run.project, "mammo_ml.cli", *arguments)
    assert done.returncode == 0, done.stderr
    facts = json.loads(file.read_text(encoding="utf-8"))
    assert facts["version"]["phantom"] is True
    assert facts["parameters"]["effective"]["training.budget_samples"] == "32"
    assert {"learning_rate", "weight_decay", "strength"} == facts["parameters"]["tuned"].keys()
    assert None not in facts["parameters"]["tuned"].values()
    data = {fact["path"]: fact for fact in facts["data"]}
    assert data["data/ingest"]["made_by"] == ["ingest"]
    assert data["data/split/folds.csv"]["md5"]
    assert facts["code"]["dirty"] is False
    assert facts["code"]["differs_from_commit"] == []
    assert facts["figures"]["evaluation_run"]["name"].startswith("evaluate_detector")
