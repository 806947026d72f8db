"""Stages, registration, `mammo-ml track` and promotion against a tracking server with MLflow's own authentication."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mammo_ml import registry, tracking
from mammo_ml.registry.gate import GateParameters
from mammo_ml.tracking import Store, computed_md5, stage_run
from tests.served_models import METRICS, free_port, http, server, small_bundle

PASSWORD, OF_ANNA = "long-enough-for-a-test-7f3a", "annas-own-password-91c2"
LEGACY_DEFAULT = "password1234"
TAGS = {"dataset": "mini_mias", "phantom": False, "protocol": "by_patient"}
NAME = "mammo-classifier"
CONFIGURATION = """\
[mlflow]
default_permission = EDIT
database_uri = sqlite:///users.db
admin_username = radiology
auth_cache_ttl_seconds = 60
"""


@dataclass(frozen=True)
class Server:
    folder: Path
    address: str


def start_command(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """As docs/mlflow.md tells it."""
    (folder / "basic_auth.ini").write_text(CONFIGURATION, encoding="utf-8")
    command = ["mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--artifacts-destination", "artifacts"]
    environment = {
        "MLFLOW_BACKEND_STORE_URI": "sqlite:///runs.db",
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-key-of-this-test",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **tracking.NO_JOBS,
    }
    return command, environment


@pytest.fixture(scope="module")
def tracking_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    command, environment = start_command(folder, port)
    address = f"http://127.0.0.1:{port}"
    environment["MLFLOW_AUTH_ADMIN_PASSWORD"] = PASSWORD
    with server(command, f"{address}/health", folder / "log", environment):
        new = json.dumps({"username": "anna", "password": OF_ANNA}).encode()
        headers = {**basic("radiology", PASSWORD), "Content-Type": "application/json"}
        assert http(f"{address}/api/2.0/mlflow/users/create", new, headers)[0] == 200
        yield Server(folder, address)


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}


@pytest.fixture
def user(tracking_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The user's own settings: an address and a name with its password."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_server.address)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", OF_ANNA)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return tracking_server


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A finished pass of one stage on real films, as dvc.yaml and dvc.lock tell it."""
    params = {"dataset": "mini_mias", "predict": {"step_px": 128}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "films.csv").write_text("film_id\nmdb001\n", encoding="utf-8")
    outs = [{"path": "data/films.csv", "md5": computed_md5(tmp_path / "data" / "films.csv")}]
    declared = {"predict": {"params": ["predict"], "outs": ["data/films.csv"]}}
    locked = {"predict": {"params": {"params.yaml": {"predict": params["predict"]}}, "outs": outs}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": declared}), encoding="utf-8")
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": locked}), encoding="utf-8")
    return tmp_path


def stages(folder: Path) -> list[Any]:
    store = Store(folder)
    return list(store.client.search_runs([store.experiment("mini_mias")], "tags.`mammo.level` = 'stage'"))


def run_stage(folder: Path) -> None:
    with stage_run("predict", None, {"step_px": 128}, TAGS, [], folder) as run:
        run.log_metrics({"by_patient": {"auc_macro": 0.7}})
        run.log_files([folder / "data" / "films.csv"])


def mammo_ml(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mammo_ml.cli", *arguments, "--workspace", str(folder)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_the_server_knows_no_default_password(tracking_server: Server, tmp_path: Path) -> None:
    experiments = f"{tracking_server.address}/api/2.0/mlflow/experiments/search?max_results=1"
    statuses = {}
    for name, password in (("admin", LEGACY_DEFAULT), ("radiology", LEGACY_DEFAULT), ("radiology", PASSWORD)):
        statuses[name, password] = http(experiments, headers=basic(name, password))[0]
    assert list(statuses.values()) == [401, 401, 200]
    assert http(experiments)[0] == 401
    # nor does it start without one, or with the one that older servers had
    for given in ({}, {"MLFLOW_AUTH_ADMIN_PASSWORD": LEGACY_DEFAULT}):
        command, environment = start_command(tmp_path, free_port())
        refused = subprocess.run(
            [sys.executable, "-m", *command], env=os.environ | environment | given, cwd=tmp_path,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert refused.returncode != 0
        assert "password" in refused.stderr.splitlines()[-1]


@pytest.mark.slow  # some nine hundred requests, each a file of the version
def test_a_stage_a_model_and_its_promotion_are_on_the_server_and_nowhere_else(user: Server, workspace: Path) -> None:
    run_stage(workspace)
    (run,) = stages(workspace)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"by_patient.auc_macro": 0.7})
    assert [file.path for file in Store(workspace).client.list_artifacts(run.info.run_id)] == ["films.csv"]
    assert mammo_ml(workspace, "track").stdout.strip() == "MLflow: the store has every run of this pass"

    bundle = small_bundle(workspace / "bundle", "classifier")
    registry.register(bundle, NAME, METRICS["classifier"], workspace, leak_free=True, data_valid=True)
    decision = registry.promote(NAME, workspace, GateParameters(seconds_per_film=600))
    assert decision.allowed
    assert registry.champion(NAME, workspace) == 1
    assert registry.load_model(NAME, workspace)[1].config.kind == "classifier"  # downloaded and verified
    shown = mammo_ml(workspace, "models")
    assert NAME in shown.stdout

    local = {path.name for path in (workspace / tracking.FOLDER).iterdir()}
    assert not any(name.startswith("mlflow.db") or name == "artifacts" for name in local)
    assert list((user.folder / "artifacts").rglob("weights.safetensors"))


def test_a_wrong_password_costs_the_record_and_not_the_stage_and_is_never_shown(
    user: Server, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(stages(workspace))
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-and-secret")
    run_stage(workspace)
    told = capsys.readouterr().err
    assert "stage 'predict' goes on without a record" in told
    said = mammo_ml(workspace, "models")
    assert (said.returncode, "Traceback" in said.stderr) == (1, False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", user.address.replace("//", "//anna:wrong-and-secret@"))
    again = mammo_ml(workspace, "track")
    assert "the store at http://anna:***@127.0.0.1" in again.stdout
    assert "wrong-and-secret" not in told + said.stdout + said.stderr + again.stdout + again.stderr
    monkeypatch.setenv("MLFLOW_TRACKING_URI", user.address)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", OF_ANNA)
    assert len(stages(workspace)) == before


def test_what_a_server_that_was_down_missed_is_tracked_once_it_is_up(
    user: Server, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"dataset": "mini_mias", "predict": {"step_px": 64}}
    (workspace / "params.yaml").write_text(yaml.safe_dump(other), encoding="utf-8")
    text = (workspace / "dvc.lock").read_text(encoding="utf-8").replace("128", "64")
    (workspace / "dvc.lock").write_text(text, encoding="utf-8")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    run_stage(workspace)
    assert "stage 'predict' goes on without a record" in capsys.readouterr().err
    assert "Nothing of the pipeline is lost" in mammo_ml(workspace, "track").stdout

    monkeypatch.setenv("MLFLOW_TRACKING_URI", user.address)
    before = len(stages(workspace))
    assert "1 run was logged from the outputs of the stages" in mammo_ml(workspace, "track").stdout
    assert len(stages(workspace)) == before + 1
    assert not (workspace / tracking.FOLDER / "mlflow.db").exists()


def test_the_ui_of_a_server_is_where_the_server_is(user: Server, workspace: Path) -> None:
    address = user.address.replace("//", f"//anna:{OF_ANNA}@")
    said = mammo_ml(workspace, "ui", MLFLOW_TRACKING_URI=address)
    assert said.returncode == 1
    assert "The runs are on a server: open http://anna:***@127.0.0.1" in said.stderr
    assert OF_ANNA not in said.stdout + said.stderr
