"""Pre-train a classifier's network on CBIS-DDSM's masses: women of the list's pre-training part alone.

The slides' network may be taught with batch normalisation, which its convolutions take over afterwards.
"""

import pandas as pd
import torch

from mammo_ml.classifier import PROBABILITY_COLUMNS, predict_probabilities
from mammo_ml.classifier_windows import ClassifierPretrainingRecipe, ClassifierWindowTask
from mammo_ml.datasets.catalog import LABELS, write_table
from mammo_ml.evaluation import EvaluateParameters, evaluate_patches, write_metrics
from mammo_ml.models.classifiers import CompactClassifier, build_classifier
from mammo_ml.models.cnni_bcc import PATCH_PX, CnniBcc
from mammo_ml.pretrained import FILM_COLUMNS, NONE, resolve
from pipelines import stage
from pipelines.pretraining_stage import inner_women, teaching, windows_by_film, write_weights
from pipelines.training_stage import train


def pretrain_classifier() -> None:
    paths = stage.arguments(__doc__, "films", "catalog", "out", "report", variant=True)
    recipe = stage.section("pretrain_classifier", ClassifierPretrainingRecipe).of_variant(paths.variant)
    films, lesions = teaching(paths.catalog)
    is_inner = films["patient_id"].isin(inner_women(films, recipe.inner_women, recipe.training.seed))
    torch.manual_seed(recipe.training.seed)
    model = build_classifier(recipe.network)
    start = resolve(recipe.backbone if isinstance(model, CompactClassifier) else NONE, "detector", "small")
    if isinstance(model, CompactClassifier):
        model.start_backbone(start.weights or {})
    windows = windows_by_film(paths.films, films, lesions, recipe.windows, PATCH_PX)
    task = ClassifierWindowTask(
        model,
        [windows[name] for name in films.loc[~is_inner, "film_id"]],
        [windows[name] for name in films.loc[is_inner, "film_id"]],
        recipe,
    )
    data = [paths.films / "manifest.json", paths.catalog]
    fitted = train("pretrain_classifier", task, recipe, data, protocol="pretraining")
    learned = model.folded() if isinstance(model, CnniBcc) and paths.variant == "exact" else model
    known = pd.concat([films[FILM_COLUMNS], start.films[FILM_COLUMNS]]).drop_duplicates()
    write_weights(paths.out, learned, known.sort_values(FILM_COLUMNS), "classifier", paths.variant)
    write_table(fitted.table(), paths.out / "history.csv")

    judged = pd.DataFrame({"film_id": task.inner_films, "label": [LABELS[label] for label in task.inner_labels]})
    judged["patient_id"] = judged["film_id"].map(films.set_index("film_id")["patient_id"])
    judged[PROBABILITY_COLUMNS] = predict_probabilities(learned, task.inner_pictures)
    parameters = EvaluateParameters(resamples=1000, seed=recipe.training.seed)
    write_metrics({"windows_of_inner_women": evaluate_patches(judged, parameters)}, paths.report)


if __name__ == "__main__":
    stage.main(pretrain_classifier)
