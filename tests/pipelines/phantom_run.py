"""One small pass of the whole pipeline on phantom films, made once for all tests that look at it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.pipelines.least_run import LEAST_RUN


@dataclass(frozen=True)
class PhantomRun:
    project: Path
    workspace: Path
    said: str

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_in(self.workspace, *arguments)

    def changed_stages(self) -> list[str]:
        """Stages that `dvc status` finds changed, without the fold."""
        finished = self.command("dvc", "status", "--json")
        assert finished.returncode == 0, finished.stderr
        return sorted({name.partition("@")[0] for name in json.loads(finished.stdout)})

    def metrics(self, stage: str) -> dict[str, dict[str, float]]:
        return dict(json.loads((self.workspace / "reports" / stage / "metrics.json").read_text(encoding="utf-8")))


def run_in(folder: Path, *module_and_arguments: str) -> subprocess.CompletedProcess[str]:
    left_out = ("MIAS_ARCHIVE", "MLFLOW_TRACKING_URI", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    command = [sys.executable, "-m", *module_and_arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def make_phantom_run(folder: Path, copy_project: Callable[[Path], Path]) -> PhantomRun:
    """The pass; whoever changes something in it works on a copy of its workspace."""
    project = copy_project(folder / "project")
    settings = [word for key, value in LEAST_RUN.items() for word in ("--set", f"{key}={value}")]
    workspace = project / "build" / "phantom"
    finished = run_in(project, "mammo_ml.cli", "repro", "--phantom", "--workspace", "build/phantom", *settings)
    said = finished.stdout + finished.stderr
    assert finished.returncode == 0, said[-6000:]
    return PhantomRun(project, workspace, said)
