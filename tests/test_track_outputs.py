import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mammo_ml import tracking
from mammo_ml.track_outputs import shown_by, track_outputs
from mammo_ml.tracking import Store, computed_md5, stage_run

# The files of a pipeline without its work: path and content of each stage's outputs, what it reads, its parameters.
FILES = {
    "data/catalog/films.csv": "film_id\nmdb001\nmdb002\n",
    "data/catalog/lesions.csv": "lesion_id\n1\n",
    "data/validate_tables/index.html": "<p>fine</p>",
    "data/validate_tables/validations/films.html": "<p>fine</p>",
    "reports/validate_tables/metrics.json": '{"validation": {"valid": 1.0}}',
    "data/tune_classifier/fold_0/best.json": '{"learning_rate": 0.5}',
    "data/tune_classifier/fold_0/trials.csv": "trial,value,learning_rate\n0,0.6,0.1\n1,0.7,0.5\n",
    "data/predict_classifier/fold_0/films.csv": "film_id\nmdb001\n",
    "data/predict_classifier/fold_0/calibration.json": "{}",
    "data/finalize_classifier/config.json": "{}",
    "data/evaluate_classifier/gallery.png": "a picture",
    "reports/evaluate_classifier/metrics.json": '{"by_patient": {"auc_macro": 0.7, "brier": null}}',
    "reports/evaluate_classifier/predictions.csv": "film_id\nmdb001\n",
}
SPACE = {"learning_rate": {"low": 0.1, "high": 1.0}}
TUNING = {"trials": 2, "budget_samples": 8, "seed": 1, "space": SPACE}
STAGES: dict[str, tuple[list[str], list[str], list[str]]] = {
    "catalog": ([], ["data/catalog"], ["dataset"]),
    "validate_tables": (
        ["data/catalog"],
        ["data/validate_tables", "reports/validate_tables/metrics.json"],
        ["dataset"],
    ),
    "tune_classifier@0": (["data/catalog"], ["data/tune_classifier/fold_0"], ["tune_classifier"]),
    "predict_classifier@0": (["data/catalog"], ["data/predict_classifier/fold_0"], ["predict_classifier"]),
    "evaluate_classifier": (
        ["data/predict_classifier", "data/finalize_classifier"],
        ["data/evaluate_classifier"]
        + [f"reports/evaluate_classifier/{name}" for name in ("metrics.json", "predictions.csv")],
        ["evaluate_classifier"],
    ),
}
PARAMS = {
    "dataset": "phantom",
    "tune_classifier": TUNING,
    "predict_classifier": {"step_px": 128},
    "evaluate_classifier": {"resamples": 10},
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database: MLflow takes seconds to make one."""
    folder = tmp_path_factory.mktemp("schema")
    Store(folder)
    return folder / tracking.FOLDER / "mlflow.db"


@pytest.fixture
def workspace(tmp_path: Path, schema: Path) -> Path:
    """The outputs of a finished pipeline, the dvc.yaml and dvc.lock that tell of them, and an empty store."""
    (tmp_path / tracking.FOLDER).mkdir()
    with sqlite3.connect(schema) as old, sqlite3.connect(tmp_path / tracking.FOLDER / "mlflow.db") as new:
        old.backup(new)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "mammo_ml").mkdir()
    (tmp_path / "mammo_ml" / "code.py").write_text("x = 1\n", encoding="utf-8")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS), encoding="utf-8")
    declared = {
        name.partition("@")[0]: {
            "deps": ["mammo_ml/code.py", *deps],
            "params": params,
            "outs": [out.replace("fold_0", "fold_${item.fold}") for out in outs],
        }
        for name, (deps, outs, params) in STAGES.items()
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": declared}), encoding="utf-8")
    write_lock(tmp_path)
    return tmp_path


def write_lock(folder: Path) -> None:
    """dvc.lock as DVC would write it after all stages have run."""

    def entries(paths: list[str]) -> list[dict[str, str]]:
        return [{"path": path, "md5": computed_md5(folder / path)} for path in paths]

    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    stages = {
        name: {
            "deps": entries(["mammo_ml/code.py", *deps]),
            "params": {"params.yaml": {section: params[section] for section in sections}},
            "outs": entries(outs),
        }
        for name, (deps, outs, sections) in STAGES.items()
    }
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}), encoding="utf-8")


def runs_of(folder: Path, level: str = "stage") -> list[Any]:
    client = Store(folder).client
    return list(
        client.search_runs([client.get_experiment_by_name("phantom").experiment_id], f"tags.`mammo.level` = '{level}'")
    )


def finished(folder: Path) -> list[str]:
    """Names of finished runs of stages, without the hash."""
    return sorted(run.info.run_name.split(" · ")[0] for run in runs_of(folder) if run.info.status == "FINISHED")


def of_stage(folder: Path, name: str) -> Any:
    (found,) = (run for run in runs_of(folder) if run.info.run_name.startswith(f"{name} ·"))
    return found


# --------------------------------------------------------------------------------------------------- what is logged


def test_an_empty_store_gets_a_run_of_every_stage(workspace: Path) -> None:
    said = track_outputs(workspace)

    assert "5 runs were logged from the outputs of the stages" in said
    assert finished(workspace) == sorted(STAGES)
    (parent,) = runs_of(workspace, "pass")
    assert parent.info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in runs_of(workspace)} == {parent.info.run_id}
    for run in runs_of(workspace):
        assert run.data.tags["mammo.rebuilt"] == "true"
        assert "its times are those of the logging" in run.data.tags["mlflow.note.content"]


def test_a_rebuilt_run_shows_figures_parameters_inputs_trials_and_files(workspace: Path) -> None:
    track_outputs(workspace)
    client = Store(workspace).client

    tune = of_stage(workspace, "tune_classifier@0")
    assert tune.data.metrics == {"auc_macro": 0.7, "auc_macro_defaults": 0.6}
    assert tune.data.params["space.learning_rate.low"] == "0.1"
    assert tune.data.tags.items() >= {"fold": "0", "protocol": "by_patient", "phantom": "true"}.items()
    trials = sorted(runs_of(workspace, "trial"), key=lambda run: run.info.run_name)
    assert [(t.info.run_name, t.data.params, t.data.metrics) for t in trials] == [
        ("trial 0", {"learning_rate": "0.1"}, {"auc_macro": 0.6}),
        ("trial 1", {"learning_rate": "0.5"}, {"auc_macro": 0.7}),
    ]
    (given,) = tune.inputs.dataset_inputs
    assert given.dataset.name.startswith("data/catalog @ ")
    assert given.dataset.digest == computed_md5(workspace / "data" / "catalog")
    assert of_stage(workspace, "catalog").data.metrics == {"rows.films": 2, "rows.lesions": 1}
    checked = of_stage(workspace, "validate_tables")
    assert checked.data.metrics == {"validation.valid": 1.0}
    assert [f.path for f in client.list_artifacts(checked.info.run_id)] == ["metrics.json", "validate_tables"]
    judged = of_stage(workspace, "evaluate_classifier")
    files = [file.path for file in client.list_artifacts(judged.info.run_id)]
    assert files == ["gallery.png", "metrics.json", "predictions.csv"]


def test_a_history_is_shown_epoch_by_epoch_with_the_best_one(tmp_path: Path) -> None:
    lines = ["epoch,samples_seen,train_loss,inner_loss,learning_rate"]
    lines += ["1,8,0.9,0.8,0.1", "2,16,0.30000000000000004,0.5,0.1", "3,24,0.2,0.6,0.1"]
    (tmp_path / "history.csv").write_text("\n".join(lines), encoding="utf-8")
    shown = shown_by("train_classifier", [tmp_path])
    assert [epoch for epoch, _ in shown.epochs] == [1, 2, 3]
    assert shown.epochs[1][1] == {"train_loss": 0.30000000000000004, "inner_loss": 0.5, "learning_rate": 0.1}
    assert shown.figures == {"best_epoch": 2}


def test_a_history_without_an_inner_part_keeps_its_last_epoch(tmp_path: Path) -> None:
    lines = ["epoch,samples_seen,train_loss,inner_loss,learning_rate", "1,8,0.9,,0.1", "2,16,0.3,,0.1"]
    (tmp_path / "history.csv").write_text("\n".join(lines), encoding="utf-8")
    assert shown_by("finalize_classifier", [tmp_path]).figures == {"best_epoch": 2}


# ------------------------------------------------------------------------------------------------ what is there already


def test_tracking_again_logs_nothing_and_says_so(workspace: Path) -> None:
    (workspace / "dvc.lock").write_text(without_evaluation(workspace), encoding="utf-8")
    track_outputs(workspace)
    assert track_outputs(workspace) == "MLflow: the store has every run of this pass"
    assert len(runs_of(workspace)) == 4


def without_evaluation(workspace: Path) -> str:
    """dvc.lock of a pipeline that has no model yet."""
    lock = yaml.safe_load((workspace / "dvc.lock").read_text(encoding="utf-8"))
    del lock["stages"]["evaluate_classifier"]
    return str(yaml.safe_dump(lock))


def test_a_live_run_is_known_by_the_same_key_and_name_and_not_logged_again(workspace: Path) -> None:
    lock = workspace / "dvc.lock"
    before = lock.read_bytes()
    lock.unlink()  # DVC writes a stage's entry after the stage
    tags = {"dataset": "phantom", "phantom": True, "protocol": "by_patient"}
    with stage_run("tune_classifier", 0, TUNING, tags, [], workspace) as run:
        run.log_metrics({"auc_macro": 0.7})
    lock.write_bytes(before)

    assert "4 runs were logged" in track_outputs(workspace)
    live = of_stage(workspace, "tune_classifier@0")
    assert live.info.run_id == run.run_id
    entries = {entry.label: entry for entry, _ in tracking.locked_entries(workspace)}
    assert live.data.tags["mammo.stage"] == entries["tune_classifier@0"].key
    assert live.info.run_name == entries["tune_classifier@0"].name
    (given,) = live.inputs.dataset_inputs
    assert given.dataset.name.startswith("data/catalog @ ")


def test_a_run_of_an_earlier_pass_counts_and_changed_code_or_parameters_do_not(workspace: Path) -> None:
    track_outputs(workspace)
    params = {**PARAMS, "predict_classifier": {"step_px": 64}}
    (workspace / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    write_lock(workspace)
    assert "1 run was logged" in track_outputs(workspace)
    assert len(runs_of(workspace, "pass")) == 2

    before = of_stage(workspace, "catalog").info.run_name
    (workspace / "mammo_ml" / "code.py").write_text("x = 2\n", encoding="utf-8")
    write_lock(workspace)
    assert "5 runs were logged" in track_outputs(workspace)
    names = [run.info.run_name for run in runs_of(workspace) if run.data.tags["stage"] == "catalog"]
    assert names == [before, before]  # the same hash: nothing differed but the code


@pytest.mark.parametrize("end", ["FAILED", "KILLED", "incomplete"])
def test_a_run_that_did_not_finish_or_lost_its_store_is_logged_anew(workspace: Path, end: str) -> None:
    track_outputs(workspace)
    run = of_stage(workspace, "catalog")
    client = Store(workspace).client
    if end == "incomplete":
        client.set_tag(run.info.run_id, "mammo.incomplete", "true")
    else:
        client.update_run(run.info.run_id, status=end)
    assert "1 run was logged" in track_outputs(workspace)
    again = [one for one in runs_of(workspace) if one.data.tags["stage"] == "catalog"]
    assert len(again) == 2
    continued = [one.data.tags["mammo.continues"] for one in again if "mammo.continues" in one.data.tags]
    assert continued == ([run.info.run_id] if end == "KILLED" else [])


# ---------------------------------------------------------------------------------------- what cannot be logged is told


def test_outputs_that_are_not_here_are_named_with_the_remedy(workspace: Path) -> None:
    for path in sorted((workspace / "data" / "catalog").iterdir()):
        path.unlink()
    (workspace / "data" / "catalog").rmdir()
    said = track_outputs(workspace)
    assert "not logged, for their outputs are not here (`dvc pull` fetches them): catalog" in said
    assert "catalog" not in finished(workspace)


def test_outputs_that_were_changed_by_hand_are_named_and_not_logged(workspace: Path) -> None:
    (workspace / "data" / "predict_classifier" / "fold_0" / "films.csv").write_text("film_id\n", encoding="utf-8")
    said = track_outputs(workspace)
    assert "predict_classifier@0 is not logged" in said
    assert "data/predict_classifier/fold_0 is not what dvc.lock says" in said
    assert "predict_classifier@0" not in finished(workspace)
    assert "4 runs were logged" in said


@pytest.mark.parametrize("path", ["data/finalize_classifier/config.json", "data/predict_classifier/fold_0/films.csv"])
def test_figures_never_speak_for_a_model_or_predictions_that_have_changed_since(workspace: Path, path: str) -> None:
    (workspace / path).write_text("other", encoding="utf-8")
    said = track_outputs(workspace)
    assert "mammo-classifier is not registered" in said
    assert str(Path(path).parent if "finalize" in path else Path(path).parents[1]) in said
    assert Store(workspace).client.search_model_versions("name = 'mammo-classifier'") == []


def test_a_store_that_cannot_be_reached_is_told_with_what_to_do_and_raises_nothing(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "is_phantom", lambda _: False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")  # port 9: discard, nobody listens
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said = track_outputs(workspace)
    assert "the store at http://me:***@127.0.0.1:9 failed" in said
    assert "run `mammo-ml track` once the store works" in said
    assert "secret" not in said


def test_a_store_that_breaks_in_the_middle_is_completed_by_the_next_start(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    log_batch, calls = MlflowClient.log_batch, 0

    def full_after_three(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise OSError(28, "No space left on device")
        return log_batch(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", full_after_three)
        assert "run `mammo-ml track` once the store works" in track_outputs(workspace)
    assert 0 < len(finished(workspace)) < 5
    track_outputs(workspace)
    assert finished(workspace) == sorted(STAGES)


# -------------------------------------------------------------------------------------------------- kills and rivals


def start(workspace: Path, before: str = "") -> subprocess.Popen[str]:
    """`mammo-ml track` in a process of its own."""
    code = f"from pathlib import Path; import mammo_ml.tracking as tracking\n{before}\n"
    code += f"from mammo_ml.track_outputs import track_outputs; print(track_outputs(Path({str(workspace)!r})))"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_in_the_middle_it_is_completed_by_the_next_start_without_a_stage_twice(workspace: Path) -> None:
    (workspace / "dvc.lock").write_text(without_evaluation(workspace), encoding="utf-8")
    die = (
        "import os; log = tracking.StageRun.log_files\n"
        "def die(run, *paths):\n"
        "    if run.name.startswith('tune_classifier'): os.kill(os.getpid(), 9)\n"
        "    log(run, *paths)\n"
        "tracking.StageRun.log_files = die"
    )
    killed = start(workspace, die)
    killed.communicate(timeout=100)
    assert killed.returncode == -signal.SIGKILL

    said = track_outputs(workspace)

    assert "2 runs were logged" in said
    assert finished(workspace) == ["catalog", "predict_classifier@0", "tune_classifier@0", "validate_tables"]
    (half,) = (run for run in runs_of(workspace) if run.info.status != "FINISHED")
    assert half.info.status == "KILLED"
    (parent,) = runs_of(workspace, "pass")
    assert parent.info.status == "FINISHED"


def test_two_at_once_log_each_stage_once(workspace: Path) -> None:
    (workspace / "dvc.lock").write_text(without_evaluation(workspace), encoding="utf-8")
    both = [start(workspace) for _ in range(2)]
    told = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert finished(workspace) == ["catalog", "predict_classifier@0", "tune_classifier@0", "validate_tables"]
    assert len(runs_of(workspace)) == 4
    assert sorted("every run" in out for out, _ in told) == [False, True]
