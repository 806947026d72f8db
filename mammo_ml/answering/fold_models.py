"""Models of the benchmark's folds: each answers the films of the women it never saw (`--out-of-fold`).

Read from the outputs of a finished pass of the pipeline, below the folder with params.yaml.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from mammo_ml.answering.film_answers import ModelFacts, ModelKind
from mammo_ml.answering.film_models import (
    CLASSIFIER,
    DETECTOR,
    LOCATOR,
    LoadedModel,
    Look,
    look_with_classifier,
    look_with_detector,
    look_with_locator,
    scores_of,
)
from mammo_ml.classifier import ClassifierRecipe
from mammo_ml.detector import DetectorRecipe
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.patches import TileParameters
from mammo_ml.locator_folds import check_there, fold_of_film, locator_of_fold
from mammo_ml.metrics.calibration import VectorScaling
from mammo_ml.models.classifiers import build_classifier
from mammo_ml.models.ssd import build_detector
from mammo_ml.parameters import read_section, read_yaml
from mammo_ml.prediction import FilmDetectionParameters
from mammo_ml.recipe import load_best
from mammo_ml.training import load_weights

FILES = {
    LOCATOR: ("train_classifier", "train_detector", "predict_locator"),
    DETECTOR: ("train_detector",),
    CLASSIFIER: ("train_classifier", "predict_classifier"),
}
"""Stages whose outputs make the model of a fold."""


@dataclass(frozen=True)
class FoldModels:
    """The models of the folds of one kind of model; each is loaded when the first film of its fold comes.

    Attributes:
        workspace: with params.yaml and data/.
        name: registered model that they stand for.
    """

    workspace: Path
    name: str
    _loaded: dict[int, LoadedModel] = field(default_factory=dict)

    def model_for(self, sha256: str) -> LoadedModel:
        """The model that never saw the woman of the film with these bytes.

        Raises:
            BadInputError: when it is no film of the benchmark, or outputs of the pipeline are missing.
        """
        fold = fold_of_film(self.workspace, sha256)
        if fold is None:
            problem = f"sha256 {sha256[:12]}… is none of the benchmark's films in data/catalog/films.csv"
            remedy = "A film that no model was trained on needs no fold: leave --out-of-fold away."
            raise BadInputError("film to answer out of fold", [problem], remedy)
        if fold not in self._loaded:
            self._loaded[fold] = self._load(fold)
        return self._loaded[fold]

    def _load(self, fold: int) -> LoadedModel:
        look = _LOOKS[self.name](self.workspace, fold)
        dataset = str(read_yaml(self.workspace / "params.yaml")["dataset"])
        kind = _KINDS[self.name]
        facts = ModelFacts(
            name=self.name, version=None, fold=fold, kind=kind, content_sha256=self._content(fold), dataset=dataset,
            phantom=dataset == "phantom",
        )  # fmt: skip
        # by construction nothing of her; what the weights started from is another data set's
        return LoadedModel(facts, scores_of(kind, dataset), frozenset(), look)

    def _content(self, fold: int) -> str:
        """One hash of all files that make the model of a fold."""
        digest = hashlib.sha256((self.workspace / "params.yaml").read_bytes())
        for stage in FILES[self.name]:
            folder = self.workspace / "data" / stage / f"fold_{fold}"
            for path in sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors")):
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def fold_models(reference: str | None, workspace: Path) -> tuple[FoldModels, str]:
    """Models of the folds to find lesions with, and a word where they are not those that were to be expected.

    Args:
        reference: as for `film_models.lesion_model`; the version says nothing here.
        workspace: with the outputs of a finished pass of the pipeline.

    Raises:
        BadInputError: when the outputs are not there, or the reference is not one of a locator or a detector.
    """
    name = LOCATOR if reference is None else reference.partition("@")[0].partition("/")[0]
    if name not in (LOCATOR, DETECTOR):
        raise BadInputError("--model", [f"'{reference}' finds no lesions"], f"Write {LOCATOR} or {DETECTOR}.")
    if reference is None and not (workspace / "data" / "predict_locator").is_dir():
        word = f"The pipeline has not made the locators of the folds, so the folds' detectors answer: {DETECTOR}."
        return _checked(DETECTOR, workspace), f"{word} Their scores are not calibrated."
    return _checked(name, workspace), ""


def classifiers_of_folds(workspace: Path) -> FoldModels:
    """Classifiers of the folds.

    Raises:
        BadInputError: when the pipeline's outputs are not there.
    """
    return _checked(CLASSIFIER, workspace)


def _checked(name: str, workspace: Path) -> FoldModels:
    data = workspace / "data"
    places = [data / "catalog" / "films.csv", data / "split" / "folds.csv", *(data / stage for stage in FILES[name])]
    check_there([workspace / "params.yaml", *places])
    return FoldModels(workspace, name)


# ------------------------------------------------------------------------------------------------------------ loading


def _locator(workspace: Path, fold: int) -> Look:
    return look_with_locator(locator_of_fold(workspace, fold))


def _detector(workspace: Path, fold: int) -> Look:
    best, weights = _of_fold(workspace, "detector", fold)
    recipe = read_section(workspace / "params.yaml", "train_detector", DetectorRecipe).with_values(load_best(best))
    model = build_detector(recipe.network)
    load_weights(model, weights)
    looking = read_section(workspace / "params.yaml", "predict_detector", FilmDetectionParameters)
    return look_with_detector(model, looking)


def _classifier(workspace: Path, fold: int) -> Look:
    best, weights = _of_fold(workspace, "classifier", fold)
    recipe = read_section(workspace / "params.yaml", "train_classifier", ClassifierRecipe).with_values(load_best(best))
    network = build_classifier(recipe.network)
    load_weights(network, weights)
    notes = workspace / "data" / "predict_classifier" / f"fold_{fold}" / "calibration.json"
    check_there([notes])
    fitted = json.loads(notes.read_text(encoding="utf-8"))
    tiles = read_section(workspace / "params.yaml", "predict_classifier", TileParameters)
    return look_with_classifier(network, tiles, fitted["aggregation"], VectorScaling.from_dict(fitted["films"]))


def _of_fold(workspace: Path, kind: str, fold: int) -> tuple[Path, Path]:
    data = workspace / "data"
    best = data / f"tune_{kind}" / f"fold_{fold}" / "best.json"
    weights = data / f"train_{kind}" / f"fold_{fold}" / "weights.safetensors"
    check_there([best, weights])
    return best, weights


_LOOKS = {LOCATOR: _locator, DETECTOR: _detector, CLASSIFIER: _classifier}
_KINDS: dict[str, ModelKind] = {LOCATOR: "locator", DETECTOR: "detector", CLASSIFIER: "classifier"}
