import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from mammo_ml.errors import BadInputError
from mammo_ml.models.bundle import (
    Ancestor,
    BundleConfig,
    Preprocessing,
    folds_sha256,
    read_bundle,
    verify_bundle,
    write_bundle,
)

CONFIG = BundleConfig(
    kind="classifier",
    network={"variant": "toy"},
    preprocessing=Preprocessing(),
    calibration={"temperature": 1.5},
    aggregation={"how": "mean"},
    thresholds={"specificity_90": 0.25},
    dataset="phantom",
    phantom=True,
    folds_sha256="0" * 64,
)
FILMS = pd.DataFrame(
    [
        ("b", "2" * 64, "phantom", "bertha", "training", "normal"),
        ("a", "1" * 64, "phantom", "anna", "training", "benign"),
        ("NA", "3" * 64, "other", "nina", "pretraining", "benign"),
    ],
    columns=["film_id", "sha256", "dataset", "patient_id", "step", "label"],
)
ANCESTOR = Ancestor(name="mass patches", weights_sha256="4" * 64, dataset="other", command="make pretrain")


def toy_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "model", CONFIG, toy_network().state_dict(), FILMS)
    return tmp_path / "model"


def flip_one_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def test_a_bundle_read_back_gives_the_same_numbers(folder: Path) -> None:
    bundle = read_bundle(folder)
    network = bundle.load_into(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))
    picture = torch.rand(1, 1, 5, 7)
    assert not network.training
    torch.testing.assert_close(network(picture), toy_network().eval()(picture), rtol=0, atol=0)
    assert bundle.config == CONFIG
    assert list(bundle.training_films["film_id"]) == ["NA", "a", "b"]


def test_a_film_of_any_step_counts_as_seen(folder: Path) -> None:
    bundle = read_bundle(folder)
    assert bundle.seen_in_training("1" * 64)
    assert bundle.seen_in_training("3" * 64)
    assert not bundle.seen_in_training("5" * 64)


def test_what_a_model_was_made_from_is_kept(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"ancestry": (ANCESTOR,)})
    write_bundle(tmp_path / "model", config, toy_network().state_dict(), FILMS)
    assert read_bundle(tmp_path / "model").config.ancestry == (ANCESTOR,)
    assert CONFIG.ancestry == ()


def test_a_film_of_an_unknown_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="film a: step 'guessing'"):
        write_bundle(
            tmp_path / "model", CONFIG, {}, FILMS.replace({"film_id": {"b": "a"}, "step": {"training": "guessing"}})
        )


def test_the_same_model_is_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    write_bundle(again, CONFIG, toy_network().state_dict(), FILMS[::-1])
    assert verify_bundle(again) == verify_bundle(folder)
    assert all((again / file.name).read_bytes() == file.read_bytes() for file in folder.iterdir())


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "training_films.csv"])
def test_one_byte_flipped_is_refused_by_the_files_name(folder: Path, name: str) -> None:
    flip_one_byte(folder / name)
    with pytest.raises(BadInputError, match=f"{name} was changed"):
        read_bundle(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "training_films.csv", "manifest.json"])
def test_a_file_removed_is_refused_by_its_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BadInputError, match=f"{name} is missing"):
        read_bundle(folder)


def test_a_file_added_is_refused_by_its_name(folder: Path) -> None:
    (folder / "code").mkdir()
    (folder / "code" / "extra.py").write_text("")
    with pytest.raises(BadInputError, match=r"code/extra\.py was added"):
        read_bundle(folder)


def test_a_link_in_place_of_a_file_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").rename(tmp_path / "elsewhere.json")
    (folder / "config.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BadInputError, match=r"config\.json is a link"):
        read_bundle(folder)


def test_every_fault_of_a_bundle_is_told_at_once(folder: Path) -> None:
    flip_one_byte(folder / "weights.safetensors")
    (folder / "config.json").unlink()
    (folder / "notes.txt").write_text("")
    with pytest.raises(BadInputError) as caught:
        read_bundle(folder)
    assert len(caught.value.problems) == 3


def test_a_manifest_that_lists_no_weights_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]["weights.safetensors"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "weights.safetensors").unlink()
    with pytest.raises(BadInputError, match=r"weights\.safetensors is missing"):
        read_bundle(folder)


def test_weights_of_another_network_are_refused_by_tensor_name(folder: Path) -> None:
    with pytest.raises(BadInputError, match=r"0\.weight"):
        read_bundle(folder).load_into(nn.Sequential(nn.Conv2d(1, 2, 5), nn.BatchNorm2d(2)))
    with pytest.raises(BadInputError, match=r"1\.running_mean"):
        read_bundle(folder).load_into(nn.Sequential(nn.Conv2d(1, 2, 3)))


def test_weights_that_are_not_numbers_are_never_written(tmp_path: Path) -> None:
    weights = toy_network().state_dict()
    weights["0.bias"][1] = float("nan")
    with pytest.raises(BadInputError, match=r"0\.bias holds NaN"):
        write_bundle(tmp_path / "model", CONFIG, weights, FILMS)


def test_the_order_of_women_does_not_change_the_hash_of_the_folds() -> None:
    folds = pd.DataFrame({"patient_id": ["a", "b"], "fold": [0, 1]})
    assert folds_sha256(folds) == folds_sha256(folds[::-1])
    assert folds_sha256(folds) != folds_sha256(folds.assign(fold=[1, 0]))
