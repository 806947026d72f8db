"""A locator as a bundle: both networks in one folder, which names the two registered models it was put together from.

The files are those of `mammo_ml.models.bundle`; the names of the tensors, and the keys of `network`, begin with
`classifier` or `detector`.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd
import torch
from pydantic import Field

from mammo_ml.datasets.catalog import names
from mammo_ml.errors import BadInputError, raise_if_any
from mammo_ml.models.bundle import (
    CONFIG,
    FILM_COLUMNS,
    TRAINING_FILMS,
    WEIGHTS,
    Bundle,
    BundleConfig,
    _read_films,
    read_bundle,
    verify_bundle,
    write_bundle,
)
from mammo_ml.models.weights import load_into, read_weights
from mammo_ml.parameters import Parameters, parse_section

if TYPE_CHECKING:  # the registry reads bundles without what they predict with
    from mammo_ml.locator import Calibration, Located, Locator

THRESHOLD = "p_abnormal"
"""Name of the operating point in `thresholds`."""
PARTS = ("classifier", "detector")


class Parent(Parameters):
    """A finished model that a locator was put together from."""

    kind: Literal["classifier", "detector"]
    bundle_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="content hash of its bundle")


class LocatorConfig(BundleConfig):
    """As of any bundle; `preprocessing` is the detector's, `network` holds both."""

    kind: Literal["locator"] = "locator"  # type: ignore[assignment]  # a third kind, unknown to what trains the others
    classifier_px: int = Field(ge=32, description="edge of the classifier's input")
    parents: tuple[Parent, Parent]


def write_locator(
    folder: Path, classifier: Bundle, detector: Bundle, calibration: "Calibration", threshold: float
) -> None:
    """Put two finished models together and write them as one bundle.

    Raises:
        BadInputError: when they are not of the same films and folds, or look at other tiles of a film.
    """
    one, other = classifier.config, detector.config
    same = ("dataset", "phantom", "folds_sha256")
    problems = [
        f"{key}: {getattr(one, key)} and {getattr(other, key)}"
        for key in same
        if getattr(one, key) != getattr(other, key)
    ]
    differ = {"input_px": other.preprocessing.input_px}
    if one.preprocessing.model_copy(update=differ) != other.preprocessing:
        problems.append(f"tiles: {one.preprocessing} and {other.preprocessing}")
    raise_if_any("classifier and detector of a locator", problems, "Finalize both with the same data, folds and tiles.")
    config = LocatorConfig(
        network={"classifier": one.network, "detector": other.network},
        preprocessing=other.preprocessing,
        classifier_px=one.preprocessing.input_px,
        calibration=calibration.to_dict(),
        aggregation=other.aggregation,
        thresholds={THRESHOLD: threshold},
        dataset=other.dataset,
        phantom=other.phantom,
        folds_sha256=other.folds_sha256,
        ancestry=(*one.ancestry, *other.ancestry),
        parents=(
            Parent(kind="classifier", bundle_sha256=classifier.content_sha256),
            Parent(kind="detector", bundle_sha256=detector.content_sha256),
        ),
    )
    weights = {
        f"{part}.{name}": tensor
        for part, bundle in zip(PARTS, (classifier, detector), strict=True)
        for name, tensor in bundle.weights.items()
    }
    films = pd.concat([classifier.training_films, detector.training_films])
    write_bundle(folder, config, weights, films.drop_duplicates(names(FILM_COLUMNS)))


def open_bundle(folder: Path) -> Bundle:
    """Read a bundle of any kind after its manifest was verified; that of a locator has a `LocatorConfig`.

    Raises:
        BadInputError: as `mammo_ml.models.bundle.read_bundle` does.
    """
    content = verify_bundle(folder)
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
    except (ValueError, RecursionError):
        return read_bundle(folder)  # which says what is wrong with it
    if not isinstance(config, dict) or config.get("kind") != "locator":
        return read_bundle(folder)
    known = parse_section(config, LocatorConfig, str(folder / CONFIG))
    return Bundle(known, read_weights(folder / WEIGHTS), _read_films(folder / TRAINING_FILMS), content)


def locator_of(bundle: Bundle, threshold: float | None = None) -> "Locator":
    """Build the locator that a bundle holds; another threshold than its own where one is given.

    Raises:
        BadInputError: when the bundle is another kind of model, or its weights are not those of its networks.
    """
    from mammo_ml.imaging.patches import TileParameters
    from mammo_ml.locator import Calibration, Locator
    from mammo_ml.models.classifiers import ClassifierParameters, build_classifier
    from mammo_ml.models.ssd import SsdParameters, build_detector
    from mammo_ml.prediction import MergeParameters

    config = _checked(bundle)
    return Locator(
        classifier=load_into(
            build_classifier(ClassifierParameters(**config.network["classifier"])),
            _part(bundle.weights, "classifier"),
            WEIGHTS,
        ),
        detector=load_into(
            build_detector(SsdParameters(**config.network["detector"])), _part(bundle.weights, "detector"), WEIGHTS
        ),
        tiles=TileParameters(**config.preprocessing.model_dump(exclude={"pixel_spacing_mm"})),
        classifier_px=config.classifier_px,
        merge=MergeParameters(**config.aggregation),
        calibration=Calibration.from_dict(config.calibration),
        threshold=config.thresholds[THRESHOLD] if threshold is None else threshold,
    )


def _part(weights: Mapping[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    """The tensors of one of the two networks, under its own names."""
    return {name.removeprefix(f"{part}."): tensor for name, tensor in weights.items() if name.partition(".")[0] == part}


def networks_of(bundle: Bundle) -> tuple[Bundle, Bundle]:
    """The classifier and the detector in a locator, each as a bundle; their calibration is the locator's own.

    Raises:
        BadInputError: when the bundle is another kind of model.
    """
    config = _checked(bundle)
    shared = config.model_dump(exclude={"kind", "network", "classifier_px", "parents"})
    windows = shared["preprocessing"] | {"input_px": config.classifier_px}
    classifier = shared | {"kind": "classifier", "network": config.network["classifier"], "preprocessing": windows}
    detector = shared | {"kind": "detector", "network": config.network["detector"]}
    return (
        replace(bundle, config=BundleConfig(**classifier), weights=_part(bundle.weights, "classifier")),
        replace(bundle, config=BundleConfig(**detector), weights=_part(bundle.weights, "detector")),
    )


def _checked(bundle: Bundle) -> LocatorConfig:
    if not isinstance(bundle.config, LocatorConfig):
        problem = f"the bundle holds a {bundle.config.kind}"
        raise BadInputError("locator", [problem], "Give one that `finalize_locator` wrote.")
    strange = [name for name in bundle.weights if name.partition(".")[0] not in PARTS]
    raise_if_any(WEIGHTS, [f"{name} belongs neither to the classifier nor to the detector" for name in strange])
    return bundle.config


def answer(bundle: Bundle, films: pd.DataFrame) -> pd.DataFrame:
    """Answer films with a registered model of any kind.

    Args:
        bundle: as `open_bundle` gives it.
        films: as `mammo_ml.prediction.predict_with_bundle` takes them.

    Returns:
        For a locator a row per box: film_id, x1 … y2 (film file px), p_benign, p_malignant, score, seen_in_training;
        for the others as `predict_with_bundle` does.

    Raises:
        BadInputError, MammoError: as `predict_with_bundle` does.
    """
    from mammo_ml.prediction import predict_with_bundle

    if not isinstance(bundle.config, LocatorConfig):
        return predict_with_bundle(bundle, films)
    from mammo_ml.locator import LOCATED_COLUMNS
    from mammo_ml.prediction import decoded_contents

    found = [table_of(name, one) for name, one in locate_films(bundle, films).items()]
    seen = {name: bundle.seen_in_training(sha256(data).hexdigest()) for name, data in decoded_contents(films).items()}
    table = pd.concat(found, ignore_index=True).astype({"film_id": "str"} | dict.fromkeys(LOCATED_COLUMNS, "float64"))
    return table.assign(seen_in_training=table["film_id"].map(seen).astype(bool))


def locate_films(bundle: Bundle, films: pd.DataFrame) -> dict[str, "Located"]:
    """What a locator says of films, by their names; `films` as `predict_with_bundle` takes them.

    Raises:
        BadInputError, MammoError: as `predict_with_bundle` does.
    """
    from mammo_ml.prediction import decoded_contents, parsed_films

    raise_if_any("films to answer", ["there is no film"] if films.empty else [])
    twice = films["film_id"][films["film_id"].duplicated()].unique()
    raise_if_any("films to answer", [f"film {name} is there twice" for name in twice], "Give each film its own name.")
    locator = locator_of(bundle)
    parsed = parsed_films(films, decoded_contents(films))
    return {name: locator.locate(film, f"film {name}") for name, film in parsed.items()}


def table_of(film_id: str, located: "Located") -> pd.DataFrame:
    """Boxes of one film as rows: film_id, x1 … y2, p_benign, p_malignant, score."""
    table = located.boxes.copy()
    table.insert(0, "film_id", film_id)
    return table
