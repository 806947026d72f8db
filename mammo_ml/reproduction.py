"""Build the weights of a registered version again, in a folder of their own.

The folder holds a clone of the version's commit and, out of DVC's cache, what its `finalize_*` stage read. The
workspace is only read: the clone has a DVC cache and an MLflow store of its own.
"""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from mammo_ml import pipeline_run
from mammo_ml.bundle_comparison import Comparison
from mammo_ml.dvc_record import (
    Record,
    Stage,
    cache_of,
    cached_files,
    differences,
    dvc_settings,
    git,
    has_commit,
    md5_at,
    project_of,
    read_record,
    restore,
    size_of,
)
from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.lineage import Version, finished_run, source_commits
from mammo_ml.models.bundle import WEIGHTS
from mammo_ml.repro import make_phantom_workspace
from mammo_ml.tracking import WRITTEN_BY_STAGES, Store

FOLDER = Path("build/reproduce")
RESULT = "reproduction.json"


# ---------------------------------------------------------------------------------------------------------------- plan


@dataclass(frozen=True)
class Plan:
    """What a reproduction will do.

    Attributes:
        commit: what is cloned.
        folder: where to.
        place: the workspace in that clone.
        restored: path and md5 of what comes out of DVC's cache.
        remade: stages that run before the last one, for the cache lacks what they made.
        warnings: why the result may differ.
        copied_bytes: of `restored`.
        seconds: how long the last stage took when it was recorded live; None where it was not.
    """

    version: Version
    commit: str
    folder: Path
    place: Path
    restored: Mapping[str, str]
    remade: tuple[str, ...]
    warnings: tuple[str, ...]
    copied_bytes: int
    seconds: float | None

    @property
    def record(self) -> Record:
        """The dvc.lock that is built again."""
        return self.version.records[0]

    def __str__(self) -> str:
        version, stages = self.version, [*self.remade, self.version.stage]
        lasted = "not recorded" if self.seconds is None else f"{self.seconds:.0f} s when it was trained"
        lines = [
            f"{version.name} version {version.number}: its weights are built again in {self.folder}",
            f"  commit    {self.commit}",
            f"  data      {len(self.restored)} outputs, {self.copied_bytes / 1e6:.0f} MB, from DVC's cache",
            f"  stages    {', '.join(stages)}",
            f"  time      {version.stage}: {lasted}",
            f"  disk      about {self.disk_bytes / 1e6:.0f} MB, {_free(self.folder) / 1e6:.0f} MB free",
            *(f"  warning   {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)

    @property
    def disk_bytes(self) -> int:
        """Data, the new bundle in the folder and in its cache, checkpoints, and a clone without history."""
        weights = (self.version.files / WEIGHTS).stat().st_size
        return self.copied_bytes + 10 * weights + (50 << 20)


def _free(folder: Path) -> int:
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.is_dir())).free


def make_plan(
    version: Version, workspace: Path, folder: Path | None = None, *, anyway: bool = False, remake: bool = False
) -> Plan:
    """Decide how to build a version's weights again; changes nothing.

    Args:
        version: what to build.
        workspace: whose registry and DVC cache it is.
        folder: where to; below `build/reproduce` of the workspace's project when None.
        anyway: also where the commit that the version was registered from is not what ran.
        remake: run the stages whose outputs the cache lacks.

    Raises:
        BadInputError: when it cannot be built: no dvc.lock tells how, the commit is not in this clone or was dirty,
            or DVC's cache lacks what is needed.
        MammoError: when the disk is too small.
    """
    workspace = workspace.resolve()
    project = project_of(workspace).resolve()
    stage = version.finalized
    if stage is None:
        problem = f"no dvc.lock, of the workspace or of a commit, has data/{version.stage} with md5 {version.md5}"
        remedy = (
            "Commit dvc.lock after a run, or fetch the branch that has it: it says which data the model was made from."
        )
        raise BadInputError(_name(version), [problem], remedy)
    commit, warnings = _commit(version, project, workspace, anyway)
    restored, remade, lacking = _inputs(version.records[0], stage, workspace, project, commit)
    if remade and not remake:
        raise _lacking(version, workspace, lacking, remade)
    folder = (folder or project / FOLDER / f"{version.name}-{version.number}-{version.md5[:8]}").resolve()
    cache = cache_of(workspace)
    plan = Plan(
        version=version,
        commit=commit,
        folder=folder,
        place=folder / (Path("build/phantom") if version.bundle.config.phantom else _below_top(project)),
        restored=restored,
        remade=tuple(remade),
        warnings=(*warnings, *_other_packages(version)),
        copied_bytes=size_of(cache, restored.values()),
        seconds=_seconds(version, workspace),
    )
    if _free(folder) < plan.disk_bytes:
        raise MammoError(f"{plan}\nThat is too little disk: name another folder (--folder).")
    return plan


def _below_top(project: Path) -> Path:
    """Where a project lies in its repository; nearly always at the top."""
    return Path((git(project, "rev-parse", "--show-prefix") or b"").decode().strip())


def _name(version: Version) -> str:
    return f"{version.name} version {version.number}"


def _commit(version: Version, project: Path, workspace: Path, anyway: bool) -> tuple[str, list[str]]:
    """Commit to build from, and what is to be said about it."""
    told, sources = version.commit, source_commits(version, workspace)
    here = told is not None and has_commit(project, told)
    if told and here and not version.dirty and told in sources:
        return told, []
    if told is None:
        problem = "it was registered outside git: no commit is recorded"
    elif not here:
        problem = f"its commit {told} is not in this clone (`git fetch --all` may bring it)"
    elif version.dirty:
        problem = f"its commit {told[:12]} was dirty: files had been changed and not committed when it was registered"
    else:
        problem = f"its commit {told[:12]} does not hold what ran, as dvc.lock tells"
    stage = version.finalized
    assert stage is not None
    other = next(iter(sources), None)
    if anyway and other:
        return other, [f"{problem}; commit {other[:12]} holds the code that dvc.lock names"]
    real = not version.bundle.config.phantom
    differs = differences(stage, project, told, parameters=real) if told and here else []
    if anyway and told and here:
        return told, [problem, *(f"not what ran: {line}" for line in differs)]
    if other:
        remedy = f"Commit {other[:12]} holds the same code, file by file as dvc.lock names it: --anyway builds from it."
    elif here:
        remedy = (
            "No commit of this clone holds what ran. --anyway builds from the version's commit, and may well differ."
        )
    else:
        remedy = "No commit of this clone holds what ran."
    raise BadInputError(_name(version), [problem, *(f"not what ran: {line}" for line in differs)], remedy)


def _inputs(
    record: Record, last: Stage, workspace: Path, project: Path, commit: str
) -> tuple[dict[str, str], list[str], list[str]]:
    """What comes from the cache (md5 by path), the stages to run for what it lacks, and what that is."""
    cache = cache_of(workspace)
    restored: dict[str, str] = {}
    remade: list[str] = []
    lacking: list[str] = []

    def need(stage: Stage) -> None:
        for path in stage.entry.data:
            for maker, output, md5 in record.makers(path):
                if output in restored or maker.entry.label in remade:
                    continue
                if cached_files(cache, md5) is not None:
                    restored[output] = md5
                elif workspace != project or md5_at(project, commit, output) != md5:
                    # reports are not in the cache but in git
                    lacking.append(f"{output} (md5 {md5}, made by {maker.entry.label})")
                    need(maker)
                    remade.append(maker.entry.label)

    need(last)
    return restored, list(dict.fromkeys(remade)), list(dict.fromkeys(lacking))


def _lacking(version: Version, workspace: Path, lacking: list[str], remade: list[str]) -> BadInputError:
    remotes = list(dvc_settings(workspace)["remote"])
    fetch = (
        f"`dvc fetch --all-commits` may bring it from {', '.join(remotes)}. "
        if remotes
        else "No DVC remote is set that could have it. "
    )
    remedy = f"{fetch}--remake runs these stages first, however long they take: {', '.join(remade)}."
    return BadInputError(f"{_name(version)}: DVC's cache lacks what {version.stage} read", lacking, remedy)


def _seconds(version: Version, workspace: Path) -> float | None:
    run = finished_run(Store(workspace), version, version.finalized)
    if run is None or "mammo.rebuilt" in run.data.tags or run.info.end_time is None:
        return None
    return float(run.info.end_time - run.info.start_time) / 1000


def _other_packages(version: Version) -> list[str]:
    """Packages that are not what the version was registered with; threads and libraries below them are not recorded."""
    path = version.files.parents[1] / "requirements.txt"
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    found = []
    for name, _, then in (line.partition("==") for line in lines if "==" in line):
        now = _installed(name)
        if now != then:
            found.append(f"{name} was {then}, here it is {now}")
    return found


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


# --------------------------------------------------------------------------------------------------------------- build


def prepare(plan: Plan, workspace: Path, advance: Callable[[int], object] = lambda n: None) -> None:
    """Clone the commit and copy the data out of DVC's cache; what an earlier attempt left there is kept.

    Args:
        plan: what `make_plan` gave.
        workspace: the same as there.
        advance: called with the number of bytes of each file that is there.

    Raises:
        BadInputError: naming every object of the cache that is damaged.
        MammoError: when the folder is something else, git fails, or another run is going on there.
    """
    cache = cache_of(workspace.resolve())
    _clone(project_of(workspace.resolve()), plan)
    if plan.place != plan.folder:
        sections: dict[str, object] = {}
        for stage in plan.record.stages:
            sections |= stage.entry.parameters
        make_phantom_workspace(plan.folder, plan.place, sections)
    (plan.place / ".dvc" / "config.local").write_text("[cache]\n    dir = cache\n", encoding="utf-8")
    with pipeline_run.only_run(plan.place):
        for path, md5 in plan.restored.items():
            restore(cache, md5, plan.place / path, advance)


def build(plan: Plan) -> Path:
    """Run the stages in what `prepare` made; returns the new bundle's folder.

    A training that was interrupted goes on from its last checkpoint.

    Raises:
        MammoError: when a stage fails, or another run is going on there.
        StoppedError: when a signal ended the run.
    """
    with pipeline_run.only_run(plan.place), _own_store():
        pipeline_run.recover(plan.place)
        for label in (*plan.remade, plan.version.stage):
            code = pipeline_run.run_dvc(["repro", "--single-item", "--force", label], plan.place)
            if code != 0:
                raise MammoError(
                    f"{label} stopped (dvc repro ended with {code}); its message stands above. "
                    f"Run the same command again to go on.{pipeline_run.room_left(plan.place)}"
                )
    return plan.place / "data" / plan.version.stage


def _clone(project: Path, plan: Plan) -> None:
    """Clone the commit without its history: objects are read from the project's, nothing is written there."""
    folder = plan.folder
    if (folder / ".git").is_dir():
        head = (git(folder, "rev-parse", "HEAD") or b"").decode().strip()
        written = [f":(top,exclude,glob){name}" for name in WRITTEN_BY_STAGES]
        changed = git(folder, "status", "--porcelain", "--untracked-files=no", "--", ":/", *written)
        if head != plan.commit or changed:
            raise MammoError(
                f"{folder} holds something else than commit {plan.commit[:12]}. Remove it or name another."
            )
        return
    if folder.exists() and any(folder.iterdir()):
        raise MammoError(f"{folder} is in use. Name an empty or new folder (--folder).")
    top = (git(project, "rev-parse", "--show-toplevel") or b"").decode().strip()
    draft = folder.with_name(folder.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    _git(["clone", "--quiet", "--shared", "--no-checkout", top, str(draft)])
    _git(["-C", str(draft), "checkout", "--quiet", "--detach", plan.commit])
    if folder.exists():
        folder.rmdir()
    draft.rename(folder)


def _git(arguments: list[str]) -> None:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MammoError(f"git {arguments[0]} failed: {done.stderr.strip()}")


@contextlib.contextmanager
def _own_store() -> Iterator[None]:
    """Keep the record of the run out of the user's MLflow store: the clone has its own."""
    before = os.environ.pop("MLFLOW_TRACKING_URI", None)
    try:
        yield
    finally:
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def finish(plan: Plan, comparison: Comparison) -> Path:
    """Keep the result beside the new bundle and let go of the checkpoints: the next attempt trains from the start."""
    path = plan.folder / "build" / RESULT
    path.parent.mkdir(exist_ok=True)
    facts = asdict(comparison) | {"verdict": comparison.verdict, "commit": plan.commit}
    path.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for stage in (plan.place / ".state").glob("finalize_*"):
        shutil.rmtree(stage)
    return path


def other_inputs(plan: Plan) -> tuple[str, ...]:
    """Name the data that the new bundle was made from and the version was not, as after stages were remade."""
    wanted, made = plan.version.finalized, read_record(plan.place).stage(plan.version.stage)
    now = made.entry.data if made else {}
    then = wanted.entry.data if wanted else {}
    return tuple(
        f"{path}: md5 {now.get(path)}, the version's was {md5}" for path, md5 in then.items() if now.get(path) != md5
    )
