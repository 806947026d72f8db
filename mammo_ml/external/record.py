"""External validations in MLflow: a run each, named by a signed tag of the version, and shown with its card.

A version's files are signed and never change; what is learned of it later stands beside them.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from mammo_ml import signing
from mammo_ml.datasets.workspace_sets import SETS
from mammo_ml.errors import BadInputError
from mammo_ml.external.report import card_section
from mammo_ml.external.validation import ExternalFigures
from mammo_ml.lineage import Version
from mammo_ml.registry.facts import figures_of
from mammo_ml.registry.files import run_file
from mammo_ml.reporting.model_card import card
from mammo_ml.tracking import StageRun, Store, TrackedData, current_pass, store_errors, store_lock

TAG = "external."
"""Begins a tag of a version for each set, signed: run and hash of its metrics.json."""
METRICS = "metrics.json"
FILES = (".json", ".csv", ".png")
REMEDY = "Validate it again: `mammo-ml validate-external`."


def log_validation(
    store: Store, version: Version, name: str, workspace: Path, folder: Path, figures: ExternalFigures
) -> str:
    """Log figures and files as a run below the version's own, and name it, signed, in a tag of the version."""
    signing.ensure_key()
    config = version.bundle.config
    label = f"{version.name}/{version.number}"
    tags = {
        **current_pass(workspace, config.dataset).tags, "stage": "validate_external", "mammo.level": "external",
        "model": version.name, "model_version": str(version.number), "external_set": name, "kind": str(config.kind),
        "bundle_sha256": version.bundle.content_sha256,
    }  # fmt: skip
    run_id = store.new_run(store.experiment(config.dataset), f"{label} on {name}", tags, version.run_id)
    run = StageRun(store, run_id=run_id, name=f"{label} on {name}")
    run.log_metrics({"external": figures.external, "internal": figures.internal})
    run.log_data([TrackedData(SETS / name, "external validation")], workspace)
    run.log_files(sorted(path for path in folder.iterdir() if path.suffix in FILES))
    if not run.recorded:
        store.client.set_terminated(run_id, "FAILED")
        raise BadInputError(label, ["the run could not be recorded in MLflow"], f"The files are in {folder}. {REMEDY}")
    store.client.set_terminated(run_id, "FINISHED")
    content = {
        "model": label, "set": name, "run_id": run_id,
        "metrics_sha256": sha256((folder / METRICS).read_bytes()).hexdigest(),
    }  # fmt: skip
    with store_lock(workspace):
        store.client.set_model_version_tag(version.name, str(version.number), f"{TAG}{name}", signing.sign(content))
        found = store.client.get_model_version(version.name, str(version.number))
        text = f"{card(config, figures_of(store, found))}\n{_section(store, found)}"
        store.client.update_model_version(version.name, str(version.number), text.replace("\n## ", "\n### "))
    return run_id


def external_section(version: Version, workspace: Path) -> str:
    """Section "External validation" of the card of a version.

    What is shown was signed when it was logged; a record that was changed since is named in its place.
    """
    store = Store(workspace)
    return _section(store, store.client.get_model_version(version.name, str(version.number)))


def _section(store: Store, found: Any) -> str:
    records, faults = [], []
    for tag in sorted(key for key in found.tags if key.startswith(TAG)):
        try:
            records.append(_record(store, found, tag))
        except BadInputError as error:
            faults.append(f"{tag.removeprefix(TAG)}: {error.problems[0]}")
        except store_errors() as error:
            faults.append(f"{tag.removeprefix(TAG)}: {error}")
    return card_section(records, faults)


def _record(store: Store, found: Any, tag: str) -> dict[str, Any]:
    content = signing.signed_content(found.tags[tag].encode(), f"tag {tag}", REMEDY)
    if (content["model"], content["set"]) != (f"{found.name}/{found.version}", tag.removeprefix(TAG)):
        raise BadInputError(tag, [f"it was made for {content['model']} on {content['set']}"], REMEDY)
    text = run_file(store, content["run_id"], METRICS).read_bytes()
    if sha256(text).hexdigest() != content["metrics_sha256"]:
        raise BadInputError(tag, [f"{METRICS} of its run was changed"], REMEDY)
    return dict(json.loads(text))
