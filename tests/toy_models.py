"""A model of six numbers that the registry takes for a classifier: nothing has to be trained to register it."""

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from mammo_ml.datasets.catalog import names
from mammo_ml.models.bundle import FILM_COLUMNS, BundleConfig, Preprocessing, write_bundle

NAME = "mammo-classifier"
FOLDS = "a" * 64
METRICS = {"by_patient": {"auc_macro": 0.70, "auc_macro_lo": 0.64, "auc_macro_hi": 0.76, "auc_macro_baseline": 0.5}}
REGISTER = {"leak_free": True, "data_valid": True}


def toy_network() -> nn.Module:
    return nn.Linear(1, 3).double()


def toy_bundle(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    config = BundleConfig(
        kind="classifier", network={}, preprocessing=Preprocessing(), calibration={}, aggregation={"how": "mean"},
        thresholds={}, dataset="phantom", phantom=True, folds_sha256=FOLDS,
    )  # fmt: skip
    films = pd.DataFrame([("a", "1" * 64, "phantom", "anna", "training")], columns=names(FILM_COLUMNS))
    write_bundle(folder, config, toy_network().state_dict(), films)
    return folder


def stub_prediction(bundle: Any, frame: pd.DataFrame) -> pd.DataFrame:
    """Three numbers from the length of the image's text."""
    network = bundle.load_into(toy_network())
    sizes = torch.tensor([[float(len(image))] for image in frame["image"]], dtype=torch.float64)
    numbers = network(sizes).softmax(dim=1).detach().numpy()
    table = pd.DataFrame(numbers, columns=["p_normal", "p_benign", "p_malignant"])
    table.insert(0, "film_id", list(frame["film_id"]))
    return table.assign(seen_in_training=False)


@contextmanager
def toy_world(configuration: Path) -> Iterator[None]:
    """No store and no signing key but those of the test, and the stub in the place of real prediction."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("MAMMO_SIGNING_KEY", raising=False)
        patch.setenv("XDG_CONFIG_HOME", str(configuration))
        stub = types.ModuleType("mammo_ml.prediction")
        stub.predict_with_bundle = stub_prediction  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "mammo_ml.prediction", stub)
        yield
