"""The locator's committed figures: what the cascade finds, saves and loses, and the curve over its threshold."""

import json

import pandas as pd

from mammo_ml import evaluation
from mammo_ml import locator_evaluation as cascade
from mammo_ml.datasets.catalog import BOX_COLUMNS, FILMS, LESIONS, read_table, write_table
from mammo_ml.locator import Calibration
from mammo_ml.locator_bundle import THRESHOLD, locator_of, open_bundle
from mammo_ml.locator_figures import cascade_figure
from mammo_ml.models.ssd import SsdParameters, build_detector
from mammo_ml.multiply_adds import cascade_costs, shared_trunk_costs
from mammo_ml.splits import in_folds, read_folds
from mammo_ml.truth import ITEMS_FILE, LESIONS_FILE, judged_items, judged_lesions
from pipelines import stage
from pipelines.recording import record_and_register, save_figure

PROTOCOL = "films_by_patient"
COLUMNS = [
    "protocol",
    "fold",
    "unit",
    "item",
    "film_id",
    "patient_id",
    *BOX_COLUMNS,
    "p_benign",
    "p_malignant",
    "score",
]
FILM_COLUMNS = ["protocol", "fold", "film_id", "patient_id", "label", "tiles", "searched", "p_abnormal"]


def evaluate_locator() -> None:
    paths = stage.arguments(__doc__, "catalog", "folds", "predicted", "model", "checks", "out", "gallery")
    parameters = stage.section("evaluate_locator", cascade.LocatorEvaluateParameters)
    sweeping = stage.section("predict_locator", cascade.SweepParameters)
    lesions = read_table(paths.catalog / "lesions.csv", LESIONS)
    all_films = read_table(paths.catalog / "films.csv", FILMS)
    all_films = all_films[in_folds(read_folds(paths.folds), all_films["patient_id"], stage.folds())]
    films = evaluation.located_films(all_films, lesions)
    truth = evaluation.lesions_of_films(lesions, films)
    bundle = open_bundle(paths.model)
    locator = locator_of(bundle)

    parts, boxes, said, thresholds = [], [], [], {"threshold": bundle.config.thresholds[THRESHOLD]}
    for fold in stage.folds():
        folder = paths.predicted / f"fold_{fold}"
        part = cascade.read_looked(folder, all_films, "test")
        fitted = json.loads((folder / cascade.FITTED_FILE).read_text(encoding="utf-8"))
        thresholds[f"threshold_fold_{fold}"] = fitted["threshold"]
        found = cascade.located(part, fitted["threshold"], locator.merge, Calibration.from_dict(fitted["calibration"]))
        parts.append(part)
        boxes.append(found[0].assign(fold=fold))
        said.append(found[1].assign(fold=fold))
    looked, answers = cascade.pooled(parts), pd.concat(said, ignore_index=True)
    evaluation.check_complete(set(answers["film_id"]), set(all_films["film_id"]), str(paths.predicted))
    predictions = evaluation.rounded(pd.concat(boxes, ignore_index=True)).round({"score": 5})
    predictions = predictions.assign(protocol=PROTOCOL, unit="film", film_id=predictions["item"])
    predictions["patient_id"] = predictions["item"].map(all_films.set_index("film_id")["patient_id"])

    judged = predictions[predictions["item"].isin(films["item"])]
    nothing = evaluation.random_boxes(films, truth, parameters.seed)
    figures, _ = evaluation.evaluate_detections(judged, nothing, truth, films, "films", parameters)
    looked = looked.only(list(films["item"]))
    networks = (locator.classifier, locator.classifier_px)
    costs = {
        "compute": cascade_costs(*networks, locator.detector, locator.detector.side_px),
        "seconds": parameters.seconds,
    }
    chosen = cascade.beside_everywhere(looked, judged, answers, truth, locator.merge, sweeping.fp_per_film)
    figures |= chosen.with_intervals(costs, parameters) | cascade.film_figures(answers, parameters) | thresholds
    evaluation.write_metrics({PROTOCOL: figures}, paths.out / "metrics.json")
    write_table(predictions[COLUMNS], paths.out / "predictions.csv")
    write_table(answers.assign(protocol=PROTOCOL).round({"p_abnormal": 5})[FILM_COLUMNS], paths.out / "films.csv")

    vgg16 = SsdParameters(base="vgg16")
    more = {
        "compute_shared": shared_trunk_costs(width=SsdParameters().width),
        "compute_vgg16": cascade_costs(*networks, build_detector(vgg16), vgg16.input_px),
    }
    table = cascade.curve(looked, truth, locator.merge, sweeping, costs | more, parameters)
    write_table(table, paths.out / "curve.csv")
    title = f"The cascade against the detector on every tile ({len(films)} films by patient)"
    save_figure(cascade_figure(table, figures, title), paths.out / "curve.png")
    write_table(judged_items(PROTOCOL, "film", films, all_films), paths.gallery / ITEMS_FILE)
    write_table(judged_lesions(PROTOCOL, truth, lesions, all_films), paths.gallery / LESIONS_FILE)
    record_and_register("locator", parameters, paths)


if __name__ == "__main__":
    stage.main(evaluate_locator)
