"""Pre-train a detector's network on CBIS-DDSM's masses: women of the list's pre-training part alone."""

import numpy as np
import torch

from mammo_ml.datasets.catalog import write_table
from mammo_ml.detector import PretrainingRecipe
from mammo_ml.evaluation import (
    EvaluateParameters,
    evaluate_detections,
    located_films,
    random_boxes,
    write_metrics,
)
from mammo_ml.imaging.canonical import canonical_films
from mammo_ml.models.ssd import build_detector
from mammo_ml.prediction import FilmDetectionParameters, detect_on_films
from mammo_ml.windows import WindowTask
from pipelines import stage
from pipelines.pretraining_stage import inner_women, teaching, windows_by_film, write_weights
from pipelines.training_stage import train


def pretrain_detector() -> None:
    paths = stage.arguments(__doc__, "films", "catalog", "out", "report", base=True)
    recipe = stage.section("pretrain_detector", PretrainingRecipe).of_base(paths.base)
    looking = stage.section("predict_detector", FilmDetectionParameters)
    films, lesions = teaching(paths.catalog)
    apart = inner_women(films, recipe.inner_women, recipe.training.seed)
    # A lesion nobody located is neither positive nor negative, but a window round another one may show it.
    films = located_films(films, lesions)
    is_inner = films["patient_id"].isin(apart)
    windows = windows_by_film(paths.films, films, lesions, recipe.windows, recipe.network.input_px)
    learned = [windows[name] for name in films.loc[~is_inner, "film_id"]]
    network, base = recipe.network, recipe.network.base
    if base not in (network.scales or {}):
        network = network.with_boxes_for(film.boxes for film in learned)
    torch.manual_seed(recipe.training.seed)
    model = build_detector(network)
    task = WindowTask(
        model,
        learned,
        [windows[name] for name in films.loc[is_inner, "film_id"]],
        recipe.windows,
        recipe.augmentation,
        recipe.training.seed,
    )
    data = [paths.films / "manifest.json", paths.catalog]
    fitted = train("pretrain_detector", task, recipe, data, protocol="pretraining")
    write_weights(paths.out, model, films, "detector", paths.base)
    write_table(fitted.table(), paths.out / "history.csv")

    judged = films[is_inner].reset_index(drop=True)
    truth = lesions[lesions["has_location"] & lesions["film_id"].isin(judged["film_id"])]
    # Boxes alone: a mass's circle is larger than the ellipse of its box.
    truth = truth.assign(item=truth["film_id"], x_px=np.nan, y_px=np.nan, radius_px=np.nan).reset_index(drop=True)
    found = detect_on_films(model, canonical_films(paths.films, judged), looking).rename(columns={"film_id": "item"})
    parameters = EvaluateParameters(resamples=1000, seed=recipe.training.seed)
    guesses = random_boxes(judged, truth, recipe.training.seed)
    figures, _ = evaluate_detections(found, guesses, truth, judged, "films", parameters)
    write_metrics({"films_of_inner_women": figures}, paths.report)


if __name__ == "__main__":
    stage.main(pretrain_detector)
