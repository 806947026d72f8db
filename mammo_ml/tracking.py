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
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mammo_ml.errors import MammoError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = ".mlflow"
"""Beside dvc.yaml, ignored by git and never a DVC output: MLflow's database, its artifacts, its lock, the audit."""
LOCK_TIMEOUT_S = 60
WRITTEN_BY_STAGES = ("**/dvc.lock", "reports/**")
"""What a pass itself writes does not make its commit dirty."""


@dataclass(frozen=True)
class TrackedData:
    """A file or folder a stage read, logged as an input of its run; `path` is as in dvc.yaml."""

    path: Path
    context: str = "input"


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
    chosen = "" if _is_phantom(workspace) else os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    return chosen or f"sqlite:///{workspace.resolve() / FOLDER / 'mlflow.db'}"


def _is_phantom(workspace: Path) -> bool:
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


class Store:
    """An open store: its MLflow client, and the experiments and parent runs found or made under the lock."""

    def __init__(self, workspace: Path) -> None:
        """Open the store; two processes may start on a file that does not exist yet."""
        quiet_mlflow()
        from mlflow import MlflowClient

        self.workspace = workspace
        self.address = store_address(workspace)
        with store_lock(workspace):
            _write_ahead(_sqlite_file(self.address))
            self.client = MlflowClient(tracking_uri=self.address, registry_uri=self.address)
            self.client.search_experiments(max_results=1)

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
        user = {"mlflow.user": user_name()}
        run = self.client.create_run(experiment, run_name=name, tags={**user, **tags, **below})
        return str(run.info.run_id)


def user_name() -> str:
    """Name of the person at work; "unknown" for a user id without a name, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _write_ahead(database: Path | None) -> None:
    """Let readers and one writer of a SQLite file work at once; the setting stays in the file."""
    if database is None or database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def serve_ui(workspace: Path, port: int) -> None:
    """Serve MLflow's UI on this machine alone until it is interrupted.

    Raises:
        MammoError: when the user's address is a server already, or the UI ends with an error.
    """
    store = Store(workspace)
    if (artifacts := artifact_address(workspace, store.address)) is None:
        raise MammoError(f"The runs are on a server: open {_without_password(store.address)} in a browser.")
    # the server starts its workers by name; the address may hold a password, which `ps` must not show
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path, "MLFLOW_BACKEND_STORE_URI": store.address}
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
    stages = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {})
    # Outputs only: the hash of a dependency is brought up to date after its stage, so it may be an earlier run's.
    for stage in stages.values():
        for entry in stage.get("outs", []):
            if Path(entry["path"]) == path and "md5" in entry:
                return str(entry["md5"])
    return None


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


# ---------------------------------------------------------------------------------------------------------------- runs


class StageRun:
    """The run of a stage, of one of its folds, or of a trial; one that lost its store records nothing more."""

    def __init__(self, store: Store | None, experiment: str = "", run_id: str | None = None, name: str = "") -> None:
        self._store, self._experiment, self.name, self.run_id = store, experiment, name, run_id
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
                md5 = data_md5(data.path, where)
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
            run_id = self._store.new_run(self._experiment, name, tags, self.run_id)
            run = StageRun(self._store, self._experiment, run_id, name)

        self._try(f"start trial {number}", start)
        run.log_parameters(parameters)
        with _closing(run):
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
def _closing(run: StageRun) -> Iterator[None]:
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
        datasets: what the stage reads, paths relative to `folder`.
        folder: where the stage works; the current folder when None.

    A store that cannot be reached is told on stderr and the stage goes on with a run that records nothing.
    """
    where = (folder or Path.cwd()).resolve()
    a_pass = current_pass(where, str(tags["dataset"]))
    run, parent = StageRun(None), StageRun(None)
    quiet_mlflow()
    try:
        store = Store(workspace_of(where))
        experiment = store.experiment(a_pass.dataset)
        parent = StageRun(store, experiment, store.parent_run(experiment, a_pass), a_pass.name)
        store.client.update_run(parent.run_id, status="RUNNING")
        key = _digest(*(_bytes(part) for part in (stage, fold, parameters, [_data_key(d, where) for d in datasets])))
        name = f"{stage}{'' if fold is None else f'@{fold}'} · {key[:8]}"
        all_tags = {key: _text(value) for key, value in tags.items()} | a_pass.tags
        all_tags |= {"stage": stage, "mammo.level": "stage", "mammo.stage": key}
        all_tags |= {} if fold is None else {"fold": str(fold)}
        run = StageRun(store, experiment, store.new_run(experiment, name, all_tags, parent.run_id), name)
    except store_errors() as error:
        _warn(f"stage '{stage}' goes on without a record in {_without_password(store_address(where))}", error)
    run.log_parameters(parameters)
    run.log_data(datasets, where)
    with _closing(parent), _closing(run):
        yield run


def _data_key(data: TrackedData, folder: Path) -> list[str]:
    return [data.path.as_posix(), data_md5(data.path, folder)]


def _warn(what: str, error: Exception) -> None:
    reason = " ".join(str(error).split())[:400]
    print(
        f"WARNING: MLflow: {what}: {type(error).__name__}: {_without_password(reason)}\n"
        "         The stage's outputs are not touched; its record stays incomplete.",
        file=sys.stderr,
        flush=True,
    )


def _without_password(text: str) -> str:
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
