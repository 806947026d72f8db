"""What DVC wrote down about an output: from which data, code and parameters it was made, and its bytes by their md5.

The dvc.lock that tells of an output is seldom that of the commit the run was made from: a run changes dvc.lock, and it
is committed afterwards. So the record of an output is looked for by the output's md5.
"""

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mammo_ml.errors import MammoError, raise_if_any
from mammo_ml.tracking import (
    CODE,
    StageEntry,
    TrackedData,
    computed_md5,
    is_phantom,
    locked_entries,
    read_dvc_yaml,
)

LOCK = "dvc.lock"
OWN = "dvc.lock of the workspace"


@dataclass(frozen=True)
class Stage:
    """A finished stage and fold as dvc.lock has it; `outputs`: md5 by path."""

    entry: StageEntry
    outputs: dict[str, str]

    @property
    def data(self) -> dict[str, str]:
        """Path and md5 of the data it read, tables that are kept with the code among them."""
        tables = {path: md5 for path, md5 in self.entry.depends.items() if path.endswith(".csv")}
        return tables | self.entry.data

    @property
    def code(self) -> dict[str, str]:
        """Path and md5 of the code it ran, and of the tables kept with it."""
        return {path: md5 for path, md5 in self.entry.depends.items() if path.startswith(CODE)}


@dataclass(frozen=True)
class Record:
    """A dvc.lock: where it stands in words, the commit that holds it (None: no commit), and its stages."""

    where: str
    commit: str | None
    stages: Sequence[Stage]

    def stage(self, label: str) -> Stage | None:
        """Stage by its name, as finalize_detector or train_detector@0."""
        return next((stage for stage in self.stages if stage.entry.label == label), None)

    def makers(self, path: str) -> list[tuple[Stage, str, str]]:
        """Stages that made a path, something below it or a folder it lies in, each with that output and its md5."""
        return [
            (stage, output, md5)
            for stage in self.stages
            for output, md5 in stage.outputs.items()
            if output == path or output.startswith(f"{path}/") or path.startswith(f"{output}/")
        ]

    def behind(self, label: str) -> list[Stage]:
        """The stage and all those before it that it is made from, the first ones first."""
        found: dict[str, Stage] = {}

        def add(stage: Stage) -> None:
            if stage.entry.label in found:
                return
            for path in stage.entry.data:
                for maker, _, _ in self.makers(path):
                    add(maker)
            found[stage.entry.label] = stage

        if (last := self.stage(label)) is not None:
            add(last)
        return list(found.values())


# ------------------------------------------------------------------------------------------------------------ in git


def git(folder: Path, *arguments: str) -> bytes | None:
    """What a git command answers, None where it fails or there is no git."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def project_of(workspace: Path) -> Path:
    """Folder whose commits a workspace speaks of: itself, for phantoms the top of the repository around them."""
    top = git(workspace, "rev-parse", "--show-toplevel") if is_phantom(workspace) else None
    return Path(top.decode().strip()) if top else workspace


def has_commit(folder: Path, commit: str) -> bool:
    """Tell whether this clone has a commit."""
    return git(folder, "cat-file", "-e", f"{commit}^{{commit}}") is not None


def md5_at(folder: Path, commit: str, path: str) -> str | None:
    """md5 of a file or folder as a commit has it, formed as DVC does; None where the commit has none."""
    listed = git(folder, "ls-tree", "-r", "-z", "--name-only", commit, "--", path)
    names = [name for name in (listed or b"").decode().split("\0") if name]
    if not names:
        return None
    found = {name: hashlib.md5(git(folder, "show", f"{commit}:./{name}") or b"").hexdigest() for name in names}
    if names == [path]:
        return found[path]
    listing = [{"md5": found[name], "relpath": name.removeprefix(f"{path}/")} for name in sorted(names)]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def differences(stage: Stage, project: Path, commit: str, *, parameters: bool = True) -> list[str]:
    """Say in what a commit differs from what a stage was made from: its code, and its sections of params.yaml."""
    found = [f"{path} is another" for path, md5 in stage.code.items() if md5_at(project, commit, path) != md5]
    if parameters:
        content = read_dvc_yaml(git(project, "show", f"{commit}:./params.yaml") or b"{}")
        wanted = stage.entry.parameters
        found += [f"params.yaml: '{name}' is another" for name in wanted if content.get(name) != wanted[name]]
    return found


def find_records(workspace: Path, output: str, md5: str) -> list[Record]:
    """Find every dvc.lock that tells how an output of this md5 was made: the workspace's own, then those of commits.

    Commits of all branches that changed dvc.lock are looked at, the newest first.
    """
    found = []
    own = workspace / LOCK
    if own.is_file() and (record := _record(OWN, None, own.read_bytes(), output, md5)):
        found.append(record)
    changed = git(workspace, "log", "--all", "--format=%H", "--", LOCK) or b""
    for commit in changed.decode().split():
        content = git(workspace, "show", f"{commit}:./{LOCK}") or b""
        if record := _record(f"dvc.lock of commit {commit[:7]}", commit, content, output, md5):
            found.append(record)
    return found


def read_record(workspace: Path) -> Record:
    """Record of a workspace as it is, empty where nothing ran yet."""
    own = workspace / LOCK
    return Record(OWN, None, _stages(own.read_bytes()) if own.is_file() else ())


def training_data(workspace: Path, output: str, md5: str) -> list[TrackedData]:
    """All data that an output was made from, as inputs for its run; none where dvc.lock tells of another output."""
    record = read_record(workspace)
    made = next((stage for stage in record.stages if stage.outputs.get(output) == md5), None)
    behind = record.behind(made.entry.label) if made else []
    found = {path: read for stage in behind for path, read in stage.data.items()}
    return [TrackedData(Path(path), "training", read) for path, read in found.items()]


def _record(where: str, commit: str | None, content: bytes, output: str, md5: str) -> Record | None:
    # reading YAML takes seconds, a commit may have hundreds of ancestors
    if md5.encode() not in content:
        return None
    stages = _stages(content)
    return Record(where, commit, stages) if any(stage.outputs.get(output) == md5 for stage in stages) else None


@lru_cache(maxsize=2)
def _stages(content: bytes) -> tuple[Stage, ...]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / LOCK).write_bytes(content)
        return tuple(Stage(entry, outputs) for entry, outputs in locked_entries(Path(folder)))


def output_md5_at(workspace: Path, commit: str, path: str) -> str | None:
    """md5 of an output as the dvc.lock of a commit has it; None where there is none."""
    content = git(workspace, "show", f"{commit}:./{LOCK}")
    stages = _stages(content) if content else ()
    return next((stage.outputs[path] for stage in stages if stage.outputs.get(path)), None)


# ------------------------------------------------------------------------------------------------------ in DVC's cache


def dvc_settings(workspace: Path) -> Mapping[str, Any]:
    """Settings of a workspace's DVC, its own, the user's and the machine's together; reads only.

    Raises:
        MammoError: when the folder is no DVC workspace or a setting is wrong.
    """
    from dvc.config import Config, ConfigError

    folder = workspace / ".dvc"
    try:
        found = Config(dvc_dir=str(folder)) if folder.is_dir() else None
    except ConfigError as error:
        raise MammoError(f"{workspace}: DVC's settings cannot be read: {error}") from None
    if found is None:
        raise MammoError(f"{workspace} has no folder .dvc: it is no workspace of DVC")
    return dict(found)


def cache_of(workspace: Path) -> Path:
    """Folder of the objects of a workspace's DVC cache, wherever its settings put it.

    Raises:
        MammoError: as `dvc_settings` does.
    """
    place = dvc_settings(workspace)["cache"].get("dir") or "cache"
    return workspace / ".dvc" / str(place) / "files" / "md5"


def cached_files(cache: Path, md5: str) -> dict[str, tuple[Path, str]] | None:
    """Objects of an output, each with its md5, by path relative to it ("" for a file); None where one is not there.

    Raises:
        MammoError: when the listing of a folder is not what was put into the cache.
    """
    listing = _object(cache, md5)
    if not listing.is_file():
        return None
    if not md5.endswith(".dir"):
        return {"": (listing, md5)}
    if computed_md5(listing) != md5.removesuffix(".dir"):
        raise MammoError(f"{listing} was changed: the list of a folder's files. Delete it and run `dvc fetch`.")
    entries: list[dict[str, Any]] = json.loads(listing.read_bytes())
    files = {entry["relpath"]: (_object(cache, entry["md5"]), entry["md5"]) for entry in entries}
    return files if all(path.is_file() for path, _ in files.values()) else None


def _object(cache: Path, md5: str) -> Path:
    return cache / md5[:2] / md5[2:]


def restore(cache: Path, md5: str, target: Path, advance: Callable[[int], object] = lambda n: None) -> None:
    """Copy an output out of DVC's cache and verify every byte; files that are there already are kept.

    Args:
        cache: as `cache_of` gives it; nothing is written there.
        md5: of the file or folder.
        target: where to.
        advance: called with the bytes of each file once it is there.

    Raises:
        BadInputError: naming each object that is damaged.
        MammoError: when the cache lacks it.
    """
    files = cached_files(cache, md5)
    if files is None:
        raise MammoError(f"DVC's cache {cache} lacks {md5} ({target.name})")
    problems = []
    for name, (source, expected) in files.items():
        path = target / name if name else target
        if not (path.is_file() and computed_md5(path) == expected):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, path)
            if computed_md5(path) != expected:
                path.unlink()
                problems.append(f"{source} was changed: it is not the {name or target.name} it should be")
        advance(source.stat().st_size)
    raise_if_any("DVC's cache", problems, "Delete these files and run `dvc fetch`, or make the outputs again.")


def size_of(cache: Path, md5s: Iterable[str]) -> int:
    """Bytes of several outputs in the cache."""
    return sum(path.stat().st_size for md5 in md5s for path, _ in (cached_files(cache, md5) or {}).values())
