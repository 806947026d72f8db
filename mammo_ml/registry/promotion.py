"""Moving the alias `champion`: promote, roll back, and the champion that others may use.

MLflow has no compare-and-set for aliases, so every move is made under the store's lock, after what was decided by has
been looked at again under that lock. Anyone may move an alias in MLflow's UI; whoever asks here for the champion is
given only one that the audit knows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.locator_bundle import open_bundle
from mammo_ml.models.bundle import Bundle
from mammo_ml.parameters import read_yaml
from mammo_ml.registry import audit
from mammo_ml.registry.audit import CHAMPION, Audit, Entry, alias_of
from mammo_ml.registry.facts import attempts_on, candidate_facts, compare_with, file_faults, registry_facts
from mammo_ml.registry.files import BUNDLE, verified_folder
from mammo_ml.registry.gate import CandidateFacts, Decision, GateParameters, RegistryFacts, bounds_of, decide
from mammo_ml.registry.registration import CHALLENGER
from mammo_ml.tracking import Store, store_lock

ROUNDS = 5
"""How often a decision is taken anew because the registry changed meanwhile."""
REGISTER_FIRST = "Register a model (`make repro`) and promote it: `mammo-ml promote NAME`."


@dataclass(frozen=True)
class State:
    """What a decision was taken on, and must still be so when the alias moves."""

    candidate: int
    tags: Mapping[str, str]
    alias: int | None
    champion: int | None


# ------------------------------------------------------------------------------------------------------------- promote


def promote(
    name: str,
    workspace: Path,
    gate: GateParameters,
    *,
    dataset: str | None = None,
    number: int | None = None,
    override: str = "",
    dry_run: bool = False,
) -> Decision:
    """Make a version champion if the gate allows it; every attempt that is no dry run leaves a line in the audit.

    Comparing and timing take a while and happen before the lock; what they were done on is looked at again under it,
    and where it changed, the decision is taken anew.

    Args:
        name: registered model.
        workspace: the project's folder.
        gate: its parameters.
        dataset: data set this registry is for; key `dataset` of the workspace's params.yaml when None.
        number: version; the challenger when None.
        override: reason to promote it although conditions fail that are not hard.
        dry_run: decide only.

    Raises:
        BadInputError: when the model, the version or the challenger does not exist, params.yaml names no data set, or
            the signing key cannot be read.
        MammoError: when the registry changes faster than a decision is taken.
    """
    store = Store(workspace)
    wanted = dataset or _dataset_of(workspace)
    for _ in range(ROUNDS):
        state = _state(store, name, number)
        candidate, facts = _facts(store, name, state, gate, wanted)
        decision = decide(candidate, gate, facts, override)
        if dry_run:
            return decision
        with store_lock(workspace):
            audit.settle(store, name)
            found = store.client.get_model_version(name, str(state.candidate))
            if _state(store, name, number) == state and set(file_faults(store, found)) <= set(candidate.faults):
                _carry_out(store, decision, candidate, facts, gate)
                return decision
    raise MammoError(f"{name}: the registry changed {ROUNDS} times while the gate looked at it. Try again.")


def _carry_out(
    store: Store, decision: Decision, candidate: CandidateFacts, facts: RegistryFacts, gate: GateParameters
) -> None:
    primary = gate.primary(candidate.kind)
    figures = {key: value for key, value in candidate.figures.items() if key in bounds_of(primary)}
    if facts.comparison is not None and facts.comparison.difference is not None:
        found = facts.comparison.difference
        figures |= {"difference": found.point, "difference_lo": found.lo, "difference_hi": found.hi}
    entry = Entry(
        action="promote",
        outcome="promoted" if decision.allowed else "refused",
        before=decision.champion,
        to=decision.version,
        reason=decision.override,
        figures={key: round(value, 6) if abs(value) < float("inf") else None for key, value in figures.items()},
        failed={condition.name: condition.explanation for condition in decision.refused_by},
        overridden={condition.name: condition.explanation for condition in decision.overridden},
    )
    if not decision.allowed:
        audit.record(store, decision.name, entry)
        return
    if decision.overridden:
        store.client.set_model_version_tag(decision.name, str(decision.version), "override", decision.override)
    audit.move(store, decision.name, entry)


def _dataset_of(workspace: Path) -> str:
    path = workspace / "params.yaml"
    dataset = read_yaml(path).get("dataset") if path.is_file() else None
    if not isinstance(dataset, str):
        raise BadInputError(str(path), ["key 'dataset' is missing"], "It says which data set this registry is for.")
    return dataset


def _state(store: Store, name: str, number: int | None) -> State:
    model = registered_model(store, name)
    chosen = number if number is not None else model.aliases.get(CHALLENGER)
    if chosen is None:
        raise BadInputError(f"registered model '{name}'", ["it has no challenger"], "Register a version first.")
    found = _version(store, name, int(chosen))
    # lines of the audit are added to the tags of a version with every attempt
    tags = {key: value for key, value in found.tags.items() if not key.startswith("audit.")}
    return State(int(chosen), tags, alias_of(model), _champion_now(store, model))


def _champion_now(store: Store, model: Any) -> int | None:
    """The champion that the audit knows, where that version still exists; moving the alias by hand changes nothing."""
    known = audit.read_audit(model.name, model.tags)
    if known.announced == alias_of(model) is not None:
        return known.announced
    if not known.champions:
        return None
    try:
        _version(store, model.name, known.champions[-1])
    except BadInputError:
        return None
    return known.champions[-1]


def _facts(
    store: Store, name: str, state: State, gate: GateParameters, dataset: str
) -> tuple[CandidateFacts, RegistryFacts]:
    found = _version(store, name, state.candidate)
    candidate = candidate_facts(store, found)
    champion = None if state.champion is None else _version(store, name, state.champion)
    lines = audit.audit_of(store, name).lines
    asked = [int(line.content["to"]) for line in lines if line.content.get("action") == "promote"]
    compared = champion is not None and state.champion != state.candidate
    facts = registry_facts(
        dataset,
        champion,
        comparison=compare_with(store, found, champion, gate) if compared else None,
        attempts=attempts_on(store, found, asked),
        moved_by_hand=state.alias if state.alias != state.champion else None,
    )
    return candidate, facts


def registered_model(store: Store, name: str) -> Any:
    """What MLflow's client calls RegisteredModel.

    Raises:
        BadInputError: when there is none of that name.
    """
    from mlflow.exceptions import MlflowException

    try:
        return store.client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        problem = f"not in the registry: {error.message}"
        raise BadInputError(f"registered model '{name}'", [problem], "Register it first: `make repro`.") from None


def _version(store: Store, name: str, number: int) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return store.client.get_model_version(name, str(number))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        problem = f"not in the registry: {error.message}"
        raise BadInputError(f"registered model '{name}'", [problem], "`mammo-ml models` lists what there is.") from None


# ----------------------------------------------------------------------------------------------------------- roll back


@dataclass(frozen=True)
class Rollback:
    """What a rollback did: the champion before it (None where the alias was gone) and after it."""

    name: str
    before: int | None
    to: int


def rollback(name: str, workspace: Path, reason: str = "") -> Rollback:
    """Make the champion before the present one champion again; its files are verified first.

    Where the alias was moved by hand or removed, the champion that the audit knows gets it back.

    Args:
        name: registered model.
        workspace: the project's folder.
        reason: kept in the audit.

    Raises:
        BadInputError: when there is no such champion, or its files are not those that were registered.
    """
    store = Store(workspace)
    with store_lock(workspace):
        model = registered_model(store, name)
        audit.settle(store, name)
        before = alias_of(model)
        target = _champion_before(store, name, audit.audit_of(store, name), before)
        verified_folder(store, _version(store, name, target))
        audit.move(store, name, Entry("rollback", "rolled back", before, target, reason.strip()))
    return Rollback(name, before, target)


def _champion_before(store: Store, name: str, known: Audit, alias: int | None) -> int:
    champions = known.champions
    gone = []
    for number in reversed(champions[:-1] if champions and champions[-1] == alias else champions):
        if number == alias:
            continue
        try:
            _version(store, name, number)
            return number
        except BadInputError:
            gone.append(f"version {number} was champion before and was deleted")
    problems = [*gone, f"{name} had no other champion before {'this one' if alias else 'it was removed'}"]
    raise BadInputError(f"roll back {name}", problems, "Promote a version: `mammo-ml promote NAME --version N`.")


# ------------------------------------------------------------------------------------------------------------ champion


def champion(name: str, workspace: Path) -> int:
    """Version of the champion, once the audit is found to say how it became one.

    Raises:
        BadInputError: when there is none, or the alias was moved past the gate, saying how to mend it.
    """
    return _champion(Store(workspace), name)


def _champion(store: Store, name: str) -> int:
    model = registered_model(store, name)
    fault = champion_fault(model)
    if fault:
        raise BadInputError(f"champion of {name}", [fault], _mend(model))
    return int(model.aliases[CHAMPION])


def champion_fault(model: Any) -> str:
    """Why the champion of a registered model cannot be trusted; empty where the audit says how it became one.

    Args:
        model: what MLflow's client calls RegisteredModel.
    """
    known = audit.read_audit(model.name, model.tags)
    found = alias_of(model)
    recorded = known.champions[-1] if known.champions else None
    if found is None:
        removed = f"; version {recorded} was champion until its alias was removed" if recorded else ""
        return f"no version has the alias '{CHAMPION}'{removed}"
    if found in (recorded, known.announced):
        return ""
    told = f"the audit says version {recorded}" if recorded else "the audit knows of no champion"
    faults = f" ({'; '.join(known.faults)})" if known.faults else ""
    return f"version {found} has the alias '{CHAMPION}', but {told}{faults}: the alias was moved past the gate"


def _mend(model: Any) -> str:
    found = alias_of(model)
    known = audit.read_audit(model.name, model.tags).champions
    back = f"`mammo-ml rollback {model.name}` gives it back to version {known[-1]}. " if known else ""
    if found is not None:
        return back + f"`mammo-ml promote {model.name} --version {found}` asks the gate about version {found}."
    return back or REGISTER_FIRST.replace("NAME", model.name)


def load_model(name: str, workspace: Path, version_or_alias: int | str = CHAMPION) -> tuple[int, Bundle]:
    """Version number and bundle of a version or alias, verified; runs no code out of the registry.

    Raises:
        BadInputError: as `bundle_of` and `open_bundle` do.
    """
    number, folder = bundle_of(name, workspace, version_or_alias)
    return number, open_bundle(folder)


def bundle_of(name: str, workspace: Path, version_or_alias: int | str = CHAMPION) -> tuple[int, Path]:
    """Version number and bundle folder of a version or alias, every file of the version verified.

    Raises:
        BadInputError: when there is none, its files are not those that were registered, each named, or the champion
            is one that the audit does not know.
    """
    store = Store(workspace)
    found = version_of(store, name, _champion(store, name) if version_or_alias == CHAMPION else version_or_alias)
    return int(found.version), verified_folder(store, found) / BUNDLE


def version_of(store: Store, name: str, version_or_alias: int | str) -> Any:
    """What MLflow's client calls ModelVersion, of a version or an alias.

    Raises:
        BadInputError: when there is none.
    """
    from mlflow.exceptions import MlflowException

    try:
        if isinstance(version_or_alias, int):
            return store.client.get_model_version(name, str(version_or_alias))
        return store.client.get_model_version_by_alias(name, version_or_alias)
    except MlflowException as error:
        problem = f"{name} has no '{version_or_alias}': {error.message}"
        raise BadInputError("registry", [problem], "`mammo-ml models` lists what there is.") from None
