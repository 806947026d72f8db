"""Registering, on a toy: what a version carries, and what is refused."""

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mammo_ml import registry, signing
from mammo_ml.errors import BadInputError
from mammo_ml.manifest import file_sha256
from mammo_ml.models.bundle import read_bundle, write_bundle
from mammo_ml.registry import files
from mammo_ml.tracking import Store
from tests.registry.toys import toy_evidence
from tests.toy_models import FOLDS, METRICS, NAME, REGISTER, stub_prediction, toy_bundle

USELESS = {"by_patient": METRICS["by_patient"] | {"auc_macro_lo": 0.45}}


def aliases(workspace: Path) -> dict[str, str]:
    return {key: str(value) for key, value in Store(workspace).client.get_registered_model(NAME).aliases.items()}


def versions(workspace: Path) -> int:
    return len(Store(workspace).client.search_model_versions(f"name = '{NAME}'"))


def test_the_same_contents_are_registered_once(workspace: Path) -> None:
    assert registry.register(workspace / "bundle_4", NAME, METRICS, workspace, **REGISTER) == 4
    assert versions(workspace) == 4
    assert aliases(workspace)["challenger"] == "4"
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_the_same_weights_with_other_predictions_are_another_version(tmp_path: Path, workspace: Path) -> None:
    evidence, _ = toy_evidence(tmp_path / "other", skill=1.0, seed=5)
    assert registry.register(workspace / "bundle_4", NAME, METRICS, workspace, **REGISTER, evidence=evidence) == 5


def test_a_version_carries_its_facts(workspace: Path) -> None:
    client = Store(workspace).client
    found = client.get_model_version(NAME, "1")
    expected = {
        "bundle_sha256": read_bundle(workspace / "bundle_1").content_sha256,
        "protocol": "by_patient",
        "dataset": "phantom",
        "phantom": "true",
        "folds_sha256": FOLDS,
        "leak_free": "true",
        "data_valid": "true",
        "primary_figure": "by_patient.auc_macro",
        "primary_baseline": "0.5",
        "predictions_sha256": file_sha256(workspace / "evidence_1" / "predictions.csv"),
        "items_sha256": file_sha256(workspace / "evidence_1" / "items.csv"),
    }
    assert expected.items() <= found.tags.items()
    files = {file.path for file in client.list_artifacts(found.run_id)}
    assert files >= {"metrics.json", "predictions.csv", "items.csv"}


def test_the_card_of_a_version_is_its_description(workspace: Path) -> None:
    told = Store(workspace).client.get_model_version(NAME, "4").description
    assert "Not a medical device" in told
    assert "0.700" in told


def test_the_whole_card_is_among_the_signed_files_of_a_version_and_can_be_printed(workspace: Path) -> None:
    from typer.testing import CliRunner

    from mammo_ml.cli import app

    shown = CliRunner().invoke(app, ["card", f"{NAME}/4", "--workspace", str(workspace)])
    assert shown.exit_code == 0, shown.output
    assert shown.output.startswith(f"# Model card: {NAME}")
    assert "items of TRIPOD+AI are answered" in shown.output
    store = Store(workspace)
    folder = files.verified_folder(store, store.client.get_model_version(NAME, "4"))
    assert "model_card.md" in (folder / "manifest.json").read_text(encoding="utf-8")


def test_a_reloaded_model_gives_the_same_numbers(workspace: Path) -> None:
    import mlflow

    frame = pd.DataFrame({"film_id": ["a", "b"], "image": ["UDUK", "UDUKMSAxCjI1NQoA"]})
    with files.fluent(Store(workspace)):
        model = mlflow.pyfunc.load_model(f"models:/{NAME}/1")
        table = model.predict(frame)
    expected = stub_prediction(read_bundle(workspace / "bundle_1"), frame)
    columns = ["p_normal", "p_benign", "p_malignant"]
    np.testing.assert_array_equal(table[columns].to_numpy(), expected[columns].to_numpy())
    assert list(table["film_id"]) == ["a", "b"]
    assert model.metadata.get_input_schema().input_names() == ["film_id", "image", "pixel_spacing_mm"]


def test_a_tag_cannot_claim_another_data_set(workspace: Path) -> None:
    with pytest.raises(BadInputError, match="'dataset' is the registry's own"):
        registry.register(workspace / "bundle_1", NAME, METRICS, workspace, **REGISTER, tags={"dataset": "mini_mias"})


def test_a_phantom_model_is_not_even_registered_beside_models_of_real_films(tmp_path: Path, workspace: Path) -> None:
    # `workspace` holds phantom models: a real one must be turned away, and the aliases stay.
    before = aliases(workspace)
    folder = toy_bundle(tmp_path / "real", seed=9)
    config = read_bundle(folder).config.model_copy(update={"dataset": "mini_mias", "phantom": False})
    real = tmp_path / "bundle"
    write_bundle(real, config, read_bundle(folder).weights, read_bundle(folder).training_films)
    with pytest.raises(BadInputError, match="registries of their own"):
        registry.register(real, NAME, METRICS, workspace, leak_free=True, data_valid=True)
    assert aliases(workspace) == before


# ---------------------------------------------------------------------------------------------------- whose key signed


@pytest.fixture
def other_key(tmp_path: Path) -> Path:
    (tmp_path / "other.key").write_text("k" * 64)
    return tmp_path / "other.key"


def test_the_users_key_is_made_once_and_readable_to_no_one_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    signing.ensure_key()
    path = tmp_path / "mammo_ml" / "signing.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert str(path) in capsys.readouterr().err
    content = path.read_bytes()
    signing.ensure_key()
    assert path.read_bytes() == content
    assert [file.name for file in path.parent.iterdir()] == ["signing.key"]
    assert capsys.readouterr().err == ""


def test_a_key_that_is_named_must_be_there_before_anything_is_registered(
    tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAMMO_SIGNING_KEY", str(tmp_path / "mistyped.key"))
    before = versions(workspace)
    with pytest.raises(BadInputError, match=r"mistyped\.key: No such file"):
        registry.register(workspace / "bundle_1", NAME, USELESS, workspace, **REGISTER)
    (tmp_path / "mistyped.key").write_text("short")
    with pytest.raises(BadInputError, match="5 bytes; a key has 32 or more"):
        registry.register(workspace / "bundle_1", NAME, USELESS, workspace, **REGISTER)
    assert versions(workspace) == before


def test_a_version_another_key_signed_is_refused_until_that_key_is_shared(
    workspace: Path, other_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = signing.key_path()
    monkeypatch.setenv("MAMMO_SIGNING_KEY", str(other_key))
    with pytest.raises(BadInputError, match="made with another key") as caught:
        registry.load_model(NAME, workspace, 1)
    assert "name a copy of it with MAMMO_SIGNING_KEY" in str(caught.value)
    assert "mammo-ml track" in str(caught.value)
    monkeypatch.setenv("MAMMO_SIGNING_KEY", str(ours))
    assert registry.load_model(NAME, workspace, 1)[0] == 1


def test_a_version_that_cannot_be_used_is_registered_again_and_then_known(
    tmp_path: Path, workspace: Path, other_key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "mammo-again"
    assert registry.register(workspace / "bundle_1", name, METRICS, workspace, **REGISTER) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMMO_SIGNING_KEY", str(other_key))
        assert registry.register(workspace / "bundle_1", name, METRICS, workspace, **REGISTER) == 2
        assert "version 1 has these contents already, but cannot be used" in capsys.readouterr().err
        assert registry.register(workspace / "bundle_1", name, METRICS, workspace, **REGISTER) == 2
        assert registry.load_model(name, workspace, 2)[0] == 2
    assert registry.register(workspace / "bundle_1", name, METRICS, workspace, **REGISTER) == 1


def test_loading_with_mlflow_leaves_a_version_as_it_was_registered(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    with files.fluent(Store(workspace)):
        mlflow.pyfunc.load_model(f"models:/{NAME}/1")
    _, folder = registry.bundle_of(NAME, workspace, 1)
    model = folder.parents[1]
    assert (model / "registered_model_meta").is_file()
    assert not list(model.rglob("*.pyc"))
    (model / "registered_model_meta").write_text("model_name: other")
    try:
        with pytest.raises(BadInputError, match="registered_model_meta was added, and not by MLflow"):
            registry.bundle_of(NAME, workspace, 1)
    finally:
        (model / "registered_model_meta").unlink()
