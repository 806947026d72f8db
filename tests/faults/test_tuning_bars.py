"""U1 to U3: workers that start at once, workers that die, stores that are torn; the studies go on and lose nothing."""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from mammo_ml import studies
from mammo_ml.errors import MammoError
from mammo_ml.tuning import Range, TuningParameters, tune

Record = Callable[[str, object], None]
SPACE = {"x": Range(low=0.0, high=1.0), "base": Range(choices=("small", "wide"))}
DEFAULTS = {"x": 0.5, "base": "small"}
TRIALS = 6


def _run(scenario: str, folder: Path, seed: int = 1, seconds: int = 170) -> Any:
    script = Path(__file__).with_name("small_studies.py")
    done = subprocess.run(
        [sys.executable, script, scenario, folder, str(seed)],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _states(folder: Path) -> dict[int, list[str]]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / studies.DATABASE}")
    found: dict[int, list[str]] = {}
    for trial in optuna.load_study(study_name="study", storage=storage).trials:
        found.setdefault(trial.user_attrs["trial"], []).append(trial.state.name)
    storage.engine.dispose()
    return found


# ------------------------------------------------------------------------------------------------------------ U1 and U2


@pytest.mark.slow
@pytest.mark.bar("U1")
def test_u1_two_workers_that_start_on_a_fresh_study_both_live_and_share_its_trials(
    tmp_path: Path, record_property: Record
) -> None:
    rounds = _run("start", tmp_path)["rounds"]
    for n, found in enumerate(rounds):
        assert found["codes"] == [0, 0]
        assert sorted(found["begun"]) == [0, 1, 2, 3]
        assert _states(tmp_path / "run" / str(n)) == {number: ["COMPLETE"] for number in range(4)}
    both = sum(found["workers"] == 2 for found in rounds)
    assert len(rounds) == 10
    record_property("tried", f"{len(rounds)} starts of 2 workers on a fresh Optuna store, both at work in {both}")


@pytest.mark.slow
@pytest.mark.bar("U1")
def test_u1_two_processes_that_start_on_a_fresh_mlflow_store_both_record(
    tmp_path: Path, record_property: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    rounds = _run("start_mlflow", tmp_path)["rounds"]
    assert rounds == [{"codes": [0, 0], "runs": 2}] * 10
    record_property("tried", f"{len(rounds)} starts of 2 processes on a fresh MLflow store")


@pytest.mark.slow
@pytest.mark.bar("U2")
@pytest.mark.parametrize(("scenario", "at_most_s"), [("kill_workers", 3.0), ("kill_silent_workers", 3.0 + 1.0 + 3.0)])
def test_u2_the_trial_of_a_killed_worker_fails_and_is_run_again_with_the_same_values(
    tmp_path: Path, record_property: Record, scenario: str, at_most_s: float
) -> None:
    # Grace is 3 s. A silent worker's last beat may be young when it dies; its heart beats and the others look each 1 s.
    found = _run(scenario, tmp_path)
    assert found["code"] == 0
    assert len(found["kills"]) == 5
    assert all(kill["same"] for kill in found["kills"])
    assert max(kill["after"] for kill in found["kills"]) < at_most_s
    killed = {kill["trial"] for kill in found["kills"]}
    states = _states(tmp_path / "run")
    assert states == {n: ["FAIL", "COMPLETE"] if n in killed else ["COMPLETE"] for n in range(len(states))}
    assert sorted(found["begun"]) == sorted([*range(len(states)), *killed])
    slowest = max(kill["after"] for kill in found["kills"])
    record_property("tried", f"{scenario}: 5 times kill -9 in a trial, the last one begun again after {slowest:.1f} s")


# ------------------------------------------------------------------------------------------------------------------- U3


@pytest.mark.slow
@pytest.mark.bar("U3")
def test_u3_a_study_killed_anywhere_loses_no_finished_trial_and_equals_one_that_was_not(
    tmp_path: Path, record_property: Record
) -> None:
    found = _run("kill_anywhere", tmp_path)
    assert found["lost"] == []
    assert found["equal"]
    assert found["kills"] >= 5
    record_property("tried", f"{found['kills']} times kill -9 at random moments of a study that hardly does but write")


@pytest.mark.slow
@pytest.mark.bar("U3")
def test_u3_a_full_disk_is_named_and_the_study_goes_on_once_there_is_room(
    tmp_path: Path, record_property: Record
) -> None:
    found = _run("full", tmp_path)["said"]
    told = [one for one in found if one["said"]]
    for one in found:
        assert one["codes"] == [0, 0]
        assert one["equal"]
        assert not one["said"] or one["said"].startswith(str(tmp_path / "run" / str(one["size"])))
    assert len(told) >= 3
    record_property("tried", f"disk full after {', '.join(str(one['size']) for one in told)} bytes of a file")


class Counted:
    def __init__(self) -> None:
        self.begun: list[int] = []

    def __call__(self, number: int, values: Any, report: Any) -> float:
        self.begun.append(number)
        return float(values["x"]) + (0.1 if values["base"] == "wide" else 0.0)


def _tune(folder: Path, trials: int = TRIALS, name: str = "study") -> tuple[list[int], str]:
    parameters = TuningParameters(trials=trials, budget_samples=1, space=SPACE, seed=3)
    counted = Counted()
    return counted.begun, tune(counted, DEFAULTS, parameters, folder, name=name)[1].to_csv()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Two finished studies, left as by a killed worker: the last changes are in the log beside the database."""
    folder = tmp_path_factory.mktemp("finished")
    _tune(folder / "quiet", name="tune@0 · older")
    database = folder / "quiet" / studies.DATABASE
    with contextlib.closing(sqlite3.connect(database)) as reader:  # keeps SQLite from emptying its log
        reader.execute("SELECT count(*) FROM trials").fetchone()
        _, table = _tune(folder / "quiet")
        shutil.copytree(folder / "quiet", folder / "killed", ignore=shutil.ignore_patterns("workers"))
    assert (folder / "killed" / f"{studies.DATABASE}-wal").stat().st_size > 0
    return folder / "killed", table


def _cut(file: str, keep: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / file
        os.truncate(path, int(path.stat().st_size * keep) if keep < 1 else path.stat().st_size - int(keep))

    return damage


def _write(file: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(content) and None


def _flip(file: str, share: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = bytearray((folder / file).read_bytes())
        content[int(len(content) * share)] ^= 0x15
        (folder / file).write_bytes(content)

    return damage


def _both(*damages: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda folder: [damage(folder) for damage in damages] and None


def _change_a_figure(folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(folder / studies.DATABASE)) as connection:
        connection.execute("UPDATE trial_values SET value = 99 WHERE trial_id = (SELECT max(trial_id) FROM trials)")
        connection.commit()


DB, WAL, LINES = studies.DATABASE, f"{studies.DATABASE}-wal", studies.RECORD
DAMAGES = {
    **{f"log cut by {n} bytes": _cut(WAL, n) for n in (1, 20, 5000)},
    "log cut in half": _cut(WAL, 0.5),
    "log lost": lambda folder: (folder / WAL).unlink(),
    "log garbage": _write(WAL, b"garbage" * 1000),
    **{f"database cut by {n} bytes": _both(lambda f: (f / WAL).unlink(), _cut(DB, n)) for n in (1, 20, 5000)},
    "database cut in half": _cut(DB, 0.5),
    "database empty": _write(DB, b""),
    "database garbage": _write(DB, b"this is no database" * 500),
    "database lost": lambda folder: (folder / DB).unlink(),
    "database's figure changed": _change_a_figure,
    **{f"database flipped at {share}": _both(lambda f: (f / WAL).unlink(), _flip(DB, share)) for share in (0.0, 0.02)},
    "record's last line torn": _cut(LINES, 20),
    "record's last line without its end": _cut(LINES, 1),
    "record's line flipped": _flip(LINES, 0.9),
    "record lost": lambda folder: (folder / LINES).unlink(),
    "stale lock": _write("lock", b"4194304\n"),
    "stale worker": lambda folder: _both(lambda f: (f / "workers").mkdir(), _write("workers/1~dead", b""))(folder),
}


@pytest.mark.bar("U3")
def test_u3_a_torn_store_opens_with_every_finished_trial(
    tmp_path: Path, finished: tuple[Path, str], capfd: pytest.CaptureFixture[str], record_property: Record
) -> None:
    slowest = 0.0
    for n, (what, damage) in enumerate(DAMAGES.items()):
        folder = tmp_path / str(n)
        shutil.copytree(finished[0], folder)
        damage(folder)
        capfd.readouterr()
        start = time.monotonic()
        begun, table = _tune(folder)
        slowest = max(slowest, time.monotonic() - start)
        assert (begun, table) == ([], finished[1]), what
        # of a trial the log has lost the end of, the first try stays as failed
        ends = {number: [state for state in states if state != "FAIL"] for number, states in _states(folder).items()}
        assert ends == {number: ["COMPLETE"] for number in range(TRIALS)}, what
        kept = list(folder.glob("*.damaged_*"))
        said = capfd.readouterr().err
        assert all(path.name in said for path in kept if not path.name.endswith(("-wal", "-shm"))), what
        if kept and any(path.name.endswith(".db") for path in kept):
            assert f"{folder / DB} is damaged" in said, what
            names = optuna.study.get_all_study_names(f"sqlite:///{folder / DB}")
            assert sorted(names) == ["study", "tune@0 · older"], what
    assert slowest < 60
    record_property("tried", f"{len(DAMAGES)} damages ({', '.join(DAMAGES)}); the slowest opened in {slowest:.1f} s")


@pytest.mark.bar("U3")
def test_u3_a_relative_path_with_a_folder_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _tune(Path("a/b"), 2)[0] == [0, 1]
    assert _tune(Path("a/b"), 3)[0] == [2]
    record_property("tried", "a relative path with folders, opened twice")


@pytest.mark.bar("U3")
def test_u3_a_locked_store_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record) -> None:
    monkeypatch.setattr(studies, "LOCK_TIMEOUT_S", 0.2)
    _tune(tmp_path, 1)
    with contextlib.closing(sqlite3.connect(tmp_path / DB)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(MammoError, match=rf"{tmp_path / DB} could not be read or written: database is locked"):
            _tune(tmp_path, 2)
        other.rollback()
    with studies.FileLock(tmp_path / "lock"), pytest.raises(MammoError, match=f"{tmp_path / 'lock'} has been locked"):
        _tune(tmp_path, 2)
    assert not list(tmp_path.glob("*.damaged_*"))
    assert _tune(tmp_path, 2)[0] == [1]
    record_property("tried", "database locked by another program, lock held by another process")
