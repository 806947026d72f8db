"""The server on a real registry: what it serves is what was promoted, whatever happens to the registry meanwhile."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from mammo_ml import registry
from mammo_ml.errors import MammoError
from mammo_ml.registry.files import verified_folder
from mammo_ml.registry.gate import GateParameters
from mammo_ml.tracking import Store
from mammo_ml.web.app import Service, create_app
from mammo_ml.web.server import service_of
from tests.web.web_toys import locator_folder, small_film

NAME = "mammo-locator"
FIGURES = {"films_by_patient": {"froc_mean": 0.3, "froc_mean_lo": 0.2, "froc_mean_hi": 0.4, "froc_mean_baseline": 0.04}}
# small and untrained, but as slow as this machine is busy
GATE = GateParameters(seconds_per_film=600)


def register(workspace: Path, seed: int) -> int:
    folder = locator_folder(workspace / f"seed_{seed}", seed)
    return registry.register(folder, NAME, FIGURES, workspace, leak_free=True, data_valid=True)


def promote(workspace: Path, number: int) -> None:
    decision = registry.promote(NAME, workspace, GATE, number=number, override="for a test")
    assert decision.allowed, registry.format_decision(decision)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        (folder / "params.yaml").write_text(yaml.safe_dump({"dataset": "mini_mias"}), encoding="utf-8")
        for seed in (1, 2, 3):
            assert register(folder, seed) == seed
        promote(folder, 1)
        yield folder


def version(client: TestClient) -> Any:
    answer = client.post("/v1/locate", content=small_film(), params={"pixel_spacing_mm": 0.2})
    assert answer.status_code == 200, answer.text
    return answer.json()["model"]["version"]


def health(client: TestClient) -> tuple[str, str]:
    told = client.get("/health").json()
    return told["status"], told["models"][0]["fault"]


@pytest.mark.slow
@pytest.mark.bar("S8", "G5")
def test_s8_the_server_follows_promotion_and_rollback_and_keeps_its_model_when_the_registry_breaks(
    workspace: Path, record_property: Any
) -> None:
    service: Service = service_of(workspace, poll_s=0)
    slot, store = service.locator, Store(workspace)
    # no classifier was ever promoted here: it is told, and the locator answers all the same
    assert "mammo-classifier" in service.classifier.fault
    with TestClient(create_app(service)) as client:
        assert version(client) == 1
        promote(workspace, 2)
        slot.refresh()
        assert (version(client), slot.fault) == (2, "")
        registry.rollback(NAME, workspace)
        slot.refresh()
        assert (version(client), slot.fault) == (1, "")

        # past the gate, by hand
        store.client.set_registered_model_alias(NAME, "champion", "3")
        slot.refresh()
        status, fault = health(client)
        assert (status, version(client)) == ("degraded", 1)
        assert "the alias was moved past the gate" in fault
        store.client.set_registered_model_alias(NAME, "champion", "1")

        # a version whose weights were changed after it was promoted
        promote(workspace, 3)
        weights = verified_folder(store, registry.version_of(store, NAME, 3)) / "artifacts/bundle/weights.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        slot.refresh()
        status, fault = health(client)
        assert (status, version(client)) == ("degraded", 1)
        assert fault.startswith("Version 1 goes on answering.")
        assert "weights.safetensors" in fault
        weights.write_bytes(whole)
        slot.refresh()
        assert (version(client), slot.fault) == (3, "")

        # the champion is deleted under the running server
        store.client.delete_model_version(NAME, "3")
        slot.refresh()
        assert (health(client)[0], version(client)) == ("degraded", 3)
    with pytest.raises(MammoError, match=r"the server cannot start: .*champion"):
        service_of(workspace, poll_s=0)
    record_property("tried", "promotion, rollback, an alias moved by hand, a byte of the weights, the champion deleted")
