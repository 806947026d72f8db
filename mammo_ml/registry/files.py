"""The files of a registered version: logged with MLflow, signed, and verified before anything of them is used.

MLflow loads whatever lies in its store, edited code included. So a version's folder gets manifest.json (the sha256 of
every file: weights, code, MLmodel, requirements …) and signature.json, which binds the manifest to the model's name and
to the version's tags. Whoever can write to the store but has no key can therefore neither change a file, nor put the
folder or the figures of one version in the place of another's. Verifying is up to this module: code that
`mlflow models serve` or `mlflow.pyfunc.load_model` runs on their own is not protected; `mammo-ml` commands verify first
and run the installed package, never code out of the registry.
"""

import base64
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mammo_ml import signing
from mammo_ml.errors import BadInputError, raise_if_any
from mammo_ml.imaging.readers import format_pgm
from mammo_ml.manifest import MANIFEST, file_sha256, verify_manifest, write_manifest
from mammo_ml.models.bundle import BundleConfig
from mammo_ml.registry.gate import Kind
from mammo_ml.reporting.full_card import CARD
from mammo_ml.tracking import StageRun, Store

BUNDLE = "artifacts/bundle"
SIGNATURE = "signature.json"
MLFLOW_META = "registered_model_meta"
"""MLflow writes it into the store when it loads a version by name; it runs nothing of it."""
BYTE_CODE = "__pycache__"
NO_BYTE_CODE = "A file in the place of the folder in which Python would leave byte code that no manifest knows.\n"
REMEDY = (
    f"If another key signed this version, name a copy of it with {signing.KEY_VARIABLE}. "
    "Otherwise restore the version's folder from a backup, or register the model again: `mammo-ml track`."
)


# ----------------------------------------------------------------------------------------------------------------- log


def log_version(
    store: Store,
    run_id: str,
    bundle_folder: Path,
    name: str,
    config: BundleConfig,
    metrics_text: str,
    evidence: Sequence[Path],
    tags: Mapping[str, str],
    card: str,
) -> int:
    """Log a bundle and its card as an MLflow model, sign files and tags, and register it; returns the version."""
    import mlflow
    import pandas as pd

    from mammo_ml import __file__ as package

    StageRun(store, run_id=run_id, name=name).log_metrics(json.loads(metrics_text))
    code = Path(package).parent
    with tempfile.TemporaryDirectory() as scratch, fluent(store):
        # a fixed name: the registry finds the bundle of every version under artifacts/bundle
        files = shutil.copytree(bundle_folder, Path(scratch) / "bundle")
        # without the byte code that the running process leaves behind, and the pages that no model needs
        sources = shutil.copytree(code, Path(scratch) / code.name, ignore=shutil.ignore_patterns(BYTE_CODE, "web"))
        (Path(scratch) / "metrics.json").write_text(metrics_text, encoding="utf-8")
        store.client.log_artifact(run_id, str(Path(scratch) / "metrics.json"))
        for path in evidence:
            store.client.log_artifact(run_id, str(path))
        with mlflow.start_run(run_id=run_id), _no_byte_code():
            logged = mlflow.pyfunc.log_model(
                name=name,
                python_model=str(sources / "models" / "pyfunc_model.py"),
                artifacts={"bundle": str(files)},
                code_paths=[str(sources)],
                signature=signature(config.kind),
                input_example=pd.DataFrame([_example_film(config)]),
                pip_requirements=_requirements(),
            )
        manifest_sha256 = _sign_files(store, logged.model_id, name, tags, card, Path(scratch))
        registered = mlflow.register_model(logged.model_uri, name, tags={**tags, "manifest_sha256": manifest_sha256})
        return int(registered.version)


def _sign_files(store: Store, model_id: str, name: str, tags: Mapping[str, str], card: str, scratch: Path) -> str:
    """Add card, manifest and signature to the logged files; returns the manifest's hash."""
    added = scratch / "added"
    (scratch / "logged").mkdir()
    logged = _download(store, f"models:/{model_id}", scratch / "logged")
    places = {path.parent.relative_to(logged) for path in logged.rglob("*.py")}
    for place in places:
        (added / place).mkdir(parents=True, exist_ok=True)
        (added / place / BYTE_CODE).write_text(NO_BYTE_CODE, encoding="utf-8")
        shutil.copy2(added / place / BYTE_CODE, logged / place / BYTE_CODE)
    (logged / CARD).write_text(card, encoding="utf-8")
    manifest_sha256 = write_manifest(logged)
    for file in (CARD, MANIFEST):
        shutil.copy2(logged / file, added / file)
    content = {"name": name, "manifest_sha256": manifest_sha256, "tags": dict(tags)}
    (added / SIGNATURE).write_text(signing.sign(content), encoding="utf-8")
    store.client.log_model_artifacts(model_id, str(added))
    return manifest_sha256


@contextlib.contextmanager
def _no_byte_code() -> Iterator[None]:
    """MLflow tries the model it has logged; from a local store that would leave byte code there, unsigned."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def signature(kind: Kind) -> Any:
    """MLflow signature: the columns of `predict_with_bundle`, in and out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    numbers = {
        "classifier": ["p_normal", "p_benign", "p_malignant"],
        "detector": ["x1", "y1", "x2", "y2", "p_benign", "p_malignant"],
        "locator": ["x1", "y1", "x2", "y2", "p_benign", "p_malignant", "score"],
    }[kind]
    spacing = ColSpec("double", "pixel_spacing_mm", required=False)
    outputs = [ColSpec("string", "film_id"), *(ColSpec("double", column) for column in numbers)]
    return ModelSignature(
        inputs=Schema([ColSpec("string", "film_id"), ColSpec("string", "image"), spacing]),
        outputs=Schema([*outputs, ColSpec("boolean", "seen_in_training")]),
    )


def _example_film(config: BundleConfig) -> dict[str, Any]:
    """Smallest film the model answers: half a bright disc at the left edge, one tile wide."""
    size = config.preprocessing.window_px
    y, x = np.mgrid[:size, :size] / size
    film = np.where(np.hypot(x, y - 0.5) < 0.45, 160, 5).astype(np.uint8)
    spacing = config.preprocessing.pixel_spacing_mm
    return {"film_id": "example", "image": base64.b64encode(format_pgm(film)).decode(), "pixel_spacing_mm": spacing}


def _requirements() -> list[str]:
    """List the package's dependencies, each at the version at work here."""
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in requires("mammo-ml") or []]
    return [f"{one.name}=={version(one.name)}" for one in wanted if not (one.marker and "extra" in str(one.marker))]


@contextlib.contextmanager
def fluent(store: Store) -> Iterator[None]:
    """Point mlflow's global functions at the store; afterwards the environment is as the user left it."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(store.address)
    mlflow.set_registry_uri(store.address)
    try:
        yield
    finally:
        mlflow.set_registry_uri(None)
        mlflow.set_tracking_uri(None)
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


# -------------------------------------------------------------------------------------------------------------- verify


def verified_folder(store: Store, found: Any) -> Path:
    """Folder with the files of a version (what MLflow's client calls ModelVersion), every one as it was registered.

    Files of a remote store are downloaded; nothing is imported or run.

    Raises:
        BadInputError: naming each file that changed, is missing, was added or is a link, each tag that changed, or
            the signature that is missing or not ours, and what to do.
        MlflowException: when the store fails.
    """
    folder = _download(store, found.source)
    problems = [*_signature_faults(folder, found), *_meta_faults(folder / MLFLOW_META, found)]
    try:
        verify_files(folder)
    except BadInputError as error:
        problems += error.problems
    raise_if_any(f"{found.name} version {found.version} in {folder}", problems, REMEDY)
    return folder


def verify_files(folder: Path) -> str:
    """Compare the files of a version with its manifest, whoever signed it, and return the manifest's hash.

    Raises:
        BadInputError: naming each file that changed, is missing, was added or is a link.
    """
    return verify_manifest(folder, REMEDY, besides=(SIGNATURE, MLFLOW_META))


def _signature_faults(folder: Path, found: Any) -> list[str]:
    path, manifest = folder / SIGNATURE, folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        return [f"{SIGNATURE} is missing: this version was never signed, or its signature was removed"]
    try:
        signed = signing.signed_content(path.read_bytes(), SIGNATURE, REMEDY)
    except BadInputError as error:
        return error.problems
    faults = []
    if manifest.is_file() and signed.get("manifest_sha256") != file_sha256(manifest):
        faults.append(f"{MANIFEST} is not the one that was signed")
    if signed.get("name") != found.name:
        faults.append(f"{SIGNATURE} was made for {signed.get('name')!a}, not for {found.name}")
    tags = {**signed.get("tags", {}), "manifest_sha256": signed.get("manifest_sha256")}
    return faults + [
        f"{SIGNATURE} was made for a version with {key} {value!r}, this one has {found.tags.get(key)!r}"
        for key, value in tags.items()
        if found.tags.get(key) != value
    ]


def _meta_faults(path: Path, found: Any) -> list[str]:
    """Refuse anything else under the name of the file that MLflow itself adds."""
    if not path.exists() and not path.is_symlink():
        return []
    try:
        content = None if path.is_symlink() or path.stat().st_size > 4096 else yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        content = None
    versions = (str(found.version), int(found.version))
    expected = [{"model_name": found.name, "model_version": number} for number in versions]
    return [] if content in expected else [f"{MLFLOW_META} was added, and not by MLflow for this version"]


def card_of(bundle: Path) -> str:
    """Card of the version whose verified bundle this is.

    Raises:
        BadInputError: when the version is older than cards are.
    """
    path = bundle.parents[1] / CARD
    if not path.is_file():
        remedy = "Its description in MLflow says the most of it; register it again for the whole card."
        raise BadInputError(str(bundle.parents[1]), [f"holds no {CARD}: the version is older than cards are"], remedy)
    return path.read_text(encoding="utf-8")


def run_file(store: Store, run_id: str, name: str) -> Path:
    """A file that was logged to a run; that of a store on this machine is where it is."""
    from mlflow.artifacts import download_artifacts

    location = f"{store.client.get_run(run_id).info.artifact_uri}/{name}"
    return Path(download_artifacts(artifact_uri=location, tracking_uri=store.address))


def _download(store: Store, source: str, to: Path | None = None) -> Path:
    """Files of a logged model (`models:/<id>`); those of a store on this machine are where they are."""
    from mlflow.artifacts import download_artifacts

    location = store.client.get_logged_model(source.removeprefix("models:/")).artifact_location
    where = None if to is None else str(to)
    return Path(download_artifacts(artifact_uri=location, tracking_uri=store.address, dst_path=where))
