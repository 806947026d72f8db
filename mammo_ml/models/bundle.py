"""A finished model on disk: what `finalize_<model>` writes, the registry keeps and prediction loads.

A bundle is a flat folder of four files, and nothing in it is ever unpickled or executed:

- weights.safetensors: the network's state dict.
- config.json: `BundleConfig`: the kind, the network's parameters, preprocessing, calibration, aggregation, thresholds,
  and what the model was made from.
- training_films.csv: each film the model has seen, and in which step: its own training, or a pre-training of the
  weights it started from.
- manifest.json: sha256 of each of the other three; checked at every load.

Same contents, same bytes. The sha256 of manifest.json is the bundle's content hash.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from pydantic import Field
from safetensors.torch import save_file

from mammo_ml.datasets.catalog import Column, names, write_table
from mammo_ml.errors import BadInputError, raise_if_any
from mammo_ml.manifest import MANIFEST, verify_manifest, write_manifest
from mammo_ml.models.weights import Network, load_into, not_finite, read_weights
from mammo_ml.parameters import Parameters, parse_section

WEIGHTS, CONFIG, TRAINING_FILMS = "weights.safetensors", "config.json", "training_films.csv"
FILES = (WEIGHTS, CONFIG, TRAINING_FILMS)
REMEDY = "Restore the folder (`dvc checkout --force`, or the registered version) or run its finalize stage again."
STEPS = ("training", "pretraining")
FILM_COLUMNS = (
    Column("film_id", "str", "name of the film in its data set"),
    Column("sha256", "str", "hash of the film file's bytes"),
    Column("dataset", "str", "name of the data set"),
    Column("patient_id", "str", "the woman"),
    Column("step", "str", "what the model learned from it in", STEPS),
)


class Preprocessing(Parameters):
    """From a canonical film (chest wall on the left) to the network's input; px are canonical."""

    window_px: int = Field(default=256, ge=32, description="edge of a tile on the film")
    step_px: int = Field(default=128, ge=1, description="distance of tiles")
    input_px: int = Field(default=128, ge=32, description="edge of the network's input")
    min_breast_share: float = Field(default=0.0, ge=0, le=1, description="tiles with less breast are not looked at")
    pixel_spacing_mm: float = Field(default=0.2, gt=0, description="edge of a canonical pixel, mm")


class Ancestor(Parameters):
    """Weights that a model, or one of its ancestors, started from."""

    name: str = Field(min_length=1)
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="hash of the bytes of the weights file")
    dataset: str = Field(min_length=1, description="what these weights were trained on")
    command: str = Field(min_length=1, description="how they were made")


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
    ancestry: tuple[Ancestor, ...] = Field(default=(), description="the weights it started from, nearest first")


@dataclass(frozen=True)
class Bundle:
    """A bundle read and verified.

    Attributes:
        weights: state dict.
        training_films: as in `FILM_COLUMNS`, one row per film and step.
        content_sha256: hash of the whole bundle.
    """

    config: BundleConfig
    weights: dict[str, torch.Tensor]
    training_films: pd.DataFrame
    content_sha256: str

    def load_into(self, network: Network) -> Network:
        """Put the weights into a network built from `config.network`, every name and shape equal; set it to eval.

        Raises:
            BadInputError: naming the tensors that are missing, unknown, or of another shape or type.
        """
        return load_into(network, self.weights, WEIGHTS)

    def seen_in_training(self, film_sha256: str) -> bool:
        """Tell whether the model, or weights it started from, learned from the film with these bytes."""
        return bool((self.training_films["sha256"] == film_sha256).any())


def write_bundle(
    folder: Path, config: BundleConfig, weights: Mapping[str, torch.Tensor], training_films: pd.DataFrame
) -> None:
    """Write a bundle into a new or empty folder.

    Args:
        folder: where to.
        config: all but the weights.
        weights: the network's state dict.
        training_films: `FILM_COLUMNS` (others are dropped), one row per film and step.

    Raises:
        BadInputError: when a weight is not finite, a film's step is unknown, or the folder holds something else.
    """
    raise_if_any(f"{folder}/{WEIGHTS}", not_finite(weights), "The training diverged: look at its loss.")
    raise_if_any(f"{folder}/{TRAINING_FILMS}", _unknown_steps(training_films), f"Known steps: {', '.join(STEPS)}.")
    folder.mkdir(parents=True, exist_ok=True)
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in (*FILES, MANIFEST))
    raise_if_any(str(folder), [f"{name} does not belong to a bundle" for name in foreign], "Write to an empty folder.")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
    _write_json(folder / CONFIG, config.model_dump(mode="json"))
    films = training_films[names(FILM_COLUMNS)].sort_values(["step", "dataset", "film_id"])
    write_table(films, folder / TRAINING_FILMS)
    write_manifest(folder)


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle after its manifest was verified.

    Raises:
        BadInputError: naming each file that changed, is missing, was added or is a link, the key of config.json that
            is wrong, the film whose step is unknown, what is wrong with the weights, or the one that is not finite.
    """
    content = verify_bundle(folder)
    films = _read_films(folder / TRAINING_FILMS)
    return Bundle(_read_config(folder / CONFIG), read_weights(folder / WEIGHTS), films, content)


def _read_films(path: Path) -> pd.DataFrame:
    try:
        # a film may be called "NA"
        films = pd.read_csv(path, dtype="str", keep_default_na=False)
    except ValueError as error:
        raise BadInputError(str(path), [f"not a table: {error}"], REMEDY) from None
    if list(films.columns) != names(FILM_COLUMNS):
        raise BadInputError(str(path), [f"columns {list(films.columns)}, expected {names(FILM_COLUMNS)}"], REMEDY)
    raise_if_any(str(path), _unknown_steps(films), REMEDY)
    return films


def _read_config(path: Path) -> BundleConfig:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInputError(str(path), [f"not JSON: {error}"], REMEDY) from None
    return parse_section(content, BundleConfig, str(path))


def _unknown_steps(films: pd.DataFrame) -> list[str]:
    bad = films[~films["step"].isin(STEPS)]
    return [f"film {row.film_id}: step {row.step!r}" for row in bad.itertuples()]


def verify_bundle(folder: Path) -> str:
    """Compare every file of a bundle with its manifest and return the content hash.

    Raises:
        BadInputError: naming each file that changed, is missing, was added or is a link.
    """
    content = verify_manifest(folder, REMEDY)
    raise_if_any(str(folder), [f"{name} is missing" for name in FILES if not (folder / name).is_file()], REMEDY)
    return content


def folds_sha256(folds: pd.DataFrame) -> str:
    """Hash of a folds table: that of its CSV, rows in order of the women."""
    return hashlib.sha256(folds.sort_values("patient_id").to_csv(index=False).encode()).hexdigest()


def _write_json(path: Path, content: object) -> None:
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
