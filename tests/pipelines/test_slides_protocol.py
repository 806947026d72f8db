"""The slides' experiment at full size, on drawn films: both splits, the exact network, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from mammo_ml.classifier import PROBABILITY_COLUMNS
from mammo_ml.errors import BadInputError
from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
from mammo_ml.training import load_weights
from pipelines import evaluate_slides_protocol, slides_protocol
from tests.pipelines.test_compare_cutting import COMPARED, WOMEN, cut, workspace
from tests.pipelines.test_compare_transfer import run

__all__ = ["workspace"]
ASKED = {
    "folds_seed": 20,
    "test_fold": 1,
    "leaky_seed": 1,
    "resamples": 100,
    "patches": {"cutting": "grid_256", "patch_label": "film"},
    "same_way_up": True,
    "samples_by_patient": 4,
    "recipe": COMPARED["recipe"] | {"network": {"variant": "normalised", "input_scaling": "local"}},
}
PLACES = ["--films-table", "catalog/films.csv", "--patches", "cut"]


def ask(workspace: Path, **changes: Any) -> None:
    path = workspace / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8")) | {"slides_protocol": ASKED | changes}
    path.write_text(yaml.safe_dump(params), encoding="utf-8")


def test_both_splits_are_tested_with_the_exact_network(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, "grid_256")
    ask(workspace)
    for protocol in ("patches_at_random_leaky", "by_patient"):
        out = ["--out", f"predicted/{protocol}"]
        run(monkeypatch, slides_protocol, "--protocol", protocol, *PLACES, *out)
        # Strict: these are the tensors of the slides' table, and no batch normalisation beside them.
        exact = build_classifier(ClassifierParameters(variant="exact"))
        load_weights(exact, workspace / "predicted" / protocol / "weights.safetensors")

    run(monkeypatch, evaluate_slides_protocol, "--predicted", "predicted", "--out", "told")
    found = pd.read_csv(workspace / "told/predictions.csv")
    assert set(found["protocol"]) == {"patches_at_random_leaky", "by_patient"}
    assert found[PROBABILITY_COLUMNS].sum(axis=1).between(0.9999, 1.0001).all()
    leaky = found[found["protocol"] == "patches_at_random_leaky"]
    assert len(leaky) == round(0.2 * 5 * 8 * WOMEN)
    honest = found[found["protocol"] == "by_patient"]
    assert honest["patient_id"].nunique() == WOMEN / 5
    assert honest["item"].is_unique
    metrics = json.loads((workspace / "told/metrics.json").read_text(encoding="utf-8"))
    assert metrics["by_patient"]["n_patches"] == 8 * WOMEN / 5
    assert metrics["patches_at_random_leaky"]["accuracy_baseline"] == pytest.approx(
        (leaky["label"].value_counts(normalize=True)).max()
    )


def test_another_network_than_the_slides_is_refused(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(workspace, recipe=COMPARED["recipe"])
    with pytest.raises(BadInputError, match="variant compact is not the slides' network: take exact or normalised"):
        run(monkeypatch, slides_protocol, "--protocol", "by_patient", *PLACES, "--out", "predicted")
    assert not (workspace / "predicted").exists()


def test_a_protocol_that_does_not_exist_is_named(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(workspace)
    with pytest.raises(BadInputError, match="'by_film' is none of patches_at_random_leaky, by_patient"):
        run(monkeypatch, slides_protocol, "--protocol", "by_film", *PLACES, "--out", "predicted")
