import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from mammo_ml.datasets.cbis_ddsm_split import PRETRAINING, women
from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.manifest import file_sha256
from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
from mammo_ml.models.ssd import SsdParameters, build_detector
from mammo_ml.pretrained import LARGEST_BYTES, OWN_VGG16, STARTER_FOLDER, own_files, resolve, ship, write_start
from mammo_ml.training import save_weights
from pipelines.studies.ship_starter import MADE_BY
from pipelines.training_stage import first_weights

ANCESTOR = {"name": "detector_small", "dataset": "cbis_ddsm", "command": "dvc repro pretrain_detector@small"}
FILMS = pd.DataFrame({"film_id": ["f1"], "sha256": ["a" * 64], "dataset": ["cbis_ddsm"], "patient_id": ["P1"]})
STARTERS = sorted(path.name for path in STARTER_FOLDER.glob("*_*"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    write_start(tmp_path / "own", build_detector(SsdParameters(width=8)), FILMS, ANCESTOR)
    return tmp_path / "own"


def test_a_training_starts_from_the_weights_of_a_folder_and_knows_what_they_learned_from(folder: Path):
    start = resolve(str(folder), "detector", "small")
    torch.manual_seed(2)
    model = build_detector(SsdParameters(width=8))
    start.load_into(model)
    torch.manual_seed(1)
    expected = build_detector(SsdParameters(width=8)).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert start.films.to_dict("records") == [{**FILMS.iloc[0].to_dict(), "step": "pretraining"}]
    assert [one.name for one in start.ancestry] == ["detector_small"]


def test_other_weights_in_the_same_folder_are_another_training_and_another_study(folder: Path):
    def first() -> tuple[str, list[str]]:
        model = build_detector(SsdParameters(width=8))
        resolve(str(folder), "detector", "small").load_into(model)
        return first_weights(model), [file_sha256(path) for path in own_files(str(folder))]

    before = first()
    assert first() == before
    write_start(folder, build_detector(SsdParameters(width=8)), FILMS, ANCESTOR)
    weights, files = first()
    assert weights != before[0]
    assert files[0] != before[1][0]
    assert own_files("starter") == own_files("none") == own_files("imagenet") == []


def test_none_is_no_weights_and_no_ancestors():
    start = resolve("none", "detector", "small")
    model = build_detector(SsdParameters(width=8))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start.load_into(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert start.ancestry == ()
    assert start.audit(FILMS).leak_free


def test_a_woman_on_both_sides_is_a_leak_that_is_named(folder: Path):
    audit = resolve(str(folder), "detector", "small").audit(FILMS.assign(film_id="f2", sha256="b" * 64))
    assert not audit.leak_free
    assert audit.problems == ("pre-training: woman P1 of cbis_ddsm is on both sides: f2 (tested), f1 (pretraining)",)


def test_weights_that_do_not_say_what_they_learned_from_are_refused(folder: Path):
    (folder / "films.csv").unlink()
    with pytest.raises(BadInputError, match=r"has no films\.csv"):
        resolve(str(folder), "detector", "small")


def test_other_weights_than_those_described_are_refused(folder: Path):
    save_weights(build_detector(SsdParameters(width=8)), folder / "weights.safetensors")
    with pytest.raises(BadInputError, match=r"weights\.safetensors: sha256 .*provenance\.json says"):
        resolve(str(folder), "detector", "small")


def test_weights_of_another_base_are_refused_by_name(folder: Path):
    with pytest.raises(MammoError, match="six_layer_cnn"):
        resolve(str(folder), "detector", "small").load_into(
            build_detector(SsdParameters(base="six_layer_cnn", width=8))
        )


def test_a_starter_nobody_shipped_is_told_with_those_there_are():
    with pytest.raises(BadInputError, match=r"Starters shipped with the package.*All can start from `none`"):
        resolve("starter", "classifier", "wide")


def test_the_starter_of_vgg16_is_imagenets_weights(monkeypatch: pytest.MonkeyPatch):
    weights = {"backbone.features.0.weight": torch.ones(1)}
    monkeypatch.setattr("mammo_ml.pretrained.imagenet_state", lambda base: weights)
    start = resolve("starter", "detector", "vgg16")
    assert start.weights == weights
    assert start.is_of_the_base_alone
    assert start.ancestry == resolve("imagenet", "detector", "vgg16").ancestry


def test_where_imagenets_weights_cannot_be_had_vgg16_starts_from_our_own_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def unreachable(base: str) -> None:
        raise MammoError(f"ImageNet weights for base {base} cannot be had")

    monkeypatch.setattr("mammo_ml.pretrained.imagenet_state", unreachable)
    monkeypatch.chdir(folder.parent)
    with pytest.raises(MammoError, match="ImageNet weights for base vgg16 cannot be had"):
        resolve("starter", "detector", "vgg16")
    OWN_VGG16.parent.mkdir(parents=True)
    folder.rename(OWN_VGG16)
    start = resolve("starter", "detector", "vgg16")
    assert start.films["film_id"].tolist() == ["f1"]
    assert not start.is_of_the_base_alone
    told = capsys.readouterr().err
    assert told.startswith("WARNING: ImageNet weights for base vgg16 cannot be had")
    assert f"{OWN_VGG16} is there and is started from" in told
    with pytest.raises(MammoError, match="cannot be had"):
        resolve("imagenet", "detector", "vgg16")


def test_a_starter_if_there_is_any_is_the_starter_or_nothing():
    assert resolve("starter_if_any", "classifier", "wide").weights is None
    assert resolve("starter_if_any", "detector", "vgg16").weights is None
    assert resolve("starter_if_any", "detector", "small").ancestry == resolve("starter", "detector", "small").ancestry


def test_what_was_made_is_shipped_as_it_is(folder: Path, tmp_path: Path):
    assert ship(folder, tmp_path / "shipped").films["film_id"].tolist() == ["f1"]
    assert {file.name: file.read_bytes() for file in (tmp_path / "shipped").iterdir()} == {
        file.name: file.read_bytes() for file in folder.iterdir()
    }


def test_weights_too_large_to_ship_are_refused_and_nothing_is_written(tmp_path: Path):
    write_start(tmp_path / "own", nn.Linear(LARGEST_BYTES // 4, 1), FILMS, ANCESTOR)
    with pytest.raises(MammoError, match="starters are small"):
        ship(tmp_path / "own", tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()


def test_the_package_ships_starters_and_they_are_small():
    assert set(STARTERS) == set(MADE_BY)
    assert sum(path.stat().st_size for path in STARTER_FOLDER.rglob("*") if path.is_file()) < 18_000_000


@pytest.mark.parametrize("name", STARTERS)
def test_a_shipped_starter_fits_its_network_and_learned_from_women_of_the_list_alone(name: str):
    model, _, base = name.partition("_")
    start = resolve("starter", model, base)
    build = {
        "detector": lambda: build_detector(SsdParameters(base=base)),
        "classifier": lambda: build_classifier(ClassifierParameters(variant=base)),
    }
    start.load_into(build[model]())
    assert set(start.films["dataset"]) == {"cbis_ddsm"}
    assert set(start.films["patient_id"]) <= women(PRETRAINING)
    assert not start.films.duplicated().any()
    assert json.loads((STARTER_FOLDER / name / "provenance.json").read_text())["command"].startswith("dvc repro")
