"""Runs, data sets and lineage in MLflow: the only importer of mlflow for runs.

One experiment per data set; a parent run per pipeline pass, a child per stage and fold, trials below. A store that
fails costs the record of a stage, never the stage. mlflow takes seconds to import: it is imported inside functions.
"""

import contextlib
import getpass
import hashlib
import json
import logging
import os
import re
import socket
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mammo_ml.errors import MammoError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROCESS, STAGE, CONTINUES = "mammo.process", "mammo.stage", "mammo.continues"
"""Tags: the process that answers for a run, what a stage's run is made from, the killed run a new one continues."""
FOLDER = ".mlflow"
"""Beside dvc.yaml, ignored by git and never a DVC output: MLflow's database, its artifacts, its lock, the audit."""
RUNNING = "running"
"""Folder in it: a file per process, locked as long as that lives."""
NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Without it MLflow's server keeps seven more processes for jobs that nothing here has."""
LOCK_TIMEOUT_S = 60
CODE = ("mammo_ml/", "pipelines/")
"""Dependencies of a stage below these are its code, the others its data."""
WRITTEN_BY_STAGES = ("**/dvc.lock", "reports/**")
"""What a pass itself writes does not make its commit dirty."""


@dataclass(frozen=True)
class TrackedData:
    """A file or folder a stage read, logged as an input of its run; `path` is as in dvc.yaml, `md5` as DVC knows it."""

    path: Path
    context: str = "input"
    md5: str | None = None


# --------------------------------------------------------------------------------------------------- where the store is


def workspace_of(current: Path) -> Path:
    """Folder the store belongs to: the project's root, also from the copies `dvc exp run --temp` works in."""
    current = current.resolve()
    parts = current.parts
    for n in range(len(parts) - 2):
        if parts[n : n + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:n])
    return next((folder for folder in (current, *current.parents) if (folder / ".dvc").is_dir()), current)


def store_address(workspace: Path) -> str:
    """Address of the store: MLFLOW_TRACKING_URI where the user has set it, else a SQLite file in the workspace.

    A phantom workspace always keeps its own: synthetic films never reach a store of real ones.
    """
    chosen = "" if is_phantom(workspace) else os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    return chosen or f"sqlite:///{workspace.resolve() / FOLDER / 'mlflow.db'}"


def is_phantom(workspace: Path) -> bool:
    """Tell a workspace of synthetic films by its params.yaml."""
    params = workspace / "params.yaml"
    if not params.is_file():
        return False
    content = yaml.safe_load(params.read_text(encoding="utf-8"))
    return isinstance(content, dict) and content.get("dataset") == "phantom"


def artifact_address(workspace: Path, address: str) -> str | None:
    """Where artifacts go: beside the database; a server decides for itself (None)."""
    if address.startswith(("http:", "https:", "databricks")):
        return None
    database = _sqlite_file(address)
    folder = database.parent if database else workspace.resolve() / FOLDER
    return (folder / "artifacts").as_uri()


def _sqlite_file(address: str) -> Path | None:
    path = address.removeprefix("sqlite:///").partition("?")[0]
    return Path(path).resolve() if address.startswith("sqlite:///") and path else None


@contextlib.contextmanager
def store_lock(workspace: Path) -> Iterator[None]:
    """Hold the lock under which schemas are made, parents are found and aliases are moved; it dies with its process."""
    from filelock import FileLock

    folder = workspace / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock", timeout=LOCK_TIMEOUT_S):
        yield


def quiet_mlflow() -> None:
    """Set mlflow up before its import: no telemetry, few retries, only warnings; a run id of `mlflow run` is dropped.

    `mlflow run` exports MLFLOW_RUN_ID to every stage below it: all would write into one run.
    """
    os.environ.pop("MLFLOW_RUN_ID", None)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    import mlflow  # noqa: F401  (it configures its loggers on import: ours come after)

    for name in ("mlflow", "alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.WARNING)


def store_errors() -> tuple[type[Exception], ...]:
    """Name what a store that is unreachable, full, locked or broken raises, and what a torn dvc.lock does."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, sqlite3.Error, yaml.YAMLError, OSError)


_signs_of_life: dict[tuple[int, Path], Any] = {}
"""Locks this process holds until it dies, by process id (a forked child makes its own) and workspace."""


def _sign_of_life(workspace: Path) -> str:
    """Name of this process, under which it holds a lock until it dies; call under the store's lock."""
    from filelock import FileLock

    place = (os.getpid(), workspace.resolve())
    known = _signs_of_life.get(place)
    if known is None or not Path(known.lock_file).exists():
        folder = workspace / FOLDER / RUNNING
        folder.mkdir(exist_ok=True)
        sign = FileLock(folder / f"{socket.gethostname()}~{place[0]}~{uuid.uuid4().hex[:8]}")
        sign.acquire(timeout=0)
        _signs_of_life[place] = sign
    return Path(_signs_of_life[place].lock_file).name


class Store:
    """An open store: its MLflow client, and the experiments and parent runs found or made under the lock.

    Opening it marks the runs of processes that are gone as KILLED, see `mark_killed`.
    """

    def __init__(self, workspace: Path) -> None:
        """Open the store; two processes may start on a file that does not exist yet."""
        quiet_mlflow()
        from mlflow import MlflowClient

        self.workspace = workspace
        self.address = store_address(workspace)
        with store_lock(workspace):
            _make_database(_sqlite_file(self.address), artifact_address(workspace, self.address))
            self.client = MlflowClient(tracking_uri=self.address, registry_uri=self.address)
            self.client.search_experiments(max_results=1)
            self.process = _sign_of_life(workspace)
            self.mark_killed()

    def mark_killed(self) -> None:
        """Mark the runs of this host's dead processes as KILLED, and their pass where no run of it is left running.

        Each process holds the lock of a file below `.mlflow/running` and tags its runs with the file's name; a lock
        that can be had belonged to a process that is gone. Figures and files of a killed run stay. Silent runs of
        another host or workspace in a shared store stay as they are: from here nobody can tell whether they live.
        """
        from filelock import FileLock, Timeout

        for sign in sorted((self.workspace / FOLDER / RUNNING).glob(f"{socket.gethostname()}~*")):
            if sign.name == self.process:
                continue
            try:
                with FileLock(sign, timeout=0):
                    self._kill_runs_of(sign.name)
                    sign.unlink()
            except Timeout:
                continue

    def _kill_runs_of(self, process: str) -> None:
        experiments = [found.experiment_id for found in self.client.search_experiments()]
        dead = self._running(experiments, f"tags.`{PROCESS}` = '{process}'")
        for run in dead:
            if run.data.tags.get("mammo.level") != "pass":
                self.client.set_terminated(run.info.run_id, "KILLED")
        passes = {run.data.tags.get("mlflow.parentRunId") or run.info.run_id for run in dead}
        for parent in passes:
            alive = self._running(experiments, f"tags.`mlflow.parentRunId` = '{parent}'")
            if not alive and self.client.get_run(parent).info.status == "RUNNING":
                self.client.set_terminated(parent, "KILLED")

    def _running(self, experiments: list[str], query: str) -> list[Any]:
        # a process has a handful of runs: a stage, its trials, its pass
        found = self.client.search_runs(experiments, f"{query} and attributes.status = 'RUNNING'", max_results=1000)
        return list(found)

    def experiment(self, dataset: str) -> str:
        """Id of the data set's experiment, made where it is missing."""
        with store_lock(self.workspace):
            found = self.client.get_experiment_by_name(dataset)
            if found is not None:
                return str(found.experiment_id)
            artifacts = artifact_address(self.workspace, self.address)
            return str(self.client.create_experiment(dataset, artifact_location=artifacts))

    def parent_run(self, experiment: str, a_pass: "Pass") -> str:
        """Id of the pass's parent run, found by its tag `mammo.pass`, made where it is missing."""
        with store_lock(self.workspace):
            query = f"tags.`mammo.pass` = '{a_pass.key}' and tags.`mammo.level` = 'pass'"
            found = self.client.search_runs([experiment], query, max_results=1, order_by=["attributes.start_time ASC"])
            if found:
                return str(found[0].info.run_id)
            tags = {**a_pass.tags, "phantom": _text(a_pass.dataset == "phantom"), "mammo.level": "pass"}
            return self.new_run(experiment, a_pass.name, tags)

    def new_run(self, experiment: str, name: str, tags: Mapping[str, str], parent: str | None = None) -> str:
        """Start a run below `parent` and return its id."""
        below = {"mlflow.parentRunId": parent} if parent else {}
        own = {"mlflow.user": user_name(), PROCESS: self.process}
        run = self.client.create_run(experiment, run_name=name, tags={**own, **tags, **below})
        return str(run.info.run_id)

    def open_pass(self, experiment: str, a_pass: "Pass") -> "StageRun":
        """Parent run of the pass, running from now on; this process answers for it."""
        parent = self.parent_run(experiment, a_pass)
        self.client.set_tag(parent, PROCESS, self.process)
        self.client.update_run(parent, status="RUNNING")
        return StageRun(self, experiment, parent, a_pass.name)

    def open_stage(
        self, parent: "StageRun", entry: "StageEntry", a_pass: "Pass", tags: Mapping[str, Any]
    ) -> "StageRun":
        """New run of a stage and fold below its pass; where the last one was killed, it says which it continues."""
        all_tags = {key: _text(value) for key, value in tags.items()} | a_pass.tags
        all_tags |= {"stage": entry.stage, "mammo.level": "stage", STAGE: entry.key}
        all_tags |= {} if entry.fold is None else {"fold": str(entry.fold)}
        earlier = self.runs_of(parent.experiment, entry)
        if earlier and earlier[0].info.status == "KILLED":
            all_tags[CONTINUES] = earlier[0].info.run_id
        run_id = self.new_run(parent.experiment, entry.name, all_tags, parent.run_id)
        return StageRun(self, parent.experiment, run_id, entry.name)

    def runs_of(self, experiment: str, entry: "StageEntry") -> list[Any]:
        """Return the runs of the same stage, fold, code, parameters and data, in whatever pass; the newest first."""
        query = f"tags.`{STAGE}` = '{entry.key}' and tags.`mammo.level` = 'stage'"
        return list(self.client.search_runs([experiment], query, max_results=200, order_by=["start_time DESC"]))


def user_name() -> str:
    """Name of the person at work; "unknown" for a user id without a name, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _make_database(database: Path | None, artifacts: str | None) -> None:
    """Make a SQLite store whole or not at all; readers and one writer may use it at once.

    The schema is made in a draft: a process killed while MLflow makes it would leave a file that never opens again.
    """
    if database is None or database.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    database.parent.mkdir(parents=True, exist_ok=True)
    draft = database.with_name(f"{database.name}.draft")
    for suffix in ("", "-wal", "-shm"):
        draft.with_name(draft.name + suffix).unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(draft)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    SqlAlchemyStore(f"sqlite:///{draft}", artifacts or (database.parent / "artifacts").as_uri()).engine.dispose()
    with contextlib.closing(sqlite3.connect(draft)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    draft.rename(database)


def serve_ui(workspace: Path, port: int) -> None:
    """Serve MLflow's UI on this machine alone until it is interrupted.

    Raises:
        MammoError: when the user's address is a server already, or the UI ends with an error.
    """
    store = Store(workspace)
    if (artifacts := artifact_address(workspace, store.address)) is None:
        raise MammoError(f"The runs are on a server: open {without_password(store.address)} in a browser.")
    # the server starts its workers by name; the address may hold a password, which `ps` must not show
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path, "MLFLOW_BACKEND_STORE_URI": store.address, **NO_JOBS}
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    try:
        ended = subprocess.run([*command, "--artifacts-destination", artifacts], env=environment, check=False)
    except KeyboardInterrupt:
        return
    if ended.returncode > 0:
        raise MammoError(f"MLflow's UI ended with {ended.returncode}; is port {port} taken? Choose one with --port.")


# ------------------------------------------------------------------------------------------------ what a run belongs to


@dataclass(frozen=True)
class Pass:
    """One pass of the pipeline: a commit, the bytes of params.yaml and a data set."""

    commit: str
    dirty: bool
    params: bytes
    dataset: str

    @cached_property
    def key(self) -> str:
        """The same for every stage of the pass."""
        return _digest(self.commit.encode(), self.params, self.dataset.encode())

    @property
    def folds(self) -> str:
        """Which folds it uses, benchmark or development, as params.yaml says."""
        content = yaml.safe_load(self.params or b"{}")
        split = content.get("split") if isinstance(content, dict) else None
        return str(split.get("folds", "unknown")) if isinstance(split, dict) else "unknown"

    @property
    def name(self) -> str:
        """Name of the parent run."""
        return f"pass {self.commit[:7]} · {self.key[:8]}"

    @property
    def tags(self) -> dict[str, str]:
        """Tags that each run of the pass carries."""
        return {
            "mammo.pass": self.key,
            "git_commit": self.commit,
            "git_dirty": _text(self.dirty),
            "dataset": self.dataset,
            "folds": self.folds,
            "mlflow.source.git.commit": self.commit,
        }


def current_pass(folder: Path, dataset: str) -> Pass:
    """Pass that a stage working in `folder` belongs to."""
    candidates = (folder / "params.yaml", workspace_of(folder) / "params.yaml")
    params = next((path.read_bytes() for path in candidates if path.is_file()), b"")
    commit = _git(folder, "rev-parse", "HEAD") or "no-git"
    excluded = [f":(top,exclude,glob){name}" for name in WRITTEN_BY_STAGES]
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ":/", *excluded)
    return Pass(commit, bool(changed), params, dataset)


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def data_md5(path: Path, folder: Path) -> str:
    """Tell the md5 DVC knows a file or folder by: from dvc.lock of `folder` where it stands there, else computed."""
    return _locked_md5(path, folder) or computed_md5(folder / path)


def _locked_md5(path: Path, folder: Path) -> str | None:
    lock = folder / "dvc.lock"
    if not lock.is_file():
        return None
    changed = lock.stat()
    return _locked_outputs(lock, changed.st_mtime_ns, changed.st_size).get(path)


@lru_cache(maxsize=1)
def _locked_outputs(lock: Path, _mtime_ns: int, _size: int) -> dict[Path, str]:
    # Outputs only: the hash of a dependency is brought up to date after its stage, so it may be an earlier run's.
    entries = (entry for stage in read_stages(lock).values() for entry in stage.get("outs", []))
    return {Path(entry["path"]): str(entry["md5"]) for entry in entries if "md5" in entry}


class _DvcSafeLoader(yaml.SafeLoader):
    """YAML as DVC writes it: 3e-05 is a number in YAML 1.2, and a text in the YAML 1.1 that PyYAML reads."""


_DvcSafeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_dvc_yaml(text: str | bytes) -> Any:
    """Content of a YAML file as DVC reads it."""
    return yaml.load(text, Loader=_DvcSafeLoader)


def read_stages(path: Path) -> dict[str, Any]:
    """Stages of a dvc.yaml or dvc.lock, by name; none where there is no such file."""
    content = read_dvc_yaml(path.read_bytes()) if path.is_file() else None
    return dict(content.get("stages") or {}) if isinstance(content, dict) else {}


def computed_md5(path: Path) -> str:
    """md5 of a file, or of a folder as DVC forms it: that of the sorted list of its files' md5, then ".dir".

    Raises:
        FileNotFoundError: when nothing is there.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist, so it has no md5")
    if path.is_file():
        return _file_md5(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    listing = [{"md5": _file_md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    listing.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@dataclass(frozen=True)
class StageEntry:
    """A stage and fold as DVC knows it: its parameters by section, and the md5 of all it depends on, code included.

    Read from dvc.yaml while the stage runs and from dvc.lock afterwards, it is the same.
    """

    stage: str
    fold: int | None
    parameters: Mapping[str, Any]
    depends: Mapping[str, str]

    @cached_property
    def key(self) -> str:
        """Equal for two runs that make the same outputs."""
        return self._digest_with(self.depends)

    @property
    def name(self) -> str:
        """Name of the run; its hash leaves the code out: the same hash means that nothing differed but the code."""
        return f"{self.label} · {self._digest_with(self.data)[:8]}"

    @property
    def label(self) -> str:
        """Stage and fold, as train_classifier@0."""
        return self.stage if self.fold is None else f"{self.stage}@{self.fold}"

    @property
    def data(self) -> dict[str, str]:
        """What it depends on without the code."""
        return {path: md5 for path, md5 in self.depends.items() if not path.startswith(CODE)}

    def _digest_with(self, depends: Mapping[str, str]) -> str:
        return _digest(*(_bytes(part) for part in (self.stage, self.fold, self.parameters, depends)))


def current_entry(folder: Path, stage: str, fold: int | None) -> StageEntry | None:
    """Entry of a stage that is at work in `folder`, from dvc.yaml, params.yaml and the files; None if DVC has no such.

    Raises:
        FileNotFoundError: when something it depends on is not there.
    """
    declared = read_stages(folder / "dvc.yaml").get(stage)
    if declared is None:
        return None
    params = read_dvc_yaml((folder / "params.yaml").read_bytes())
    paths = [str(path).replace("${item.fold}", str(fold)) for path in declared.get("deps", [])]
    return StageEntry(
        stage,
        fold,
        {section: params.get(section) for section in declared.get("params", []) if isinstance(section, str)},
        {path: data_md5(Path(path), folder) for path in paths},
    )


def locked_entries(folder: Path) -> list[tuple[StageEntry, dict[str, str]]]:
    """Entries of all stages that are finished, from dvc.lock, each with the md5 of its outputs by their paths."""
    found = []
    for name, stage in read_stages(folder / "dvc.lock").items():
        label, _, fold = str(name).partition("@")
        depends, outputs = ({e["path"]: e.get("md5", "") for e in stage.get(kind, [])} for kind in ("deps", "outs"))
        sections = stage.get("params", {}).get("params.yaml", {})
        found.append((StageEntry(label, int(fold) if fold else None, sections, depends), outputs))
    return found


def stage_seconds(workspace: Path, dataset: str, entries: Iterable[StageEntry]) -> dict[str, float]:
    """Seconds of the newest finished run of each stage with the same parameters and data, by its label.

    Left out are stages without such a run, runs that were rebuilt from outputs, and evaluations, whose runs hold their
    logging alone. Reads only: a workspace without a store gets none made.
    """
    address, found = store_address(workspace), dict[str, float]()
    database = _sqlite_file(address)
    if database is not None and not database.is_file():
        return found
    quiet_mlflow()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name(dataset)
    for entry in entries if experiment is not None else ():
        if entry.stage.startswith("evaluate_"):
            continue
        query = f"attributes.run_name = '{entry.name}' and tags.`mammo.level` = 'stage'"
        for run in client.search_runs([experiment.experiment_id], query, order_by=["start_time DESC"]):
            if run.info.status == "FINISHED" and run.data.tags.get("mammo.rebuilt") != "true":
                found[entry.label] = (run.info.end_time - run.info.start_time) / 1000
                break
    return found


def log_to_pass(workspace: Path, dataset: str, paths: Iterable[Path]) -> None:
    """Record files as artifacts of the parent run of the workspace's pass, made where it is missing.

    Raises:
        MlflowException: when the store fails.
    """
    store = Store(workspace)
    run = store.open_pass(store.experiment(dataset), current_pass(workspace, dataset))
    with closing(run):
        run.log_files(paths)


# ---------------------------------------------------------------------------------------------------------------- runs


class StageRun:
    """The run of a stage, of one of its folds, or of a trial; one that lost its store records nothing more."""

    def __init__(self, store: Store | None, experiment: str = "", run_id: str | None = None, name: str = "") -> None:
        self._store, self.experiment, self.name, self.run_id = store, experiment, name, run_id
        self._lost = store is None or run_id is None

    @property
    def recorded(self) -> bool:
        """False once something of this run could not be recorded."""
        return not self._lost

    def log_metrics(self, figures: Mapping[str, Any], step: int | None = None) -> None:
        """Record figures; nested mappings become names joined by dots, what is not a number is left out."""
        import time

        now = int(time.time() * 1000)

        def log(client: Any) -> None:
            from mlflow.entities import Metric

            metrics = [Metric(key, value, now, step or 0) for key, value in flat_figures(figures).items()]
            for some in _chunks(metrics, 1000):
                client.log_batch(self.run_id, metrics=some)

        self._try("log metrics", log)

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Record parameters; nested mappings become names joined by dots."""

        def log(client: Any) -> None:
            from mlflow.entities import Param

            params = [Param(key, _text(value)[:6000]) for key, value in _flat(parameters).items()]
            for some in _chunks(params, 100):
                client.log_batch(self.run_id, params=some)

        self._try("log parameters", log)

    def log_figure(self, figure: "Figure", name: str) -> None:
        """Record a picture as figures/<name>.png."""
        file = f"figures/{name.removesuffix('.png')}.png"
        self._try(f"log figure {name}", lambda client: client.log_figure(self.run_id, figure, file))

    def log_files(self, paths: Iterable[Path], folder: str | None = None) -> None:
        """Record files and folders as artifacts."""

        def log(client: Any) -> None:
            for path in map(Path, paths):
                if path.is_dir():
                    client.log_artifacts(self.run_id, str(path), "/".join(filter(None, [folder, path.name])))
                else:
                    client.log_artifact(self.run_id, str(path), folder)

        self._try("log files", log)

    def log_data(self, datasets: Sequence[TrackedData], where: Path) -> None:
        """Record data sets as inputs, named "path @ rev", with the md5 DVC knows them by."""

        def log(client: Any) -> None:
            from mlflow.data.meta_dataset import MetaDataset
            from mlflow.entities import DatasetInput, InputTag

            from mammo_ml.dvc_dataset_source import DVCDatasetSource

            rev = _git(where, "rev-parse", "HEAD") or "no-git"
            inputs = []
            for data in datasets:
                md5 = data.md5 or data_md5(data.path, where)
                source = DVCDatasetSource(data.path.as_posix(), md5, rev)
                entity = MetaDataset(source, name=f"{data.path.as_posix()} @ {rev[:7]}", digest=md5)
                tags = [InputTag("mlflow.data.context", data.context), InputTag("dvc.rev", rev)]
                inputs.append(DatasetInput(entity._to_mlflow_entity(), tags))
            if inputs:
                client.log_inputs(self.run_id, datasets=inputs)

        self._try("log data sets", log)

    @contextlib.contextmanager
    def trial(self, number: int, parameters: Mapping[str, Any]) -> Iterator["StageRun"]:
        """Nested run of one trial; FAILED on an exception, so catch a pruned trial inside."""
        run = StageRun(None)

        def start(_: Any) -> None:
            nonlocal run
            assert self._store is not None
            of_stage = self._store.client.get_run(self.run_id).data.tags
            tags = {key: of_stage[key] for key in ("dataset", "phantom") if key in of_stage}
            name, tags = f"trial {number}", tags | {"mammo.level": "trial", "trial": str(number)}
            run_id = self._store.new_run(self.experiment, name, tags, self.run_id)
            run = StageRun(self._store, self.experiment, run_id, name)

        self._try(f"start trial {number}", start)
        run.log_parameters(parameters)
        with closing(run):
            yield run

    def end(self, status: str) -> None:
        """Give the run its last status: FINISHED, FAILED or KILLED. Tried also after an earlier loss."""
        if self._store is None or self.run_id is None:
            return
        try:
            if self._lost:
                self._store.client.set_tag(self.run_id, "mammo.incomplete", "true")
            self._store.client.set_terminated(self.run_id, status)
        except store_errors() as error:
            _warn(f"run '{self.name}' could not be ended as {status}", error)

    def _try(self, what: str, action: Callable[[Any], object]) -> None:
        if self._lost or self._store is None:
            return
        try:
            action(self._store.client)
        except store_errors() as error:
            self._lost = True
            _warn(f"could not {what} of run '{self.name}'; it records nothing more", error)


@contextlib.contextmanager
def closing(run: StageRun) -> Iterator[None]:
    """End the run as FINISHED, or as FAILED or KILLED where an exception or an interrupt ends the block."""
    try:
        yield
    except BaseException as error:
        run.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    run.end("FINISHED")


@contextlib.contextmanager
def stage_run(
    stage: str,
    fold: int | None,
    parameters: Mapping[str, Any],
    tags: Mapping[str, Any],
    datasets: Sequence[TrackedData] = (),
    folder: Path | None = None,
) -> Iterator[StageRun]:
    """Run of one stage (and fold) below its pass's parent; each start makes a new one, earlier ones stay.

    Args:
        stage: name of the stage, as in dvc.yaml.
        fold: 0 to 4, None where the stage has none.
        parameters: the stage's section of params.yaml.
        tags: must hold `dataset`; also `phantom` (bool) and `protocol`.
        datasets: what the stage reads, paths relative to `folder`; where dvc.yaml has the stage, its deps stand there.
        folder: where the stage works; the current folder when None.

    A store that cannot be reached is told on stderr and the stage goes on with a run that records nothing.
    """
    where = (folder or Path.cwd()).resolve()
    a_pass = current_pass(where, str(tags["dataset"]))
    run, parent, data = StageRun(None), StageRun(None), list(datasets)
    quiet_mlflow()
    try:
        store = Store(workspace_of(where))
        parent = store.open_pass(store.experiment(a_pass.dataset), a_pass)
        entry = current_entry(where, stage, fold)
        if entry is None:
            read = {given.path.as_posix(): data_md5(given.path, where) for given in datasets}
            entry = StageEntry(stage, fold, {stage: parameters}, read)
        else:
            data = [TrackedData(Path(path), md5=md5) for path, md5 in entry.data.items()]
        run = store.open_stage(parent, entry, a_pass, tags)
    except store_errors() as error:
        _warn(f"stage '{stage}' goes on without a record in {without_password(store_address(where))}", error)
    run.log_parameters(parameters)
    run.log_data(data, where)
    with closing(parent), closing(run):
        yield run


def _warn(what: str, error: Exception) -> None:
    reason = " ".join(str(error).split())[:400]
    print(
        f"WARNING: MLflow: {what}: {type(error).__name__}: {without_password(reason)}\n"
        "         The stage's outputs are not touched; `mammo-ml track` completes its record once the store works.",
        file=sys.stderr,
        flush=True,
    )


def without_password(text: str) -> str:
    """Text in which no address shows its password."""
    import re

    return re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)


# ------------------------------------------------------------------------------------------------------- small helpers


def flat_figures(figures: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a nested mapping, by their names joined by dots; null counts as NaN, what is no number is left out."""
    found = {}
    for key, value in _flat(figures).items():
        if value is None:
            found[key] = float("nan")
        elif not isinstance(value, (str, list, tuple)):
            found[key] = float(value)
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _chunks(items: list[Any], size: int) -> list[list[Any]]:
    return [items[n : n + size] for n in range(0, len(items), size)]


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, default=str)


def _bytes(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()


def _digest(*parts: bytes) -> str:
    """sha256 of several parts; each is hashed first, so that no byte can move from one to the next."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
