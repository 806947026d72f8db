"""One `dvc repro` at a time in a workspace: it begins by mending what a killed run left, and leaves no process behind.

Seen with DVC 3.67: a kill may leave an empty `.dvc/tmp/rwlock` that every later command refuses, a half-written
dvc.lock, and a stage that goes on writing after its DVC is dead.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import psutil  # type: ignore[import-untyped]

from mammo_ml.errors import MammoError

LOCK = Path(".state/repro.lock")
"""Held as long as a run lives, whatever ends it; its text names the holder."""
DVC_LOCK, DVC_RWLOCK = Path(".dvc/tmp/lock"), Path(".dvc/tmp/rwlock")
LOCKFILE = Path("dvc.lock")
GOOD_COPY, TORN_COPY = Path(".dvc/tmp/dvc.lock.good"), Path(".dvc/tmp/dvc.lock.torn")
OBJECTS = Path(".dvc/cache/files/md5")
WAIT_FOR_DVC_S = 4.0
"""A short DVC command beside a run (`dvc status`) is waited for; DVC itself waits 3 s."""
GRACE_S = ((signal.SIGINT, 15.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 30.0))
"""How a run is ended, and how long each signal is given: SIGINT lets a stage close its MLflow run."""
FULL_BYTES = 200 << 20
PR_SET_PDEATHSIG = 1


class StoppedError(MammoError):
    """The run was ended by a signal; what was finished is kept."""


# -------------------------------------------------------------------------------------------------------- one at a time


@contextlib.contextmanager
def only_run(workspace: Path) -> Iterator[None]:
    """Hold the workspace's lock; it is free again when this process ends, however it ends.

    Raises:
        MammoError: at once, naming the process that holds it.
    """
    path = workspace / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path, 0.0) as descriptor:
        if descriptor is None:
            raise MammoError(
                f"a run is going on in {workspace}: {_holder(path)}.\n"
                "Wait for it, or end it (`kill` and its PID) and run this again: finished stages are kept."
            )
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        text = f"PID {os.getpid()} ({command}), since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
        try:
            os.truncate(descriptor, 0)
            os.write(descriptor, text.encode())
        except OSError as error:
            raise MammoError(f"{path} could not be written: {error.strerror}.{room_left(workspace)}") from None
        yield


def _holder(path: Path) -> str:
    """What the holder of a run's lock wrote into it; one that has just taken it is given a moment to do so."""
    for _ in range(20):
        text = path.read_text(encoding="utf-8").strip()
        found = re.match(r"PID (\d+) ", text)
        if found and psutil.pid_exists(int(found[1])):
            return text
        time.sleep(0.1)
    return "its process is not told"


@contextlib.contextmanager
def _locked(path: Path, seconds: float) -> Iterator[int | None]:
    """Descriptor of a file that is locked as DVC locks its own, or None when it stays taken."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    until = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    yield None
                    return
                time.sleep(0.1)
        yield descriptor
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------------------ what a kill may leave


def recover(workspace: Path) -> list[str]:
    """Mend what a killed run left in a workspace; returns a line for each repair.

    Orphaned stages are ended, a broken or outdated rwlock is removed, a torn dvc.lock is replaced by the copy of the
    last run, drafts of films are removed. Half-written outputs need nothing: DVC runs their stage again.

    Raises:
        MammoError: when a DVC is at work here, naming it; nothing is changed then.
    """
    workspace = workspace.resolve()
    (workspace / ".dvc" / "tmp").mkdir(parents=True, exist_ok=True)
    with _locked(workspace / DVC_LOCK, WAIT_FOR_DVC_S) as free:
        if free is None:
            raise _busy(workspace, [f"PID {(workspace / DVC_LOCK).read_text(encoding='utf-8', errors='replace')}"])
        stages = _stage_processes(workspace)
        if at_work := _holders(workspace / DVC_RWLOCK) + _living_dvc(stages):
            raise _busy(workspace, at_work)
        return [
            *_end_orphans(stages),
            *_remove_rwlock(workspace),
            *_mend_lockfile(workspace),
            *_remove_drafts(workspace),
        ]


def _busy(workspace: Path, holders: list[str]) -> MammoError:
    return MammoError(
        f"DVC is at work in {workspace}: {', '.join(sorted({holder.strip() for holder in holders}))}.\n"
        "Wait for it, or end it (`kill` and its PID) and run this again: finished stages are kept."
    )


def _holders(rwlock: Path) -> list[str]:
    """Processes that hold DVC's rwlock and live. One younger than the file has only inherited a dead one's number."""
    entries = _rwlock_entries(rwlock) or {}
    return [f"PID {pid} ({command})" for pid, command in entries.items() if _lived_at(pid, rwlock.stat().st_mtime)]


def _rwlock_entries(rwlock: Path) -> dict[int, str] | None:
    """Command by PID, or None where the file is not what DVC writes."""
    if not rwlock.is_file():
        return {}
    try:
        content = json.loads(rwlock.read_bytes())
        entries = [
            *content.get("write", {}).values(),
            *(one for many in content.get("read", {}).values() for one in many),
        ]
        return {int(entry["pid"]): str(entry["cmd"]) for entry in entries}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _lived_at(pid: int, moment: float) -> bool:
    try:
        process = psutil.Process(pid)
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= moment + 2.0)
    except psutil.Error:
        return False


def _stage_processes(workspace: Path) -> dict[psutil.Process, str]:
    """Processes that a DVC of this workspace started, with the stage each belongs to."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ()
            here = environment.get("DVC_ROOT") == str(workspace) and "DVC_STAGE" in environment
            if here and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found[process] = environment["DVC_STAGE"]
    return found


def _living_dvc(stages: dict[psutil.Process, str]) -> list[str]:
    found = []
    for process in stages:
        with contextlib.suppress(psutil.Error):
            for parent in process.parents():
                words = parent.cmdline()[:3]
                if any(Path(word).name == "dvc" for word in words):
                    found.append(f"PID {parent.pid} ({shlex.join(parent.cmdline())})")
    return found


def _end_orphans(stages: dict[psutil.Process, str]) -> list[str]:
    for process in stages:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, stubborn = psutil.wait_procs(list(stages), timeout=5)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=5)
    return [f"ended stage '{stage}' (PID {process.pid}), whose DVC is dead" for process, stage in stages.items()]


def _remove_rwlock(workspace: Path) -> list[str]:
    """Remove the rwlock where it is no JSON, or names dead processes alone (those that live were refused before)."""
    path = workspace / DVC_RWLOCK
    entries = _rwlock_entries(path)
    if entries == {}:
        return []
    path.unlink()
    if entries is None:
        return [f"removed a broken {DVC_RWLOCK}"]
    return [f"removed {DVC_RWLOCK}: its holder is dead (PID {', '.join(map(str, sorted(entries)))})"]


def _mend_lockfile(workspace: Path) -> list[str]:
    lock, good, torn = (workspace / name for name in (LOCKFILE, GOOD_COPY, TORN_COPY))
    if not lock.exists() or lockfile_is_whole(lock):
        return []
    shutil.copyfile(lock, torn)
    if good.exists() and lockfile_is_whole(good):
        _copy(good, lock)
        return [f"{LOCKFILE} was torn: put back the last run's copy; DVC's run cache knows what was finished since"]
    lock.unlink()
    return [f"{LOCKFILE} was torn: set aside as {TORN_COPY}; DVC's run cache knows which stages are finished"]


def lockfile_is_whole(path: Path) -> bool:
    """Tell whether DVC would read this dvc.lock, and whether its last line is one: most cuts leave valid YAML."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import ParseError, load_yaml
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(load_yaml(path))
    except (ParseError, Invalid):
        return False
    return path.read_bytes().endswith(b"\n")


def keep_good_copy(workspace: Path) -> None:
    """Keep a copy of a dvc.lock that is whole, for the day a kill tears it."""
    lock = workspace / LOCKFILE
    if lock.exists() and lockfile_is_whole(lock):
        _copy(lock, workspace / GOOD_COPY)


def _copy(source: Path, target: Path) -> None:
    with whole_file(target) as draft:
        shutil.copyfile(source, draft)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write a file that is then put in its place whole."""
    draft = path.with_name(path.name + ".draft")
    yield draft
    draft.replace(path)


def _remove_drafts(workspace: Path) -> list[str]:
    drafts = sorted((workspace / "data").glob("*.unpacking"))
    for draft in drafts:
        shutil.rmtree(draft)
    # DVC does not come back to a copy that a full disk or a kill cut off
    copies = list((workspace / OBJECTS).glob("??/.*.tmp"))
    for copy in copies:
        copy.unlink()
    told = [f"removed {draft.relative_to(workspace)}, half unpacked" for draft in drafts]
    return told + ([f"removed {len(copies)} half-written copies from DVC's cache"] if copies else [])


# ------------------------------------------------------------------------------------------------------------- the run


def run_dvc(arguments: list[str], workspace: Path) -> int:
    """Run DVC in a session of its own and return its exit status; no process of it outlives this one or the run.

    Raises:
        StoppedError: when SIGINT, SIGTERM or SIGHUP ended the run.
    """
    environment = os.environ | {
        # stages find this environment's python by name
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        # Great Expectations orders a table of its Data Docs as a set of strings comes
        "PYTHONHASHSEED": "0",
    }
    with _signals_stop():
        child = subprocess.Popen(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=workspace,
            env=environment,
            start_new_session=True,
            preexec_fn=_die_with_parent(),
        )
        try:
            return child.wait()
        finally:
            _end_group(child)


@contextlib.contextmanager
def _signals_stop() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise StoppedError(
            f"stopped by {signal.Signals(number).name}. Finished stages are kept in DVC's cache, "
            "interrupted trainings and studies in .state/; run the same command again to go on from there."
        )

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_group(child: "subprocess.Popen[bytes]") -> None:
    """End DVC and all it started; a second Ctrl-C brings the next signal's turn at once."""
    for number, seconds in GRACE_S if child.returncode is None else GRACE_S[-1:]:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired, StoppedError):
            os.killpg(child.pid, number)
            child.wait(seconds)


def _die_with_parent() -> Callable[[], None]:
    """What a child does before it becomes DVC: ask the kernel to kill it with us (Linux), and take Ctrl-C again.

    Elsewhere a DVC whose parent is dead goes on, and the next run refuses to start beside it.
    """
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    parent = os.getpid()

    def prepare() -> None:
        # a run in a script's background inherits SIGINT as ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def die_with_make() -> None:
    """End in order when the `make` that started this process is killed (Linux); any other parent may go."""
    parent = psutil.Process().parent()
    if sys.platform == "linux" and parent is not None and parent.name() in ("make", "gmake"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def room_left(workspace: Path) -> str:
    """A line for each disk of the workspace that is nearly full, else nothing."""
    folders = [folder for folder in (workspace, workspace / ".dvc" / "cache") if folder.is_dir()]
    free = {folder.stat().st_dev: (folder, shutil.disk_usage(folder).free) for folder in reversed(folders)}
    return "".join(
        f"\nThe disk of {folder} is nearly full: {left / 1e6:.1f} MB free."
        for folder, left in free.values()
        if left < FULL_BYTES
    )
