"""Hashes of every file of a folder, written when it is made and compared when it is read.

Neither DVC nor MLflow notices a file that was changed where they keep it: `dvc checkout` restores damaged bytes, and
MLflow loads an edited model.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mammo_ml.errors import BadInputError, raise_if_any

MANIFEST = "manifest.json"
REMEDY = (
    "Restore the folder: `dvc checkout --force`, `dvc pull`. If it still differs, DVC's own copy is damaged: "
    "`make repro` finds it and says which file of the cache to delete."
)


def write_manifest(folder: Path) -> str:
    """Write manifest.json with the sha256 of every other file of a folder; returns the hash of the manifest."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    hashes = {name: file_sha256(path) for name, path in sorted(files.items()) if name != MANIFEST}
    content = json.dumps({"sha256": hashes}, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(content, encoding="utf-8")
    return hashlib.sha256(content.encode()).hexdigest()


def verify_manifest(folder: Path, remedy: str = REMEDY, besides: Sequence[str] = ()) -> str:
    """Compare every file of a folder with its manifest and return the manifest's hash.

    Args:
        folder: where manifest.json is.
        remedy: what to do about a fault.
        besides: names of files that came after the manifest and are checked by whoever calls.

    Raises:
        BadInputError: naming each file that changed, is missing, was added or is a link.
    """
    content = _read(folder, remedy)
    expected = _hashes(folder, content, remedy)
    present = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not _is_folder(path)}
    problems = [_fault(name, present.get(name), sha256) for name, sha256 in sorted(expected.items())]
    known = {*expected, MANIFEST, *besides}
    problems += [_added(name, path) for name, path in sorted(present.items()) if name not in known]
    raise_if_any(str(folder), filter(None, problems), remedy)
    return hashlib.sha256(content).hexdigest()


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(folder: Path, remedy: str) -> bytes:
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise BadInputError(str(folder), [f"{MANIFEST} is missing"], remedy)
    return path.read_bytes()


def _hashes(folder: Path, content: bytes, remedy: str) -> Mapping[str, str]:
    try:
        return {str(name): str(sha256) for name, sha256 in json.loads(content)["sha256"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadInputError(str(folder), [f"{MANIFEST} is not a list of hashes"], remedy) from None


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _added(name: str, path: Path) -> str:
    return f"{name} was added{' and is a link' if path.is_symlink() else ''}"


def _fault(name: str, path: Path | None, sha256: str) -> str:
    if path is None:
        return f"{name} is missing"
    if path.is_symlink() or not path.is_file():
        return f"{name} is a link or no file"
    try:
        found = file_sha256(path)
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    return "" if found == sha256 else f"{name} was changed: sha256 {found[:12]}…, {MANIFEST} says {sha256[:12]}…"
