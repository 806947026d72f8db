"""Phantoms carry lesions whose truth is known and visible: both models must find them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def command(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    left_out = ("MIAS_ARCHIVE", "MLFLOW_TRACKING_URI", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    words = [sys.executable, "-m", "mammo_ml.cli", *arguments]
    return subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, copy_project: Callable[[Path], Path]) -> Path:
    """A project whose phantom pass has run as `make phantom` runs it."""
    folder = copy_project(tmp_path_factory.mktemp("oracle") / "project")
    finished = command(folder, "repro", "--phantom")
    assert finished.returncode == 0, (finished.stdout + finished.stderr)[-6000:]
    return folder


@pytest.mark.parametrize(
    ("kind", "protocol", "figure", "least"),
    [("classifier", "by_patient", "auc_macro", 0.95), ("detector", "films_by_patient", "froc_mean", 0.8)],
)
def test_the_models_find_what_is_surely_there_in_women_they_have_not_seen(
    project: Path, kind: str, protocol: str, figure: str, least: float
) -> None:
    report = project / "build" / "phantom" / "reports" / f"evaluate_{kind}" / "metrics.json"
    assert json.loads(report.read_text(encoding="utf-8"))[protocol][figure] >= least


@pytest.mark.parametrize("name", ["mammo-classifier", "mammo-detector"])
def test_a_model_that_finds_them_becomes_champion(project: Path, name: str) -> None:
    finished = command(project, "promote", name, "--workspace", "build/phantom")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "ALLOWED" in finished.stdout
