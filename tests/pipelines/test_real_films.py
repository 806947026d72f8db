"""The real films, from the archive to the leak audit: the same bytes as in the committed run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.films,
    pytest.mark.slow,
    pytest.mark.skipif("MIAS_ARCHIVE" not in os.environ, reason="MIAS_ARCHIVE is not set: the real films are not here"),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, copy_project: Callable[[Path], Path]) -> Path:
    folder = copy_project(tmp_path_factory.mktemp("real") / "project")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    command = [sys.executable, "-m", "mammo_ml.cli", "repro", "validate_cuts"]
    finished = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, (finished.stdout + finished.stderr)[-6000:]
    return folder


def outputs(folder: Path) -> dict[str, Any]:
    stages = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    return {out["path"]: out["md5"] for name in ("ingest", "catalog", "split", "cut") for out in stages[name]["outs"]}


def test_films_tables_folds_and_cuts_are_those_of_the_committed_run(project: Path) -> None:
    assert outputs(project) == outputs(ROOT)


def test_the_checks_looked_at_every_film_and_lesion(project: Path) -> None:
    report = json.loads((project / "reports" / "validate_tables" / "metrics.json").read_text(encoding="utf-8"))
    assert (report["validation"]["rows_films"], report["validation"]["rows_lesions"]) == (322, 123)
    # 105 of 117: fewer would mean that coordinates and pixels do not belong together (field measurements: 113).
    assert report["annotation_check"]["n_lesions"] == 117
    assert report["annotation_check"]["brighter_share"] >= 105 / 117


def test_no_fold_shares_a_woman_a_film_or_a_picture(project: Path) -> None:
    audit = json.loads((project / "reports" / "validate_cuts" / "metrics.json").read_text(encoding="utf-8"))[
        "leak_audit"
    ]
    shared = {name: count for name, count in audit.items() if name != "leak_free"}
    assert audit["leak_free"] == 1
    assert len(shared) == 6
    assert set(shared.values()) == {0}
