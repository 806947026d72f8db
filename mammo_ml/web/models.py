"""A registered version, ready to answer films, with what is to be said of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch

from mammo_ml import registry
from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.imaging.canonical import CanonicalFilm, to_canonical
from mammo_ml.imaging.readers import Film
from mammo_ml.locator import Located, Locator
from mammo_ml.locator_bundle import LocatorConfig, locator_of, open_bundle
from mammo_ml.models.bundle import Bundle
from mammo_ml.registry.facts import evidence_of
from mammo_ml.tracking import Store
from mammo_ml.web.operating_points import OperatingPoints, operating_points

Facts = dict[str, Any]


class Model(Protocol):
    """What a slot serves."""

    @property
    def number(self) -> int:
        """Its version."""

    @property
    def bundle(self) -> Bundle:
        """Its files, read."""

    def check(self) -> None:
        """Answer a made-up film; raises an error where that fails or gives no numbers."""

    def facts(self) -> Facts:
        """What `/v1/model` says of it."""


@dataclass(frozen=True)
class ServedLocator:
    """A version of the locator.

    Attributes:
        points: what its thresholds are worth; None where the version keeps no predictions to tell from.
        why_no_points: the reason, where it keeps none.
        tags: of the version in the registry.
    """

    name: str
    number: int
    bundle: Bundle
    points: OperatingPoints | None = None
    why_no_points: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def locator(self) -> Locator:
        """Its networks, built."""
        return locator_of(self.bundle)

    def answer(self, film: CanonicalFilm) -> Located:
        """What it finds on a film."""
        with torch.inference_mode():
            return self.locator.locate_canonical(film)

    def check(self) -> None:
        """Look at a made-up film.

        Raises:
            MammoError: when a number it gives is not finite.
        """
        located = self.answer(made_up_film())
        numbers = [located.boxes.to_numpy(dtype=np.float64), located.tiles.to_numpy(dtype=np.float64)]
        _check_finite(self, np.concatenate([[located.p_abnormal], *(table.ravel() for table in numbers)]))

    def facts(self) -> Facts:
        """What `/v1/model` says of it."""
        config = self.bundle.config
        facts = _facts(self)
        if isinstance(config, LocatorConfig):
            facts["parents"] = self.tags.get("parents") or ", ".join(parent.kind for parent in config.parents)
            facts["tile_threshold"] = self.locator.threshold
        if self.points is None or not self.points.judged["lesions"]:
            return facts | {"operating_points": [], "default_threshold": 0.0, "judged": None}
        return facts | {
            "operating_points": self.points.table.to_dict("records"),
            "default_threshold": self.points.default_threshold,
            "judged": dict(self.points.judged),
        }


@dataclass(frozen=True)
class ServedClassifier:
    """A version of the classifier."""

    name: str
    number: int
    bundle: Bundle
    tags: Mapping[str, str] = field(default_factory=dict)

    def answer(self, film: CanonicalFilm) -> dict[str, float]:
        """Calibrated p_normal, p_benign and p_malignant of a film."""
        from mammo_ml.prediction import classify_films_with

        with torch.inference_mode():
            row = classify_films_with(self.bundle, [film]).iloc[0]
        return {name: float(row[name]) for name in ("p_normal", "p_benign", "p_malignant")}

    def check(self) -> None:
        """Look at a made-up film.

        Raises:
            MammoError: when a number it gives is not finite.
        """
        _check_finite(self, np.array([*self.answer(made_up_film()).values()]))

    def facts(self) -> Facts:
        """What `/v1/model` says of it."""
        return _facts(self)


def _check_finite(model: ServedLocator | ServedClassifier, numbers: np.ndarray[Any, Any]) -> None:
    if not np.isfinite(numbers).all():
        raise MammoError(f"{model.name} version {model.number} answers a made-up film with numbers that are not finite")


def made_up_film() -> CanonicalFilm:
    """Half a bright disc at the left edge of a film of 1024 x 1024 px: a breast for a model to try itself on."""
    y, x = np.mgrid[:1024, :1024] / 1024
    pixels = np.where(np.hypot(x, y - 0.5) < 0.45, 160, 5).astype(np.uint8)
    return to_canonical("film", Film(pixels, 255, 0.2), "left", 0.2)


def _facts(model: ServedLocator | ServedClassifier) -> Facts:
    config, films = model.bundle.config, model.bundle.training_films
    by_step = films.groupby(["dataset", "step"])["film_id"].nunique().reset_index(name="films")
    primary = model.tags.get("primary_figure", "")
    figure = {key: float(model.tags[tag]) for key, tag in _BOUNDS.items() if tag in model.tags} if primary else {}
    return {
        "name": model.name,
        "version": model.number,
        "bundle_sha256": model.bundle.content_sha256,
        "dataset": config.dataset,
        "phantom": config.phantom,
        "learned_from": by_step.to_dict("records"),
        "primary_figure": {"name": primary, **figure} if primary else None,
    }


_BOUNDS = {"value": "primary", "low": "primary_lo", "high": "primary_hi", "baseline": "primary_baseline"}


# ------------------------------------------------------------------------------------------------- from the registry


def champion_of(name: str, workspace: Path) -> tuple[int, Path]:
    """Version and folder of the champion, every file verified; see `mammo_ml.registry.bundle_of`."""
    return registry.bundle_of(name, workspace)


def load_locator(name: str, workspace: Path, number: int, folder: Path) -> ServedLocator:
    """A version of the locator, with its operating points.

    Raises:
        BadInputError: when its files are not what they should be, or it is another kind of model.
    """
    found = registry.version_of(Store(workspace), name, number)
    points, reason = None, ""
    try:
        points = operating_points(evidence_of(Store(workspace), found))
    except BadInputError as error:
        reason = str(error)
    return ServedLocator(name, number, open_bundle(folder), points, reason, dict(found.tags))


def load_classifier(name: str, workspace: Path, number: int, folder: Path) -> ServedClassifier:
    """A version of the classifier; raises as `load_locator` does."""
    tags = dict(registry.version_of(Store(workspace), name, number).tags)
    return ServedClassifier(name, number, open_bundle(folder), tags)


def boxes_as_records(located: Located) -> list[dict[str, Any]]:
    """Boxes of a film, ready for JSON."""
    return _records(located.boxes)


def tiles_as_records(located: Located) -> list[dict[str, Any]]:
    """Tiles of a film, ready for JSON."""
    return _records(located.tiles)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.round(6).to_dict("records")]
