import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from mammo_ml import tracking
from mammo_ml.tracking import Store, TrackedData, computed_md5, data_md5, stage_run, store_address

TAGS = {"dataset": "phantom", "phantom": True, "protocol": "by_patient"}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)


def runs_in(folder: Path, level: str) -> list:
    store = Store(tracking.workspace_of(folder))
    experiment = store.experiment("phantom")
    return store.client.search_runs([experiment], f"tags.`mammo.level` = '{level}'")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which two folds ran, one with two trials, and fold 1 ran again and failed."""
    from matplotlib.figure import Figure

    folder = tmp_path_factory.mktemp("workspace")
    (folder / "params.yaml").write_text("train: {lr: 0.1}\n")
    (folder / "cuts").mkdir()
    (folder / "cuts" / "a.txt").write_text("a")
    (folder / "films.csv").write_text("film_id\n")
    (folder / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  cut:\n    cmd: x\n    outs:\n    - {path: cuts, md5: " + "0" * 32 + ".dir}\n"
    )
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    data = [TrackedData(Path("cuts"), "training"), TrackedData(Path("films.csv"))]
    os.environ["MLFLOW_RUN_ID"] = "f" * 32
    with stage_run("tune_classifier", 0, {"optimizer": {"lr": 0.1}}, TAGS, data, folder) as run:
        run.log_metrics({"by_patient": {"auc_macro": 0.75}}, step=3)
        run.log_figure(Figure(), "roc")
        run.log_files([folder / "films.csv"])
        for number in range(2):
            with run.trial(number, {"lr": 10**-number}) as trial:
                trial.log_metrics({"loss": 1.0 / (number + 1)})
    with stage_run("train_classifier", 1, {}, TAGS, [], folder):
        pass
    with (
        pytest.raises(FloatingPointError, match="step 7"),
        stage_run("train_classifier", 1, {}, TAGS, [], folder) as run,
    ):
        raise FloatingPointError("loss is NaN at step 7")
    return folder


def test_a_pass_has_one_parent_and_each_stage_and_fold_a_child(tracked: Path) -> None:
    (parent,) = runs_in(tracked, "pass")
    children = runs_in(tracked, "stage")
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    stages = [child.info.run_name.split(" · ")[0] for child in children]
    assert sorted(stages) == ["train_classifier@1", "train_classifier@1", "tune_classifier@0"]
    assert parent.info.run_name.startswith("pass ")


def test_trials_stand_below_their_stage(tracked: Path) -> None:
    (tune,) = [run for run in runs_in(tracked, "stage") if run.data.tags["stage"] == "tune_classifier"]
    trials = runs_in(tracked, "trial")
    assert sorted(trial.info.run_name for trial in trials) == ["trial 0", "trial 1"]
    assert {trial.data.tags["mlflow.parentRunId"] for trial in trials} == {tune.info.run_id}
    assert {trial.info.status for trial in trials} == {"FINISHED"}


def test_a_stage_started_again_makes_a_new_run_and_an_exception_marks_it_failed(tracked: Path) -> None:
    twice = [run for run in runs_in(tracked, "stage") if run.data.tags["stage"] == "train_classifier"]
    assert sorted(run.info.status for run in twice) == ["FAILED", "FINISHED"]
    assert len({run.info.run_name for run in twice}) == 1


def test_a_run_carries_its_figures_parameters_tags_and_files(tracked: Path) -> None:
    (tune,) = [run for run in runs_in(tracked, "stage") if run.data.tags["stage"] == "tune_classifier"]
    assert tune.data.metrics == {"by_patient.auc_macro": 0.75}
    assert tune.data.params == {"optimizer.lr": "0.1"}
    expected = {"dataset": "phantom", "phantom": "true", "protocol": "by_patient", "fold": "0"}
    assert expected.items() <= tune.data.tags.items()
    assert {"git_commit", "git_dirty"} <= tune.data.tags.keys()
    client = Store(tracked).client
    assert {file.path for file in client.list_artifacts(tune.info.run_id)} == {"figures", "films.csv"}


def test_data_sets_are_inputs_with_the_digest_of_dvc(tracked: Path) -> None:
    (tune,) = [run for run in runs_in(tracked, "stage") if run.data.tags["stage"] == "tune_classifier"]
    inputs = {given.dataset.name.split(" @ ")[0]: given for given in tune.inputs.dataset_inputs}
    assert inputs["cuts"].dataset.digest == "0" * 32 + ".dir"  # as dvc.lock says
    assert inputs["films.csv"].dataset.digest == tracking.computed_md5(tracked / "films.csv")  # not in dvc.lock
    assert inputs["cuts"].dataset.source_type == "dvc"
    assert json.loads(inputs["cuts"].dataset.source)["path"] == "cuts"
    assert {tag.key: tag.value for tag in inputs["cuts"].tags}["mlflow.data.context"] == "training"


def test_the_run_id_that_mlflow_run_exports_is_ignored(tracked: Path) -> None:
    assert "MLFLOW_RUN_ID" not in os.environ
    assert "f" * 32 not in {run.info.run_id for run in runs_in(tracked, "stage")}


def test_nothing_but_the_store_is_made_in_the_workspace(tracked: Path) -> None:
    assert {path.name for path in tracked.iterdir()} == {".mlflow", "params.yaml", "dvc.lock", "cuts", "films.csv"}


def test_the_address_the_user_has_set_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"sqlite:///{tmp_path / 'theirs' / 'runs.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert tracking.store_address(tmp_path / "ours") == address
    assert tracking.artifact_address(tmp_path / "ours", address) == (tmp_path / "theirs" / "artifacts").as_uri()


def test_a_server_decides_itself_where_artifacts_go(tmp_path: Path) -> None:
    assert tracking.artifact_address(tmp_path, "http://127.0.0.1:5000") is None


def test_the_store_lies_in_the_workspace_with_an_absolute_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking.store_address(Path()) == f"sqlite:///{tmp_path.resolve()}/.mlflow/mlflow.db"


def test_a_temporary_experiment_uses_the_store_of_its_project(tmp_path: Path) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "standalone" / "tmpx1y2"
    (copy / ".dvc").mkdir(parents=True)
    assert tracking.workspace_of(copy) == tmp_path.resolve()
    assert tracking.workspace_of(copy / "pipelines" / "studies") == tmp_path.resolve()
    (tmp_path / "pipelines" / "studies").mkdir(parents=True)
    assert tracking.workspace_of(tmp_path / "pipelines" / "studies") == tmp_path.resolve()


def test_two_processes_that_start_on_a_fresh_store_both_record(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mammo_ml.tracking import stage_run\n"
        "with stage_run('train', int(sys.argv[1]), {}, {'dataset': 'phantom'}, [], Path(sys.argv[2])) as run:\n"
        "    run.log_metrics({'loss': 1.0})\n"
        "assert run.recorded\n"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(fold), str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for fold in range(2)
    ]
    told = [process.communicate(timeout=80)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert {run.data.tags["fold"] for run in runs_in(tmp_path, "stage")} == {"0", "1"}
    assert len(runs_in(tmp_path, "pass")) == 1
    with sqlite3.connect(tmp_path / ".mlflow" / "mlflow.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_store_whose_making_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    draft = tmp_path / ".mlflow" / "mlflow.db.draft"
    draft.parent.mkdir()
    with sqlite3.connect(draft) as half_made:
        half_made.execute("CREATE TABLE assessments (id INTEGER)")
    half_made.close()
    experiment = Store(tmp_path).experiment("phantom")
    assert Store(tmp_path).client.get_experiment(experiment).name == "phantom"
    assert not draft.exists()


def test_an_unreachable_store_is_told_and_the_stage_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")  # port 9: discard, nobody listens
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with stage_run("train", 0, {"lr": 1}, {"dataset": "phantom"}, [], tmp_path) as run:
        run.log_metrics({"loss": 1.0})
        with run.trial(0, {"lr": 1}) as trial:
            trial.log_metrics({"loss": 1.0})
    told = capsys.readouterr().err
    assert "WARNING" in told
    assert "stage 'train' goes on without a record" in told
    assert "secret" not in told
    assert not run.recorded


def test_a_store_that_breaks_in_the_middle_costs_the_record_not_the_stage(
    tracked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = False
    with stage_run("cut", None, {}, TAGS, [], tracked) as run:

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(run._store.client, "log_batch", full)
        run.log_metrics({"loss": 1.0})
        run.log_metrics({"loss": 0.5})
        done = True
    assert done
    assert capsys.readouterr().err.count("No space left on device") == 1
    assert Store(tracked).client.get_run(run.run_id).data.tags["mammo.incomplete"] == "true"


def test_an_error_of_the_stage_itself_is_not_swallowed(tracked: Path) -> None:
    with (
        pytest.raises(OSError, match="films are gone"),
        stage_run("cut", None, {}, TAGS, [], tracked),
    ):
        raise OSError("films are gone")


def test_a_folder_hashes_as_dvc_hashes_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "sub" / "a.txt").write_text("a")
    # md5("b") and md5("a") are public; the listing is DVC's own: keys sorted, entries by relpath
    listing = (
        '[{"md5": "92eb5ffee6ae2fec3ad71c777531578f", "relpath": "b.txt"}, '
        '{"md5": "0cc175b9c0f1b6a831c399e269772661", "relpath": "sub/a.txt"}]'
    )
    import hashlib

    assert tracking.computed_md5(tmp_path) == hashlib.md5(listing.encode()).hexdigest() + ".dir"


def test_the_dvc_source_resolves_its_own_addresses_and_survives_json(
    tracked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking.quiet_mlflow()
    from mammo_ml.dvc_dataset_source import DVCDatasetSource

    monkeypatch.chdir(tracked)
    source = DVCDatasetSource._resolve("dvc://films.csv@abc1234")
    assert source.to_dict() == {
        "path": "films.csv",
        "md5": tracking.computed_md5(tracked / "films.csv"),
        "rev": "abc1234",
    }
    assert DVCDatasetSource.from_json(source.to_json()).to_dict() == source.to_dict()
    assert source.load() == Path("films.csv")


def test_phantoms_keep_their_own_store_whatever_address_the_user_has_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    (tmp_path / "params.yaml").write_text("dataset: phantom\n", encoding="utf-8")
    assert store_address(tmp_path).startswith("sqlite:///")
    (tmp_path / "params.yaml").write_text("dataset: mini_mias\n", encoding="utf-8")
    assert store_address(tmp_path) == "http://127.0.0.1:5000"


def test_the_hash_a_stage_had_read_before_it_ran_again_is_not_taken_for_todays(tmp_path: Path) -> None:
    # DVC writes a stage's deps into dvc.lock when it ends: while it runs, those of its last run stand there.
    (tmp_path / "weights").write_text("new", encoding="utf-8")
    stale = "stages: {evaluate: {deps: [{path: weights, md5: 00000000000000000000000000000000}]}}"
    (tmp_path / "dvc.lock").write_text(stale, encoding="utf-8")
    assert data_md5(Path("weights"), tmp_path) == computed_md5(tmp_path / "weights")


@pytest.mark.parametrize(
    ("text", "number"), [("3e-05", 3e-05), ("1E+3", 1000.0), ("-2.5e-7", -2.5e-07), ("0.00003", 3e-05)]
)
def test_a_small_number_is_the_same_in_params_and_as_dvc_writes_it_to_its_lock_file(text: str, number: float) -> None:
    assert tracking.read_dvc_yaml(f"rate: {text}") == {"rate": number}
    assert tracking.read_dvc_yaml("name: 3e-05x") == {"name": "3e-05x"}
