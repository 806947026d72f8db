"""The registry of models: register a bundle, decide whether it may be champion, promote it.

The decision (`decide`) is pure; the rest is a thin layer over MLflow. MLflow has no compare-and-set for aliases, so
every change of one is made under the store's lock, after the decision was taken under that lock.
"""

import hashlib
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field

from mammo_ml import signing
from mammo_ml.errors import BadInputError, MammoError, raise_if_any
from mammo_ml.models.bundle import Bundle, BundleConfig, folds_sha256, read_bundle
from mammo_ml.parameters import Parameters, read_yaml
from mammo_ml.registry_files import BUNDLE, Kind, log_version, verified_folder
from mammo_ml.tracking import (
    FOLDER,
    Store,
    current_pass,
    flat_figures,
    store_errors,
    store_lock,
    user_name,
)

NAMES: dict[Kind, str] = {"classifier": "mammo-classifier", "detector": "mammo-detector"}
CHAMPION, CHALLENGER = "champion", "challenger"
AUDIT = "audit.jsonl"
RESERVED = ("kind", "dataset", "phantom", "folds_sha256", "primary_figure", "primary", "git_commit")
"""Tags that only the bundle and the repository can give."""


class GateParameters(Parameters):
    """What the gate looks at: for each kind of model the primary figure, as protocol.figure of metrics.json."""

    classifier: str = Field(default="by_patient.auc_macro", pattern=r"^[a-z0-9_]+\.[a-z0-9_]+$")
    detector: str = Field(default="films_by_patient.froc_mean", pattern=r"^[a-z0-9_]+\.[a-z0-9_]+$")

    def primary(self, kind: Kind) -> str:
        """Name of the primary figure of this kind of model."""
        return {"classifier": self.classifier, "detector": self.detector}[kind]


@dataclass(frozen=True)
class CandidateFacts:
    """What the gate knows of a version. `faults`: what is wrong with its files; `figures`: metrics.json, flat."""

    name: str
    version: int
    kind: Kind
    dataset: str
    phantom: bool
    folds_sha256: str
    protocol: str
    leak_free: bool
    data_valid: bool
    faults: tuple[str, ...]
    figures: Mapping[str, float]


@dataclass(frozen=True)
class RegistryFacts:
    """What belongs into this registry. `folds_sha256` is None for a data set without committed benchmark folds."""

    dataset: str
    phantom: bool
    folds_sha256: str | None
    champion: int | None = None
    champion_dataset: str | None = None


@dataclass(frozen=True)
class Condition:
    """One condition of the gate, with the figures that decided it."""

    name: str
    passed: bool
    explanation: str


@dataclass(frozen=True)
class Decision:
    """The gate's answer for one version; all conditions are listed, also those that passed."""

    name: str
    version: int
    champion: int | None
    conditions: tuple[Condition, ...]

    @property
    def allowed(self) -> bool:
        """True when every condition passed; a gate without conditions allows nothing."""
        return bool(self.conditions) and all(condition.passed for condition in self.conditions)


# -------------------------------------------------------------------------------------------------------- the decision


def decide(candidate: CandidateFacts, gate: GateParameters, registry: RegistryFacts) -> Decision:
    """Decide whether a version may become champion. Pure: facts in, decision out."""
    primary = gate.primary(candidate.kind)
    conditions = (
        _not_champion_yet(candidate, registry),
        Condition("files are intact", not candidate.faults, "; ".join(candidate.faults) or "every hash agrees"),
        _data_set(candidate, registry),
        _folds(candidate, registry),
        _flag("split leaks nothing", candidate.leak_free, "leak audit"),
        _flag("data are valid", candidate.data_valid, "data validation"),
        _protocol(candidate, primary),
        _finite(candidate.figures),
        _beats_knowing_nothing(candidate.figures, primary),
    )
    return Decision(candidate.name, candidate.version, registry.champion, conditions)


def _not_champion_yet(candidate: CandidateFacts, registry: RegistryFacts) -> Condition:
    champion = f"version {registry.champion}" if registry.champion is not None else "none"
    different = candidate.version != registry.champion
    return Condition("is not champion yet", different, f"version {candidate.version}; champion: {champion}")


def _data_set(candidate: CandidateFacts, registry: RegistryFacts) -> Condition:
    def text(dataset: str, phantom: bool) -> str:
        return f"{dataset}{' (phantom)' if phantom else ''}"

    found, expected = text(candidate.dataset, candidate.phantom), text(registry.dataset, registry.phantom)
    known = registry.champion_dataset
    passed = found == expected and known in (None, candidate.dataset)
    told = f"model from {found}; this registry holds {expected}"
    return Condition("data set belongs here", passed, told + (f", its champion is from {known}" if known else ""))


def _folds(candidate: CandidateFacts, registry: RegistryFacts) -> Condition:
    name, found = "folds belong here", candidate.folds_sha256
    if registry.folds_sha256 is None:
        told = f"folds {found[:12] or 'unknown'}; {registry.dataset} has no committed benchmark folds"
        return Condition(name, registry.phantom and bool(found), told)
    told = f"folds {found[:12] or 'unknown'}; benchmark folds {registry.folds_sha256[:12]}"
    return Condition(name, found == registry.folds_sha256, told)


def _flag(name: str, passed: bool, by: str) -> Condition:
    return Condition(name, passed, f"{by}: {'passed' if passed else 'failed or not recorded'}")


def _protocol(candidate: CandidateFacts, primary: str) -> Condition:
    leaky = [what for what in (candidate.protocol, primary, candidate.name) if "leaky" in what]
    told = f"protocol {candidate.protocol or 'not recorded'}, primary figure {primary}"
    return Condition("protocol is not leaky", bool(candidate.protocol) and not leaky, told)


def _finite(figures: Mapping[str, float]) -> Condition:
    bad = sorted(name for name, value in figures.items() if not math.isfinite(value))
    shown = ", ".join(bad[:8]) + (f" and {len(bad) - 8} more" if len(bad) > 8 else "")
    told = f"{len(bad)} of {len(figures)} are not: {shown}" if bad else f"all {len(figures)} are"
    return Condition("every figure is a number", bool(figures) and not bad, told)


def _beats_knowing_nothing(figures: Mapping[str, float], primary: str) -> Condition:
    name = "better than knowing nothing"
    needed = [primary, f"{primary}_lo", f"{primary}_hi", f"{primary}_baseline"]
    missing = [figure for figure in needed if figure not in figures]
    if missing:
        return Condition(name, False, f"metrics.json lacks {', '.join(missing)}")
    value, low, high, baseline = (figures[figure] for figure in needed)
    # comparisons with NaN are False: NaN fails both
    passed = low <= value <= high and low > baseline
    sign = ">" if low > baseline else "is not above"
    told = f"{primary} {value:.3f} (95 % {low:.3f} to {high:.3f}); lower bound {low:.3f} {sign} {baseline:.3f}"
    return Condition(name, passed, told)


def format_decision(decision: Decision) -> str:
    """Plain text of a decision: a line per condition, with its figures."""
    width = max((len(condition.name) for condition in decision.conditions), default=0)
    now = f"version {decision.champion}" if decision.champion is not None else "none"
    lines = [f"{decision.name} version {decision.version}  (champion now: {now})", ""]
    for condition in decision.conditions:
        mark = "[pass]" if condition.passed else "[FAIL]"
        lines.append(f"  {mark}  {condition.name:<{width}}  {condition.explanation}")
    failed = sum(not condition.passed for condition in decision.conditions)
    plural = "" if failed == 1 else "s"
    verdict = "ALLOWED" if decision.allowed else f"REFUSED: {failed} condition{plural} of {len(decision.conditions)}"
    return "\n".join([*lines, "", verdict])


# ------------------------------------------------------------------------------------------------------------ register


def register(
    bundle_folder: Path,
    name: str,
    metrics: Mapping[str, Any],
    workspace: Path,
    *,
    leak_free: bool,
    data_valid: bool,
    predictions: Sequence[Path] = (),
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
        predictions: out-of-fold predictions.csv, kept as artifacts of the version's run.
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
    bundle = read_bundle(bundle_folder)
    config = bundle.config
    _refuse_other_films(Store(workspace), name, config)
    metrics_text = json.dumps(metrics, indent=2, sort_keys=True) + "\n"
    facts = _version_tags(config, metrics, (gate or GateParameters()).primary(config.kind)) | dict(tags or {})
    facts |= {
        "bundle_sha256": bundle.content_sha256,
        "metrics_sha256": hashlib.sha256(metrics_text.encode()).hexdigest(),
        "leak_free": _flag_text(leak_free),
        "data_valid": _flag_text(data_valid),
    }
    # before the commit is added: a new commit that changes nothing of a model makes no new version of it
    content = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    store = Store(workspace)
    a_pass = current_pass(workspace, config.dataset)
    facts |= {"content_sha256": content, "git_commit": a_pass.commit, "git_dirty": _flag_text(a_pass.dirty)}
    experiment = store.experiment(config.dataset)
    parent = store.parent_run(experiment, a_pass)
    with store_lock(workspace):
        known = store.client.search_model_versions(f"name = '{name}' and tags.`content_sha256` = '{content}'")
        sound = _sound_version(store, known)
        if sound is not None:
            _point_challenger(store, name)
            return sound
        run_tags = {**a_pass.tags, **facts, "stage": "register", "mammo.level": "register"}
        run_id = store.new_run(experiment, f"register {name} · {content[:8]}", run_tags, parent)
        try:
            number = log_version(store, run_id, bundle_folder, name, config, metrics_text, predictions, facts)
        except BaseException:
            store.client.set_terminated(run_id, "FAILED")
            raise
        store.client.set_terminated(run_id, "FINISHED")
        _point_challenger(store, name)
        return number


def _sound_version(store: Store, known: Sequence[Any]) -> int | None:
    """Newest of some versions whose files can be used; says what is wrong where there are versions but none can."""
    faults = {int(found.version): _file_faults(store, found) for found in known}
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


def _version_tags(config: BundleConfig, metrics: Mapping[str, Any], primary: str) -> dict[str, str]:
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


def _point_challenger(store: Store, name: str) -> None:
    newest = max(int(found.version) for found in store.client.search_model_versions(f"name = '{name}'"))
    if _alias(store, name, CHALLENGER) != newest:
        store.client.set_registered_model_alias(name, CHALLENGER, str(newest))


def _alias(store: Store, name: str, alias: str) -> int | None:
    found = store.client.get_registered_model(name).aliases.get(alias)
    return None if found is None else int(found)


# ------------------------------------------------------------------------------------------------------------- promote


def promote(
    name: str,
    workspace: Path,
    gate: GateParameters,
    *,
    dataset: str | None = None,
    number: int | None = None,
    dry_run: bool = False,
) -> Decision:
    """Make a version champion if the gate allows it; every attempt that is no dry run leaves a line in the audit.

    Args:
        name: registered model.
        workspace: the project's folder.
        gate: its parameters.
        dataset: data set this registry is for; key `dataset` of the workspace's params.yaml when None.
        number: version; the challenger when None.
        dry_run: decide only.

    Raises:
        BadInputError: when the model, the version or the challenger does not exist, or params.yaml names no data set.
        OSError: when the audit cannot be written; the champion is then the old one.
    """
    store = Store(workspace)
    with store_lock(workspace):
        candidate, registry = _facts(store, name, number, dataset or _dataset_of(workspace))
        decision = decide(candidate, gate, registry)
        if dry_run:
            return decision
        figures = {
            key: value for key, value in candidate.figures.items() if key.startswith(gate.primary(candidate.kind))
        }
        entry = _audit_entry(decision, figures)
        # first the audit, then the act: no champion without its line
        _append(workspace / FOLDER / AUDIT, entry)
        if decision.allowed:
            try:
                _make_champion(store, decision, entry)
            except store_errors() as error:
                _append(workspace / FOLDER / AUDIT, entry | {"outcome": "failed", "reason": str(error)[:400]})
                raise
    return decision


def _dataset_of(workspace: Path) -> str:
    path = workspace / "params.yaml"
    dataset = read_yaml(path).get("dataset") if path.is_file() else None
    if not isinstance(dataset, str):
        raise BadInputError(str(path), ["key 'dataset' is missing"], "It says which data set this registry is for.")
    return dataset


def _make_champion(store: Store, decision: Decision, entry: Mapping[str, Any]) -> None:
    number = str(decision.version)
    tags = {"when": entry["when"], "by": entry["who"], "from": str(decision.champion or "none")}
    for key, value in tags.items():
        store.client.set_model_version_tag(decision.name, number, f"promoted_{key}", value)
    store.client.set_registered_model_alias(decision.name, CHAMPION, number)


def _audit_entry(decision: Decision, figures: Mapping[str, float]) -> dict[str, Any]:
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "who": user_name(),
        "action": "promote",
        "outcome": "promoted" if decision.allowed else "refused",
        "name": decision.name,
        "from": decision.champion,
        "to": decision.version,
        "figures": {key: value if math.isfinite(value) else None for key, value in figures.items()},
        "failed": [f"{c.name}: {c.explanation}" for c in decision.conditions if not c.passed],
    }


def _append(path: Path, entry: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _facts(store: Store, name: str, number: int | None, dataset: str) -> tuple[CandidateFacts, RegistryFacts]:
    from mlflow.exceptions import MlflowException

    try:
        champion = _alias(store, name, CHAMPION)
        chosen = number if number is not None else _alias(store, name, CHALLENGER)
        if chosen is None:
            raise BadInputError(f"registered model '{name}'", ["it has no challenger"], "Register a version first.")
        found = store.client.get_model_version(name, str(chosen))
        champion_tags = {} if champion is None else store.client.get_model_version(name, str(champion)).tags
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        problem = f"not in the registry: {error.message}"
        raise BadInputError(f"registered model '{name}'", [problem], "Register it first: `make repro`.") from None
    candidate = _candidate(store, name, found)
    return candidate, registry_facts(dataset, champion, champion_tags.get("dataset"))


def registry_facts(dataset: str, champion: int | None = None, champion_dataset: str | None = None) -> RegistryFacts:
    """Facts of a registry for one data set; real ones have committed benchmark folds, the phantom has none."""
    from mammo_ml.splits import committed_folds

    folds = committed_folds(dataset)
    expected = None if folds is None else folds_sha256(folds)
    return RegistryFacts(dataset, dataset == "phantom", expected, champion, champion_dataset)


def _candidate(store: Store, name: str, found: Any) -> CandidateFacts:
    tags: Mapping[str, str] = found.tags
    faults, figures = _file_faults(store, found), dict[str, float]()
    unreadable: tuple[type[Exception], ...] = (MammoError, ValueError, *store_errors())
    try:
        figures = _figures(store, found)
    except unreadable as error:
        faults.append(f"metrics.json: {error}")
    return CandidateFacts(
        name=name,
        version=int(found.version),
        kind="detector" if tags.get("kind") == "detector" else "classifier",
        dataset=tags.get("dataset", ""),
        phantom=tags.get("phantom") != "false",
        folds_sha256=tags.get("folds_sha256", ""),
        protocol=tags.get("protocol", ""),
        leak_free=tags.get("leak_free") == "true",
        data_valid=tags.get("data_valid") == "true",
        faults=tuple(faults),
        figures=figures,
    )


def _file_faults(store: Store, found: Any) -> list[str]:
    try:
        verified_folder(store, found)
    except BadInputError as error:
        return error.problems
    except store_errors() as error:
        return [f"the files cannot be fetched: {error}"]
    return []


def _figures(store: Store, found: Any) -> dict[str, float]:
    content = Path(store.client.download_artifacts(found.run_id, "metrics.json")).read_bytes()
    sha256, expected = hashlib.sha256(content).hexdigest(), found.tags.get("metrics_sha256", "")
    if sha256 != expected:
        raise MammoError(f"was changed: sha256 {sha256[:12]}, registered was {expected[:12]}")
    return flat_figures(json.loads(content))


def load_model(name: str, workspace: Path, version_or_alias: int | str = CHAMPION) -> tuple[int, Bundle]:
    """Version number and bundle of a version or alias, verified; runs no code out of the registry.

    Raises:
        BadInputError: as `bundle_of` and `read_bundle` do.
    """
    number, folder = bundle_of(name, workspace, version_or_alias)
    return number, read_bundle(folder)


def bundle_of(name: str, workspace: Path, version_or_alias: int | str = CHAMPION) -> tuple[int, Path]:
    """Version number and bundle folder of a version or alias, every file of the version verified.

    Raises:
        BadInputError: when there is none, or its files are not those that were registered, each named.
    """
    store = Store(workspace)
    from mlflow.exceptions import MlflowException

    try:
        if isinstance(version_or_alias, int):
            found = store.client.get_model_version(name, str(version_or_alias))
        else:
            found = store.client.get_model_version_by_alias(name, version_or_alias)
    except MlflowException as error:
        problem = f"{name} has no '{version_or_alias}': {error.message}"
        raise BadInputError("registry", [problem], "Register a model (`make repro`) and promote it.") from None
    return int(found.version), verified_folder(store, found) / BUNDLE
