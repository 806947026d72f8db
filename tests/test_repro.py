import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mammo_ml import repro
from mammo_ml.cli import app
from mammo_ml.datasets.mini_mias import DATASET
from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.splits import N_FOLDS
from pipelines import ingest, stage

CopyProject = Callable[[Path], Path]


@pytest.fixture
def project(tmp_path: Path, copy_project: CopyProject) -> Path:
    return copy_project(tmp_path / "project")


def git_status(project: Path) -> str:
    command = ["git", "status", "--porcelain", "--untracked-files=all"]
    return subprocess.run(command, cwd=project, check=True, capture_output=True, text=True).stdout


def parameters_of(workspace: Path) -> dict[str, object]:
    return dict(yaml.safe_load((workspace / "params.yaml").read_text(encoding="utf-8")))


def test_an_archive_that_is_not_there_is_an_error_and_no_reason_for_phantoms(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = str(tmp_path / "all-mias.tar.gz")
    monkeypatch.setenv("MIAS_ARCHIVE", missing)
    monkeypatch.chdir(project)

    with pytest.raises(MammoError, match="is not a file") as error:
        repro.films_at_hand(tmp_path)
    command = CliRunner().invoke(app, ["repro"])

    assert missing in str(error.value)
    assert command.exit_code == 1
    assert missing in command.output
    assert git_status(project) == ""


def test_films_that_are_ingested_need_neither_archive_nor_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MIAS_ARCHIVE", raising=False)
    monkeypatch.setattr(repro, "_reachable", lambda url: False)

    assert not repro.films_at_hand(tmp_path)
    (tmp_path / "data" / "ingest").mkdir(parents=True)
    (tmp_path / "data" / "ingest" / "Info.txt").write_text("mdb001 G NORM\n", encoding="utf-8")
    assert repro.films_at_hand(tmp_path)


def test_a_phantom_workspace_is_a_copy_of_the_pipeline_that_leaves_the_project_alone(project: Path) -> None:
    workspace = project / "build" / "phantom"
    repro.make_phantom_workspace(project, workspace, {"ingest.women": 21, "train_classifier.training.seed": 7})

    for name in ("dvc.yaml", "mammo_ml/splits.py", "mammo_ml/datasets/catalog.py", "pipelines/split.py"):
        assert (workspace / name).read_bytes() == (project / name).read_bytes()
    expected = parameters_of(project)
    changes = repro.PHANTOM_CHANGES | {"ingest.women": 21, "train_classifier.training.seed": 7}
    assert (changes["dataset"], changes["folds"]) == ("phantom", [0, 1])
    for key, value in changes.items():
        *sections, last = key.split(".")
        place: Any = expected
        for section in sections:
            place = place[section]
        place[last] = value
    assert parameters_of(workspace) == expected
    assert (workspace / ".dvc" / "config").is_file()
    assert git_status(project) == ""


def test_a_module_deleted_in_the_project_disappears_from_the_workspace_and_results_stay(
    project: Path, tmp_path: Path
) -> None:
    gone = project / "mammo_ml" / "datasets" / "old_set.py"
    gone.write_text("", encoding="utf-8")
    workspace = tmp_path / "workspace"
    repro.make_phantom_workspace(project, workspace)
    copied = workspace / "mammo_ml" / "datasets" / "old_set.py"
    assert copied.is_file()
    kept = workspace / "data" / "ingest" / "mdb001.pgm"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"a film")

    gone.unlink()
    repro.make_phantom_workspace(project, workspace)

    assert not copied.exists()
    assert kept.read_bytes() == b"a film"


@pytest.mark.parametrize("key", ["ingest.wimmin", "nonsense.seed", "seed", "dataset.name"])
def test_a_key_that_params_yaml_does_not_have_is_refused_before_anything_is_written(
    project: Path, tmp_path: Path, key: str
) -> None:
    with pytest.raises(MammoError, match=f"no key '{key}'"):
        repro.make_phantom_workspace(project, tmp_path / "workspace", {key: 1})
    assert not (tmp_path / "workspace").exists()


def test_a_folder_that_holds_something_else_is_never_made_a_phantom_workspace(project: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "mammo_ml" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("do not lose this", encoding="utf-8")

    for place in (tmp_path / "mine", project):
        with pytest.raises(MammoError, match="in use"):
            repro.make_phantom_workspace(project, place)

    assert mine.read_text(encoding="utf-8") == "do not lose this"
    assert git_status(project) == ""


def test_without_films_and_network_dvc_repro_stops_at_ingest_and_says_what_to_do(project: Path) -> None:
    nowhere = "http://127.0.0.1:9"  # the discard port: nobody listens there
    environment = {name: value for name, value in os.environ.items() if name not in ("MIAS_ARCHIVE", "PYTHONPATH")}
    environment |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), nowhere)
    environment |= {"no_proxy": "", "NO_PROXY": ""}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])

    finished = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "ingest"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    told = finished.stdout + finished.stderr
    assert finished.returncode != 0
    assert "MIAS_ARCHIVE" in told
    assert "`make repro`" in told
    assert "failed to reproduce 'ingest'" in told
    assert "Traceback" not in told
    assert not (project / "data" / "ingest").exists()


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("dataset: mini_mias", "dataset: mini_mais", "key 'dataset': expected mini_mias, found 'mini_mais'"),
        ("dataset: mini_mias", "dataset: phantom", "phantoms have `make phantom`"),
        ("  - 4\n", "  - 7\n", "key 'folds': expected different whole numbers from 0 to 4"),
    ],
)
def test_a_wrong_data_set_or_fold_stops_before_anything_runs(project: Path, before: str, after: str, told: str) -> None:
    params = project / "params.yaml"
    params.write_text(params.read_text(encoding="utf-8").replace(before, after, 1), encoding="utf-8")
    with pytest.raises(BadInputError) as error:
        repro.check_parameters(project)
    assert told in str(error.value)
    assert "params.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("dataset: mini_mais\nfolds: [0]\n", "key 'dataset': expected mini_mias or phantom, found 'mini_mais'"),
        (
            "dataset: phantom\nfolds: [0, 7]\n",
            "key 'folds': expected different whole numbers from 0 to 4, found [0, 7]",
        ),
        ("dataset: phantom\nfolds: [1, 1]\n", "found [1, 1]"),
        ("dataset: phantom\nfolds: 3\n", "found 3"),
        ("dataset: phantom\nfolds: []\n", "found []"),
        ("folds: [0]\n", "found None"),
    ],
)
def test_a_bare_dvc_repro_checks_data_set_and_folds_in_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    for read in (stage.dataset, stage.folds):
        with pytest.raises(BadInputError, match=re.escape(told)):
            read()
    with pytest.raises(SystemExit, match=re.escape(told)):
        stage.main(lambda: pytest.fail("the stage ran"))


def test_stages_know_the_same_data_sets_and_folds_as_the_package() -> None:
    assert stage.DATASETS == (DATASET, repro.PHANTOM)
    assert stage.N_FOLDS == N_FOLDS


def test_a_workspace_that_a_kill_left_half_made_is_made_whole(project: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    (workspace / ".state").mkdir(parents=True)
    (workspace / ".state" / "repro.lock").write_text("PID 1 (mammo-ml repro)", encoding="utf-8")
    (workspace / "params.yaml.draft").write_text("data", encoding="utf-8")

    repro.make_phantom_workspace(project, workspace)

    assert parameters_of(workspace)["dataset"] == "phantom"
    (workspace / ".dvc" / "config").unlink()
    repro.make_phantom_workspace(project, workspace)
    assert "no_scm = true" in (workspace / ".dvc" / "config").read_text(encoding="utf-8")
    assert not (workspace / "params.yaml.draft").exists()


def test_a_repro_tells_what_it_mended_records_the_outputs_and_ends_with_the_total_time(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = project / "build" / "phantom"
    (workspace / ".dvc" / "tmp").mkdir(parents=True)
    repro.make_phantom_workspace(project, tmp := project / "build" / "made")
    shutil.copytree(tmp, workspace, dirs_exist_ok=True)
    (workspace / ".dvc" / "tmp" / "rwlock").write_text("", encoding="utf-8")
    monkeypatch.chdir(project)
    monkeypatch.setattr("mammo_ml.pipeline_run.run_dvc", lambda arguments, folder: print(arguments, folder) or 0)
    monkeypatch.setattr("mammo_ml.track_outputs.track_outputs", lambda folder: f"tracked {folder}")

    done = CliRunner().invoke(app, ["repro", "--phantom", "ingest"])

    assert done.exit_code == 0, done.output
    order = [
        "recovered: removed a broken .dvc/tmp/rwlock",
        "['repro', 'ingest']",
        f"tracked {workspace}",
        "Total time: 0",
    ]
    assert sorted(order, key=done.output.index) == order
    tracked = CliRunner().invoke(app, ["track", "--workspace", str(workspace)])
    assert tracked.output == f"tracked {workspace}\n"


@pytest.mark.parametrize(("code", "told"), [(255, "dvc repro ended with 255"), (-9, "dvc repro was killed by SIGKILL")])
def test_a_failed_stage_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, told: str
) -> None:
    monkeypatch.setattr("mammo_ml.pipeline_run.run_dvc", lambda arguments, folder: code)
    monkeypatch.setattr("mammo_ml.cache_check.damaged_outputs", lambda folder: [])
    with pytest.raises(MammoError, match=told) as error:
        repro.reproduce(tmp_path, [])
    assert "run the same command again to go on" in str(error.value)


def test_an_output_that_was_damaged_unnoticed_stops_the_run_before_any_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr("mammo_ml.pipeline_run.run_dvc", lambda arguments, folder: started.append(arguments) or 0)
    monkeypatch.setattr("mammo_ml.cache_check.damaged_outputs", lambda folder: ["data/ingest/mdb001.pgm: md5 differs"])
    with pytest.raises(BadInputError, match=r"mdb001\.pgm: md5 differs") as error:
        repro.reproduce(tmp_path, [])
    assert "dvc pull" in str(error.value)
    assert started == []


def test_the_bar_of_the_download_shows_its_share_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def download(source: str | None, cache: Path, report: Callable[[int, int | None], None]) -> Path:
        for received in (0, 25_000_000, 50_000_000, 100_000_000):
            report(received, 100_000_000)
            time.sleep(0.3)
        return cache

    (tmp_path / "params.yaml").write_text("dataset: mini_mias\nfolds: [0]\ningest: {women: 20}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ingest", "--films", "data/ingest"])
    monkeypatch.setattr("mammo_ml.datasets.mini_mias_archive.obtain_archive", download)
    monkeypatch.setattr(
        "mammo_ml.datasets.mini_mias_archive.unpack", lambda archive, out, known: out.mkdir(parents=True)
    )
    ingest.ingest()
    shown = capsys.readouterr().err
    assert "100%" in shown
    assert "100M/100M" in shown


@pytest.mark.parametrize("option", [["--set", "ingest.seed=2"], ["--workspace", "elsewhere"]])
def test_what_is_for_phantoms_is_refused_where_real_films_run(
    option: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[1])
    monkeypatch.setattr("mammo_ml.repro.films_at_hand", lambda root: True)
    monkeypatch.setattr("mammo_ml.repro.reproduce", lambda *_: pytest.fail("the pipeline was run"))
    answer = CliRunner().invoke(app, ["repro", *option])
    assert answer.exit_code == 1
    assert f"{option[0]} is for phantoms" in answer.output


def test_outside_the_project_the_message_says_where_to_go(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="Run this in the project's folder"):
        repro.check_parameters(tmp_path)
