"""A finished model on disk: what `finalize_<model>` writes, the registry keeps and prediction loads.

A bundle is a flat folder of four files, and nothing in it is ever unpickled or executed:

- weights.safetensors: the network's state dict.
- config.json: `BundleConfig`: the kind, the network's parameters, preprocessing, calibration, aggregation, thresholds,
  and what the model was made from.
- training_films.csv: film_id and sha256 of each film the model has seen.
- manifest.json: sha256 of each of the other three; checked at every load.

Same contents, same bytes. The sha256 of manifest.json is the bundle's content hash.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import pandas as pd
import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mammo_ml.errors import BadInputError, raise_if_any
from mammo_ml.parameters import Parameters, parse_section

WEIGHTS, CONFIG, TRAINING_FILMS, MANIFEST = "weights.safetensors", "config.json", "training_films.csv", "manifest.json"
FILES = (WEIGHTS, CONFIG, TRAINING_FILMS)
REMEDY = "Restore the folder (`dvc checkout --force`, or the registered version) or run its finalize stage again."

Network = TypeVar("Network", bound=nn.Module)


class Preprocessing(Parameters):
    """From a canonical film (chest wall on the left) to the network's input; px are canonical."""

    window_px: int = Field(default=256, ge=32, description="edge of a tile on the film")
    step_px: int = Field(default=128, ge=1, description="distance of tiles")
    input_px: int = Field(default=128, ge=32, description="edge of the network's input")
    min_breast_share: float = Field(default=0.0, ge=0, le=1, description="tiles with less breast are not looked at")
    pixel_spacing_mm: float = Field(default=0.2, gt=0, description="edge of a canonical pixel, mm")


class BundleConfig(Parameters):
    """Everything but the weights that prediction needs, and where the model comes from."""

    kind: Literal["classifier", "detector"]
    network: dict[str, Any] = Field(description="parameters the network is built with")
    preprocessing: Preprocessing
    calibration: dict[str, Any] = Field(description="from the out-of-fold predictions, as in {'temperature': 1.3}")
    aggregation: dict[str, Any] = Field(description="from tiles to film, as in {'how': 'mean'} or {'nms_iou': 0.3}")
    thresholds: dict[str, float] = Field(description="operating points by name")
    dataset: str = Field(min_length=1)
    phantom: bool = Field(description="made from synthetic films: never for a registry of real ones")
    folds_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="`folds_sha256` of the folds table")


@dataclass(frozen=True)
class Bundle:
    """A bundle read and verified.

    Attributes:
        weights: state dict.
        training_films: columns film_id, sha256.
        content_sha256: hash of the whole bundle.
    """

    config: BundleConfig
    weights: dict[str, torch.Tensor]
    training_films: pd.DataFrame
    content_sha256: str

    def load_into(self, network: Network) -> Network:
        """Put the weights into a network built from `config.network`, every name and shape equal; set it to eval.

        Raises:
            BadInputError: naming the tensors that are missing, unknown or of another shape.
        """
        try:
            network.load_state_dict(self.weights, strict=True)
        except RuntimeError as error:
            problems = [line.strip() for line in str(error).splitlines()[1:]]
            raise BadInputError(f"{WEIGHTS} for {type(network).__name__}", problems, REMEDY) from None
        return network.eval()

    def seen_in_training(self, film_sha256: str) -> bool:
        """Tell whether the model has learned from the film with these bytes."""
        return bool((self.training_films["sha256"] == film_sha256).any())


def write_bundle(
    folder: Path, config: BundleConfig, weights: Mapping[str, torch.Tensor], training_films: pd.DataFrame
) -> None:
    """Write a bundle into a new or empty folder.

    Args:
        folder: where to.
        config: all but the weights.
        weights: the network's state dict.
        training_films: columns film_id and sha256 (others are dropped).

    Raises:
        BadInputError: when a weight is not finite, or the folder holds something else.
    """
    raise_if_any(f"{folder}/{WEIGHTS}", _not_finite(weights), "The training diverged: look at its loss.")
    folder.mkdir(parents=True, exist_ok=True)
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in (*FILES, MANIFEST))
    raise_if_any(str(folder), [f"{name} does not belong to a bundle" for name in foreign], "Write to an empty folder.")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
    _write_json(folder / CONFIG, config.model_dump(mode="json"))
    films = training_films[["film_id", "sha256"]].sort_values("film_id")
    films.to_csv(folder / TRAINING_FILMS, index=False, lineterminator="\n")
    _write_json(folder / MANIFEST, {"sha256": {name: _sha256(folder / name) for name in FILES}})


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle after its manifest was verified.

    Raises:
        BadInputError: naming each file that changed, is missing, was added or is a link, the key of config.json that
            is wrong, or the weight that is not finite.
    """
    content = verify_bundle(folder)
    config = parse_section(json.loads((folder / CONFIG).read_text("utf-8")), BundleConfig, str(folder / CONFIG))
    try:
        weights = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise BadInputError(str(folder / WEIGHTS), [f"not a safetensors file: {error}"], REMEDY) from None
    raise_if_any(str(folder / WEIGHTS), _not_finite(weights), REMEDY)
    films = pd.read_csv(folder / TRAINING_FILMS, dtype="str")
    if list(films.columns) != ["film_id", "sha256"]:
        raise BadInputError(str(folder / TRAINING_FILMS), [f"columns {list(films.columns)}, not film_id, sha256"])
    return Bundle(config, weights, films, content)


def verify_bundle(folder: Path) -> str:
    """Compare every file of a bundle with its manifest and return the content hash.

    Raises:
        BadInputError: naming each file that changed, is missing, was added or is a link.
    """
    if not (folder / MANIFEST).is_file():
        raise BadInputError(f"model folder {folder}", [f"{MANIFEST} is missing"], REMEDY)
    content = (folder / MANIFEST).read_bytes()
    try:
        expected = {str(name): str(sha256) for name, sha256 in json.loads(content)["sha256"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInputError(f"model folder {folder}", [f"{MANIFEST} is not a list of hashes"], REMEDY) from None
    present = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    problems = [f"{name} is not in {MANIFEST}" for name in FILES if name not in expected]
    problems += [_fault(name, present.get(name), sha256) for name, sha256 in sorted(expected.items())]
    problems += [f"{name} was added" for name in sorted(present) if name not in (*expected, MANIFEST)]
    raise_if_any(f"model folder {folder}", filter(None, problems), REMEDY)
    return hashlib.sha256(content).hexdigest()


def folds_sha256(folds: pd.DataFrame) -> str:
    """Hash of a folds table: that of its CSV, rows in order of the women."""
    return hashlib.sha256(folds.sort_values("patient_id").to_csv(index=False).encode()).hexdigest()


def _fault(name: str, path: Path | None, sha256: str) -> str:
    if path is None:
        return f"{name} is missing"
    if path.is_symlink() or not path.is_file():
        return f"{name} is a link or no file"
    found = _sha256(path)
    return "" if found == sha256 else f"{name} was changed: sha256 {found[:12]}…, {MANIFEST} says {sha256[:12]}…"


def _not_finite(weights: Mapping[str, torch.Tensor]) -> list[str]:
    return [
        f"{name} holds NaN or infinity"
        for name, tensor in weights.items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, content: object) -> None:
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
