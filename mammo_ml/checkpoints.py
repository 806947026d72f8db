"""Tensor files that tell whether they are whole, and the checkpoints of a training made of them.

A file is safetensors, so nothing in it is ever executed, and its metadata holds the sha256 of its content. It appears
under its name only when every byte of it is on the disk.
"""

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.models.weights import read_safetensors

SEAL = "sealed"
"""The only key of the metadata: safetensors writes several in random order, and equal content must be equal bytes."""
KEPT = 2
PREFIX = "step_"


class DamagedFileError(MammoError):
    """A tensor file that is not what was written."""


class Checkpoints:
    """The checkpoints of one training in a folder of its own: the last two are kept.

    Args:
        folder: made where it is missing.
        key: of everything the training depends on; a checkpoint of another key is refused.
        seconds: between two checkpoints within an epoch; 0 for one after every step.
    """

    def __init__(self, folder: Path, key: str, seconds: float = 30.0) -> None:
        self.folder, self.key, self.seconds = folder, key, seconds
        self._saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is old enough for another."""
        return time.monotonic() - self._saved_at >= self.seconds

    def save(self, step: int, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """Write the checkpoint of a step and remove all but it and the one before.

        Raises:
            MammoError: naming the file, when it cannot be written; the earlier checkpoints are then untouched.
        """
        path = self.folder / f"{PREFIX}{step:010d}.safetensors"
        write_sealed(path, tensors, {"key": self.key, "notes": notes})
        # Of a later step there are only those that were refused: this training went on from an earlier one.
        kept = [found for found in self._newest_first() if found <= path][:KEPT]
        for found in self.folder.glob(f"{PREFIX}*"):
            if found not in kept:
                found.unlink(missing_ok=True)
        self._saved_at = time.monotonic()

    def newest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and notes of the newest good checkpoint; None where there is none.

        Each one that is refused is named on stderr with the reason, and so is a start from the beginning because of it.
        """
        paths = self._newest_first()
        for path in paths:
            try:
                tensors, sealed = read_sealed(path)
                self._check_key(path, sealed)
            except DamagedFileError as error:
                _warn(f"checkpoint refused: {error}")
                continue
            if path != paths[0]:
                _warn(f"the training goes on from the checkpoint before: {path}")
            return tensors, dict(sealed["notes"])
        if paths:
            _warn(
                f"none of the {len(paths)} checkpoints in {self.folder} is good: the training STARTS OVER from step 1"
            )
        return None

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob(f"{PREFIX}*.safetensors"), reverse=True)

    def _check_key(self, path: Path, sealed: Mapping[str, Any]) -> None:
        if sealed.get("key") != self.key:
            raise DamagedFileError(f"{path}: belongs to configuration {sealed.get('key')}, this training is {self.key}")


def write_sealed(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Write tensors and notes (JSON values) with the sha256 of both; equal content gives equal bytes.

    Killed at any moment, it leaves under `path` what was there before or the whole new file.

    Raises:
        MammoError: naming the file, when it cannot be written, as on a full disk.
    """
    # Copies: safetensors refuses tensors that share memory.
    whole = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    text = json.dumps(notes, sort_keys=True)
    seal = json.dumps({"sha256": tensors_sha256(whole, text), "notes": text}, sort_keys=True)
    _replace(path, save(whole, metadata={SEAL: seal}))


def read_sealed(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and notes of a file of `write_sealed`.

    Raises:
        DamagedFileError: naming the file, when it is missing, torn or changed, or holds no sha256.
    """
    try:
        tensors, metadata = read_safetensors(path)
    except BadInputError as error:
        raise DamagedFileError(f"{path}: {'; '.join(error.problems)}") from None
    except OSError as error:
        raise DamagedFileError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        seal = json.loads(metadata[SEAL])
        text, expected = str(seal["notes"]), str(seal["sha256"])
    except (KeyError, TypeError, ValueError):
        raise DamagedFileError(f"{path}: holds no sha256 of its content") from None
    found = tensors_sha256(tensors, text)
    if found != expected:
        raise DamagedFileError(f"{path}: was changed: sha256 {found[:12]}…, written was {expected[:12]}…")
    return tensors, json.loads(text)


def tensors_sha256(tensors: Mapping[str, Tensor], notes: str = "") -> str:
    """Hash of names, types, shapes and bytes of contiguous tensors, and of the notes."""
    digest = hashlib.sha256(notes.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _replace(path: Path, content: bytes) -> None:
    """Put a file in place whole: on the disk first, then under its name, then the name on the disk."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise MammoError(
            f"{path}: cannot be written ({len(content)} bytes): {error.strerror or error}. "
            "What was saved before is untouched: make room, and run again to go on from there."
        ) from error


def _warn(text: str) -> None:
    print(f"WARNING: {text}", file=sys.stderr, flush=True)
