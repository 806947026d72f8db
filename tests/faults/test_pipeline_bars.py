"""Bars P1 to P5: the pipeline killed, left alone, out of disk, started twice and fed with too little.

The small bars run on a toy project of two stages that go through the real `stage.main`, the real run and the real DVC;
P1 and what needs trained models run on one small pass of the whole pipeline on phantoms (marked slow).
"""

import contextlib
import hashlib
import json
import os
import queue
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from mammo_ml.errors import BadInputError
from mammo_ml.manifest import write_manifest
from pipelines.stage import check_inputs
from tests.pipelines.command_lines import command_of
from tests.pipelines.least_run import LEAST_RUN

ROOT = Path(__file__).resolve().parents[2]
Record = Callable[[str, object], None]

TOY = {
    "params.yaml": "dataset: phantom\nfolds: [0]\n",
    ".dvc/config": "[core]\n    no_scm = true\n    analytics = false\n",
    "dvc.yaml": """\
stages:
  first:
    cmd: python first.py
    deps: [first.py]
    outs: [first.bin]
  second:
    cmd: python second.py
    deps: [second.py, first.bin]
    outs: [second.bin]
""",
    "first.py": """\
from pathlib import Path
from pipelines import stage

def first():
    Path("first.bin").write_bytes(b"1" * 4_000_000)

stage.main(first)
""",
    # A second of work for each megabyte, unless somebody is in a hurry.
    "second.py": """\
import time
from pathlib import Path
from pipelines import stage

def second():
    with Path("second.bin").open("wb", buffering=0) as file:
        for _ in range(30):
            file.write(b"2" * 100_000)
            if not Path("hurry").exists():
                time.sleep(0.1)

stage.main(second)
""",
    "run.py": """\
import sys
from pathlib import Path
from mammo_ml import pipeline_run, repro
from mammo_ml.errors import MammoError

try:
    pipeline_run.die_with_make()
    with pipeline_run.only_run(Path.cwd()):
        repro.reproduce(Path.cwd(), sys.argv[1:])
except (MammoError, OSError) as error:
    sys.exit(f"{error}")
""",
    "Makefile": "repro:\n\tpython run.py\n",
}
EXPECTED = {"first.bin": b"1" * 4_000_000, "second.bin": b"2" * 3_000_000}
RUN, BARE = ["python", "run.py"], ["python", "-m", "dvc", "repro"]


def environment(**changes: str) -> dict[str, str]:
    left_out = ("MIAS_ARCHIVE", "MLFLOW_TRACKING_URI", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"} | changes


def write_toy(folder: Path) -> Path:
    for name, text in TOY.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "toy")


def start(command: list[str], folder: Path, **changes: str) -> "subprocess.Popen[str]":
    changes = {"PYTHONPATH": str(ROOT), **changes}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(**changes),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(command: list[str], folder: Path, **changes: str) -> tuple[int, str]:
    process = start(command, folder, **changes)
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {seconds} s")


def stages_of(folder: Path) -> list[psutil.Process]:
    """Stage processes of a workspace, zombies not counted."""
    found = []
    for process in psutil.process_iter():
        try:
            at_home = process.environ().get("DVC_ROOT") == str(folder.resolve())
            if at_home and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def script_of(folder: Path) -> psutil.Process:
    """The stage's own process: bash becomes it, dash stays above it."""
    (script,) = (one for one in stages_of(folder) if "python" in one.name())
    return script


def writing(folder: Path) -> Callable[[], bool]:
    return lambda: (folder / "second.bin").exists() and (folder / "second.bin").stat().st_size > 0


def check_toy(folder: Path) -> None:
    for name, content in EXPECTED.items():
        assert (folder / name).read_bytes() == content, name


def above(process: psutil.Process, word: str) -> psutil.Process:
    """The nearest process above a stage whose command holds `word`."""
    return next(one for one in process.parents() if word in " ".join(one.cmdline()))


# ---------------------------------------------------------------------------------------- P2: only the parent is killed

PARENTS = {
    "DVC of a run": (RUN, "-m dvc", signal.SIGKILL),
    "the run": (RUN, "run.py", signal.SIGKILL),
    "DVC without a run": (BARE, "-m dvc", signal.SIGKILL),
    "make": (["make", "repro"], "make repro", signal.SIGKILL),
    "the run, by Ctrl-C": (RUN, "run.py", signal.SIGINT),
    "the run, by SIGTERM": (RUN, "run.py", signal.SIGTERM),
    "the run, by a closed terminal": (RUN, "run.py", signal.SIGHUP),
}


@pytest.mark.bar("P2")
@pytest.mark.parametrize("victim", PARENTS)
def test_p2_a_stage_dies_with_any_process_above_it_and_the_next_run_ends_right(
    toy: Path, victim: str, record_property: Record
) -> None:
    command, word, number = PARENTS[victim]
    process = start(command, toy)
    until(writing(toy), 30, "the stage writes")
    above(script_of(toy), word).send_signal(number)
    begin = time.monotonic()
    until(lambda: not stages_of(toy), 5, f"the stage dies with {victim}")
    took = time.monotonic() - begin
    said, _ = process.communicate(timeout=20)
    record_property("tried", f"{victim} ended while its stage wrote: the stage was gone {took:.1f} s later")

    assert process.returncode != 0
    if number != signal.SIGKILL:
        assert f"stopped by {number.name}. Finished stages are kept" in said
        assert "Traceback" not in said
    (toy / "hurry").touch()
    code, said = finish(RUN, toy)
    assert code == 0, said
    assert "'first' didn't change, skipping" in said
    check_toy(toy)


@pytest.mark.bar("P2")
def test_p2_a_stage_behind_a_shell_that_stays_between_dies_too(toy: Path, record_property: Record) -> None:
    text = (toy / "dvc.yaml").read_text(encoding="utf-8")
    (toy / "dvc.yaml").write_text(text.replace("python second.py", "python second.py && true"), encoding="utf-8")
    process = start(BARE, toy, SHELL="/bin/bash")
    until(writing(toy), 30, "the stage writes")
    shell, stage = sorted(stages_of(toy), key=lambda one: one.pid)
    assert stage.ppid() == shell.pid
    process.kill()
    until(lambda: not stage.is_running(), 5, "the stage dies")
    process.communicate(timeout=20)
    record_property("tried", "1 kill of DVC with a shell left alive between it and its stage")


# ------------------------------------------------------------------------------------------------- P4: two runs at once


@pytest.mark.bar("P4")
@pytest.mark.slow
def test_p4_of_two_runs_at_once_one_is_refused_by_the_others_number(toy: Path, record_property: Record) -> None:
    rounds, slowest = 10, 0.0
    (toy / "second.py").write_text(TOY["second.py"].replace("time.sleep(0.1)", "time.sleep(0.03)"), encoding="utf-8")
    assert finish([*RUN, "first"], toy)[0] == 0
    for number in range(rounds):
        (toy / "second.py").write_text(f"{(toy / 'second.py').read_text(encoding='utf-8')}# {number}\n")
        begin = time.monotonic()
        two = [start(RUN, toy), start(RUN, toy)]
        loser = until(lambda two=two: next((one for one in two if one.poll() is not None), None), 10, "one is refused")
        slowest = max(slowest, time.monotonic() - begin)
        (winner,) = (one for one in two if one is not loser)
        told, said = loser.communicate()[0], winner.communicate(timeout=60)[0]
        assert loser.returncode != 0
        assert f"PID {winner.pid} (run.py)" in told
        assert winner.returncode == 0, said
        check_toy(toy)
    record_property("tried", f"{rounds} pairs of runs at once: each time one refused, after at most {slowest:.1f} s")


@pytest.mark.bar("P4")
def test_p4_a_run_is_refused_beside_a_dvc_that_somebody_started_without_it(toy: Path, record_property: Record) -> None:
    bare = start(BARE, toy)
    until(writing(toy), 30, "the stage writes")
    begin = time.monotonic()
    code, told = finish(RUN, toy)
    took = time.monotonic() - begin
    said, _ = bare.communicate(timeout=60)

    assert code != 0
    assert took < 10
    assert f"PID {bare.pid}" in told
    assert bare.returncode == 0, said
    check_toy(toy)
    record_property("tried", f"1 run beside a bare `dvc repro`: refused after {took:.1f} s")


# ------------------------------------------------------------------------------------------------------ P3: a full disk


@contextlib.contextmanager
def disk_at(folder: Path) -> Iterator[Path]:
    """A disk of 24 MB in place of a folder; needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk_at(tmp_path / "disk") as disk:
        yield disk


def fill(disk: Path, free_kb: int) -> Path:
    """Leave so much of a disk free; returns the file that takes the rest."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - free_kb * 1024)
    return ballast


@pytest.mark.bar("P3")
@pytest.mark.slow
@pytest.mark.may_skip(reason="needs root; the bar is also shown with a limit on file sizes")
def test_p3_a_disk_that_fills_at_any_moment_of_a_run_costs_nothing_that_was_finished(
    small_disk: Path, record_property: Record
) -> None:
    toy = write_toy(small_disk / "toy")
    (toy / "hurry").touch()
    assert finish([*RUN, "first"], toy)[0] == 0
    before = (toy / "dvc.lock").read_bytes()
    # nothing left; enough for locks; for half of the output; for the output and half of its copy in the cache
    rooms = (0, 100, 1500, 2900, 3200, 4500, 5800)
    for room in rooms:
        # what an earlier round left would be removed first and make room
        remove([toy / "second.bin", *toy.glob(".dvc/cache/files/md5/??/.*.tmp")])
        ballast = fill(small_disk, room)
        code, said = finish(RUN, toy)
        assert code != 0, f"{room} kB were enough: {said}"
        assert str(toy) in said or "second.bin" in said, said
        assert "Traceback" not in said
        assert (toy / "first.bin").read_bytes() == EXPECTED["first.bin"]
        assert "second" not in yaml.safe_load((toy / "dvc.lock").read_bytes())["stages"]
        assert list(toy.glob("**/?*.dvc")) == []
        ballast.unlink()
        if room != rooms[-1]:
            (toy / "dvc.lock").write_bytes(before)
    code, said = finish(RUN, toy)
    assert code == 0, said
    check_toy(toy)
    check_cache(toy)
    record_property(
        "tried", f"a disk with {', '.join(map(str, rooms))} kB left before a stage that writes 3000 kB twice"
    )


@pytest.mark.bar("P3")
@pytest.mark.may_skip(reason="needs root; the bar is also shown with a limit on file sizes")
def test_p3_a_full_disk_under_the_cache_leaves_no_entry_that_points_to_nothing(
    toy: Path, small_disk: Path, record_property: Record
) -> None:
    (toy / "hurry").touch()
    (toy / ".dvc" / "cache").symlink_to(small_disk)
    assert finish([*RUN, "first"], toy)[0] == 0
    ballast = fill(small_disk, 1000)
    code, said = finish(RUN, toy)
    assert code != 0
    assert f"The disk of {toy / '.dvc' / 'cache'} is nearly full" in said
    assert "second" not in yaml.safe_load((toy / "dvc.lock").read_bytes())["stages"]
    ballast.unlink()
    assert finish(RUN, toy)[0] == 0
    check_toy(toy)
    check_cache(toy)
    record_property("tried", "a cache on a disk of its own that fills while an output is taken in")


@pytest.mark.bar("P3")
def test_p3_an_entry_of_dvc_lock_that_points_to_nothing_is_noticed_and_made_again(
    toy: Path, record_property: Record
) -> None:
    (toy / "hurry").touch()
    assert finish(RUN, toy)[0] == 0
    md5 = yaml.safe_load((toy / "dvc.lock").read_bytes())["stages"]["second"]["outs"][0]["md5"]
    (toy / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]).unlink()
    code, said = finish(RUN, toy)
    assert code == 0, said
    assert "Running stage 'second'" in said
    check_toy(toy)
    check_cache(toy)
    record_property("tried", "1 object of the cache deleted under its entry in dvc.lock")


def check_cache(folder: Path) -> None:
    """Every object that dvc.lock names is in the cache, and every object there has the bytes of its name.

    Reports are declared `cache: false`: they are in git, not in the cache.
    """
    cache = folder / ".dvc" / "cache" / "files" / "md5"
    for path in cache.glob("??/*"):
        assert hashlib.md5(path.read_bytes()).hexdigest() == path.parent.name + path.name.removesuffix(".dir"), path
    uncached = {}
    for stage in yaml.safe_load((folder / "dvc.lock").read_bytes())["stages"].values():
        for out in stage["outs"]:
            in_git = out["path"].startswith("reports/")  # cache: false in dvc.yaml
            if not in_git and not (cache / out["md5"][:2] / out["md5"][2:]).is_file():
                uncached[out["path"]] = out["md5"]
    assert uncached == {}


# ---------------------------------------------------------------------------------- real stages, each on its own inputs

CHANGES = LEAST_RUN | {
    "folds": [0],
    "train_classifier.training.threads": 1,
    "train_detector.training.threads": 1,
}
VALID = json.dumps({"validation": {"valid": 1.0}}) + "\n"


def stage_of(workspace: Path, name: str, file_bytes: int | None = None) -> tuple[int, str]:
    """Run one stage's command of dvc.yaml as DVC would, without DVC; `file_bytes` limits the size of any file."""
    stages = yaml.safe_load((workspace / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    fold = "@0" if "matrix" in stages[name] else ""

    def limit() -> None:
        if file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    finished = subprocess.run(
        command_of(workspace, name),
        cwd=workspace,
        env=environment(DVC_STAGE=f"{name}{fold}", DVC_ROOT=str(workspace), **own_home(workspace)),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=limit,
        check=False,
    )
    return finished.returncode, finished.stdout


def outputs_of(workspace: Path, name: str) -> list[Path]:
    stage = yaml.safe_load((workspace / "dvc.yaml").read_text(encoding="utf-8"))["stages"][name]
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    paths = [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]
    return [workspace / path.replace("${item.fold}", "0") for path in paths]


def remove(paths: list[Path]) -> None:
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def hashes(workspace: Path, *folders: str) -> dict[str, str]:
    files = (path for folder in folders for path in sorted((workspace / folder).rglob("*")) if path.is_file())
    return {path.relative_to(workspace).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with 40 phantom films and their catalog; the reports of the checks are planted."""
    from mammo_ml.repro import make_phantom_workspace

    workspace = tmp_path_factory.mktemp("small") / "workspace"
    make_phantom_workspace(ROOT, workspace, CHANGES)
    for name in ("ingest", "catalog"):
        code, said = stage_of(workspace, name)
        assert code == 0, said
    plant_reports(workspace, VALID)
    return workspace


def plant_reports(workspace: Path, text: str) -> None:
    for name in ("validate_tables", "validate_cuts"):
        (workspace / "reports" / name).mkdir(parents=True, exist_ok=True)
        (workspace / "reports" / name / "metrics.json").write_text(text, encoding="utf-8")


@pytest.mark.bar("P3")
@pytest.mark.parametrize("name", ["ingest", "catalog", "split"])
def test_p3_a_stage_that_cannot_write_names_what_and_where_and_changes_nothing_else(
    small: Path, tmp_path: Path, name: str, record_property: Record
) -> None:
    workspace = shutil.copytree(small, tmp_path / "workspace")
    whole = hashes(workspace, "data", "reports")
    outputs = outputs_of(workspace, name)
    remove(outputs)
    before = hashes(workspace, "data", "reports")
    for size in (0,) if name == "ingest" else (0, 1):
        code, said = stage_of(workspace, name, file_bytes=size)
        assert code == 1
        assert "could not be written: File too large" in said
        assert any(path.relative_to(workspace).as_posix() in said for path in outputs)
        assert "MB free in" in said
        assert "Traceback" not in said
        remove(outputs)
        assert hashes(workspace, "data", "reports") == before, "something else than the output was changed"
    assert stage_of(workspace, name)[0] == 0
    after = hashes(workspace, "data", "reports")
    assert {path: after[path] for path in whole} == whole
    record_property("tried", f"{name} with files limited to a byte or none")


@pytest.mark.bar("P3")
@pytest.mark.may_skip(reason="needs strace")
def test_p3_the_disk_may_fill_at_any_write_of_a_stage(small: Path, tmp_path: Path, record_property: Record) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    workspace = shutil.copytree(small, tmp_path / "workspace")
    command = ["python", "-m", "pipelines.catalog", "--films", "data/ingest", "--out", "data/catalog"]
    tables = [workspace / "data" / "catalog" / name for name in ("films.csv", "lesions.csv")]
    expected = [path.read_bytes() for path in tables]
    for k in range(1, 20):
        remove(tables)
        inject = ["strace", "-f", "-qq", "-o", "/dev/null", *(word for path in tables for word in ("-P", str(path)))]
        inject += ["-e", "trace=write", "-e", f"inject=write:error=ENOSPC:when={k}+"]
        code, said = finish([*inject, *command], workspace, DVC_STAGE="catalog", PYTHONPATH="")
        if code == 0:
            break
        assert "data/catalog could not be written: No space left on device" in said
        assert "Traceback" not in said
    assert k > 2, "no write was hit"
    assert [path.read_bytes() for path in tables] == expected
    record_property("tried", f"ENOSPC from the k-th write on, k = 1 to {k - 1}, of catalog")


# --------------------------------------------------------------------------- P5: a stage that ends well with too little


@pytest.mark.bar("P5")
def test_p5_films_missing_from_an_ingest_that_ended_well_stop_the_catalog(
    small: Path, tmp_path: Path, record_property: Record
) -> None:
    workspace = shutil.copytree(small, tmp_path / "workspace")
    gone = ["mdb003", "mdb017", "mdb040"]
    remove([workspace / "data" / "ingest" / f"{film}.pgm" for film in gone])
    code, said = stage_of(workspace, "catalog")
    assert code == 1
    assert [film for film in gone if film not in said] == []
    code, said = stage_of(workspace, "cut")
    assert code == 1
    assert [film for film in gone if f"{film}.pgm is missing" not in said] == []
    record_property("tried", "37 of 40 films: catalog and cut refuse, each naming the 3")


@pytest.mark.bar("P5")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("{}\n", "holds no figures"),
        ("{", "holds no figures"),
        ("[]", "holds no figures"),
        ('{"validation": {}}', "holds no figures"),
        ('{"validation": {"valid": null}}', "holds no figures"),
        ('{"validation": {"valid": 1.0, "rows": NaN}}', "holds no number for validation.rows"),
        ('{"validation": {"valid": 0.0}}', "does not say that the data are valid"),
        ('{"annotation_check": {"brighter": 0.9}}', "does not say that the data are valid"),
    ],
)
def test_p5_a_report_of_the_checks_that_says_nothing_is_refused(
    tmp_path: Path, text: str, told: str, record_property: Record
) -> None:
    report = tmp_path / "metrics.json"
    report.write_text(VALID, encoding="utf-8")
    check_inputs([report])
    report.write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError) as error:
        check_inputs([report])
    assert f"metrics.json {told}" in str(error.value)
    record_property("tried", f"a report that holds {text!r}")


@pytest.mark.bar("P5")
def test_p5_an_empty_report_table_or_folder_stops_what_follows(
    small: Path, tmp_path: Path, record_property: Record
) -> None:
    workspace = tmp_path / "workspace"
    shutil.copytree(small, workspace, ignore=shutil.ignore_patterns("*.pgm"))
    table = workspace / "data" / "catalog" / "films.csv"
    plant_reports(workspace, "")
    code, said = stage_of(workspace, "split")
    assert code == 1
    assert "reports/validate_tables/metrics.json is empty" in said
    plant_reports(workspace, VALID)
    table.write_text("", encoding="utf-8")
    code, said = stage_of(workspace, "split")
    assert code == 1
    assert "data/catalog holds empty files: films.csv" in said
    assert "Traceback" not in said
    remove([table, table.with_name("lesions.csv")])
    code, said = stage_of(workspace, "split")
    assert "data/catalog is empty" in said
    assert code == 1
    record_property("tried", "an empty report, films.csv of 0 bytes, and a catalog without files")


@pytest.mark.bar("P5")
@pytest.mark.slow
@pytest.mark.films
def test_p5_300_of_322_films_are_refused_whoever_left_them_out(
    tmp_path: Path, copy_project: Callable[[Path], Path], record_property: Record
) -> None:
    archive = os.environ.get("MIAS_ARCHIVE")
    if not archive:
        pytest.skip("MIAS_ARCHIVE is not set")
    project = copy_project(tmp_path / "project")
    films = project / "data" / "ingest"
    films.mkdir(parents=True)
    subprocess.run(["tar", "-xzf", archive, "-C", films], check=True)
    write_manifest(films)
    gone = [f"mdb{number:03d}" for number in range(301, 323)]
    remove([films / f"{film}.pgm" for film in gone])
    code, said = stage_of(project, "catalog")
    assert code == 1
    assert [film for film in gone if f"{film}.pgm is missing" not in said] == []

    write_manifest(films)
    code, said = stage_of(project, "catalog")
    assert code == 1
    assert [film for film in gone if f"{film} has a row but no film" not in said] == []

    info = films / "Info.txt"
    rows = info.read_text(encoding="ascii").splitlines(keepends=True)
    info.write_text("".join(row for row in rows if not row.startswith(tuple(gone))), encoding="ascii")
    write_manifest(films)
    code, said = stage_of(project, "catalog")
    assert code == 0, said
    code, said = stage_of(project, "validate_tables")
    assert code == 1
    assert "mini-MIAS has 322 films" in said
    assert "300" in said
    record_property(
        "tried", "300 of the 322 real films; their manifest, then their rows of Info.txt, left out with them"
    )


# ------------------------------------------------------------------------------- the whole pipeline, on phantoms (slow)


@dataclass(frozen=True)
class Reference:
    """An uninterrupted pass: its project and workspace, and seconds from "Running stage" to the next, by stage."""

    project: Path
    workspace: Path
    seconds: dict[str, float]


RUNNING = re.compile(r"Running stage '([^']+)'")


def repro(project: Path, name: str) -> list[str]:
    settings = [word for key, value in CHANGES.items() for word in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "mammo_ml.cli", "repro", "--phantom", "--workspace", f"build/{name}", *settings]


def own_home(project: Path) -> dict[str, str]:
    """Variables that keep a run away from this user's signing key and from the package in this folder."""
    return {"XDG_CONFIG_HOME": str(project.parent), "PYTHONPATH": ""}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, copy_project: Callable[[Path], Path]) -> Reference:
    project = copy_project(tmp_path_factory.mktemp("reference") / "project")
    process = start(repro(project, "reference"), project, **own_home(project))
    assert process.stdout is not None
    said, begun = [], []
    for line in process.stdout:
        said.append(line)
        if found := RUNNING.search(line):
            begun.append((found[1], time.monotonic()))
    assert process.wait() == 0, "".join(said[-60:])
    assert "Total time: " in said[-1]
    ends = [moment for _, moment in begun[1:]] + [time.monotonic()]
    seconds = {name: end - moment for (name, moment), end in zip(begun, ends, strict=True)}
    print(f"\nuninterrupted: {sum(seconds.values()):.0f} s:", {name: round(took, 1) for name, took in seconds.items()})
    return Reference(project, project / "build" / "reference", seconds)


def kill_everything(process: "subprocess.Popen[str]") -> int:
    """kill -9 of a run, its DVC and its stage as near to at once as can be; returns how many there were."""
    try:
        group = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for action in ("suspend", "kill"):
        for one in group:
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(one, action)()
    process.wait()
    return len(group)


def kill_in(project: Path, stage: str, delay: float) -> tuple[bool, str]:
    """Start a run and kill it `delay` seconds after it began a stage, or when it begins the next one.

    Returns whether it still lived, and what it said.
    """
    process = start(repro(project, "killed"), project, **own_home(project))
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: [*map(lines.put, process.stdout or ()), lines.put("")], daemon=True).start()
    said, end = [], float("inf")
    with contextlib.suppress(queue.Empty):
        while line := lines.get(timeout=min(max(end - time.monotonic(), 0.0), 300.0)):
            said.append(line)
            if found := RUNNING.search(line):
                if end < float("inf"):
                    break
                end = time.monotonic() + delay if found[1] == stage else end
    assert end < float("inf"), f"no stage {stage} began: {''.join(said[-30:])}"
    return kill_everything(process) > 1, "".join(said)


def plant(workspace: Path, number: int, generator: random.Random) -> tuple[str, str]:
    """Leave what a kill has been seen to leave; returns what it is, and what the next run must say of it."""
    rwlock, lock = workspace / ".dvc" / "tmp" / "rwlock", workspace / "dvc.lock"
    match number % 5:
        case 0:
            rwlock.write_text("", encoding="utf-8")
            return "an empty rwlock", "removed a broken .dvc/tmp/rwlock"
        case 1:
            rwlock.write_bytes(generator.randbytes(40))
            return "a garbage rwlock", "removed a broken .dvc/tmp/rwlock"
        case 2 if lock.exists():
            lock.write_bytes(b"")
            return "an empty dvc.lock", "dvc.lock was torn"
        case 3 if lock.exists():
            text = lock.read_bytes()
            if len(text) < 40:  # the kill has torn it already
                lock.write_bytes(b"")
                return "an empty dvc.lock", "dvc.lock was torn"
            cut = generator.randrange(20, len(text) - 1)
            lock.write_bytes(text[: cut - 1 if text[cut - 1] == ord("\n") else cut])
            return f"dvc.lock cut after {cut} bytes", "dvc.lock was torn"
        case _:
            return "", ""


@pytest.mark.bar("P1")
@pytest.mark.slow
def test_p1_a_pipeline_killed_in_every_stage_ends_byte_equal_without_a_hand(
    reference: Reference, record_property: Record
) -> None:
    seed = 20261122
    generator = random.Random(seed)
    workspace = reference.workspace.with_name("killed")
    # some at the moment a stage begins, when DVC removes outputs and writes its files, then one in every stage
    at_once = generator.sample(list(reference.seconds), 6)
    done, expected, planted = 0, "", []
    for number, (stage, took) in enumerate(reference.seconds.items()):
        delays = [generator.uniform(0.05, 0.9) * took]
        for delay in [generator.uniform(0.0, 0.1)] * (stage in at_once) + delays:
            lived, said = kill_in(reference.project, stage, delay)
            done += lived
            assert expected in said, f"nothing said of it: {planted[-1]}\n{said}"
            what, expected = plant(workspace, number, generator) if delay in delays else ("", "")
            planted += [what] if what else []
            print(f"kill in {stage} after {delay:.2f} s{f', then {what}' if what else ''}", flush=True)
    code, said = finish(repro(reference.project, "killed"), reference.project, **own_home(reference.project))
    assert code == 0, said[-6000:]
    assert expected in said
    assert "store works" not in said  # MLflow's store survived too
    assert done >= 20
    record_property(
        "tried",
        f"{done} kills of the whole group over all {len(reference.seconds)} stages (seed {seed}), "
        f"{len(planted)} planted: {', '.join(planted)}",
    )

    for name in ("data", "reports"):
        assert hashes(workspace, name) == hashes(reference.workspace, name)
    assert (workspace / "dvc.lock").read_bytes() == (reference.workspace / "dvc.lock").read_bytes()
    check_cache(workspace)
    assert stages_of(workspace) == []
    code, said = finish(repro(reference.project, "killed"), reference.project, **own_home(reference.project))
    assert code == 0, said
    assert "Data and pipelines are up to date." in said


@pytest.fixture
def finished(reference: Reference, tmp_path: Path) -> Path:
    """A copy of the uninterrupted workspace, without what the run cache would restore."""
    workspace = shutil.copytree(reference.workspace, tmp_path / "workspace", symlinks=True)
    shutil.rmtree(workspace / ".dvc" / "cache" / "runs")
    return workspace


@pytest.mark.bar("P3")
@pytest.mark.slow
def test_p3_no_stage_hides_that_it_could_not_write(finished: Path, record_property: Record) -> None:
    stages = list(yaml.safe_load((finished / "dvc.yaml").read_text(encoding="utf-8"))["stages"])
    expected = hashes(finished, "data", "reports")
    for name in stages:
        outputs = outputs_of(finished, name)
        kept = finished.with_name("kept")
        for number, path in enumerate(outputs):
            (kept / str(number)).parent.mkdir(exist_ok=True)
            path.rename(kept / str(number))
        before = hashes(finished, "data", "reports")
        code, said = stage_of(finished, name, file_bytes=32)
        assert code == 1, f"{name}: {said[-3000:]}"
        assert re.search(r"^\S.* (cannot|could not) be (read or )?written.*: \w", said, re.MULTILINE), (
            f"{name}: {said[-3000:]}"
        )
        assert "Traceback" not in said, f"{name}: {said[-3000:]}"
        remove(outputs)
        assert hashes(finished, "data", "reports") == before, f"{name} changed something else than its outputs"
        for number, path in enumerate(outputs):
            path.parent.mkdir(parents=True, exist_ok=True)
            (kept / str(number)).rename(path)
    assert hashes(finished, "data", "reports") == expected
    record_property("tried", f"all {len(stages)} stages with files limited to 32 bytes")


@pytest.mark.bar("P3")
@pytest.mark.slow
@pytest.mark.may_skip(reason="needs root; the bar is also shown with a limit on file sizes")
def test_p3_a_stage_on_a_full_disk_is_made_again_with_the_same_bytes(finished: Path, record_property: Record) -> None:
    expected = hashes(finished, "data", "reports")
    whole = yaml.safe_load((finished / "dvc.lock").read_bytes())
    (finished / "run.py").write_text(TOY["run.py"], encoding="utf-8")
    names = {"cut": "data/cut", "train_classifier@0": "data/train_classifier"}
    for name, folder in names.items():
        run = [sys.executable, "run.py", name]
        before = {**whole, "stages": {key: value for key, value in whole["stages"].items() if key != name}}
        (finished / "dvc.lock").write_text(yaml.safe_dump(before), encoding="utf-8")
        shutil.rmtree(finished / folder)
        with disk_at(finished / folder) as disk:
            fill(disk, 50)
            code, said = finish(run, finished, PYTHONPATH=str(finished))
            assert code != 0
            assert f"{folder}/" in said
            # numpy says how much it could write instead
            assert re.search(r"No space left on device|requested and \d+ written", said), said
            assert "Traceback" not in said
        untouched = {path: value for path, value in expected.items() if not path.startswith(f"{folder}/")}
        assert hashes(finished, "data", "reports") == untouched
        assert yaml.safe_load((finished / "dvc.lock").read_bytes()) == before
        code, said = finish(run, finished, PYTHONPATH=str(finished))
        assert code == 0, said
        assert f"Running stage '{name}'" in said
        assert yaml.safe_load((finished / "dvc.lock").read_bytes()) == whole
    assert hashes(finished, "data", "reports") == expected
    check_cache(finished)
    record_property("tried", f"a full disk under the outputs of {' and '.join(names)}")


@pytest.mark.bar("P5")
@pytest.mark.slow
def test_p5_predictions_that_are_too_few_stop_the_evaluation(finished: Path, record_property: Record) -> None:
    for kind, table in (("classifier", "patches.csv"), ("detector", "films_seen.csv")):
        path = finished / "data" / f"predict_{kind}" / "fold_0" / table
        whole = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(whole[:-2]), encoding="utf-8")
        code, said = stage_of(finished, f"evaluate_{kind}")
        assert code == 1, f"{kind}: {said[-3000:]}"
        assert f"predict_{kind}" in said
        assert "Traceback" not in said
    record_property("tried", "predictions of both models with 2 rows left out")
