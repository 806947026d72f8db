"""Registering a bundle: a new version with its figures, its predictions and what these were judged against."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mammo_ml import signing
from mammo_ml.dvc_record import training_data
from mammo_ml.errors import raise_if_any
from mammo_ml.locator_bundle import LocatorConfig, open_bundle
from mammo_ml.manifest import file_sha256
from mammo_ml.models.bundle import Bundle, BundleConfig
from mammo_ml.registry.facts import alias, evidence_tag, file_faults
from mammo_ml.registry.files import log_version
from mammo_ml.registry.gate import GateParameters, Kind
from mammo_ml.reporting.full_card import Made, full_card
from mammo_ml.reporting.model_card import card
from mammo_ml.tracking import StageRun, Store, TrackedData, computed_md5, current_pass, flat_figures, store_lock

NAMES: dict[Kind, str] = {kind: f"mammo-{kind}" for kind in ("classifier", "detector", "locator")}
CHALLENGER = "challenger"
FEEDBACK = Path("data/cut/feedback")
"""What readers' corrections taught, one centred cut a finding."""
RESERVED = ("kind", "dataset", "phantom", "folds_sha256", "primary_figure", "primary", "git_commit", "feedback_lesions")
"""Tags that only the bundle and the repository can give."""


def register(
    bundle_folder: Path,
    name: str,
    metrics: Mapping[str, Any],
    workspace: Path,
    *,
    leak_free: bool,
    data_valid: bool,
    evidence: Sequence[Path] = (),
    subgroups: Path | None = None,
    tags: Mapping[str, str] | None = None,
    gate: GateParameters | None = None,
) -> int:
    """Register a bundle and point `challenger` at the newest version.

    The same contents (bundle, figures, flags, tags) are registered once, and again where the version that has them
    cannot be used; new figures of the same weights are new. Files and tags are signed with the user's key.

    Args:
        bundle_folder: what finalize wrote; verified first.
        name: of the registered model, as in `NAMES`.
        metrics: metrics.json of the evaluating stage, nested by protocol; null counts as NaN.
        workspace: the project's folder.
        leak_free: the leak audit found nothing.
        data_valid: the data validation passed.
        evidence: out-of-fold predictions.csv and what it was judged against (`mammo_ml.registry.comparison.FILES`),
            kept as artifacts of the version's run, each with its hash as a tag.
        subgroups: subgroups.csv of the evaluation, for the card.
        tags: further tags of the version; `protocol` is the primary figure's unless given.
        gate: names the primary figures.

    Returns:
        The version, an existing one when these contents are registered already.

    Raises:
        BadInputError: when the bundle is not what its manifest says, a tag is the registry's own, or the signing key
            cannot be read.
        MlflowException: when the store fails.
    """
    _refuse_reserved(tags or {})
    signing.ensure_key()
    bundle = open_bundle(bundle_folder)
    config = bundle.config
    _refuse_other_films(Store(workspace), name, config)
    metrics_text = json.dumps(metrics, indent=2, sort_keys=True) + "\n"
    facts = version_tags(config, metrics, (gate or GateParameters()).primary(config.kind)) | dict(tags or {})
    facts |= {
        "bundle_sha256": bundle.content_sha256,
        "metrics_sha256": hashlib.sha256(metrics_text.encode()).hexdigest(),
        "leak_free": _flag_text(leak_free),
        "data_valid": _flag_text(data_valid),
        **{evidence_tag(path.name): file_sha256(path) for path in evidence},
    }
    # before the commit is added: a new commit that changes nothing of a model makes no new version of it
    content = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    store = Store(workspace)
    a_pass = current_pass(workspace, config.dataset)
    facts |= {"content_sha256": content, "git_commit": a_pass.commit, "git_dirty": _flag_text(a_pass.dirty)}
    if isinstance(config, LocatorConfig):
        facts["parents"] = _parents(store, config)
    experiment = store.experiment(config.dataset)
    parent = store.parent_run(experiment, a_pass)
    with store_lock(workspace):
        known = store.client.search_model_versions(f"name = '{name}' and tags.`content_sha256` = '{content}'")
        sound = _sound_version(store, known)
        if sound is not None:
            _point_challenger(store, name)
            return sound
        data = training_data(workspace, f"data/finalize_{config.kind}", computed_md5(bundle_folder))
        facts |= _taught_by_readers(data, workspace)
        run_tags = {**a_pass.tags, **facts, "stage": "register", "mammo.level": "register"}
        run_id = store.new_run(experiment, f"register {name} · {content[:8]}", run_tags, parent)
        try:
            StageRun(store, run_id=run_id, name=name).log_data(data, workspace)
            text = full_card(name, config, flat_figures(metrics), _made(bundle, facts, subgroups))
            number = log_version(store, run_id, bundle_folder, name, config, metrics_text, evidence, facts, text)
        except BaseException:
            store.client.set_terminated(run_id, "FAILED")
            raise
        store.client.set_terminated(run_id, "FINISHED")
        store.client.update_model_version(name, str(number), card(config, flat_figures(metrics)))
        _point_challenger(store, name)
        return number


def _made(bundle: Bundle, facts: Mapping[str, str], subgroups: Path | None) -> Made:
    commit = facts["git_commit"] + (", with changes that are in no commit" if facts["git_dirty"] == "true" else "")
    return Made(
        bundle.training_films,
        facts["primary_figure"],
        leak_free=facts["leak_free"] == "true",
        data_valid=facts["data_valid"] == "true",
        commit="" if facts["git_commit"] == "no-git" else commit,
        subgroups=None if subgroups is None else pd.read_csv(subgroups),
    )


def _sound_version(store: Store, known: Sequence[Any]) -> int | None:
    """Newest of some versions whose files can be used; says what is wrong where there are versions but none can."""
    faults = {int(found.version): file_faults(store, found) for found in known}
    for number, found in faults.items() if all(faults.values()) else ():
        told = "; ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        print(f"version {number} has these contents already, but cannot be used: {told}", file=sys.stderr)
    return max((number for number, found in faults.items() if not found), default=None)


def _refuse_other_films(store: Store, name: str, config: BundleConfig) -> None:
    """Keep phantoms out of a registry of real films, and real films out of the phantoms' one."""
    others = store.client.search_model_versions(f"name = '{name}'")
    strangers = {v.tags.get("dataset", "") for v in others if v.tags.get("phantom") != _flag_text(config.phantom)}
    problems = [f"{name} here is made from {known}, this model from {config.dataset}" for known in sorted(strangers)]
    raise_if_any("registry", problems, "Phantom models and models of real films live in registries of their own.")


def _refuse_reserved(tags: Mapping[str, str]) -> None:
    problems = [f"tag '{key}' is the registry's own" for key in tags if key in RESERVED]
    raise_if_any("tags of a version", problems, "It is taken from the bundle; leave it out.")


def _flag_text(flag: bool) -> str:
    return "true" if flag else "false"


def version_tags(config: BundleConfig, metrics: Mapping[str, Any], primary: str) -> dict[str, str]:
    """Tags of a version that holds this bundle: what it is, and its primary figure with interval and baseline."""
    figures = flat_figures(metrics)
    shown = {suffix: figures.get(f"{primary}{suffix}") for suffix in ("", "_lo", "_hi", "_baseline")}
    return {
        "kind": config.kind,
        "dataset": config.dataset,
        "phantom": _flag_text(config.phantom),
        "folds_sha256": config.folds_sha256,
        "protocol": primary.partition(".")[0],
        "primary_figure": primary,
        **{f"primary{suffix}": f"{value:.6g}" for suffix, value in shown.items() if value is not None},
    }


def _parents(store: Store, config: LocatorConfig) -> str:
    """Versions that a locator was put together from, as `mammo-classifier/3, mammo-detector/2`."""
    told = []
    for parent in config.parents:
        name = NAMES[parent.kind]
        query = f"name = '{name}' and tags.`bundle_sha256` = '{parent.bundle_sha256}'"
        numbers = [int(found.version) for found in store.client.search_model_versions(query)]
        told.append(f"{name}/{max(numbers)}" if numbers else f"{name}, not registered: {parent.bundle_sha256[:12]}")
    return ", ".join(told)


def _taught_by_readers(data: Sequence[TrackedData], workspace: Path) -> dict[str, str]:
    """Tag with the number of readers' findings that taught a model; none where they are not among its data, or gone."""
    taught = next((one for one in data if one.path == FEEDBACK), None)
    if taught is None or not (workspace / FEEDBACK).is_dir() or computed_md5(workspace / FEEDBACK) != taught.md5:
        return {}
    kinds = pd.read_csv(workspace / FEEDBACK / "cuts.csv")["kind"]
    return {"feedback_lesions": str((kinds == "centred").sum())}


def _point_challenger(store: Store, name: str) -> None:
    newest = max(int(found.version) for found in store.client.search_model_versions(f"name = '{name}'"))
    if alias(store, name, CHALLENGER) != newest:
        store.client.set_registered_model_alias(name, CHALLENGER, str(newest))
