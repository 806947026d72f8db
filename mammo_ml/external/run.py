"""`mammo-ml validate-external`: a registered version on a set of the workspace, from the audit to the model card."""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from mammo_ml.answering.film_answers import write_whole
from mammo_ml.answering.film_models import model_of
from mammo_ml.datasets.catalog import write_table
from mammo_ml.datasets.workspace_sets import DataSet, read_set, set_folder
from mammo_ml.errors import BadInputError
from mammo_ml.evaluation import EvaluateParameters, Figures
from mammo_ml.external import audit
from mammo_ml.external import figures as shift
from mammo_ml.external.looking import FilmRecord, boxes_of, classes_of, look_at_set, record_key
from mammo_ml.external.record import METRICS, log_validation
from mammo_ml.external.report import metrics_json
from mammo_ml.external.validation import ExternalFigures, classifier_figures, detector_figures, judged_by_detector
from mammo_ml.figures import PNG
from mammo_ml.imaging.canonical import check_films
from mammo_ml.lineage import Version, open_version
from mammo_ml.manifest import verify_manifest
from mammo_ml.registry.comparison import Evidence
from mammo_ml.registry.facts import evidence_of, figures_of
from mammo_ml.tracking import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("classifier", "detector", "locator")
PROTOCOLS = {"classifier": "by_patient", "detector": "films_by_patient", "locator": "films_by_patient"}


class Bars(Protocol):
    """Shows how far a step is."""

    def __call__(self, step: str, total: int, unit: str) -> Callable[[int], object]:
        """Begin a step of so many units; what comes back is told of each part that is done."""


@dataclass(frozen=True)
class Validated:
    """What came of it: the version as NAME/NUMBER, figures, the folder they were written to, the run that has them."""

    model: str
    figures: ExternalFigures
    folder: Path
    run_id: str


def validate_external(
    reference: str, name: str, workspace: Path, parameters: EvaluateParameters, bars: Bars, today: str
) -> Validated:
    """Judge a registered version on a data set of the workspace, write what came of it, and log it to the version.

    Args:
        reference: NAME@alias or NAME/VERSION.
        name: folder below data/datasets.
        workspace: the project's folder.
        parameters: resamples of the women, and their seed.
        bars: shows progress.
        today: date of the validation, as 2026-11-23.

    Raises:
        BadInputError: when model or set are unknown or damaged, the set is synthetic and the model not, the model or
            its ancestors have seen films of it, or no film of it can be judged.
        MlflowException: when the store fails.
    """
    version = open_version(reference, workspace)
    data = open_set(name, workspace)
    label, bundle = f"{version.name}/{version.number}", version.bundle
    kind = str(bundle.config.kind)
    folder = workspace / "reports" / "external" / name / f"{version.name}-v{version.number}"
    audit.refuse_phantoms(bundle.config.phantom, data, label, name)
    if kind != "classifier":
        judged_by_detector(data.films, data.lesions)
    audit.refuse_seen(audit.audit_names(bundle.training_films, data, name), label, name, folder)
    state = workspace / ".state" / "external" / name / f"{version.name}-v{version.number}"
    key = record_key(bundle, data)
    before = _look_back(version, data, name, workspace, state / key, bars)
    audit.refuse_seen(audit.of_copies(before["copies"]), label, name, folder)
    model = model_of(bundle, version.name, version.number, KINDS)
    records = look_at_set(model, bundle, data, state / f"{key}.jsonl", bars("films", len(data.films), "film"))
    return _conclude(version, data, name, records, before, workspace, folder, parameters, today)


def open_set(name: str, workspace: Path) -> DataSet:
    """Read a set of the workspace, every film file compared with the manifest and with films.csv.

    Raises:
        BadInputError: when there is none of that name, or it is damaged or empty.
    """
    folder = set_folder(name, workspace)
    data = read_set(folder)
    verify_manifest(data.films_folder, f"Make the set again: {folder} was changed after it was made.")
    check_films(data.films_folder, data.films)
    return data


# --------------------------------------------------------------------------------------------- what the model has seen


def _look_back(version: Version, data: DataSet, name: str, workspace: Path, kept: Path, bars: Bars) -> dict[str, Any]:
    """Compare pictures with the films seen that are at hand, and take the grey values of those trained on.

    `kept` begins the name of the file that holds what was found, so that a second start need not look again.

    Returns:
        copies: a sentence each; compared, not_here: films seen that are at hand, and that are not; grey: a histogram
        of each training film in `films`.
    """
    seen, _ = audit.films_here(workspace, version.bundle.training_films)
    at_hand = sha256("".join(sorted(seen["sha256"])).encode()).hexdigest()[:16]
    kept = kept.with_name(f"{kept.name}.seen-{at_hand}.json")
    if kept.is_file():
        return dict(json.loads(kept.read_text("utf-8")))
    tested = data.films.assign(folder=str(data.films_folder))
    pairs = bars("comparing with films seen before", len(seen) * len(tested), "pair")
    copies = audit.audit_pictures(seen, tested, name, pairs).problems if len(seen) else ()
    trained = seen[seen["step"] == "training"]
    advance, grey = bars("training films", len(trained), "film"), []
    for film in audit.canonical_of(trained):
        grey.append([int(count) for count in shift.grey_histogram(film)])
        advance(1)
    missing = version.bundle.training_films
    missing = missing[~missing["sha256"].isin(seen["sha256"])]
    found = {
        "copies": list(copies),
        "compared": len(seen),
        "not_here": {str(dataset): len(own) for dataset, own in missing.groupby("dataset")},
        "films": list(trained["film_id"]),
        "grey": grey,
    }
    write_whole(kept, json.dumps(found).encode())
    return found


def _audit_notes(before: Mapping[str, Any]) -> list[str]:
    notes = ["Leak audit: no woman, film or file of the set is among those the model or its ancestors learned from."]
    if before["compared"]:
        notes.append(f"No film is the picture of one of the {before['compared']} seen films that are at hand.")
    return notes + [
        f"Pictures of {count} seen films of {dataset} were not compared: their files are not in this workspace."
        for dataset, count in before["not_here"].items()
    ]


# ---------------------------------------------------------------------------------------------------- figures and files


def _conclude(
    version: Version, data: DataSet, name: str, records: list[FilmRecord], before: Mapping[str, Any],
    workspace: Path, folder: Path, parameters: EvaluateParameters, today: str,
) -> Validated:  # fmt: skip
    store, kind = Store(workspace), str(version.bundle.config.kind)
    found = store.client.get_model_version(version.name, str(version.number))
    protocol = f"{PROTOCOLS[kind]}."
    flat = figures_of(store, found)
    internal = {key.removeprefix(protocol): value for key, value in flat.items() if key.startswith(protocol)}
    try:
        evidence: Evidence | None = evidence_of(store, found)
    except BadInputError:
        evidence = None
    figures, predictions = _figures(kind, data, records, internal, evidence, parameters)
    notes = [
        *_set_notes(data),
        *filter(None, [audit.same_collection(version.bundle.training_films, data)]),
        *figures.notes,
        *_failed_notes(kind, records),
        *_audit_notes(before),
    ]
    trained, lesions = audit.films_here(workspace, version.bundle.training_films)
    shifted, picture = _shift(version, data, name, records, before, trained, lesions)
    figures = replace(figures, notes=tuple(notes))
    about = {
        "model": f"{version.name}/{version.number}", "kind": kind, "set": name, "date": today,
        "bundle_sha256": version.bundle.content_sha256, "domain_shift": shifted,
    }  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)  # what an earlier validation left
    folder.mkdir(parents=True)
    (folder / METRICS).write_text(metrics_json(figures, about), encoding="utf-8")
    write_table(predictions, folder / "predictions.csv")
    write_table(figures.subgroups, folder / "subgroups.csv")
    if figures.froc is not None:
        write_table(figures.froc, folder / "froc.csv")
    if picture is not None:
        picture.savefig(folder / "domain_shift.png", dpi=110, metadata=PNG)
    run_id = log_validation(store, version, name, workspace, folder, figures)
    return Validated(f"{version.name}/{version.number}", figures, folder, run_id)


def _figures(
    kind: str, data: DataSet, records: list[FilmRecord], internal: Figures, evidence: Evidence | None,
    parameters: EvaluateParameters,
) -> tuple[ExternalFigures, pd.DataFrame]:  # fmt: skip
    if kind != "classifier":
        found = boxes_of(records, data.films)
        boxes = found[found["box"] > 0]
        return detector_figures(boxes, data.films, data.lesions, internal, evidence, parameters), found
    found = classes_of(records, data.films)
    films, patches = (found[found["unit"] == unit].reset_index(drop=True) for unit in ("film", "patch"))
    answers = films.drop(columns=["unit", "item", "patient_id", "label"])
    figures = classifier_figures(answers, patches, data.films, data.lesions, internal, evidence, parameters)
    return figures, found


def _set_notes(data: DataSet) -> list[str]:
    notes = data.facts.get("notes") or []
    return [notes] if isinstance(notes, str) else [str(note) for note in notes]


def _failed_notes(kind: str, records: Iterable[FilmRecord]) -> list[str]:
    failed = [record for record in records if record.failed]
    then = "it is left out" if kind == "classifier" else "nothing counts as found on it"
    return [f"Film {one.film_id} could not be answered, {then}: {' '.join(one.failed.split())}" for one in failed]


def _shift(
    version: Version, data: DataSet, name: str, records: list[FilmRecord], before: Mapping[str, Any],
    trained: pd.DataFrame, lesions: pd.DataFrame,
) -> tuple[dict[str, Any] | None, "Figure | None"]:  # fmt: skip
    """Figures and picture of the shift; none where the films that the model was trained on are not at hand."""
    own = trained.set_index("film_id").reindex(before["films"]).dropna(subset=["sha256"]).reset_index()
    answered = [record for record in records if record.grey]
    if own.empty or not answered or len(own) != len(before["grey"]):
        return None, None
    films = data.films.set_index("film_id").loc[[record.film_id for record in answered]].reset_index()
    dataset = version.bundle.config.dataset
    internal = shift.film_traits(dataset, np.array(before["grey"]), own, lesions)
    external = shift.film_traits(name, np.array([record.grey for record in answered]), films, data.lesions)
    title = f"Films that {version.name}/{version.number} was trained on, and those of {name}"
    return shift.shift_figures(internal, external), shift.domain_shift_figure(internal, external, title)
