"""G6: a killed run is marked KILLED at the next start, keeps its figures and is never FINISHED."""

import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mammo_ml import tracking
from mammo_ml.tracking import Store, stage_run

TAGS = {"dataset": "phantom", "phantom": True}
# Stands in for a training: an epoch's figures every few milliseconds, and says on stdout which it has logged.
TRAINING = """
import sys, time
from pathlib import Path
from mammo_ml.tracking import stage_run
tags = {"dataset": "phantom", "phantom": True}
with stage_run("train_classifier", int(sys.argv[1]), {}, tags, [], Path(sys.argv[2])) as run:
    with run.trial(0, {"lr": 0.1}) as trial:
        for epoch in range(1, 100_000):
            run.log_metrics({"train_loss": 1 / epoch}, step=epoch)
            trial.log_metrics({"auc": 1 / epoch}, step=epoch)
            print(epoch, flush=True)
            time.sleep(0.005)
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def train(tmp_path: Path) -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    """Start the training of a fold in a process of its own; whatever still runs is ended after the test."""
    processes = []

    def start(fold: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", TRAINING, str(fold), str(tmp_path)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def reach(process: subprocess.Popen[str], epoch: int) -> None:
    """Wait until the training has logged this epoch."""
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= epoch:
            return
    raise AssertionError("the training ended by itself")


def kill(process: subprocess.Popen[str]) -> int:
    """Kill -9 it; returns the last epoch it had said to have logged."""
    process.send_signal(signal.SIGKILL)
    told, _ = process.communicate()
    return max(map(int, told.split()), default=0)


def runs_in(folder: Path, level: str) -> dict[str, Any]:
    """Start anew, then the runs of a level by fold; of several runs of a fold the newest."""
    store = Store(folder)
    query = f"tags.`mammo.level` = '{level}'"
    found = store.client.search_runs([store.experiment("phantom")], query, order_by=["start_time ASC"], max_results=500)
    return {run.data.tags.get("fold", run.info.run_id): run for run in found}


@pytest.mark.bar("G6")
def test_g6_a_training_killed_is_marked_at_the_next_start_and_one_that_lives_is_not(
    tmp_path: Path, train: Callable[[int], subprocess.Popen[str]], record_property: Callable[[str, object], None]
) -> None:
    first, second = train(0), train(1)
    reach(first, 3)
    reach(second, 3)
    last = max(kill(first), 3)

    runs = runs_in(tmp_path, "stage")
    assert (runs["0"].info.status, runs["1"].info.status) == ("KILLED", "RUNNING")
    history = Store(tmp_path).client.get_metric_history(runs["0"].info.run_id, "train_loss")
    assert [(one.step, one.value) for one in history][:last] == [(epoch, 1 / epoch) for epoch in range(1, last + 1)]
    assert sorted(run.info.status for run in runs_in(tmp_path, "trial").values()) == ["KILLED", "RUNNING"]
    (parent,) = runs_in(tmp_path, "pass").values()
    assert parent.info.status == "RUNNING"  # the second training lives

    kill(second)

    assert {run.info.status for run in runs_in(tmp_path, "stage").values()} == {"KILLED"}
    (parent,) = runs_in(tmp_path, "pass").values()
    assert parent.info.status == "KILLED"
    with stage_run("train_classifier", 1, {}, TAGS, [], tmp_path) as run:
        pass
    resumed = runs_in(tmp_path, "stage")["1"]
    assert (resumed.info.run_id, resumed.info.status) == (run.run_id, "FINISHED")
    assert resumed.data.tags["mammo.continues"] == runs["1"].info.run_id
    assert Store(tmp_path).client.get_run(runs["1"].info.run_id).info.status == "KILLED"
    record_property("tried", "2 trainings killed with their trials, one while the other lived")


@pytest.mark.bar("G6")
@pytest.mark.slow
def test_g6_killed_at_random_moments_no_run_stays_running_and_none_is_finished(
    tmp_path: Path, train: Callable[[int], subprocess.Popen[str]], record_property: Callable[[str, object], None]
) -> None:
    Store(tmp_path)
    moments = random.Random(6)
    starting = 0
    for fold in range(12):
        process = train(fold)
        if fold % 2:
            reach(process, 1)
            time.sleep(moments.uniform(0, 0.5))
        else:
            time.sleep(moments.uniform(0.5, 6.0))  # mostly before or while the run is made
        starting += kill(process) == 0 and not fold % 2
        for level in ("pass", "stage", "trial"):
            assert {run.info.status for run in runs_in(tmp_path, level).values()} <= {"KILLED"}, (fold, level)
    assert list((tmp_path / tracking.FOLDER / tracking.RUNNING).iterdir()) == [
        tmp_path / tracking.FOLDER / tracking.RUNNING / Store(tmp_path).process
    ]
    record_property("tried", f"12 kills at random moments, {starting} of them before the first epoch")


@pytest.mark.bar("G6")
def test_g6_the_silent_runs_of_another_host_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    store = Store(tmp_path)
    experiment = store.experiment("phantom")
    here = store.process.replace(f"~{store.process.split('~')[1]}~", "~0~")  # nobody holds the lock of process 0
    elsewhere = here.replace(socket.gethostname(), "another-host")
    status = {}
    for process in (here, elsewhere):
        (tmp_path / tracking.FOLDER / tracking.RUNNING / process).touch()
        status[process] = store.new_run(experiment, "train", {"mammo.level": "stage", tracking.PROCESS: process})
    client = Store(tmp_path).client
    assert client.get_run(status[here]).info.status == "KILLED"
    assert client.get_run(status[elsewhere]).info.status == "RUNNING"
    record_property("tried", "one dead process of this host, one silent process of another")
