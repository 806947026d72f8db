import json
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from mammo_ml.checkpoints import write_sealed
from mammo_ml.datasets.catalog import FILMS, names, write_table
from mammo_ml.errors import BadInputError
from mammo_ml.locator import Calibration
from mammo_ml.locator_folds import fold_of_film, locator_of_fold
from mammo_ml.metrics.calibration import VectorScaling
from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
from mammo_ml.models.ssd import SsdParameters, build_detector
from mammo_ml.recipe import save_best
from mammo_ml.splits import make_folds

ROOT = Path(__file__).resolve().parents[1]
FITTED = Calibration(VectorScaling.identity(3), VectorScaling.identity(2), VectorScaling.identity(2))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a pass leaves of fold 1 of fifteen women, with networks that learned nothing."""
    folder = tmp_path_factory.mktemp("pass")
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["train_detector"]["network"] = {"base": "small", "width": 8}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    torch.manual_seed(0)
    classifier = ClassifierParameters(**params["train_classifier"]["network"])
    networks = {"classifier": build_classifier(classifier), "detector": build_detector(SsdParameters(width=8))}
    for kind, network in networks.items():
        save_best({}, folder / f"data/tune_{kind}/fold_1/best.json")
        (folder / f"data/train_{kind}/fold_1").mkdir(parents=True)
        write_sealed(folder / f"data/train_{kind}/fold_1/weights.safetensors", network.state_dict(), {})
    (folder / "data/predict_locator/fold_1").mkdir(parents=True)
    notes = {"threshold": 0.25, "calibration": FITTED.to_dict()}
    (folder / "data/predict_locator/fold_1/locator.json").write_text(json.dumps(notes), encoding="utf-8")
    films = pd.DataFrame(
        [(f"f{n}", f"{n:064x}", f"w{n}", label) for n, label in enumerate(["normal", "benign", "malignant"] * 5)],
        columns=["film_id", "sha256", "patient_id", "label"],
    ).assign(density="D")
    write_table(films.reindex(columns=names(FILMS), fill_value=1), folder / "data/catalog/films.csv")
    write_table(make_folds(films, seed=1), folder / "data/split/folds.csv")
    return folder


def test_a_film_of_the_data_set_is_known_by_its_bytes(workspace: Path) -> None:
    folds = pd.read_csv(workspace / "data/split/folds.csv").set_index("patient_id")["fold"]
    assert [fold_of_film(workspace, f"{n:064x}") for n in range(15)] == [folds[f"w{n}"] for n in range(15)]
    assert fold_of_film(workspace, "f" * 64) is None


def test_a_folds_locator_has_the_folds_networks_threshold_and_calibration(workspace: Path) -> None:
    locator = locator_of_fold(workspace, 1)
    assert (locator.threshold, locator.calibration) == (0.25, FITTED)
    assert not locator.classifier.training
    assert not locator.detector.training
    torch.manual_seed(0)
    own = build_classifier(ClassifierParameters(variant="compact")).state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in locator.classifier.state_dict().items())


def test_what_a_pass_has_not_made_is_named(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError) as caught:
        locator_of_fold(workspace, 2)
    assert len(caught.value.problems) == 5
    assert "predict_locator/fold_2/locator.json is missing" in caught.value.problems[0]
    with pytest.raises(BadInputError, match=r"films\.csv is missing"):
        fold_of_film(tmp_path, "0" * 64)
