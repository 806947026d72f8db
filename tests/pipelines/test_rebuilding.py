"""A clone with pulled outputs and an empty store: `mammo-ml track` brings back every run and all models."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.phantom_run import PhantomRun, run_in

LEFT_OUT = shutil.ignore_patterns(".mlflow", ".state", "cache", "tmp", "__pycache__")
CURVE = {"train_loss", "inner_loss", "learning_rate", "best_epoch"}


@pytest.fixture(scope="module")
def clone(run: PhantomRun) -> tuple[Path, str]:
    """The workspace's outputs without store, cache and checkpoints, and what `mammo-ml track` said there."""
    folder = run.workspace.parent / "clone"
    shutil.copytree(run.workspace, folder, ignore=LEFT_OUT)
    finished = run_in(run.project, "mammo_ml.cli", "track", "--workspace", str(folder))
    assert finished.returncode == 0, finished.stderr
    return folder, finished.stdout


def stage_runs(workspace: Path) -> dict[str, Any]:
    """Finished runs of the stages by the name they share, live or rebuilt."""
    from mammo_ml.tracking import Store

    client = Store(workspace).client
    found = client.get_experiment_by_name("phantom")
    query = "tags.`mammo.level` = 'stage' and attributes.status = 'FINISHED'"
    runs = client.search_runs([found.experiment_id], query, max_results=500)
    names = [one.info.run_name for one in runs]
    assert len(names) == len(set(names)), "a stage was logged twice"
    return dict(zip(names, runs, strict=True))


@pytest.fixture(scope="module")
def live(run: PhantomRun) -> dict[str, Any]:
    found = stage_runs(run.workspace)
    return {name: one for name, one in found.items() if "mammo.rebuilt" not in one.data.tags}


@pytest.fixture(scope="module")
def rebuilt(clone: tuple[Path, str]) -> dict[str, Any]:
    return stage_runs(clone[0])


def test_every_stage_of_the_pipeline_has_its_run_again(live: dict[str, Any], rebuilt: dict[str, Any]) -> None:
    assert len(rebuilt) == 29  # fifteen stages without folds, seven with two
    assert live.keys() <= rebuilt.keys()
    assert {one.data.tags["mammo.rebuilt"] for one in rebuilt.values()} == {"true"}
    assert {name: one.data.tags["mammo.stage"] for name, one in live.items()} == {
        name: rebuilt[name].data.tags["mammo.stage"] for name in live
    }


def test_a_rebuilt_run_shows_what_the_live_one_showed(live: dict[str, Any], rebuilt: dict[str, Any]) -> None:
    assert live
    for name, one in live.items():
        other = rebuilt[name]
        assert other.data.params == one.data.params, name
        shown = {key: value for key, value in other.data.metrics.items() if not key.startswith("rows.")}
        # these stages do not write their curves
        lost = CURVE if name.startswith(("leaky_", "finalize_")) else set()
        assert shown == {key: value for key, value in one.data.metrics.items() if key not in lost}, name
        tags = ("stage", "fold", "protocol", "dataset", "phantom", "git_commit", "folds")
        assert [other.data.tags.get(tag) for tag in tags] == [one.data.tags.get(tag) for tag in tags], name
        assert inputs_of(other) == inputs_of(one), name


def inputs_of(one: Any) -> set[tuple[str, str]]:
    return {(given.dataset.name, given.dataset.digest) for given in one.inputs.dataset_inputs}


def test_pictures_and_trials_are_there_again(run: PhantomRun, clone: tuple[Path, str], rebuilt: dict[str, Any]) -> None:
    from mammo_ml.tracking import Store

    stores = {folder: Store(folder).client for folder in (run.workspace, clone[0])}
    before = stage_runs(run.workspace)
    for name, one in rebuilt.items():
        if name.startswith("evaluate_"):
            files = [{file.path for file in stores[clone[0]].list_artifacts(one.info.run_id)}]
            files += [{file.path for file in stores[run.workspace].list_artifacts(before[name].info.run_id)}]
            assert files[0] == files[1]
            assert any(file.endswith(".png") for file in files[0])
    client = stores[clone[0]]
    experiment = client.get_experiment_by_name("phantom").experiment_id
    trials = client.search_runs([experiment], "tags.`mammo.level` = 'trial'")
    tuned = {one.info.run_id for name, one in rebuilt.items() if name.startswith("tune_")}
    assert sorted(one.data.tags["mlflow.parentRunId"] for one in trials) == sorted(tuned)  # one trial each


def test_tracking_again_says_that_nothing_is_lacking(run: PhantomRun, clone: tuple[Path, str]) -> None:
    folder, said = clone
    assert "29 runs were logged" in said
    again = run_in(run.project, "mammo_ml.cli", "track", "--workspace", str(folder))
    assert "the store has every run of this pass" in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mammo-classifier", "mammo-detector", "mammo-locator"])
def test_all_models_are_challengers_and_the_gate_decides_as_before(
    run: PhantomRun, clone: tuple[Path, str], name: str
) -> None:
    folder, said = clone
    assert f"{name} version 1 is registered as challenger" in said
    answers = [
        run_in(run.project, "mammo_ml.cli", "promote", name, "--dry-run", "--workspace", str(workspace)).stdout
        for workspace in (run.workspace, folder)
    ]
    assert re.search(r"\[pass\]  files are intact", answers[1])
    # how fast it is is measured anew by each of the two commands
    live, rebuilt = (re.sub(r"[\d.]+ s per film", "some s per film", answer) for answer in answers)
    assert rebuilt == live


def test_no_stage_ran_for_it(run: PhantomRun, clone: tuple[Path, str]) -> None:
    assert (clone[0] / "dvc.lock").read_bytes() == (run.workspace / "dvc.lock").read_bytes()
    assert not (clone[0] / ".state").exists()
