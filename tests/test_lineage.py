import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from mammo_ml import lineage
from mammo_ml.cli import app
from mammo_ml.errors import BadInputError
from mammo_ml.lineage import Version, open_version, parse_reference
from mammo_ml.lineage_tree import tree_of
from mammo_ml.models.bundle import read_bundle
from mammo_ml.tracking import computed_md5
from tests.small_project import (
    ANCESTOR,
    commit,
    git,
    make_project,
    record_stages,
    register,
    small_bundle,
    write,
)
from tests.toy_models import NAME, toy_world


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Version 1 of a finished pass whose dvc.lock was committed afterwards, version 2 of weights from nowhere."""
    folder = make_project(tmp_path_factory.mktemp("lineage") / "project")
    with toy_world(tmp_path_factory.mktemp("configuration")):
        record_stages(folder)
        assert register(folder, folder / "data" / "finalize_classifier") == 1
        commit(folder, "Outputs of the pass")
        assert register(folder, small_bundle(folder / "build" / "other", seed=2)) == 2
        yield folder


@pytest.fixture(scope="module")
def version(project: Path) -> Version:
    return open_version(f"{NAME}/1", project)


@pytest.fixture(scope="module")
def facts(project: Path, version: Version) -> dict[str, Any]:
    return lineage.lineage(version, project)


def shown(facts: dict[str, Any]) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(tree_of(facts))
    return capture.get()


def test_it_walks_back_to_files_figures_and_the_run_that_made_them(facts: dict[str, Any], project: Path) -> None:
    bundle = project / "data" / "finalize_classifier"
    assert facts["version"]["version"] == 1
    assert facts["version"]["aliases"] == []
    assert facts["files"]["bundle_sha256"] == read_bundle(bundle).content_sha256
    assert facts["files"]["dvc_md5"] == computed_md5(bundle)
    assert facts["figures"]["primary"] == "by_patient.auc_macro"
    assert (facts["figures"]["value"], facts["figures"]["lower_95"], facts["figures"]["knowing_nothing"]) == (
        0.7,
        0.64,
        0.5,
    )
    assert facts["figures"]["evaluation_run"]["name"].startswith("evaluate_classifier · ")
    assert facts["figures"]["evaluation_run"]["rebuilt_from_outputs"] is False


def test_it_shows_the_parameters_that_were_used_with_the_tuned_ones_among_them(facts: dict[str, Any]) -> None:
    # params.yaml says 0.3, tuning found 0.5
    assert facts["parameters"]["effective"] == {"training.learning_rate": "0.5", "training.threads": "1"}
    assert facts["parameters"]["tuned"] == {"learning_rate": "0.5"}
    assert facts["parameters"]["epochs"] == 7


def test_it_says_which_folds(facts: dict[str, Any]) -> None:
    assert facts["folds"]["which"] == "benchmark"
    assert facts["folds"]["committed_benchmark"] is True


def test_every_data_input_is_there_back_to_the_manifest_of_the_films(facts: dict[str, Any], project: Path) -> None:
    data = {fact["path"]: fact for fact in facts["data"]}
    assert list(data) == [
        "mammo_ml/datasets/mini_mias_sha256.csv",
        "data/ingest",
        "data/catalog",
        "data/tune_classifier",
        "data/finalize_classifier",
    ]
    for path, fact in data.items():
        assert fact["md5"] == computed_md5(project / path)
    assert data["data/catalog"]["made_by"] == ["catalog"]
    assert data["data/catalog"]["read_by"] == ["tune_classifier@0", "finalize_classifier"]
    assert data["mammo_ml/datasets/mini_mias_sha256.csv"]["made_by"] is None
    assert data["data/finalize_classifier"]["used_for"] == "evaluation"


def test_it_counts_the_women_and_films_of_pre_training(facts: dict[str, Any]) -> None:
    assert facts["pretraining"] == {
        "weights": [ANCESTOR.model_dump()],
        "films": [{"dataset": "cbis_ddsm", "women": 1, "films": 2}],
        "own_training_films": [{"dataset": "mini_mias", "women": 1, "films": 1}],
    }


def test_the_code_is_that_of_the_commit_although_its_dvc_lock_was_committed_later(
    facts: dict[str, Any], project: Path
) -> None:
    first, second = git(project, "log", "--format=%H", "--reverse").split()
    assert facts["code"]["git_commit"] == first
    assert facts["code"]["dirty"] is False
    assert facts["code"]["in_this_clone"] is True
    assert facts["code"]["committed"].endswith("Code before the pass")
    assert facts["code"]["differs_from_commit"] == []
    assert facts["code"]["same_code_in"] == [first, second]


def test_what_the_workspace_holds_now_changes_nothing_of_it(
    project: Path, facts: dict[str, Any], tmp_path: Path
) -> None:
    lock = (project / "dvc.lock").read_text(encoding="utf-8")
    try:
        write(project / "dvc.lock", "schema: '2.0'\nstages: {}\n")
        found = lineage.lineage(open_version(f"{NAME}/1", project), project)
    finally:
        write(project / "dvc.lock", lock)
    assert found["files"]["dvc_record"] == f"dvc.lock of commit {git(project, 'rev-parse', '--short=7', 'HEAD')}"
    assert {key: found[key] for key in ("data", "parameters", "figures")} == {
        key: facts[key] for key in ("data", "parameters", "figures")
    }


def test_what_cannot_be_known_is_said(project: Path) -> None:
    facts = lineage.lineage(open_version(f"{NAME}@challenger", project), project)
    assert facts["version"]["version"] == 2
    assert facts["data"] is None
    assert facts["files"]["dvc_record"] is None
    assert facts["parameters"] == {"effective": None, "tuned": None, "epochs": None, "run": None}
    assert facts["figures"]["evaluation_run"] is None
    assert facts["code"]["differs_from_commit"] is None
    text = shown(facts)
    for line in ("data  not recorded", "effective  not recorded", "evaluation_run  not recorded"):
        assert line in text


def test_a_commit_that_is_not_in_this_clone_is_said(project: Path, version: Version) -> None:
    elsewhere = dataclasses.replace(version, tags={**version.tags, "git_commit": "f" * 40, "git_dirty": "true"})
    code = lineage.lineage(elsewhere, project)["code"]
    assert code["in_this_clone"] is False
    assert code["dirty"] is True
    assert code["committed"] is None


def test_the_command_prints_a_tree_and_writes_json(project: Path, facts: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "lineage.json"
    done = CliRunner().invoke(app, ["lineage", f"{NAME}/1", "--json", str(file), "--workspace", str(project)])
    assert done.exit_code == 0, done.output
    assert "processor  not recorded" in done.output
    assert "made by ingest" in done.output
    assert json.loads(file.read_text(encoding="utf-8")) == facts


def test_a_reference_names_an_alias_or_a_version() -> None:
    assert parse_reference("mammo-detector@champion") == ("mammo-detector", "champion")
    assert parse_reference("mammo-detector/12") == ("mammo-detector", 12)


@pytest.mark.parametrize("text", ["mammo-detector", "mammo-detector@", "mammo-detector/0", "@champion", "a b@champion"])
def test_a_reference_that_names_no_version_says_how_to_write_it(text: str) -> None:
    with pytest.raises(BadInputError, match="NAME@champion, NAME@challenger or NAME/VERSION"):
        parse_reference(text)


@pytest.mark.parametrize("which", [f"{NAME}@champion", f"{NAME}/9", "mammo-detector@champion"])
def test_a_version_that_does_not_exist_is_named(project: Path, which: str) -> None:
    done = CliRunner().invoke(app, ["lineage", which, "--workspace", str(project)])
    assert done.exit_code == 1
    assert which.partition("@")[0].partition("/")[0] in done.output
    assert "Traceback" not in done.output


def test_a_tampered_version_is_refused_by_the_name_of_the_file(project: Path, version: Version) -> None:
    config, kept = version.files / "config.json", version.files.parents[1] / "kept"
    shutil.move(config, kept)
    try:
        config.write_text(kept.read_text(encoding="utf-8").replace("mean", "max"), encoding="utf-8")
        done = CliRunner().invoke(app, ["lineage", f"{NAME}/1", "--workspace", str(project)])
    finally:
        shutil.move(kept, config)
    assert done.exit_code == 1
    assert "config.json" in done.output
