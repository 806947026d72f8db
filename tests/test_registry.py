import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mammo_ml import registry, registry_files, signing
from mammo_ml.errors import BadInputError
from mammo_ml.models.bundle import read_bundle, write_bundle
from mammo_ml.registry import CandidateFacts, GateParameters, RegistryFacts, decide, format_decision
from mammo_ml.tracking import Store
from tests.toy_models import FOLDS, METRICS, NAME, REGISTER, stub_prediction, toy_bundle, toy_world

GATE = GateParameters()
FIGURES = {
    "by_patient.auc_macro": 0.70,
    "by_patient.auc_macro_lo": 0.64,
    "by_patient.auc_macro_hi": 0.76,
    "by_patient.auc_macro_baseline": 0.50,
}
CANDIDATE = CandidateFacts(
    name=NAME,
    version=2,
    kind="classifier",
    dataset="mini_mias",
    phantom=False,
    folds_sha256=FOLDS,
    protocol="by_patient",
    leak_free=True,
    data_valid=True,
    faults=(),
    figures=FIGURES,
)
REAL = RegistryFacts("mini_mias", phantom=False, folds_sha256=FOLDS, champion=1, champion_dataset="mini_mias")


def failed(candidate: CandidateFacts, facts: RegistryFacts = REAL) -> list[str]:
    decision = decide(candidate, GATE, facts)
    names = [condition.name for condition in decision.conditions if not condition.passed]
    assert decision.allowed == (not names)
    return names


def with_figures(**changes: float) -> CandidateFacts:
    changed = {f"by_patient.auc_macro{suffix}": value for suffix, value in changes.items()}
    return dataclasses.replace(CANDIDATE, figures=FIGURES | changed)


def test_a_sound_challenger_is_allowed() -> None:
    assert failed(CANDIDATE) == []
    assert failed(CANDIDATE, dataclasses.replace(REAL, champion=None, champion_dataset=None)) == []


@pytest.mark.parametrize(
    ("change", "condition"),
    [
        ({"leak_free": False}, "split leaks nothing"),
        ({"data_valid": False}, "data are valid"),
        ({"faults": ("weights.safetensors was changed",)}, "files are intact"),
        ({"folds_sha256": "b" * 64}, "folds belong here"),
        ({"folds_sha256": ""}, "folds belong here"),
        ({"dataset": "cbis_ddsm"}, "data set belongs here"),
        ({"protocol": "patches_at_random_leaky"}, "protocol is not leaky"),
        ({"protocol": ""}, "protocol is not leaky"),
        ({"version": 1}, "is not champion yet"),
    ],
)
def test_each_condition_alone_refuses(change: dict[str, object], condition: str) -> None:
    assert failed(dataclasses.replace(CANDIDATE, **change)) == [condition]


def test_a_phantom_model_never_enters_a_registry_of_real_films() -> None:
    assert failed(dataclasses.replace(CANDIDATE, dataset="phantom", phantom=True)) == ["data set belongs here"]
    # neither by its name alone, nor after the workspace was switched to the phantom
    assert failed(dataclasses.replace(CANDIDATE, phantom=True)) == ["data set belongs here"]
    switched = RegistryFacts("phantom", True, None, champion=1, champion_dataset="mini_mias")
    phantom = dataclasses.replace(CANDIDATE, dataset="phantom", phantom=True)
    assert failed(phantom, switched) == ["data set belongs here"]
    assert failed(phantom, RegistryFacts("phantom", True, None)) == []


def test_real_films_without_benchmark_folds_have_no_champion() -> None:
    assert failed(CANDIDATE, dataclasses.replace(REAL, folds_sha256=None)) == ["folds belong here"]


def test_a_lower_bound_at_or_below_knowing_nothing_is_refused() -> None:
    assert failed(with_figures(_lo=0.50)) == ["better than knowing nothing"]
    assert failed(with_figures(_lo=0.49)) == ["better than knowing nothing"]
    assert failed(with_figures(_lo=0.51)) == []


def test_bounds_that_do_not_hold_the_figure_are_refused() -> None:
    assert failed(with_figures(_lo=0.72)) == ["better than knowing nothing"]


@pytest.mark.parametrize("suffix", ["", "_lo", "_hi", "_baseline"])
def test_a_primary_figure_that_is_nan_or_missing_is_refused(suffix: str) -> None:
    assert failed(with_figures(**{suffix: float("nan")})) == ["every figure is a number", "better than knowing nothing"]
    figures = {key: value for key, value in FIGURES.items() if key != f"by_patient.auc_macro{suffix}"}
    assert failed(dataclasses.replace(CANDIDATE, figures=figures)) == ["better than knowing nothing"]


def test_nan_in_any_figure_is_refused_by_name() -> None:
    candidate = dataclasses.replace(CANDIDATE, figures=FIGURES | {"by_patient.ece": float("nan")})
    assert failed(candidate) == ["every figure is a number"]
    assert "by_patient.ece" in format_decision(decide(candidate, GATE, REAL))


def test_no_figures_at_all_are_refused() -> None:
    assert failed(dataclasses.replace(CANDIDATE, figures={})) == [
        "every figure is a number",
        "better than knowing nothing",
    ]


def test_a_detector_is_judged_by_its_froc() -> None:
    figures = {f"films_by_patient.froc_mean{suffix}": value for suffix, value in
               {"": 0.3, "_lo": 0.2, "_hi": 0.4, "_baseline": 0.1}.items()}  # fmt: skip
    detector = dataclasses.replace(CANDIDATE, kind="detector", figures=figures)
    assert failed(detector) == []
    assert failed(dataclasses.replace(CANDIDATE, kind="detector")) == ["better than knowing nothing"]


def test_a_refusal_shows_every_condition_with_its_figures() -> None:
    text = format_decision(decide(with_figures(_lo=0.45), GATE, REAL))
    assert "REFUSED: 1 condition of 9" in text
    assert "[FAIL]  better than knowing nothing" in text
    assert "0.700 (95 % 0.450 to 0.760); lower bound 0.450 is not above 0.500" in text
    assert text.count("[pass]") == 8
    assert decide(CANDIDATE, GATE, REAL).allowed
    assert "ALLOWED" in format_decision(decide(CANDIDATE, GATE, REAL))


# ---------------------------------------------------------------------------------------- with a real store, on a toy

USELESS = {"by_patient": METRICS["by_patient"] | {"auc_macro_lo": 0.45}}


@pytest.fixture(scope="module", autouse=True)
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with toy_world(tmp_path_factory.mktemp("configuration")):
        yield


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with two versions: 1 is sound, 2 is no better than knowing nothing."""
    folder = tmp_path_factory.mktemp("registry")
    (folder / "predictions.csv").write_text("film_id\na\n")
    good, useless = toy_bundle(folder / "good", 1), toy_bundle(folder / "useless", 2)
    given = [folder / "predictions.csv"]
    assert registry.register(good, NAME, METRICS, folder, **REGISTER, predictions=given) == 1
    assert registry.register(useless, NAME, USELESS, folder, **REGISTER) == 2
    return folder


def aliases(workspace: Path) -> dict[str, str]:
    return {key: str(value) for key, value in Store(workspace).client.get_registered_model(NAME).aliases.items()}


def audit(workspace: Path) -> list[dict]:
    path = workspace / ".mlflow" / "audit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_the_same_contents_are_registered_once(workspace: Path) -> None:
    assert registry.register(workspace / "good", NAME, METRICS, workspace, **REGISTER) == 1
    assert len(Store(workspace).client.search_model_versions(f"name = '{NAME}'")) == 2
    assert aliases(workspace)["challenger"] == "2"
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_a_version_carries_its_facts(workspace: Path) -> None:
    client = Store(workspace).client
    found = client.get_model_version(NAME, "1")
    expected = {
        "bundle_sha256": read_bundle(workspace / "good").content_sha256,
        "protocol": "by_patient",
        "dataset": "phantom",
        "phantom": "true",
        "folds_sha256": FOLDS,
        "leak_free": "true",
        "data_valid": "true",
        "primary_figure": "by_patient.auc_macro",
        "primary": "0.7",
        "primary_lo": "0.64",
        "primary_baseline": "0.5",
    }
    assert expected.items() <= found.tags.items()
    assert {file.path for file in client.list_artifacts(found.run_id)} >= {"metrics.json", "predictions.csv"}


def test_a_reloaded_model_gives_the_same_numbers(workspace: Path) -> None:
    import mlflow

    frame = pd.DataFrame({"film_id": ["a", "b"], "image": ["UDUK", "UDUKMSAxCjI1NQoA"]})
    with registry_files.fluent(Store(workspace)):
        model = mlflow.pyfunc.load_model(f"models:/{NAME}/1")
        table = model.predict(frame)
    expected = stub_prediction(read_bundle(workspace / "good"), frame)
    columns = ["p_normal", "p_benign", "p_malignant"]
    np.testing.assert_array_equal(table[columns].to_numpy(), expected[columns].to_numpy())
    assert list(table["film_id"]) == ["a", "b"]
    assert model.metadata.get_input_schema().input_names() == ["film_id", "image", "pixel_spacing_mm"]


def test_a_refusal_leaves_the_aliases_and_is_audited(workspace: Path) -> None:
    before, lines = aliases(workspace), len(audit(workspace))
    decision = registry.promote(NAME, workspace, GATE, dataset="phantom")
    assert not decision.allowed
    assert decision.version == 2
    assert aliases(workspace) == before
    assert len(audit(workspace)) == lines + 1
    assert audit(workspace)[-1]["outcome"] == "refused"
    assert "0.450" in audit(workspace)[-1]["failed"][0]


def test_promotion_moves_the_alias_and_leaves_an_audit_line_but_a_dry_run_does_neither(workspace: Path) -> None:
    lines = len(audit(workspace))
    assert registry.promote(NAME, workspace, GATE, dataset="phantom", number=1, dry_run=True).allowed
    assert "champion" not in aliases(workspace)
    assert len(audit(workspace)) == lines
    assert registry.promote(NAME, workspace, GATE, dataset="phantom", number=1).allowed
    assert aliases(workspace)["champion"] == "1"
    line = audit(workspace)[-1]
    assert (line["outcome"], line["from"], line["to"]) == ("promoted", None, 1)
    assert line["figures"]["by_patient.auc_macro_lo"] == 0.64
    tags = Store(workspace).client.get_model_version(NAME, "1").tags
    assert {"promoted_when", "promoted_by", "promoted_from"} <= tags.keys()
    # the second of two promoters is told
    again = registry.promote(NAME, workspace, GATE, dataset="phantom", number=1)
    assert [condition.name for condition in again.conditions if not condition.passed] == ["is not champion yet"]
    number, folder = registry.bundle_of(NAME, workspace)
    assert number == 1
    assert read_bundle(folder).content_sha256 == read_bundle(workspace / "good").content_sha256


def test_of_two_who_promote_at_once_one_is_told(workspace: Path) -> None:
    store = Store(workspace)
    if "champion" in aliases(workspace):
        store.client.delete_registered_model_alias(NAME, "champion")
    lines = len(audit(workspace))
    with ThreadPoolExecutor(2) as pool:
        both = list(
            pool.map(lambda _: registry.promote(NAME, workspace, GATE, dataset="phantom", number=1).allowed, range(2))
        )
    assert sorted(both) == [False, True]
    assert len(audit(workspace)) == lines + 2
    assert aliases(workspace)["champion"] == "1"


def test_a_tag_cannot_claim_another_data_set(workspace: Path) -> None:
    with pytest.raises(BadInputError, match="'dataset' is the registry's own"):
        registry.register(workspace / "good", NAME, METRICS, workspace, **REGISTER, tags={"dataset": "mini_mias"})


def test_a_leaky_protocol_can_be_registered_but_never_promoted(workspace: Path) -> None:
    leaky = {"protocol": "patches_at_random_leaky"}
    number = registry.register(workspace / "good", "mammo-leaky", METRICS, workspace, **REGISTER, tags=leaky)
    decision = registry.promote("mammo-leaky", workspace, GATE, dataset="phantom", number=number, dry_run=True)
    assert [condition.name for condition in decision.conditions if not condition.passed] == ["protocol is not leaky"]


def test_the_workspace_says_which_data_set_the_registry_is_for(workspace: Path) -> None:
    with pytest.raises(BadInputError, match="key 'dataset' is missing"):
        registry.promote(NAME, workspace, GATE, number=2, dry_run=True)
    (workspace / "params.yaml").write_text("dataset: phantom\n")
    decision = registry.promote(NAME, workspace, GATE, number=2, dry_run=True)
    assert "model from phantom (phantom); this registry holds phantom" in format_decision(decision)


def test_a_phantom_version_is_refused_for_real_films(workspace: Path) -> None:
    decision = registry.promote(NAME, workspace, GATE, dataset="mini_mias", number=1, dry_run=True)
    assert "data set belongs here" in [condition.name for condition in decision.conditions if not condition.passed]


def test_a_model_or_version_that_does_not_exist_is_told(workspace: Path) -> None:
    with pytest.raises(BadInputError, match="mammo-unknown"):
        registry.promote("mammo-unknown", workspace, GATE, dataset="phantom")
    with pytest.raises(BadInputError, match="Register it first"):
        registry.promote(NAME, workspace, GATE, dataset="phantom", number=99)
    with pytest.raises(BadInputError, match="no 'nobody'"):
        registry.bundle_of(NAME, workspace, "nobody")


def test_files_changed_in_the_store_are_named_and_refused(workspace: Path) -> None:
    _, folder = registry.bundle_of(NAME, workspace, 2)
    weights = folder / "weights.safetensors"
    original = weights.read_bytes()
    weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    metrics = next((workspace / ".mlflow" / "artifacts").rglob("metrics.json"))
    kept = metrics.read_text()
    try:
        decision = registry.promote(NAME, workspace, GATE, dataset="phantom", number=2, dry_run=True)
        (intact,) = [condition for condition in decision.conditions if condition.name == "files are intact"]
        assert not intact.passed
        assert "weights.safetensors was changed" in intact.explanation
        with pytest.raises(BadInputError, match=r"weights\.safetensors was changed"):
            registry.bundle_of(NAME, workspace, 2)
        for path in (workspace / ".mlflow" / "artifacts").rglob("metrics.json"):
            path.write_text(path.read_text().replace("0.45", "0.60"))
        told = format_decision(registry.promote(NAME, workspace, GATE, dataset="phantom", number=2, dry_run=True))
        assert "metrics.json: was changed" in told
    finally:
        weights.write_bytes(original)
        metrics.write_text(kept)


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
    before = len(Store(workspace).client.search_model_versions(f"name = '{NAME}'"))
    with pytest.raises(BadInputError, match=r"mistyped\.key: No such file"):
        registry.register(workspace / "good", NAME, USELESS, workspace, **REGISTER)
    (tmp_path / "mistyped.key").write_text("short")
    with pytest.raises(BadInputError, match="5 bytes; a key has 32 or more"):
        registry.register(workspace / "good", NAME, USELESS, workspace, **REGISTER)
    assert len(Store(workspace).client.search_model_versions(f"name = '{NAME}'")) == before


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
    assert registry.register(workspace / "good", name, METRICS, workspace, **REGISTER) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMMO_SIGNING_KEY", str(other_key))
        assert registry.register(workspace / "good", name, METRICS, workspace, **REGISTER) == 2
        assert "version 1 has these contents already, but cannot be used" in capsys.readouterr().err
        assert registry.register(workspace / "good", name, METRICS, workspace, **REGISTER) == 2
        assert registry.load_model(name, workspace, 2)[0] == 2
    assert registry.register(workspace / "good", name, METRICS, workspace, **REGISTER) == 1


def test_loading_with_mlflow_leaves_a_version_as_it_was_registered(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    with registry_files.fluent(Store(workspace)):
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
