"""The tuning stage with two workers: the second one dies, the study does not, and MLflow shows every trial."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from mammo_ml.datasets.catalog import FILMS, read_table, write_table
from mammo_ml.errors import BadInputError
from mammo_ml.splits import make_folds
from mammo_ml.tracking import Store
from pipelines import tune_detector, tune_detector_inputs
from tests.pipelines.test_compare_transfer import run
from tests.transfer_sets import write_sets

ROOT = Path(__file__).resolve().parents[2]
# A stage whose training only takes its time; `begun` shows the process of every trial. Its inner loss is the learning
# rate, so that a pruned trial is one of a high rate.
STAGE = """
import os, time
from pathlib import Path
from types import SimpleNamespace
from mammo_ml.classifier import ClassifierRecipe
from mammo_ml.training import Epoch
from mammo_ml.tuning import TuningParameters
from pipelines import stage
from pipelines.tuning_stage import tune

def score(tried, on_step, on_epoch):
    with open("threads", "a") as file:
        file.write(f"{tried.training.threads}\\n")
    with open("begun", "a") as file:
        file.write(f"{os.getpid()} {os.environ.get('MAMMO_WORKER', '')}\\n")
    time.sleep(float(os.environ["SECONDS"]))
    on_step(10)
    for epoch in (1, 2, 3):
        on_epoch(Epoch(epoch, 5 * epoch, 0.5, tried.training.learning_rate, 0.1))
    return tried.training.learning_rate, SimpleNamespace(best_epoch=1)

def run():
    tune("tune_classifier", stage.section("tune_classifier", TuningParameters),
         stage.section("train_classifier", ClassifierRecipe), score, figure="auc_macro", fold=0,
         data=[Path("data.csv")], files=[Path("data.csv")], out=Path("out"))

if __name__ == "__main__":
    stage.main(run)
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    params = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("dataset: mini_mias", "dataset: phantom")
    tuned = "tune_classifier:\n  workers: 2\n  heartbeat_s: 1\n  grace_s: 3\n  trials: 5"
    params = params.replace("tune_classifier:\n  trials: 3", tuned)
    assert tuned in params
    (tmp_path / "params.yaml").write_text(params, encoding="utf-8")
    (tmp_path / "data.csv").write_text("a\n", encoding="utf-8")
    (tmp_path / "stage.py").write_text(STAGE, encoding="utf-8")
    return tmp_path


def _start(folder: Path, seconds: float) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SECONDS": str(seconds)}
    command = [sys.executable, "stage.py"]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def test_a_pruned_trial_ends_early_is_no_failure_and_the_run_has_the_pictures(workspace: Path) -> None:
    params = (workspace / "params.yaml").read_text(encoding="utf-8")
    pruning = "  workers: 1\n  prune_after_trials: 2\n  prune_from_epoch: 2"
    params = params.replace("  workers: 2", pruning).replace("  trials: 5", "  trials: 10")
    (workspace / "params.yaml").write_text(params, encoding="utf-8")
    stage = _start(workspace, 0.0)
    said = stage.communicate(timeout=120)[1]
    assert stage.returncode == 0, said
    trials = pd.read_csv(workspace / "out" / "trials.csv")
    assert len(trials) == 10
    assert set((workspace / "threads").read_text(encoding="utf-8").split()) == {"2"}
    assert 0 < trials["pruned"].sum() < 10
    assert (trials["value"].isna() == trials["pruned"]).all()
    store = Store(workspace)
    experiment = store.experiment("phantom")
    runs = store.client.search_runs([experiment], "tags.`mammo.level` = 'trial'")
    assert {run.info.status for run in runs} == {"FINISHED"}
    shown = {int(run.data.tags["trial"]): run.data.metrics for run in runs}
    pruned = set(trials.loc[trials["pruned"], "trial"])
    assert {number for number, metrics in shown.items() if metrics.get("pruned") == 1} == pruned
    assert {number for number, metrics in shown.items() if "auc_macro" in metrics} == set(range(10)) - pruned
    history = store.client.get_metric_history(
        next(r for r in runs if int(r.data.tags["trial"]) in pruned).info.run_id, "inner_loss"
    )
    assert [point.step for point in history] == [1, 2]
    (parent,) = store.client.search_runs([experiment], "tags.`mammo.level` = 'stage'")
    assert parent.data.metrics["trials_pruned"] == len(pruned)
    pictures = {"history.png", "importance.png", "parallel_coordinate.png"}
    shown_in_mlflow = store.client.list_artifacts(parent.info.run_id, "figures")
    assert {file.path.removeprefix("figures/") for file in shown_in_mlflow} == pictures


def _helper_at_work(folder: Path) -> int:
    until = time.monotonic() + 90
    while time.monotonic() < until:
        lines = (folder / "begun").read_text().splitlines() if (folder / "begun").exists() else []
        if found := [int(line.split()[0]) for line in lines if line.endswith(" 1")]:
            return found[-1]
        time.sleep(0.05)
    raise AssertionError("the second worker never began a trial")


def test_workers_share_the_threads_of_a_training(workspace: Path) -> None:
    stage = _start(workspace, 0.0)
    said = stage.communicate(timeout=120)[1]
    assert stage.returncode == 0, said
    assert (workspace / "threads").read_text(encoding="utf-8").split() == ["1"] * 5


@pytest.mark.slow
@pytest.mark.bar("U2")
def test_u2_a_stage_whose_helper_is_killed_ends_with_every_trial_and_its_record(
    workspace: Path, record_property: object
) -> None:
    stage = _start(workspace, 3.0)
    os.kill(_helper_at_work(workspace), signal.SIGKILL)
    said = stage.communicate(timeout=120)[1]
    assert stage.returncode == 0, said
    assert "worker 1 ended with -9; the others did its trials" in said
    assert "it is run again" in said
    trials = pd.read_csv(workspace / "out" / "trials.csv")
    assert trials["trial"].tolist() == [0, 1, 2, 3, 4]
    assert (workspace / "out" / "best.json").exists()
    store = Store(workspace)
    runs = store.client.search_runs([store.experiment("phantom")], "tags.`mammo.level` = 'trial'")
    ended = sorted((run.info.run_name, run.info.status) for run in runs)
    assert [name for name, status in ended if status == "FINISHED"] == [f"trial {n}" for n in range(5)]
    assert [status for _, status in ended if status != "FINISHED"] == ["KILLED"]
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in runs}
    assert store.client.get_run(parent).data.tags["mammo.level"] == "stage"
    record_property("tried", "a stage with 2 workers, the helper killed in its trial")  # type: ignore[operator]


@pytest.mark.slow
@pytest.mark.bar("U2")
def test_u2_a_helper_dies_with_its_stage_and_the_next_run_goes_on(workspace: Path, record_property: object) -> None:
    stage = _start(workspace, 30.0)
    helper = psutil.Process(_helper_at_work(workspace))
    stage.kill()
    stage.communicate()
    psutil.wait_procs([helper], timeout=5)
    assert not helper.is_running() or helper.status() == psutil.STATUS_ZOMBIE
    again = _start(workspace, 0.0)
    said = again.communicate(timeout=120)[1]
    assert again.returncode == 0, said
    assert pd.read_csv(workspace / "out" / "trials.csv")["trial"].tolist() == [0, 1, 2, 3, 4]
    record_property("tried", "a stage with 2 workers killed while both are in a trial")  # type: ignore[operator]


def test_a_space_that_changes_the_loss_is_refused_where_trials_are_pruned_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["tune_detector"] |= {"prune_after_trials": 3, "space": {"min_negatives": {"choices": [8, 24]}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    places = [f"--{name}" for name in ("films", "catalog", "cuts", "feedback", "folds", "out")]
    options = [word for place in places for word in (place, "nowhere")]
    with pytest.raises(BadInputError, match=r"'min_negatives' is searched, .*\nSet prune_after_trials to null"):
        run(monkeypatch, tune_detector, "--fold", "0", *options)


def test_what_a_detector_is_taught_on_and_how_films_are_looked_at_are_searched_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    options = write_sets(tmp_path)[:4]
    places = ["--films", options[1], "--catalog", options[3], "--folds", "folds.csv", "--out", "told"]
    write_table(make_folds(read_table(Path(options[3]) / "films.csv", FILMS), 20), tmp_path / "folds.csv")
    params = yaml.safe_load((ROOT / "pipelines/studies/params.yaml").read_text(encoding="utf-8"))
    kept = {key: params[key] for key in ("dataset", "folds", "predict_detector", "train_detector")}
    kept["train_detector"] |= {"network": {"base": "small", "width": 8}, "pretrained": "none"}
    inputs = {
        "window_px": {"choices": [96, 128]},
        "jitter_px": {"choices": [0, 40]},
        "overlap": {"low": 0, "high": 0.5},
    }
    asked = params["tune_detector_inputs"] | {"trials": 3, "budget_samples": 16, "space": inputs}
    asked["inputs"] = {"window_px": 128, "jitter_px": 40, "overlap": 0.5}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(kept | {"tune_detector_inputs": asked}), encoding="utf-8")
    run(monkeypatch, tune_detector_inputs, "--fold", "0", *places)
    trials = pd.read_csv(tmp_path / "told/trials.csv")
    assert trials.loc[0, ["window_px", "jitter_px", "overlap"]].tolist() == [128, 40, 0.5]
    assert len(trials.drop_duplicates(["window_px", "jitter_px", "overlap"])) == 3
    assert trials["value"].between(0, 1).all()


def test_inputs_change_the_loss_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = yaml.safe_load((ROOT / "pipelines/studies/params.yaml").read_text(encoding="utf-8"))
    params["tune_detector_inputs"] |= {"prune_after_trials": 3, "space": {"overlap": {"low": 0.0, "high": 0.5}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    options = [word for place in ("--films", "--catalog", "--folds", "--out") for word in (place, "nowhere")]
    with pytest.raises(BadInputError, match="'overlap' is searched, and trials are pruned by the inner loss"):
        run(monkeypatch, tune_detector_inputs, "--fold", "0", *options)
