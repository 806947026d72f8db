"""Optuna's dashboard on the tuning studies of a workspace: `mammo-ml tuning-ui`."""

import os
import sqlite3
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from sqlalchemy.exc import SQLAlchemyError

from mammo_ml.errors import MammoError
from mammo_ml.studies import DATABASE
from mammo_ml.tracking import is_phantom, without_password

STUDIES = Path(".state") / "studies"
ADDRESS = "MAMMO_STUDIES"
"""Address of the user's database; a phantom workspace keeps its own."""
NOT_YET = "Tuning makes the first one: `dvc repro tune_classifier`. The dashboard shows it while it runs."
FAILURES = (SQLAlchemyError, sqlite3.Error, optuna.exceptions.StorageInternalError, RuntimeError)
"""What a database raises that is unreachable, broken, or of another version of Optuna."""


class _Server(ThreadingMixIn, WSGIServer):
    """A browser opens connections ahead of need; one at a time they would block the page."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing of a request that was answered."""


def serve(workspace: Path, port: int) -> None:
    """Say which studies there are and serve the dashboard on this machine alone until it is interrupted.

    Raises:
        MammoError: when there is no study yet, the studies cannot be read, or the port is taken.
    """
    from optuna_dashboard import wsgi

    address = studies_address(workspace)
    shown = without_password(address)
    try:
        storage = optuna.storages.RDBStorage(address)
        lines = found(storage)
    except FAILURES as error:
        reason = without_password(" ".join(str(error.__cause__ or error).split())[:400])
        raise MammoError(f"{shown} cannot be read: {reason}\nA tuning stage mends it from its record.") from None
    if not lines:
        raise MammoError(f"{shown} holds no study yet. {NOT_YET}")
    try:
        server = make_server("127.0.0.1", port, wsgi(storage), server_class=_Server, handler_class=_Quiet)
    except OSError as error:
        raise MammoError(f"port {port}: {error.strerror}. Choose another with --port.") from None
    print(f"Studies in {shown}:", *(f"  {line}" for line in lines), sep="\n")
    print(f"Open http://127.0.0.1:{server.server_port}/ in a browser; Ctrl-C ends it.", flush=True)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


def studies_address(workspace: Path) -> str:
    """SQLAlchemy address of the workspace's studies.

    Raises:
        MammoError: when it is a file that does not exist.
    """
    theirs = "" if is_phantom(workspace) else os.environ.get(ADDRESS, "").strip()
    database = workspace.resolve() / STUDIES / DATABASE
    if not theirs and not database.is_file():
        raise MammoError(f"There is no study yet: {database} does not exist. {NOT_YET}")
    return theirs or f"sqlite:///{database}"


def found(storage: optuna.storages.BaseStorage) -> list[str]:
    """Return a line per study, by name: how many trials it has, how many of them finished, and its best figure."""
    lines = []
    for study in sorted(optuna.get_all_study_summaries(storage), key=lambda summary: summary.study_name):
        trials = storage.get_all_trials(study._study_id, deepcopy=False)
        done = [trial.value for trial in trials if trial.state.is_finished() and trial.value is not None]
        best = f", best {max(done):.4f}" if done else ""
        lines.append(f"{study.study_name}: {len(trials)} trial{'s' * (len(trials) != 1)}, {len(done)} finished{best}")
    return lines
