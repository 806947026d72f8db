"""What a killed run may leave in a workspace, planted by hand, and what becomes of it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mammo_ml.errors import MammoError
from mammo_ml.pipeline_run import keep_good_copy, lockfile_is_whole, only_run, recover

WHOLE = """\
schema: '2.0'
stages:
  split:
    cmd: python -m pipelines.split
    deps:
    - path: data/catalog
      hash: md5
      md5: 6cb6ff7e3c2c0f0c7bd1e0ee2d0b7a3a.dir
      size: 30
      nfiles: 2
    outs:
    - path: data/split/folds.csv
      hash: md5
      md5: eb260e9a478daad239910e5562b0c7f4
      size: 6
"""
NOBODY = 2**22 + 1
"""Above the highest process number Linux gives out."""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    return tmp_path


def rwlock_of(pid: int) -> str:
    holder = {"pid": pid, "cmd": "dvc repro"}
    return json.dumps({"write": {"/films/a": holder}, "read": {"/films/b": [holder, holder], "/films/c": []}})


def test_a_workspace_without_faults_is_left_as_it_is(workspace: Path) -> None:
    (workspace / "dvc.lock").write_text(WHOLE, encoding="utf-8")
    (workspace / ".dvc" / "tmp" / "rwlock").write_text("{}", encoding="utf-8")
    assert recover(workspace) == []
    assert (workspace / "dvc.lock").read_text(encoding="utf-8") == WHOLE


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '{"write": {"a": 1}}', '{"read": {"a": [{"cmd": "dvc"}]}}', "\0\0"]
)
def test_an_rwlock_that_is_none_is_removed_and_told_of(workspace: Path, content: str) -> None:
    path = workspace / ".dvc" / "tmp" / "rwlock"
    path.write_text(content, encoding="utf-8")
    assert recover(workspace) == ["removed a broken .dvc/tmp/rwlock"]
    assert not path.exists()


def test_an_rwlock_of_a_dead_process_is_removed_also_when_another_process_has_its_number_now(workspace: Path) -> None:
    path = workspace / ".dvc" / "tmp" / "rwlock"
    for pid in (NOBODY, os.getpid()):
        path.write_text(rwlock_of(pid), encoding="utf-8")
        long_ago = time.time() - 40 * 365 * 86400
        os.utime(path, (long_ago, long_ago))
        assert recover(workspace) == [f"removed .dvc/tmp/rwlock: its holder is dead (PID {pid})"]
        assert not path.exists()


def test_the_rwlock_of_a_living_process_is_refused_and_nothing_is_touched(workspace: Path) -> None:
    path = workspace / ".dvc" / "tmp" / "rwlock"
    path.write_text(rwlock_of(os.getpid()), encoding="utf-8")
    (workspace / "dvc.lock").write_text("torn: [", encoding="utf-8")
    with pytest.raises(MammoError, match=rf"DVC is at work in .*: PID {os.getpid()} \(dvc repro\)\.") as error:
        recover(workspace)
    assert "finished stages are kept" in str(error.value)
    assert path.read_text(encoding="utf-8") == rwlock_of(os.getpid())
    assert (workspace / "dvc.lock").read_text(encoding="utf-8") == "torn: ["


@pytest.mark.parametrize("kept", [len(WHOLE) - 30, len(WHOLE) // 2, 8, 0])
def test_a_torn_lock_file_is_replaced_by_the_copy_of_the_last_run(workspace: Path, kept: int) -> None:
    lock = workspace / "dvc.lock"
    lock.write_text(WHOLE, encoding="utf-8")
    keep_good_copy(workspace)
    lock.write_text(WHOLE[:kept], encoding="utf-8")
    keep_good_copy(workspace)  # a torn one never becomes the copy

    (told,) = recover(workspace)

    assert told.startswith("dvc.lock was torn: put back")
    assert lock.read_text(encoding="utf-8") == WHOLE
    assert (workspace / ".dvc" / "tmp" / "dvc.lock.torn").read_text(encoding="utf-8") == WHOLE[:kept]


def test_a_torn_lock_file_without_a_copy_is_set_aside_for_the_run_cache_to_rebuild(workspace: Path) -> None:
    (workspace / "dvc.lock").write_bytes(b"\xff\xfeschema")
    (told,) = recover(workspace)
    assert "set aside as .dvc/tmp/dvc.lock.torn" in told
    assert not (workspace / "dvc.lock").exists()


@pytest.mark.parametrize(
    "text", ["", "schema", "schema: '3.0'\nstages: {}\n", WHOLE.replace("cmd:", "cdm:"), WHOLE + "  cut:\n    cmd"]
)
def test_what_dvc_would_not_read_is_no_whole_lock_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "dvc.lock"
    path.write_text(text, encoding="utf-8")
    assert not lockfile_is_whole(path)
    path.write_text(WHOLE, encoding="utf-8")
    assert lockfile_is_whole(path)


def test_half_unpacked_films_are_removed_and_finished_ones_stay(workspace: Path) -> None:
    for name in ("ingest.unpacking", "ingest"):
        (workspace / "data" / name).mkdir(parents=True)
        (workspace / "data" / name / "mdb001.pgm").write_bytes(b"P5")
    assert recover(workspace) == ["removed data/ingest.unpacking, half unpacked"]
    assert [path.name for path in (workspace / "data").iterdir()] == ["ingest"]


def test_copies_that_a_full_disk_cut_off_in_the_cache_are_removed_and_whole_ones_stay(workspace: Path) -> None:
    folder = workspace / ".dvc" / "cache" / "files" / "md5" / "f3"
    folder.mkdir(parents=True)
    for name in (".gD0PXIjG4LE36rJZT9QpFQ.tmp", ".nEk2mFHYV5.tmp", "1f70954dbcb90b3cbbaadd20155555"):
        (folder / name).write_bytes(b"222")
    assert recover(workspace) == ["removed 2 half-written copies from DVC's cache"]
    assert [path.name for path in folder.iterdir()] == ["1f70954dbcb90b3cbbaadd20155555"]


@pytest.mark.parametrize("stubborn", [False, True])
def test_an_orphaned_stage_of_this_workspace_is_ended_and_one_of_another_is_not(
    workspace: Path, tmp_path: Path, stubborn: bool
) -> None:
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " if stubborn else ""
    script = f"{ignore}import time; print('up', flush=True); time.sleep(60)"
    processes = []
    for root in (workspace, tmp_path / "another"):
        environment = os.environ | {"DVC_ROOT": str(root.resolve()), "DVC_STAGE": "train_classifier@3"}
        process = subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        processes.append(process)
    orphan, other = processes
    try:
        assert recover(workspace) == [f"ended stage 'train_classifier@3' (PID {orphan.pid}), whose DVC is dead"]
        assert orphan.poll() is not None
        assert other.poll() is None
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_second_run_is_refused_by_name_and_free_when_the_first_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/mammo-ml", "repro", "cut"])
    with only_run(tmp_path):
        second = "from mammo_ml.pipeline_run import only_run\nfrom pathlib import Path\nwith only_run(Path()): pass"
        finished = subprocess.run(
            [sys.executable, "-c", second], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert finished.returncode != 0
        assert f"PID {os.getpid()} (mammo-ml repro cut), since 20" in finished.stderr
    with only_run(tmp_path):
        pass
