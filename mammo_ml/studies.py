"""The studies of a workspace: one Optuna database, and beside it a record from which it can be made again.

The record is the truth: a trial is finished once its line is in it. The database is for Optuna's dashboard and says
which trials are at work; it is brought up to the record whenever it is opened. Workers take turns under a file lock.
"""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import sqlite3
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from mammo_ml.errors import MammoError
from mammo_ml.recipe import Values

LOCK_TIMEOUT_S = 60
WAIT_S = 0.5
DATABASE, RECORD = "studies.db", "finished.jsonl"
TRIAL, WORKER, NOT_FINITE = "trial", "worker", "not_finite"
"""User attributes of a trial: its number for people, who works at it, that its figure was no finite number."""
CHECKSUM = 16
DAMAGED_CODES = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class DamagedError(MammoError):
    """A database that does not hold what was written to it."""


@dataclass(frozen=True)
class Claim:
    """A trial that is this worker's to run; `key` is the database's, `trial` counts from 0 for people."""

    trial: int
    values: Values
    key: int
    started: str


@dataclass(frozen=True)
class Finished:
    """A finished trial.

    Attributes:
        trial: its number, from 0.
        values: of the searched keys.
        value: its figure; None where that was no finite number, or the trial was pruned.
        started: when, ISO 8601.
        ended: when, ISO 8601.
        worker: who ran it.
        curve: what it reported after each epoch, more is better.
        pruned: ended before its time, because it did worse than the trials before it.
    """

    trial: int
    values: Values
    value: float | None
    started: str
    ended: str
    worker: str
    curve: Sequence[float] = ()
    pruned: bool = False

    @property
    def state(self) -> TrialState:
        """The same for Optuna."""
        if self.pruned:
            return TrialState.PRUNED
        return TrialState.FAIL if self.value is None else TrialState.COMPLETE


class Study:
    """One study, opened by one worker; several, each in its own process, share the trials among themselves.

    Args:
        folder: holds the database, the record and the lock; made where it is missing.
        name: label, " · ", and a key of all that the study depends on: another key makes another study.
        distributions: the searched keys in their order.
        parts: all that the key stands for, nested by kind, to tell what differs from an earlier study of this label.
        heartbeat_s: seconds between two signs of life of a trial at work.
        grace_s: silence after which a trial is given up; a process known to be dead is not waited for.
        address: SQLAlchemy address of another database than the folder's own.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        distributions: Mapping[str, BaseDistribution],
        parts: Mapping[str, Any],
        *,
        heartbeat_s: int,
        grace_s: int,
        address: str | None = None,
    ) -> None:
        self.folder, self.name = folder.resolve(), name
        self.label = name.rpartition(" · ")[0] or name
        self.header = {
            "study": name,
            "distributions": {key: distribution_to_json(span) for key, span in distributions.items()},
            "parts": json.loads(json.dumps(parts)),
        }
        self.database = None if address else self.folder / DATABASE
        self.record = Record(self.folder / RECORD)
        self._address = address or f"sqlite:///{self.database}"
        self._beats = {"heartbeat_interval": heartbeat_s, "grace_period": grace_s}
        self._heartbeat_s = heartbeat_s
        self._opened: tuple[object, optuna.storages.RDBStorage] | None = None
        self.worker = ""

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Hold a lock that dies with this process, by which the others know that its trial has a worker."""
        with self._lock():
            signs = self.folder / "workers"
            signs.mkdir(exist_ok=True)
            for left in signs.iterdir():
                _is_free(left)
            sign = FileLock(signs / f"{os.getpid()}~{uuid.uuid4().hex[:8]}")
            sign.acquire(timeout=0)
        self.worker = f"{socket.gethostname()}:{sign.lock_file}"
        try:
            yield
        finally:
            sign.release()
            Path(sign.lock_file).unlink(missing_ok=True)

    def finished(self) -> list[Finished]:
        """Finished trials in the order of their numbers."""
        with self._lock():
            return self._finished(self.record.read())

    def claim(self, trials: int, draw: Callable[[int, Sequence[Finished]], Values]) -> Claim | None:
        """Take the first trial that nobody has finished or is at; wait for the others' last ones; None when all ended.

        Args:
            trials: how many there are to be in all.
            draw: values of a trial that was never begun, from its number and the finished trials before it.
        """
        while True:
            with self._lock(), self._open() as storage:
                done = self._finished(self.record.read())
                study = storage.get_study_id_from_name(self.name)
                self._give_up_the_dead(storage, study)
                begun = _by_number(storage.get_all_trials(study))
                at_work = {n for n, tries in begun.items() if any(one.state == TrialState.RUNNING for one in tries)}
                left = sorted(set(range(trials)) - {one.trial for one in done})
                number = next((n for n in left if n not in at_work), None)
                if number is not None:
                    earlier = begun.get(number, [])
                    values = (
                        earlier[-1].params if earlier else draw(number, [one for one in done if one.trial < number])
                    )
                    if earlier:
                        _tell(f"{self.name}: trial {number} was not finished by its worker; it is run again")
                    return self._begin(storage, study, number, values)
                if not left:
                    return None
            time.sleep(WAIT_S)

    def finish(self, claim: Claim, value: float | None, curve: Sequence[float] = (), *, pruned: bool = False) -> None:
        """Record the figure of a trial; the first one to come counts where a silent worker was given up too early."""
        now = datetime.now().isoformat()
        with self._lock():
            if claim.trial in {one.trial for one in self._finished(self.record.read())}:
                _tell(
                    f"{self.name}: trial {claim.trial} was finished by another worker meanwhile; this result is dropped"
                )
            else:
                done = Finished(claim.trial, claim.values, value, claim.started, now, self.worker, list(curve), pruned)
                self.record.append({"study": self.name, **asdict(done)})
            with self._open():
                pass

    @contextlib.contextmanager
    def beating(self, claim: Claim) -> Iterator[None]:
        """Say every few seconds, in the database, that the trial is at work."""
        stop = threading.Event()

        assert self._opened is not None
        storage = self._opened[1]

        def beat() -> None:
            while not stop.wait(self._heartbeat_s):
                # while the worker's lock is held a lost beat costs nothing; a store that fails is told at the end
                with contextlib.suppress(SQLAlchemyError, optuna.exceptions.StorageInternalError):
                    storage.record_heartbeat(claim.key)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    # ------------------------------------------------------------------------------------------------- the two stores

    def _finished(self, entries: Sequence[Mapping[str, Any]]) -> list[Finished]:
        return sorted(_finished_in(entries, self.name).values(), key=lambda one: one.trial)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Have the turn; whatever goes wrong with the stores meanwhile is told with the path."""
        place: Path | str = self.folder
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "lock", timeout=LOCK_TIMEOUT_S):
                place = self.database or "MAMMO_STUDIES"
                yield
        except Timeout as error:
            raise MammoError(
                f"{error.lock_file} has been locked for {LOCK_TIMEOUT_S} s: another process is stuck in the studies. "
                "End it, then run the same command again."
            ) from error
        except (SQLAlchemyError, sqlite3.Error, optuna.exceptions.StorageInternalError, OSError) as error:
            path = error.filename if isinstance(error, OSError) and error.filename else place
            reason = getattr(_first_cause(error), "strerror", None) or _first_cause(error)
            raise MammoError(
                f"{path} could not be read or written: {reason}.\n"
                f"Finished trials are kept in {self.record.path}. Once this is mended, run the same command again: "
                "it goes on from there."
            ) from error

    @contextlib.contextmanager
    def _open(self) -> Iterator[optuna.storages.RDBStorage]:
        """Open the database with all that the record holds in it; one that is damaged is set aside and made again."""
        try:
            storage = self._open_and_check()
        except Exception as error:
            if self.database is None or not _is_damage(error):
                raise
            self._set_aside(self.database, error)
            storage = self._open_and_check()
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()

    def _open_and_check(self) -> optuna.storages.RDBStorage:
        place = None
        if self.database is not None:
            _check_sqlite(self.database)
            place = (self.database.stat().st_dev, self.database.stat().st_ino)  # another file where it was made again
        entries = self.record.read()
        headers = _headers(entries)
        if self._opened is not None and self._opened[0] == place and self.name in headers:
            storage = self._opened[1]
            self._bring_up(storage, headers[self.name], _finished_in(entries, self.name))
            return storage
        storage = self._storage()
        if self.name not in headers:
            if self.name not in {study.study_name for study in storage.get_all_studies()}:
                _tell_what_differs(self.label, self.header, entries)
            self.record.append(self.header)
            headers[self.name] = self.header
        for name, header in headers.items():
            self._bring_up(storage, header, _finished_in(entries, name))
        self._opened = place, storage
        return storage

    def _storage(self) -> optuna.storages.RDBStorage:
        options = {"connect_args": {"timeout": LOCK_TIMEOUT_S}} if self._address.startswith("sqlite") else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.storages.RDBStorage(self._address, options, **self._beats)  # type: ignore[arg-type]

    def _set_aside(self, database: Path, error: Exception) -> None:
        aside = database.with_name(f"{database.stem}.damaged_{datetime.now():%Y-%m-%d_%H%M%S.%f}.db")
        for suffix in ("", "-wal", "-shm"):
            part = database.with_name(database.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        _tell(
            f"{database} is damaged ({_first_cause(error)}). It is set aside as {aside.name}; every study is made "
            f"again from {self.record.path.name}, with every finished trial."
        )

    def _bring_up(
        self, storage: optuna.storages.RDBStorage, header: Mapping[str, Any], done: dict[int, Finished]
    ) -> None:
        """Make the database's study equal to the record's, and record what the database alone has."""
        with contextlib.suppress(optuna.exceptions.DuplicatedStudyError):
            storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], header["study"])
        study = storage.get_study_id_from_name(header["study"])
        if not storage.get_study_user_attrs(study):
            storage.set_study_user_attr(study, "parts", header["parts"])
        distributions = {key: json_to_distribution(text) for key, text in header["distributions"].items()}
        tries = _by_number(storage.get_all_trials(study))
        for number in sorted(done.keys() | tries.keys()):
            ended = next((one for one in tries.get(number, []) if _has_ended(one)), None)
            if number in done:
                self._put(storage, study, distributions, done[number], ended, tries.get(number, []))
            elif ended is not None:
                self.record.append({"study": header["study"], **asdict(_of(ended))})

    def _put(
        self,
        storage: optuna.storages.RDBStorage,
        study: int,
        distributions: dict[str, BaseDistribution],
        done: Finished,
        ended: FrozenTrial | None,
        tries: Sequence[FrozenTrial],
    ) -> None:
        if ended is not None:
            if (ended.params, ended.value) != (done.values, done.value):
                raise DamagedError(f"trial {done.trial} is not as it was recorded")
            own = None
        else:
            at_work = (one for one in tries if one.state == TrialState.RUNNING)
            own = next((one for one in at_work if one.user_attrs.get(WORKER) == done.worker), None)
        if own is not None:
            if done.state == TrialState.FAIL:
                storage.set_trial_user_attr(own._trial_id, NOT_FINITE, True)
            for epoch, reported in enumerate(done.curve, start=1):
                storage.set_trial_intermediate_value(own._trial_id, epoch, reported)
            storage.set_trial_state_values(own._trial_id, done.state, None if done.value is None else [done.value])
        elif ended is None:
            storage.create_new_trial(study, frozen(done.state, done, distributions))
        for other in tries:
            if other is not own and other.state == TrialState.RUNNING and other.user_attrs.get(WORKER) == self.worker:
                storage.set_trial_state_values(other._trial_id, TrialState.FAIL)

    def _begin(self, storage: optuna.storages.RDBStorage, study: int, number: int, values: Values) -> Claim:
        started = datetime.now().isoformat()
        distributions = {key: json_to_distribution(text) for key, text in self.header["distributions"].items()}
        begun = Finished(number, values, None, started, "", self.worker)
        # It waits until its heart beats: a trial at work without a heartbeat would never be given up.
        key = storage.create_new_trial(study, frozen(TrialState.WAITING, begun, distributions))
        storage.record_heartbeat(key)
        storage.set_trial_state_values(key, TrialState.RUNNING)
        return Claim(number, values, key, started)

    def _give_up_the_dead(self, storage: optuna.storages.RDBStorage, study: int) -> None:
        """Mark as failed the trials of dead processes, and of those that have been silent for too long."""
        here = f"{socket.gethostname()}:"
        for one in storage.get_all_trials(study, states=(TrialState.RUNNING, TrialState.WAITING)):
            worker = one.user_attrs.get(WORKER, "")
            dead = worker.startswith(here) and worker != self.worker and _is_free(Path(worker.removeprefix(here)))
            if TRIAL in one.user_attrs and (dead or one.state == TrialState.WAITING or worker == self.worker):
                storage.set_trial_state_values(one._trial_id, TrialState.FAIL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(optuna.load_study(study_name=self.name, storage=storage))


class Record:
    """Lines of JSON, each behind the beginning of its sha256; a line is on the disk once `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an entry; call it with the lock and after `read`, which mends a torn last line."""
        with self.path.open("ab") as file:
            file.write(_line(entry))
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[dict[str, Any]]:
        """Every whole entry; a file with torn lines is set aside, told, and written anew without them."""
        content = self.path.read_bytes() if self.path.exists() else b""
        lines = content.split(b"\n")
        torn = [n for n, line in enumerate(lines, start=1) if line and not _is_whole(line)]
        good = [line for line in lines if line and _is_whole(line)]
        if torn or (content and lines[-1]):
            self._rewrite(good, torn)
        return [json.loads(line[CHECKSUM + 1 :]) for line in good]

    def _rewrite(self, good: Sequence[bytes], torn: Sequence[int]) -> None:
        if torn:
            aside = self.path.with_name(f"{self.path.stem}.damaged_{datetime.now():%Y-%m-%d_%H%M%S.%f}.jsonl")
            shutil.copy2(self.path, aside)
            where = f"line{'s' if len(torn) > 1 else ''} {', '.join(map(str, torn))}"
            _tell(f"{self.path}: {where} torn and left out; the file as it was is kept as {aside.name}")
        new = self.path.with_name(self.path.name + ".new")
        with new.open("wb") as file:
            file.write(b"".join(line + b"\n" for line in good))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)


def _line(entry: Mapping[str, Any]) -> bytes:
    text = json.dumps(entry, ensure_ascii=False).encode()
    return _checksum(text) + b" " + text + b"\n"


def _is_whole(line: bytes) -> bool:
    return line[:CHECKSUM] == _checksum(line[CHECKSUM + 1 :])


def _checksum(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:CHECKSUM].encode()


def _headers(entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {entry["study"]: dict(entry) for entry in entries if "parts" in entry}


def _finished_in(entries: Sequence[Mapping[str, Any]], study: str) -> dict[int, Finished]:
    trials = [entry for entry in entries if entry["study"] == study and TRIAL in entry]
    return {entry[TRIAL]: Finished(**{key: entry[key] for key in entry if key != "study"}) for entry in trials}


def _by_number(trials: Sequence[FrozenTrial]) -> dict[int, list[FrozenTrial]]:
    """Tries of each trial by its number for people; trials put there by hand have none."""
    found: dict[int, list[FrozenTrial]] = {}
    for one in trials:
        if TRIAL in one.user_attrs:
            found.setdefault(one.user_attrs[TRIAL], []).append(one)
    return found


def _has_ended(trial: FrozenTrial) -> bool:
    if trial.state == TrialState.FAIL:  # a worker's death is a failure as well
        return NOT_FINITE in trial.user_attrs
    return trial.state in ENDED


def _of(trial: FrozenTrial) -> Finished:
    times = [when.isoformat() if when else "" for when in (trial.datetime_start, trial.datetime_complete)]
    number, worker = trial.user_attrs[TRIAL], trial.user_attrs.get(WORKER, "")
    curve = [trial.intermediate_values[epoch] for epoch in sorted(trial.intermediate_values)]
    pruned = trial.state == TrialState.PRUNED
    value = None if pruned else trial.value
    return Finished(number, trial.params, value, times[0], times[1], worker, curve, pruned)


def frozen(state: TrialState, of: Finished, distributions: dict[str, BaseDistribution]) -> FrozenTrial:
    """Trial as the database takes it; not checked against the distributions: the defaults may lie outside."""
    attributes = {TRIAL: of.trial, WORKER: of.worker} | ({NOT_FINITE: True} if state == TrialState.FAIL else {})
    times = [datetime.fromisoformat(when) if when else None for when in (of.started, of.ended)]
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=state,
        value=of.value,
        datetime_start=times[0],
        datetime_complete=times[1],
        params=dict(of.values),
        distributions=distributions,
        user_attrs=attributes,
        system_attrs={},
        intermediate_values=dict(enumerate(of.curve, start=1)),
    )


def _check_sqlite(database: Path) -> None:
    """Make the file where it is missing, and have SQLite read all of it.

    Raises:
        DamagedError: naming the first fault.
    """
    with contextlib.closing(sqlite3.connect(database, timeout=LOCK_TIMEOUT_S)) as connection:
        # readers, as the dashboard, and one writer work at once; the setting stays in the file
        connection.execute("PRAGMA journal_mode=WAL")
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != ("ok",):
        raise DamagedError(f"{found[0]}")


def _is_damage(error: Exception) -> bool:
    """Tell a broken database from one that is locked, full or forbidden."""
    cause = _first_cause(error)
    code = getattr(cause, "sqlite_errorcode", None)
    if isinstance(cause, sqlite3.Error):
        return code is None or code & 0xFF in DAMAGED_CODES
    return isinstance(error, (DamagedError, ValueError, LookupError, AssertionError))


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_free(sign: Path) -> bool:
    """Tell whether the process that held this lock is gone, and remove the file if it is."""
    try:
        with FileLock(sign, timeout=0):
            sign.unlink(missing_ok=True)
    except Timeout:
        return False
    except FileNotFoundError:  # with its folder
        return True
    return True


def _tell_what_differs(label: str, header: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> None:
    """Name the last study of this label, which is kept but not continued, and say what is different."""
    earlier = [old for name, old in _headers(entries).items() if name.rpartition(" · ")[0] == label]
    if not earlier:
        return
    last = earlier[-1]
    done = len(_finished_in(entries, last["study"]))
    old, new = _flat(last["parts"]), _flat(header["parts"])
    changes = [
        f"  {key}: {old.get(key, 'nothing')} -> {new.get(key, 'nothing')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    _tell(
        f"{header['study']} is a new study. The study '{last['study']}' ({done} finished trial{'s' * (done != 1)}) is "
        "set apart and not continued, because it differs:\n" + "\n".join(changes or ["  in the code or its libraries"])
    )


def _flat(parts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in parts.items():
        found |= _flat(value, f"{prefix}{key} ") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
    return found


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
