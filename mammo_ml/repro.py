"""`mammo-ml repro`: the whole pipeline in one command, on the real films or, where there are none, on phantoms."""

import os
import shutil
import signal
from configparser import ConfigParser
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import yaml

from mammo_ml import cache_check, pipeline_run
from mammo_ml.datasets.catalog import write_table
from mammo_ml.datasets.mini_mias import DATASET
from mammo_ml.datasets.mini_mias_archive import OFFICIAL_URL
from mammo_ml.errors import BadInputError, MammoError, raise_if_any
from mammo_ml.feedback.tables import FOLDER, empty_tables
from mammo_ml.parameters import read_yaml
from mammo_ml.splits import N_FOLDS

CODE = ("mammo_ml", "pipelines", "expectations")
"""Folders a workspace holds a copy of, because dvc.yaml names them as dependencies."""
PHANTOM = "phantom"
PHANTOM_CHANGES: dict[str, object] = {
    "dataset": PHANTOM,
    "folds": [0, 1],
    "tune_classifier.budget_samples": 800,
    "tune_classifier.space.learning_rate.high": 0.003,
    "train_classifier.training.budget_samples": 2400,
    "train_classifier.training.learning_rate": 0.0003,
    "leaky_classifier.values.budget_samples": 2400,
    "tune_detector.budget_samples": 800,
    "tune_detector.space.learning_rate.high": 0.003,
    "train_detector.augmentation.strength": 0.5,
    "train_detector.training.budget_samples": 3600,
    "train_detector.training.learning_rate": 0.001,
    "leaky_detector.values.budget_samples": 3600,
}
"""Phantoms are easy and nobody's result: two folds and smaller budgets show every part of the pipeline in minutes. What
the starter weights know of masses helps little here, so both models take larger steps."""
PHANTOM_BANNER = """
======================================================================================================
  PHANTOM FILMS. {reason}
  The whole pipeline runs on synthetic films in {workspace},
  with its own DVC cache, MLflow store and registry.
  Everything is tagged `phantom`. No figure below says anything about real mammograms.
  For the real run: MIAS_ARCHIVE=/path/to/all-mias.tar.gz make repro
======================================================================================================
"""


NOT_HERE = "The mini-MIAS archive is not here and could not be reached."
ASKED_FOR = "You asked for them; no real film is touched."


def check_parameters(root: Path) -> None:
    """Check what no stage's own section holds: the data set and the list of folds.

    Raises:
        BadInputError: naming the key, or the file where this is not the project's folder.
    """
    path = root / "params.yaml"
    if not path.is_file():
        raise BadInputError(str(path), ["not found"], "Run this in the project's folder, where dvc.yaml is.")
    found = read_yaml(path)
    dataset, folds = found.get("dataset"), found.get("folds")
    problems = []
    if dataset != DATASET:
        problems.append(f"key 'dataset': expected {DATASET}, found {dataset!r}; phantoms have `make phantom`")
    known = isinstance(folds, list) and all(fold in range(N_FOLDS) for fold in folds)
    if not known or not folds or len(set(folds)) != len(folds):
        problems.append(f"key 'folds': expected different whole numbers from 0 to {N_FOLDS - 1}, found {folds!r}")
    raise_if_any(str(path), problems)


def films_at_hand(root: Path) -> bool:
    """Tell whether the real films are ingested, named by MIAS_ARCHIVE, or can be downloaded.

    Raises:
        MammoError: when MIAS_ARCHIVE names a file that does not exist: nobody who set it wants phantoms.
    """
    source = os.environ.get("MIAS_ARCHIVE")
    if source:
        if "://" not in source and not Path(source).is_file():
            raise MammoError(f"MIAS_ARCHIVE names {source}, which is not a file. Correct it, or unset it for phantoms.")
        return True
    return (root / "data" / "ingest" / "Info.txt").is_file() or _reachable(OFFICIAL_URL)


def _reachable(url: str) -> bool:
    try:
        with urlopen(Request(url, method="HEAD"), timeout=10):
            return True
    except (OSError, HTTPException):
        return False


def make_phantom_workspace(root: Path, workspace: Path, changes: dict[str, object] | None = None) -> None:
    """Lay out a workspace for phantoms: a copy of the pipeline, with its own DVC cache and MLflow store.

    Args:
        root: the project.
        workspace: where to; what DVC and MLflow keep there from an earlier run stays.
        changes: values by dotted key of params.yaml, on top of those that make it a phantom run.

    Raises:
        MammoError: when params.yaml has no such key, or the folder holds something else than a phantom workspace.
    """
    parameters = read_yaml(root / "params.yaml")
    for key, value in (PHANTOM_CHANGES | (changes or {})).items():
        _set(parameters, key, value)
    check_free(root, workspace)
    workspace.mkdir(parents=True, exist_ok=True)
    with pipeline_run.whole_file(workspace / "params.yaml") as draft:
        draft.write_text(yaml.safe_dump(parameters, sort_keys=False), encoding="utf-8")
    for name in CODE:
        # a module that is gone from the project must not live on here
        shutil.rmtree(workspace / name, ignore_errors=True)
        # the studies are of real films: DVC would list them as never run
        shutil.copytree(root / name, workspace / name, ignore=shutil.ignore_patterns("__pycache__", "studies"))
    # the project's corrections are of real films; those of phantoms stay
    for name, table in empty_tables().items():
        if not (workspace / FOLDER / f"{name}.csv").is_file():
            write_table(table, workspace / FOLDER / f"{name}.csv")
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy2(root / name, workspace / name)
    if not (workspace / ".dvc" / "config").is_file():
        _make_dvc_config(root, workspace)


def _make_dvc_config(root: Path, workspace: Path) -> None:
    """Give the workspace the project's DVC settings, but no git: this file is all that `dvc init` would leave."""
    config = ConfigParser()
    config.read(root / ".dvc" / "config", encoding="utf-8")
    config.read_dict({"core": {"no_scm": "true"}})
    (workspace / ".dvc").mkdir(exist_ok=True)
    with pipeline_run.whole_file(workspace / ".dvc" / "config") as draft, draft.open("w", encoding="utf-8") as file:
        config.write(file)


def _set(parameters: dict[str, Any], key: str, value: object) -> None:
    *sections, last = key.split(".")
    place: Any = parameters
    for section in sections:
        place = place.get(section) if isinstance(place, dict) else None
    if not isinstance(place, dict) or last not in place:
        raise MammoError(f"params.yaml has no key '{key}'")
    place[last] = value


def check_free(root: Path, workspace: Path) -> None:
    """Refuse a folder whose files are not those of a phantom workspace: its code folders are about to be replaced."""
    params = workspace / "params.yaml"
    known = params.is_file() and read_yaml(params).get("dataset") == PHANTOM
    # a run that was killed at once may have left its lock and nothing else
    left = {path.name for path in workspace.iterdir()} if workspace.is_dir() else set()
    empty = left <= {pipeline_run.LOCK.parts[0], "params.yaml.draft"}
    if workspace.resolve() == root.resolve() or not (known or empty):
        raise MammoError(f"{workspace} is in use and no phantom workspace. Name an empty or new folder (--workspace).")


def reproduce(workspace: Path, targets: list[str], *, force: bool = False) -> None:
    """Run `dvc repro` in a workspace, after mending what a killed run left there.

    Raises:
        BadInputError: naming every output of an earlier run that is not as dvc.lock says, unnoticed by DVC.
        MammoError: when a DVC is at work here or a stage failed; its own message is on the screen by then.
        StoppedError: when a signal ended the run.
    """
    for line in pipeline_run.recover(workspace):
        print(f"recovered: {line}", flush=True)
    raise_if_any("outputs of earlier runs", cache_check.damaged_outputs(workspace), cache_check.REMEDY)
    pipeline_run.keep_good_copy(workspace)
    code = pipeline_run.run_dvc(["repro", *(["--force"] if force else []), *targets], workspace)
    if code != 0:
        ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        raise MammoError(
            f"the pipeline stopped (dvc repro {ended}); where a stage failed, its message stands above."
            f"{pipeline_run.room_left(workspace)}\n"
            "What was finished is kept: run the same command again to go on."
        )
    pipeline_run.keep_good_copy(workspace)


def closing_words(workspace: Path) -> str:
    """What to look at next: links to what the run made."""
    links = {
        "data checks": workspace / "data" / "validate_tables" / "index.html",
        "cut checks": workspace / "data" / "validate_cuts" / "index.html",
        "classifier": workspace / "reports" / "evaluate_classifier" / "metrics.json",
        "detector": workspace / "reports" / "evaluate_detector" / "metrics.json",
    }
    lines = [f"  {name:<12} {path.as_uri()}" for name, path in links.items() if path.exists()]
    where = "" if (workspace / "Makefile").exists() else f" WORKSPACE={workspace}"
    lines += [f"  {'runs':<12} make ui{where}", f"  {'the gate':<12} make promote{where}"]
    return "\n".join(["", "Done. To look at:", *lines])
