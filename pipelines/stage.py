"""What every stage script shares: its paths from the command line, its section of params.yaml, its run, its bar."""

import argparse
import ctypes
import errno
import hashlib
import json
import math
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil  # type: ignore[import-untyped]
import yaml
from tqdm import tqdm

from mammo_ml import tracking
from mammo_ml.allocator import keep_freed_memory
from mammo_ml.errors import MammoError, raise_if_any
from mammo_ml.parameters import Parameters, read_section, read_yaml
from pipelines.dependencies import ITEM, modules_of

STATE = Path(".state")
"""What must survive a kill: checkpoints and studies, keyed by all they depend on. Ignored by git, unknown to DVC."""
PHANTOM = "phantom"
DATASETS = ("mini_mias", PHANTOM)
N_FOLDS = 5
"""As in mammo_ml.splits, whose import would make every stage depend on it."""
SHELLS = ("sh", "bash", "dash", "zsh", "fish", "ksh")
PR_SET_PDEATHSIG = 1
WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
WRITE_WORDS = re.compile(
    "No space left on device|File too large|quota exceeded|disk is full|disk I/O error|file write failed|"
    r"requested and \d+ written|No usable temporary directory"
)
"""What safetensors, SQLite, torch, numpy and tempfile say of a full disk; their errors carry no number that tells."""
P = TypeVar("P", bound=Parameters)


def arguments(
    description: str | None, *paths: str, fold: bool = False, base: bool = False, variant: bool = False
) -> argparse.Namespace:
    """Paths of the stage, one required option each; `--fold`, `--base`, `--variant` where it has several of them."""
    parser = argparse.ArgumentParser(description=description)
    if fold:
        parser.add_argument("--fold", type=int, required=True, help="test fold, 0 to 4")
    if base:
        parser.add_argument("--base", required=True, help="the detector's convolutional base")
    if variant:
        parser.add_argument("--variant", required=True, help="the classifier's network")
    for name in paths:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, required=True)
    _add_params(parser)
    return parser.parse_args()


def section(name: str, kind: type[P]) -> P:
    """One section of the parameters, checked."""
    return read_section(_params(), name, kind)


def _params() -> Path:
    """The file of parameters: that of the graph the stage belongs to."""
    parser = argparse.ArgumentParser(add_help=False)
    _add_params(parser)
    found: Path = parser.parse_known_args()[0].params
    return found


def _add_params(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameters (default: params.yaml)")


def dataset() -> str:
    """Name of the data set of this workspace."""
    return str(_top_keys()["dataset"])


def folds() -> list[int]:
    """Test folds this pass trains and predicts."""
    return [int(fold) for fold in _top_keys()["folds"]]


def _top_keys() -> dict[str, Any]:
    """The keys of params.yaml that are in no stage's section, checked for whoever runs `dvc repro` itself."""
    path = _params()
    found = read_yaml(path)
    name, chosen = found.get("dataset"), found.get("folds")
    problems = []
    if name not in DATASETS:
        problems.append(f"key 'dataset': expected {' or '.join(DATASETS)}, found {name!r}")
    known = isinstance(chosen, list) and all(fold in range(N_FOLDS) for fold in chosen)
    if not known or not chosen or len(set(chosen)) != len(chosen):
        problems.append(f"key 'folds': expected different whole numbers from 0 to {N_FOLDS - 1}, found {chosen!r}")
    raise_if_any(str(path), problems)
    return {"dataset": name, "folds": chosen}


def run(
    stage: str, parameters: Parameters, data: list[Path], fold: int | None = None, protocol: str = "by_patient"
) -> AbstractContextManager[tracking.StageRun]:
    """Live MLflow run of the stage."""
    name = dataset()
    tags = {"dataset": name, "phantom": name == PHANTOM, "protocol": protocol}
    inputs = [tracking.TrackedData(path) for path in data]
    return tracking.stage_run(stage, fold, parameters.model_dump(mode="json"), tags, inputs)


def state_key(stage: str, *parts: object) -> str:
    """Short hash of everything a resumable state depends on: the stage's code, parameters, the bytes of files named.

    The code counts too, or a stage that runs again because a network changed would find its old, finished training.
    """
    root = Path(__file__).resolve().parents[1]
    code = [root / name for name in modules_of(root / "pipelines" / f"{stage}.py", root)]
    digest = hashlib.sha256()
    for part in (*code, *parts):
        digest.update(part.read_bytes() if isinstance(part, Path) else repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


@contextmanager
def bar(total: int, what: str, unit: str = "sample") -> Iterator[Callable[[int], None]]:
    """Progress bar over `total` units; yields the function that moves it."""
    with tqdm(total=total, desc=what, unit=unit, mininterval=1.0, dynamic_ncols=True) as progress:
        yield lambda n: (progress.update(n), None)[1]


def main(stage: Callable[[], None]) -> None:
    """Run a stage: its inputs are looked at first, it ends with its DVC, and an error is told without a traceback."""
    die_with_dvc()
    keep_freed_memory()
    try:
        _top_keys()
        check_inputs(_declared("deps"))
        stage()
    except MammoError as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit("stopped; what was finished is kept: run the same command again to go on")
    except Exception as error:
        told = not_written(error, _declared("outs"))
        if told is None:
            raise
        sys.exit(told)


# --------------------------------------------------------------------------------------------------- what is read first


def _declared(kind: str) -> list[Path]:
    """Paths of the running stage's `deps` or `outs` (metrics and plots with them) in dvc.yaml; none without a DVC."""
    name, _, item = os.environ.get("DVC_STAGE", "").rpartition(":")[2].partition("@")
    graph = _params().with_name("dvc.yaml")
    if not name or not graph.is_file():
        return []
    stages = yaml.load(graph.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["stages"]
    kinds = ("deps",) if kind == "deps" else ("outs", "metrics", "plots")
    entries = [entry for kind in kinds for entry in stages.get(name, {}).get(kind, [])]
    paths = [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]
    return [Path(ITEM.sub(item, path)) for path in paths]


def check_inputs(paths: list[Path]) -> None:
    """Refuse what an earlier stage left empty, and reports of checks that do not say: the data are valid.

    DVC looks at a stage's exit status alone: one that ended well with an empty output has succeeded.

    Raises:
        BadInputError: naming every such path.
    """
    problems = [f"{path} {fault}" for path in paths if (fault := _input_fault(path))]
    raise_if_any(
        "what this stage reads",
        problems,
        "Run the stage that writes it again: `dvc repro --force --single-item` and its name (see dvc.yaml).",
    )


def _input_fault(path: Path) -> str:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    if not path.exists():
        return "is missing"
    if empty := [file.relative_to(path).as_posix() for file in files if not file.stat().st_size]:
        return "is empty" if empty == ["."] else f"holds empty files: {', '.join(sorted(empty))}"
    if not files:
        return "is empty"
    return _metrics_fault(path) if path.name == "metrics.json" else ""


def _metrics_fault(path: Path) -> str:
    try:
        groups = list(json.loads(path.read_bytes()).items())
        figures = {f"{group}.{name}": value for group, values in groups for name, value in values.items()}
        figures = {name: value for name, value in figures.items() if value is not None}  # null: undefined, and said so
        wrong = [name for name, value in figures.items() if not math.isfinite(value)]
    except (ValueError, TypeError, AttributeError):
        return "holds no figures"
    if wrong or not figures:
        return f"holds no number for {', '.join(wrong)}" if wrong else "holds no figures"
    return "" if figures.get("validation.valid") == 1.0 else "does not say that the data are valid"


# ----------------------------------------------------------------------------------------------------- what goes wrong


def not_written(error: BaseException, outputs: list[Path]) -> str | None:
    """Tell in a paragraph what could not be written and why, or None where that is not what went wrong."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for cause in chain:
        if isinstance(cause, OSError) and cause.errno in WRITE_ERRORS:
            return _told(cause.filename, cause.strerror or str(cause), outputs)
        if WRITE_WORDS.search(str(cause)):
            return _told(None, str(cause).partition("\n")[0], outputs)
    return None


def _told(name: object, reason: str, outputs: list[Path]) -> str:
    folders = dict.fromkeys(next(folder for folder in path.absolute().parents if folder.is_dir()) for path in outputs)
    room = ", ".join(f"{shutil.disk_usage(folder).free / 1e6:.1f} MB free in {folder}" for folder in folders)
    return (
        f"{name or ' or '.join(map(str, outputs)) or 'an output'} could not be written: {reason}"
        f"{f' ({room})' if room else ''}.\n"
        "Inputs and the outputs of earlier stages are as they were. Once this is mended, run the same command again: "
        "it goes on from here."
    )


# ------------------------------------------------------------------------------------------------- not to be left alone


def die_with_dvc() -> None:
    """End this process at once when the DVC that started it is dead, whatever kind of death; alone, do nothing.

    Else a stage would go on writing beside the next run. DVC starts a stage through a shell, which mostly becomes the
    stage and sometimes (fish) stays between: the watching thread looks past it.
    """
    if "DVC_STAGE" not in os.environ:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    above: list[psutil.Process] = []
    for parent in psutil.Process().parents():
        above.append(parent)
        if parent.name() not in SHELLS:
            break
    threading.Thread(target=_watch, args=(above,), daemon=True).start()


def _watch(above: list[psutil.Process]) -> None:
    while all(map(_lives, above)) and os.getppid() == above[0].pid:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)


def _lives(process: psutil.Process) -> bool:
    """Tell whether a process above this one still is; who was adopted has one of another session there."""
    try:
        here = os.getsid(process.pid) == os.getsid(0)
        return here and bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False
