"""What the gate decides by, read from the store and measured on this machine: facts of a version, and of a registry."""

import base64
import hashlib
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mammo_ml.errors import BadInputError, raise_if_any
from mammo_ml.locator_bundle import answer, open_bundle
from mammo_ml.manifest import file_sha256
from mammo_ml.models.bundle import Bundle, folds_sha256
from mammo_ml.registry.comparison import FILES, Evidence, differences, read_evidence, subgroup_differences, unlike_items
from mammo_ml.registry.files import BUNDLE, run_file, verified_folder
from mammo_ml.registry.gate import (
    EVALUATE_AGAIN,
    Attempts,
    CandidateFacts,
    Comparison,
    GateParameters,
    Kind,
    RegistryFacts,
)
from mammo_ml.tracking import Store, flat_figures, store_errors

SAME_FIGURE = 0.0005
"""How far a figure may be from that of metrics.json: the two libraries that compute it round differently."""
TIMED_FILMS = 3
"""Answers that are timed, after one that is not."""


def alias(store: Store, name: str, which: str) -> int | None:
    """Version that an alias of a registered model points at."""
    found = store.client.get_registered_model(name).aliases.get(which)
    return None if found is None else int(found)


def kind_of(found: Any) -> Kind:
    """Kind of a version."""
    kinds: dict[str, Kind] = {"detector": "detector", "locator": "locator"}
    return kinds.get(found.tags.get("kind", ""), "classifier")


# ------------------------------------------------------------------------------------------------------- its files


def evidence_tag(file: str) -> str:
    """Tag that holds the hash of a file of `comparison.FILES`, as `predictions_sha256`."""
    return f"{Path(file).stem}_sha256"


def file_faults(store: Store, found: Any) -> list[str]:
    """What is wrong with the files of a version: those it runs with, and those it is compared by."""
    return _model_faults(store, found) + [fault for _, fault in _evidence_files(store, found).values() if fault]


def _model_faults(store: Store, found: Any) -> list[str]:
    try:
        verified_folder(store, found)
    except BadInputError as error:
        return error.problems
    except store_errors() as error:
        return [f"the files cannot be fetched: {error}"]
    return []


def _evidence_files(store: Store, found: Any) -> dict[str, tuple[Path | None, str]]:
    """Files of `comparison.FILES` that the version was registered with: where they are, or what is wrong with them."""
    files: dict[str, tuple[Path | None, str]] = {}
    for name in FILES[kind_of(found)]:
        expected = found.tags.get(evidence_tag(name))
        if expected is None:
            continue
        try:
            path = run_file(store, found.run_id, name)
            sha256 = file_sha256(path)
        except store_errors() as error:
            files[name] = None, f"{name} is missing: {error}"
            continue
        changed = f"{name} was changed: sha256 {sha256[:12]}, registered was {expected[:12]}"
        files[name] = (path, "") if sha256 == expected else (None, changed)
    return files


def evidence_of(store: Store, found: Any) -> Evidence:
    """What a version has stored to be compared by, every file as it was registered.

    Raises:
        BadInputError: naming each file that changed or is missing; an older version may never have had them.
    """
    kind, what = kind_of(found), f"{found.name} version {found.version}"
    files = _evidence_files(store, found)
    problems = [fault for _, fault in files.values() if fault]
    if never := [name for name in FILES[kind] if name not in files]:
        problems.append(f"it was registered without {', '.join(never)}")
    if problems:
        raise BadInputError(what, problems, f"To compare it, {EVALUATE_AGAIN}.")
    return read_evidence(kind, {name: path for name, (path, _) in files.items() if path is not None})


def figures_of(store: Store, found: Any) -> dict[str, float]:
    """metrics.json of a version, flat.

    Raises:
        BadInputError: when it is not the one that was registered.
        MlflowException: when the store fails.
    """
    content = run_file(store, found.run_id, "metrics.json").read_bytes()
    sha256, expected = hashlib.sha256(content).hexdigest(), found.tags.get("metrics_sha256", "")
    if sha256 != expected:
        told = f"metrics.json was changed: sha256 {sha256[:12]}, registered was {expected[:12]}"
        raise BadInputError(f"{found.name} version {found.version}", [told])
    return flat_figures(json.loads(content))


# ------------------------------------------------------------------------------------------------------- the facts


def candidate_facts(store: Store, found: Any) -> CandidateFacts:
    """Facts of a version; one whose files are intact is timed."""
    tags: Mapping[str, str] = found.tags
    faults, figures = file_faults(store, found), dict[str, float]()
    unreadable: tuple[type[Exception], ...] = (ValueError, *store_errors())
    try:
        figures = figures_of(store, found)
    except BadInputError as error:
        faults += error.problems
    except unreadable as error:
        faults.append(f"metrics.json: {error}")
    return CandidateFacts(
        name=found.name,
        version=int(found.version),
        kind=kind_of(found),
        dataset=tags.get("dataset", ""),
        phantom=tags.get("phantom") != "false",
        folds_sha256=tags.get("folds_sha256", ""),
        protocol=tags.get("protocol", ""),
        leak_free=tags.get("leak_free") == "true",
        data_valid=tags.get("data_valid") == "true",
        faults=tuple(faults),
        figures=figures,
        seconds_per_film=None if faults else seconds_per_film(open_bundle(verified_folder(store, found) / BUNDLE)),
    )


def registry_facts(dataset: str, champion: Any = None, **more: Any) -> RegistryFacts:
    """Facts of a registry for one data set; real ones have committed benchmark folds, the phantom has none.

    Args:
        dataset: its name.
        champion: what MLflow's client calls ModelVersion, or None.
        more: further fields of `RegistryFacts`.
    """
    from mammo_ml.splits import committed_folds

    folds = committed_folds(dataset)
    expected = None if folds is None else folds_sha256(folds)
    known = (
        {} if champion is None else {"champion": int(champion.version), "champion_dataset": champion.tags["dataset"]}
    )
    return RegistryFacts(dataset, dataset == "phantom", expected, **known, **more)


def compare_with(store: Store, candidate: Any, champion: Any, gate: GateParameters) -> Comparison:
    """Candidate minus champion from what both have stored; what prevents that is told, not raised."""
    number, primary = int(champion.version), gate.primary(kind_of(candidate))
    protocol, _, figure = primary.partition(".")
    problems, sides = [], []
    for found in (candidate, champion):
        try:
            sides.append(evidence_of(store, found))
        except BadInputError as error:
            problems.append(f"version {found.version}: {'; '.join(error.problems)}")
    if problems:
        return Comparison(number, fault=f"{'; '.join(problems)}. To compare it, {EVALUATE_AGAIN}")
    first, second = sides
    try:
        difference = differences(first, second, protocol, gate, figure)[figure]
        raise_if_any("comparison", _other_figures(store, (candidate, champion), difference[:2], primary))
        subgroups = subgroup_differences(first, second, primary, gate)
        return Comparison(number, difference, subgroups, unlike_items=unlike_items(first, second, protocol))
    except BadInputError as error:
        return Comparison(number, fault="; ".join(error.problems))


def _other_figures(store: Store, versions: tuple[Any, Any], computed: tuple[float, ...], primary: str) -> list[str]:
    """Tell whose stored predictions do not give the figure of its metrics.json: they are not those it came from."""
    problems = []
    for found, value in zip(versions, computed, strict=True):
        recorded = figures_of(store, found).get(primary, float("nan"))
        if not abs(recorded - value) < SAME_FIGURE:
            told = f"predictions.csv gives {primary} {value:.4f}, metrics.json says {recorded:.4f}"
            problems.append(f"version {found.version}: {told}")
    return problems


def attempts_on(store: Store, found: Any, asked: list[int]) -> Attempts:
    """How often the folds of a version were tried under its name; `asked`: versions whose promotion was asked for."""
    versions = store.client.search_model_versions(f"name = '{found.name}'")
    same = [one for one in versions if one.tags.get("folds_sha256") == found.tags.get("folds_sha256")]
    numbers = {int(one.version) for one in same}
    evaluations = {one.tags.get("metrics_sha256", one.version) for one in same}
    return Attempts(len(same), len(evaluations), sum(number in numbers for number in asked))


# ------------------------------------------------------------------------------------------------------- its speed


def seconds_per_film(bundle: Bundle) -> float:
    """Time in s that a bundle needs to answer a film, on this machine: the median over a few answers of one phantom."""
    import pandas as pd

    from mammo_ml.datasets.phantom import PhantomParameters, draw, plan
    from mammo_ml.imaging.readers import format_pgm

    film = next(film for film in plan(PhantomParameters(women=20, seed=1)) if film.lesions)
    image = base64.b64encode(format_pgm(draw(film, seed=1))).decode()
    frame = pd.DataFrame([{"film_id": film.film_id, "image": image}])
    seconds = []
    for _ in range(1 + TIMED_FILMS):
        begin = time.perf_counter()
        answer(bundle, frame)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])
