"""A registered model behind HTTP answers what the same weights answer in this process."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from mammo_ml import registry, serving
from mammo_ml.errors import BadInputError
from mammo_ml.models.bundle import read_bundle
from mammo_ml.prediction import predict_with_bundle
from mammo_ml.registry.gate import GateParameters, Kind
from mammo_ml.tracking import Store
from tests.served_models import METRICS, films_to_ask, free_port, http, server, small_bundle

KINDS: tuple[Kind, ...] = ("classifier", "detector")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A registry with a champion of each kind, promoted through the gate."""
    folder = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        (folder / "params.yaml").write_text(yaml.safe_dump({"dataset": "mini_mias"}), encoding="utf-8")
        for kind in KINDS:
            bundle = small_bundle(folder / kind, kind)
            registry.register(bundle, registry.NAMES[kind], METRICS[kind], folder, leak_free=True, data_valid=True)
            # small and untrained, but as slow as this machine is busy
            gate = GateParameters(seconds_per_film=600)
            assert registry.promote(registry.NAMES[kind], folder, gate).allowed
        yield folder


def ask(port: int, films: pd.DataFrame) -> pd.DataFrame:
    body = json.dumps({"dataframe_records": films.to_dict("records")}).encode()
    status, text = http(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"})
    assert status == 200, text
    return pd.DataFrame(json.loads(text)["predictions"])


def assert_same_numbers(served: pd.DataFrame, here: pd.DataFrame) -> None:
    assert list(served.columns) == list(here.columns)
    assert len(here) >= 2
    numbers = list(here.select_dtypes("number").columns)
    assert len(numbers) >= 3
    pd.testing.assert_frame_equal(served.drop(columns=numbers), here.drop(columns=numbers), check_dtype=False)
    # JSON carries doubles whole, so nothing but the process may differ
    np.testing.assert_array_equal(served[numbers].to_numpy(float), here[numbers].to_numpy(float))


@pytest.mark.parametrize("kind", KINDS)
def test_mlflow_models_serve_of_the_champion_answers_the_numbers_of_this_process(
    workspace: Path, kind: Kind, tmp_path: Path
) -> None:
    films, port, store = films_to_ask(), free_port(), Store(workspace).address
    here = predict_with_bundle(read_bundle(workspace / kind), films)
    command = ["mlflow", "models", "serve", "--model-uri", f"models:/mammo-{kind}@champion", "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with server(command, f"http://127.0.0.1:{port}/ping", tmp_path / "log", {"MLFLOW_TRACKING_URI": store}):
        served = ask(port, films)
        bad = json.dumps({"dataframe_records": [{"film_id": "torn", "image": "AAAA"}]}).encode()
        status, told = http(f"http://127.0.0.1:{port}/invocations", bad, {"Content-Type": "application/json"})
    assert_same_numbers(served, here)
    assert (status, "film torn" in told) == (400, True)


def test_mammo_ml_serve_verifies_and_answers_the_same(workspace: Path, tmp_path: Path) -> None:
    films, port = films_to_ask(), free_port()
    command = ["mammo_ml.cli", "serve", "mammo-detector@champion", "--port", str(port), "-w", str(workspace)]
    with server(command, f"http://127.0.0.1:{port}/ping", tmp_path / "log"):
        served = ask(port, films)
    assert_same_numbers(served, predict_with_bundle(read_bundle(workspace / "detector"), films))
    assert "mammo-detector version 1: its files are those that were registered" in (tmp_path / "log").read_text()


def test_a_champion_that_was_made_by_hand_is_not_served(workspace: Path) -> None:
    registry.register(
        small_bundle(workspace / "other", "classifier", seed=2), "mammo-classifier", METRICS["classifier"], workspace,
        leak_free=True, data_valid=True,
    )  # fmt: skip
    client = Store(workspace).client
    client.set_registered_model_alias("mammo-classifier", "champion", "2")
    try:
        with pytest.raises(BadInputError, match="version 2 has the alias 'champion', but the audit says version 1"):
            serving.serve("mammo-classifier", "champion", workspace, free_port())
    finally:
        client.set_registered_model_alias("mammo-classifier", "champion", "1")
