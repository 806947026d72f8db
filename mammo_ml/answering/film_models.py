"""Registered models, verified and loaded once, ready to look at films."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from mammo_ml import registry
from mammo_ml.answering.film_answers import Classes, FoundBox, Lesions, ModelFacts, ModelKind
from mammo_ml.classifier import PROBABILITY_COLUMNS
from mammo_ml.datasets.catalog import BOX_COLUMNS
from mammo_ml.errors import BadInputError
from mammo_ml.evaluation import rounded
from mammo_ml.imaging.patches import TileParameters
from mammo_ml.imaging.readers import Film
from mammo_ml.lineage import parse_reference
from mammo_ml.locator import Locator
from mammo_ml.locator_bundle import LocatorConfig, locator_of, open_bundle
from mammo_ml.metrics.calibration import VectorScaling
from mammo_ml.models.bundle import Bundle
from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
from mammo_ml.models.ssd import LesionSSD, SsdParameters, build_detector
from mammo_ml.prediction import (
    Aggregation,
    FilmDetectionParameters,
    MergeParameters,
    aggregate,
    calibrated,
    classify_tiles,
    detect_on_films,
    prepared_film,
    tiles_of_bundle,
)

LOCATOR, DETECTOR, CLASSIFIER = "mammo-locator", "mammo-detector", "mammo-classifier"
PREVALENCE = {"mini_mias": " (36 of 100 show a lesion)"}
"""Of the films that probabilities were calibrated on."""
PLACES = 5
"""Decimals of a probability that are kept."""

Findings = Lesions | Classes
Look = Callable[[Film, str], Findings]


@dataclass(frozen=True)
class LoadedModel:
    """A model that looks at a film with its pixel spacing.

    Attributes:
        scores: what its numbers mean, and what they are calibrated on.
        learned_from: hashes of the film files that it, or weights it started from, learned from.
        look: from a film and its name, for messages, to what is found.
    """

    facts: ModelFacts
    scores: str
    learned_from: frozenset[str]
    look: Look


class ModelSource(Protocol):
    """Where the model for a film comes from."""

    def model_for(self, sha256: str) -> LoadedModel:
        """The model to look at the film with these bytes; raises MammoError where there is none."""


@dataclass(frozen=True)
class OneModel:
    """One registered model for every film."""

    model: LoadedModel

    def model_for(self, sha256: str) -> LoadedModel:
        """That model."""
        return self.model


# ------------------------------------------------------------------------------------------------------- the registry


def lesion_model(reference: str | None, workspace: Path) -> tuple[LoadedModel, str]:
    """Locator or detector to find lesions with, and a word about it where it is not the one that was to be expected.

    Args:
        reference: NAME@alias or NAME/version; None: the champion locator, or where none was ever promoted, the
            champion detector.
        workspace: with the registry.

    Raises:
        BadInputError: when there is no such version, its files are not those that were registered, or it was made
            champion past the gate.
    """
    if reference is not None:
        return open_model(reference, workspace, ("locator", "detector")), ""
    if was_promoted(LOCATOR, workspace):
        return open_model(f"{LOCATOR}@{registry.CHAMPION}", workspace, ("locator",)), ""
    if not was_promoted(DETECTOR, workspace):
        problems = [f"neither {LOCATOR} nor {DETECTOR} has a champion in the registry of {workspace}"]
        remedy = f"`mammo-ml models` lists what there is; `mammo-ml promote {LOCATOR}` makes a champion, if the gate "
        raise BadInputError("model to find lesions with", problems, f"{remedy}lets it. Or name a version with --model.")
    word = f"No {LOCATOR} was promoted yet, so the champion of {DETECTOR} answers: its scores are not calibrated."
    return open_model(f"{DETECTOR}@{registry.CHAMPION}", workspace, ("detector",)), word


def was_promoted(name: str, workspace: Path) -> bool:
    """Tell whether a registered model has, or ever had, a champion."""
    from mammo_ml.registry.audit import alias_of, read_audit
    from mammo_ml.registry.promotion import registered_model
    from mammo_ml.tracking import Store

    try:
        model = registered_model(Store(workspace), name)
    except BadInputError:
        return False
    return alias_of(model) is not None or bool(read_audit(name, model.tags).champions)


def open_model(reference: str, workspace: Path, kinds: tuple[str, ...]) -> LoadedModel:
    """A registered version, its files and (of a champion) its promotion verified.

    Raises:
        BadInputError: as `registry.bundle_of` does; or when it is of another kind than these.
    """
    name, which = parse_reference(reference)
    number, folder = registry.bundle_of(name, workspace, which)
    return model_of(open_bundle(folder), name, number, kinds)


def model_of(bundle: Bundle, name: str, number: int, kinds: tuple[str, ...]) -> LoadedModel:
    """The model in a bundle, its networks built and loaded.

    Raises:
        BadInputError: when it is of another kind than these.
    """
    config = bundle.config
    if config.kind not in kinds:
        remedy = {"classifier": "`mammo-ml classify` asks a classifier.", "locator": "`mammo-ml locate` asks it."}
        raise BadInputError(
            f"{name} version {number}",
            [f"it is a {config.kind}, needed is a {' or a '.join(kinds)}"],
            remedy.get(config.kind, "`mammo-ml locate` asks a detector."),
        )
    facts = ModelFacts(
        name=name, version=number, fold=None, kind=config.kind, content_sha256=bundle.content_sha256,
        dataset=config.dataset, phantom=config.phantom,
    )  # fmt: skip
    learned_from = frozenset(bundle.training_films["sha256"])
    return LoadedModel(facts, scores_of(facts.kind, config.dataset), learned_from, _look_of(bundle))


def _look_of(bundle: Bundle) -> Look:
    config = bundle.config
    if isinstance(config, LocatorConfig):
        return look_with_locator(locator_of(bundle))
    if config.kind == "classifier":
        network = bundle.load_into(build_classifier(ClassifierParameters(**config.network)))
        scaling = VectorScaling.from_dict(config.calibration["films"])
        return look_with_classifier(network, tiles_of_bundle(bundle), config.aggregation["how"], scaling)
    detector = bundle.load_into(build_detector(SsdParameters(**config.network)))
    merge = MergeParameters(**config.aggregation)
    return look_with_detector(detector, FilmDetectionParameters(tiles=tiles_of_bundle(bundle), merge=merge))


# -------------------------------------------------------------------------------------------------------- the looking


def look_with_locator(locator: Locator) -> Look:
    """Look at films with a locator."""

    def look(film: Film, name: str) -> Lesions:
        located = locator.locate(film, name)
        return Lesions(
            p_abnormal=round(located.p_abnormal, PLACES),
            boxes=_boxes(located.boxes, located.boxes["score"].to_numpy(dtype=np.float64)),
            n_tiles=len(located.tiles),
            n_searched=len(located.tiles) - located.n_skipped,
        )

    return look


def look_with_detector(detector: LesionSSD, looking: FilmDetectionParameters) -> Look:
    """Look at films with a detector alone: the score of a box is p_benign + p_malignant, 1 - P(background)."""

    def look(film: Film, name: str) -> Lesions:
        found = detect_on_films(detector, [prepared_film(name, film)], looking)
        scores = found[["p_benign", "p_malignant"]].to_numpy(dtype=np.float64).sum(axis=1)
        return Lesions(p_abnormal=None, boxes=_boxes(found, scores), n_tiles=None, n_searched=None)

    return look


def look_with_classifier(network: nn.Module, tiles: TileParameters, how: Aggregation, scaling: VectorScaling) -> Look:
    """Look at films with a classifier: tile by tile, then `how` makes a film's probabilities of its tiles'."""

    def look(film: Film, name: str) -> Classes:
        table = calibrated(aggregate(classify_tiles(network, prepared_film(name, film), tiles), how), scaling)
        p_normal, p_benign, p_malignant = (round(float(table[name].iloc[0]), PLACES) for name in PROBABILITY_COLUMNS)
        return Classes(p_normal=p_normal, p_benign=p_benign, p_malignant=p_malignant)

    return look


def _boxes(table: pd.DataFrame, scores: NDArray[np.float64]) -> list[FoundBox]:
    near = rounded(table.assign(p_score=scores)[[*BOX_COLUMNS, "p_benign", "p_malignant", "p_score"]])
    records = near.rename(columns={"p_score": "score"}).to_dict("records")
    return [FoundBox(**{str(key): float(value) for key, value in record.items()}) for record in records]


def scores_of(kind: ModelKind, dataset: str) -> str:
    """What the numbers of a kind of model mean, and what they are calibrated on."""
    films = f"calibrated on films of {dataset}{PREVALENCE.get(dataset, '')} that the networks had not learned from"
    limits = "where lesions are rarer, as in screening, they are too high; on films of another kind they are unproven"
    if kind == "locator":
        return (
            "score: probability that the middle of the box lies in a lesion; p_abnormal: that the film shows one; "
            f"both {films}; {limits}. p_benign and p_malignant of a box are the detector's own, not calibrated."
        )
    if kind == "classifier":
        told = "p_normal, p_benign, p_malignant: probabilities of the film's most severe finding"
        limits = limits.replace("they are too high", "p_benign and p_malignant are too high")
        return f"{told}, {films}; {limits}."
    return (
        "score: p_benign + p_malignant, the detector's own. It ranks boxes and is no probability: "
        "a detector alone is not calibrated."
    )
