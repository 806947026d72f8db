import base64
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mammo_ml.bundle_comparison import compare
from mammo_ml.datasets import phantom
from mammo_ml.datasets.catalog import names
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.readers import format_pgm, parse_film
from mammo_ml.locator import Calibration
from mammo_ml.locator_bundle import LocatorConfig, answer, locator_of, networks_of, open_bundle, write_locator
from mammo_ml.metrics.calibration import VectorScaling
from mammo_ml.models.bundle import FILM_COLUMNS, Bundle, BundleConfig, Preprocessing, read_bundle, write_bundle
from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
from mammo_ml.models.ssd import SsdParameters, build_detector
from mammo_ml.prediction import predict_with_bundle
from mammo_ml.registry.registration import version_tags
from mammo_ml.reporting.model_card import card

PLAIN = Calibration(VectorScaling.identity(3), VectorScaling.identity(2), VectorScaling.identity(2))
SHARED = {"calibration": {}, "thresholds": {}, "dataset": "phantom", "phantom": True, "folds_sha256": "0" * 64}
MERGE = {"nms_iou": 0.3, "max_per_tile": 5, "max_per_film": 20}
WINDOWS = Preprocessing(step_px=256, min_breast_share=0.5)


def films(*rows: tuple[str, str, str]) -> pd.DataFrame:
    table = [(name, sha256 * 64, "phantom", f"woman {name}", step) for name, sha256, step in rows]
    return pd.DataFrame(table, columns=names(FILM_COLUMNS))


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    folder = tmp_path_factory.mktemp("parents")
    torch.manual_seed(0)
    one, other = ClassifierParameters(variant="normalised"), SsdParameters(width=8)
    config = BundleConfig(
        kind="classifier", network=one.model_dump(), preprocessing=WINDOWS, aggregation={"how": "max"}, **SHARED
    )
    write_bundle(folder / "c", config, build_classifier(one).state_dict(), films(("a", "1", "training")))
    config = BundleConfig(
        kind="detector", network=other.model_dump(mode="json"), preprocessing=WINDOWS, aggregation=MERGE, **SHARED
    )
    seen = films(("a", "1", "training"), ("b", "2", "training"), ("c", "3", "pretraining"))
    write_bundle(folder / "d", config, build_detector(other).state_dict(), seen)
    return read_bundle(folder / "c"), read_bundle(folder / "d")


@pytest.fixture(scope="module")
def folder(parents: tuple[Bundle, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("locator") / "bundle"
    write_locator(written, *parents, PLAIN, 0.0)
    return written


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    planned = next(one for one in phantom.plan(phantom.PhantomParameters(women=20, seed=1)) if one.lesions)
    content = format_pgm(phantom.draw(planned, seed=1))
    return pd.DataFrame({"film_id": ["one"], "image": [base64.b64encode(content).decode()]})


def test_a_locator_names_its_parents_and_knows_every_film_of_both(folder: Path, parents: tuple[Bundle, Bundle]) -> None:
    bundle = open_bundle(folder)
    assert isinstance(bundle.config, LocatorConfig)
    told = [(one.kind, one.bundle_sha256) for one in bundle.config.parents]
    assert told == [("classifier", parents[0].content_sha256), ("detector", parents[1].content_sha256)]
    assert [bundle.seen_in_training(sha256 * 64) for sha256 in "1234"] == [True, True, True, False]
    assert len(bundle.training_films) == 3


def test_the_same_parents_give_the_same_bytes(folder: Path, parents: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    write_locator(tmp_path / "again", *parents, PLAIN, 0.0)
    assert (tmp_path / "again" / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()
    write_locator(tmp_path / "other", *parents, PLAIN, 0.5)
    assert open_bundle(tmp_path / "other").content_sha256 != open_bundle(folder).content_sha256


def test_it_answers_as_the_registered_detector_where_it_searches_every_tile(
    folder: Path, parents: tuple[Bundle, Bundle], frame: pd.DataFrame
) -> None:
    found = answer(open_bundle(folder), frame)
    expected = predict_with_bundle(parents[1], frame)
    pd.testing.assert_frame_equal(found.drop(columns="score"), expected, check_exact=True)
    pd.testing.assert_frame_equal(answer(parents[1], frame), expected, check_exact=True)
    assert len(found)


def test_a_film_without_a_box_gives_a_table_with_columns_and_types(folder: Path, frame: pd.DataFrame) -> None:
    bundle = open_bundle(folder)
    config = bundle.config.model_copy(update={"thresholds": {"p_abnormal": 1.01}})
    found = answer(replace(bundle, config=config), frame)
    assert len(found) == 0
    assert found["seen_in_training"].dtype == bool
    assert (found.dtypes[["x1", "p_benign", "score"]] == "float64").all()


def test_another_threshold_may_be_given(folder: Path, frame: pd.DataFrame) -> None:
    bundle = open_bundle(folder)
    assert locator_of(bundle).threshold == 0
    film = replace(parse_film(base64.b64decode(frame["image"][0]), "one"), pixel_spacing_mm=0.2)
    assert locator_of(bundle, threshold=1.01).locate(film).boxes.empty


def test_its_networks_are_those_of_its_parents(folder: Path, parents: tuple[Bundle, Bundle]) -> None:
    for own, parent in zip(networks_of(open_bundle(folder)), parents, strict=True):
        assert own.config.kind == parent.config.kind
        assert own.config.network == parent.config.network
        assert own.weights.keys() == parent.weights.keys()
        assert all(torch.equal(own.weights[name], tensor) for name, tensor in parent.weights.items())


def test_other_kinds_are_opened_as_they_are_and_refused_as_locators(parents: tuple[Bundle, Bundle]) -> None:
    with pytest.raises(BadInputError, match="the bundle holds a detector"):
        locator_of(parents[1])


def test_parents_that_do_not_belong_together_are_refused_by_what_differs(
    parents: tuple[Bundle, Bundle], tmp_path: Path
) -> None:
    other = {"dataset": "mini_mias", "phantom": False, "preprocessing": WINDOWS.model_copy(update={"step_px": 64})}
    stranger = replace(parents[1], config=parents[1].config.model_copy(update=other))
    with pytest.raises(BadInputError) as caught:
        write_locator(tmp_path / "x", parents[0], stranger, PLAIN, 0.5)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["dataset", "phantom", "tiles"]


def test_a_changed_file_is_named(folder: Path, tmp_path: Path, parents: tuple[Bundle, Bundle]) -> None:
    write_locator(tmp_path / "x", *parents, PLAIN, 0.5)
    path = tmp_path / "x" / "config.json"
    path.write_text(path.read_text().replace("0.5", "0.1"))
    with pytest.raises(BadInputError, match=r"config\.json was changed"):
        open_bundle(tmp_path / "x")


def test_an_unknown_key_is_named(tmp_path: Path, parents: tuple[Bundle, Bundle]) -> None:
    from mammo_ml.manifest import write_manifest

    write_locator(tmp_path / "x", *parents, PLAIN, 0.5)
    path = tmp_path / "x" / "config.json"
    path.write_text(path.read_text().replace('"classifier_px"', '"classifier_pxx"'))
    write_manifest(tmp_path / "x")
    with pytest.raises(BadInputError, match="classifier_pxx"):
        open_bundle(tmp_path / "x")


# ------------------------------------------------------------------------------------------------- in the registry


def test_its_card_and_its_tags_say_what_it_is(folder: Path, parents: tuple[Bundle, Bundle]) -> None:
    config = open_bundle(folder).config
    figures = {f"films_by_patient.froc_mean{suffix}": 0.5 for suffix in ("", "_lo", "_hi", "_baseline")}
    text = card(config, figures | {"films_by_patient.sensitivity_lost": 0.01})
    assert parents[0].content_sha256[:12] in text
    assert "P(abnormal) is at least 0" in text
    assert "sensitivity_lost" in text
    assert "cuts" not in text.partition("### Figures")[2].partition("###")[0].replace("a patch or a cut", "")
    tags = version_tags(config, {"films_by_patient": {"froc_mean": 0.5}}, "films_by_patient.froc_mean")
    assert (tags["kind"], tags["protocol"], tags["primary"]) == ("locator", "films_by_patient", "0.5")


def test_two_locators_are_compared_network_by_network(
    folder: Path, parents: tuple[Bundle, Bundle], tmp_path: Path
) -> None:
    nudged = {name: tensor.clone() for name, tensor in parents[1].weights.items()}
    first = next(name for name, tensor in nudged.items() if tensor.ndim == 4)
    nudged[first] = nudged[first] * 1.0001
    write_locator(tmp_path / "x", parents[0], replace(parents[1], weights=nudged), PLAIN, 0.0)
    found = compare(folder, tmp_path / "x")
    assert found.tensor == f"detector.{first}"
    assert found.probability_difference is not None
    assert 0 <= found.probability_difference < 0.01
    assert np.isfinite(found.tensor_difference)
