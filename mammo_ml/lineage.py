"""From a registered version back to what it was made from: figures, parameters, folds, data, pre-training, code.

Every fact comes from where it was written at the time (the version's signed files and tags, MLflow's runs, the dvc.lock
that knows the bundle's md5, git), never from the workspace as it happens to be. What was not written down is None.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from mammo_ml import registry
from mammo_ml.dvc_record import Record, Stage, differences, find_records, git, has_commit, project_of
from mammo_ml.errors import BadInputError
from mammo_ml.locator_bundle import open_bundle
from mammo_ml.manifest import file_sha256
from mammo_ml.models.bundle import WEIGHTS, Bundle, folds_sha256
from mammo_ml.splits import committed_folds
from mammo_ml.tracking import StageEntry, Store, computed_md5

REFERENCE = re.compile(r"(?P<name>[^@/\s]+)(?:@(?P<alias>[\w.-]+)|/(?P<number>[1-9]\d*))")
Facts = dict[str, Any]


@dataclass(frozen=True)
class Version:
    """A registered version, its files verified.

    Attributes:
        tags: of the version.
        run_tags: of the run that registered it.
        registered_ms: since 1970.
        files: folder of the bundle.
        records: every dvc.lock that tells how the bundle was made, the workspace's first.
    """

    name: str
    number: int
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    run_id: str
    run_tags: Mapping[str, str]
    registered_ms: int
    files: Path
    bundle: Bundle
    md5: str
    records: Sequence[Record]

    @property
    def stage(self) -> str:
        """Stage that wrote the bundle."""
        return f"finalize_{self.bundle.config.kind}"

    @property
    def finalized(self) -> Stage | None:
        """That stage as DVC recorded it."""
        return self.records[0].stage(self.stage) if self.records else None

    @property
    def commit(self) -> str | None:
        """Commit it was registered from."""
        found = self.tags.get("git_commit", "no-git")
        return None if found == "no-git" else found

    @property
    def dirty(self) -> bool:
        """Whether files of that commit were changed when it was registered; unknown counts as changed."""
        return self.tags.get("git_dirty") != "false"


def parse_reference(text: str) -> tuple[str, int | str]:
    """Name and version number or alias of NAME@ALIAS or NAME/VERSION.

    Raises:
        BadInputError: when it is neither.
    """
    found = REFERENCE.fullmatch(text)
    if found is None:
        names = " or ".join(registry.NAMES.values())
        remedy = f"Write NAME@champion, NAME@challenger or NAME/VERSION; NAME is {names}."
        raise BadInputError("registered model", [f"'{text}' does not say which version"], remedy)
    return found["name"], int(found["number"]) if found["number"] else found["alias"]


def open_version(reference: str, workspace: Path) -> Version:
    """Find a version, verify its files and look for the dvc.lock that tells of it.

    Args:
        reference: as `parse_reference` takes it.
        workspace: the project's folder, or a phantoms' one.

    Raises:
        BadInputError: when there is no such version, or its files are not those that were registered, each named.
        MlflowException: when the store fails.
    """
    name, which = parse_reference(reference)
    number, files = registry.bundle_of(name, workspace, which)
    client = Store(workspace).client
    found = client.get_model_version(name, str(number))
    bundle, md5 = open_bundle(files), computed_md5(files)
    return Version(
        name=name,
        number=number,
        aliases=tuple(
            sorted(alias for alias, n in client.get_registered_model(name).aliases.items() if int(n) == number)
        ),
        tags=found.tags,
        run_id=found.run_id,
        run_tags=client.get_run(found.run_id).data.tags,
        registered_ms=found.creation_timestamp,
        files=files,
        bundle=bundle,
        md5=md5,
        records=find_records(workspace, f"data/finalize_{bundle.config.kind}", md5),
    )


def source_commits(version: Version, workspace: Path) -> list[str]:
    """Commits of this clone with exactly the code, and for real films the parameters, that the bundle was made with.

    The version's own commit comes first where it is one of them. A dirty commit never was what ran, but what ran may
    have been committed since: DVC's md5 tell.
    """
    stage, project = version.finalized, project_of(workspace)
    if stage is None:
        return []
    head = (git(project, "rev-parse", "HEAD") or b"").decode().strip()
    candidates = dict.fromkeys([version.commit, *(record.commit for record in version.records), head])
    real = not version.bundle.config.phantom
    return [
        commit
        for commit in candidates
        if commit and has_commit(project, commit) and not differences(stage, project, commit, parameters=real)
    ]


def lineage(version: Version, workspace: Path) -> Facts:
    """Everything a version was made from, by section; None is what nobody wrote down."""
    store = Store(workspace)
    evaluated = _evaluated(version)
    return {
        "version": _version(version),
        "files": _files(version),
        "figures": _figures(version) | {"evaluation_run": _run(store, version, evaluated)},
        "parameters": _parameters(store, version),
        "folds": _folds(version),
        "data": _data(version, evaluated),
        "pretraining": _pretraining(version.bundle),
        "code": _code(version, workspace),
        "software": _software(version),
    }


def _version(version: Version) -> Facts:
    config = version.bundle.config
    return {
        "name": version.name,
        "version": version.number,
        "aliases": list(version.aliases),
        "registered": _time(version.registered_ms),
        "by": version.run_tags.get("mlflow.user"),
        "registering_run": version.run_id,
        "kind": config.kind,
        "dataset": config.dataset,
        "phantom": config.phantom,
        **({"parents": version.tags["parents"]} if "parents" in version.tags else {}),
    }


def _files(version: Version) -> Facts:
    return {
        "bundle": str(version.files),
        "verified": True,
        "bundle_sha256": version.bundle.content_sha256,
        "weights_sha256": file_sha256(version.files / WEIGHTS),
        "manifest_sha256": version.tags.get("manifest_sha256"),
        "dvc_md5": version.md5,
        "dvc_record": version.records[0].where if version.records else None,
    }


def _figures(version: Version) -> Facts:
    def number(key: str) -> float | None:
        text = version.tags.get(key)
        return None if text is None else float(text)

    return {
        "primary": version.tags.get("primary_figure"),
        "value": number("primary"),
        "lower_95": number("primary_lo"),
        "upper_95": number("primary_hi"),
        "knowing_nothing": number("primary_baseline"),
        "leak_free": _flag(version.tags.get("leak_free")),
        "data_valid": _flag(version.tags.get("data_valid")),
        "metrics_sha256": version.tags.get("metrics_sha256"),
    }


def _flag(text: str | None) -> bool | None:
    return {"true": True, "false": False}.get(text or "")


def _evaluated(version: Version) -> Stage | None:
    """The evaluation of exactly this bundle, as DVC recorded it."""
    kind = version.bundle.config.kind
    stages = (record.stage(f"evaluate_{kind}") for record in version.records)
    return next((s for s in stages if s and s.entry.data.get(f"data/finalize_{kind}") == version.md5), None)


def _runs(store: Store, version: Version, entry: StageEntry) -> list[Any]:
    experiment = store.client.get_experiment_by_name(version.bundle.config.dataset)
    return [] if experiment is None else store.runs_of(experiment.experiment_id, entry)


def finished_run(store: Store, version: Version, stage: Stage | None) -> Any:
    """Newest finished run of a stage, code, parameters and data; one that was rebuilt from outputs comes last.

    Returns:
        What MLflow's client calls Run, or None.
    """
    runs = _runs(store, version, stage.entry) if stage else []
    finished = [run for run in runs if run.info.status == "FINISHED"]
    return next(iter(sorted(finished, key=lambda run: "mammo.rebuilt" in run.data.tags)), None)


def _run(store: Store, version: Version, stage: Stage | None) -> Facts | None:
    run = finished_run(store, version, stage)
    if run is None:
        return None
    return {
        "run_id": run.info.run_id,
        "name": run.info.run_name,
        "started": _time(run.info.start_time),
        "rebuilt_from_outputs": "mammo.rebuilt" in run.data.tags,
        "git_commit": run.data.tags.get("git_commit"),
    }


def _parameters(store: Store, version: Version) -> Facts:
    """What the training of the registered weights was called with, tuned values in their places."""
    run = finished_run(store, version, version.finalized)
    kind = version.bundle.config.kind
    stages = version.records[0].stages if version.records else ()
    spaces = [stage.entry.parameters.get(f"tune_{kind}") or {} for stage in stages]
    tuned = sorted({name for section in spaces for name in section.get("space", {})})
    used = dict(sorted(run.data.params.items())) if run else None
    return {
        "effective": used,
        "tuned": {
            name: next((value for key, value in (used or {}).items() if key.rpartition(".")[2] == name), None)
            for name in tuned
        }
        if stages
        else None,
        "epochs": run.data.metrics.get("best_epoch") if run else None,
        "run": _run(store, version, version.finalized),
    }


def _folds(version: Version) -> Facts:
    config = version.bundle.config
    committed = committed_folds(config.dataset)
    return {
        "sha256": config.folds_sha256,
        "which": version.run_tags.get("folds"),
        "committed_benchmark": committed is not None and folds_sha256(committed) == config.folds_sha256,
    }


def _data(version: Version, evaluated: Stage | None) -> list[Facts] | None:
    """Every file and folder that was read on the way, from the first stage on."""
    if not version.records:
        return None
    record = next((r for r in version.records if evaluated and evaluated in r.stages), version.records[0])
    training = record.behind(version.stage)
    stages = training + [
        stage for stage in (record.behind(evaluated.entry.label) if evaluated else []) if stage not in training
    ]
    found: dict[tuple[str, str], Facts] = {}
    for stage in stages:
        for path, md5 in stage.data.items():
            makers = [maker.entry.label for maker, _, _ in record.makers(path)]
            used = "training" if stage in training else "evaluation"
            fact = {"path": path, "md5": md5 or None, "made_by": makers or None, "read_by": [], "used_for": used}
            found.setdefault((path, md5), fact)["read_by"].append(stage.entry.label)
    return list(found.values())


def _pretraining(bundle: Bundle) -> Facts:
    films = bundle.training_films

    def learned_from(step: str) -> list[Facts]:
        groups = films[films["step"] == step].groupby("dataset")
        return [
            {"dataset": str(dataset), "women": int(group["patient_id"].nunique()), "films": len(group)}
            for dataset, group in groups
        ]

    return {
        "weights": [ancestor.model_dump(mode="json") for ancestor in bundle.config.ancestry],
        "films": learned_from("pretraining"),
        "own_training_films": learned_from("training"),
    }


def _code(version: Version, workspace: Path) -> Facts:
    project, stage, commit = project_of(workspace), version.finalized, version.commit
    here = commit is not None and has_commit(project, commit)
    told = git(project, "show", "--no-patch", "--format=%cI %s", commit).decode() if here and commit else None  # type: ignore[union-attr]
    known = stage is not None and here
    real = not version.bundle.config.phantom
    return {
        "git_commit": commit,
        "dirty": version.dirty,
        "in_this_clone": here,
        "committed": told.strip() if told else None,
        "stage": version.stage,
        "code_files": len(stage.code) if stage else None,
        "differs_from_commit": differences(stage, project, commit, parameters=real)
        if known and stage and commit
        else None,
        "same_code_in": source_commits(version, workspace) if stage else None,
    }


def _software(version: Version) -> Facts:
    folder = version.files.parents[1]
    requirements, environment = folder / "requirements.txt", folder / "python_env.yaml"
    packages = dict(line.split("==", 1) for line in _lines(requirements) if "==" in line)
    python = yaml.safe_load(environment.read_text("utf-8")).get("python") if environment.is_file() else None
    return {"python": python, "packages": packages or None, "processor": None}


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines() if path.is_file() else []


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
