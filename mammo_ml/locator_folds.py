"""Locators out of fold: a film the registered model was trained on, answered by the fold model that never saw her.

Read from the outputs of a finished pass (`dvc repro`, or `dvc pull`), below the folder with params.yaml.
"""

import json
from pathlib import Path

from mammo_ml.classifier import ClassifierRecipe
from mammo_ml.datasets.catalog import FILMS, read_table
from mammo_ml.detector import DetectorRecipe
from mammo_ml.errors import raise_if_any
from mammo_ml.imaging.patches import TileParameters
from mammo_ml.locator import Calibration, Locator
from mammo_ml.locator_evaluation import FITTED_FILE
from mammo_ml.models.classifiers import build_classifier
from mammo_ml.models.ssd import build_detector
from mammo_ml.parameters import read_section
from mammo_ml.prediction import FilmDetectionParameters
from mammo_ml.recipe import load_best
from mammo_ml.splits import read_folds
from mammo_ml.training import load_weights

REMEDY = "Run the pipeline (`make repro`) or fetch its outputs (`dvc pull`)."


def fold_of_film(workspace: Path, sha256: str) -> int | None:
    """Test fold of the film whose file has these bytes; None when it is no film of the data set.

    Raises:
        BadInputError: naming the outputs of the pipeline that are missing.
    """
    catalog, split = workspace / "data/catalog/films.csv", workspace / "data/split/folds.csv"
    check_there([catalog, split])
    films, folds = read_table(catalog, FILMS), read_folds(split)
    women = films.loc[films["sha256"] == sha256, "patient_id"]
    found = folds.loc[folds["patient_id"].isin(women), "fold"]
    return None if found.empty else int(found.iloc[0])


def locator_of_fold(workspace: Path, fold: int) -> Locator:
    """The locator whose networks, threshold and calibration know nothing of the women of a test fold.

    Raises:
        BadInputError: naming the outputs of the pipeline that are missing, or the key of params.yaml that is wrong.
    """
    data, own = workspace / "data", f"fold_{fold}"
    files = {
        "classifier": (data / "tune_classifier" / own / "best.json", data / "train_classifier" / own),
        "detector": (data / "tune_detector" / own / "best.json", data / "train_detector" / own),
    }
    notes = data / "predict_locator" / own / FITTED_FILE
    check_there([notes, *(path for pair in files.values() for path in pair)])
    fitted = json.loads(notes.read_text(encoding="utf-8"))
    params = workspace / "params.yaml"
    looking = read_section(params, "predict_detector", FilmDetectionParameters)
    values = {kind: load_best(best) for kind, (best, _) in files.items()}
    classifier_recipe = read_section(params, "train_classifier", ClassifierRecipe).with_values(values["classifier"])
    detector_recipe = read_section(params, "train_detector", DetectorRecipe).with_values(values["detector"])
    classifier, detector = build_classifier(classifier_recipe.network), build_detector(detector_recipe.network)
    for network, kind in ((classifier, "classifier"), (detector, "detector")):
        load_weights(network, files[kind][1] / "weights.safetensors")
        network.eval()
    return Locator(
        classifier=classifier,
        detector=detector,
        tiles=looking.tiles,
        classifier_px=read_section(params, "predict_classifier", TileParameters).input_px,
        merge=looking.merge,
        calibration=Calibration.from_dict(fitted["calibration"]),
        threshold=fitted["threshold"],
    )


def check_there(paths: list[Path]) -> None:
    """Raise BadInputError, naming every path that is missing and the command that makes it."""
    raise_if_any("models of the folds", [f"{path} is missing" for path in paths if not path.exists()], REMEDY)
