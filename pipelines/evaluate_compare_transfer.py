"""What each way of teaching finds on each set, the mean over its seeds, and its paired gain over the reference."""

from pathlib import Path

import numpy as np
import pandas as pd

from mammo_ml.comparisons import compared
from mammo_ml.datasets.catalog import FILMS, LESIONS, read_table
from mammo_ml.evaluation import lesions_of_films, located_films, random_boxes, write_metrics
from mammo_ml.metrics.detection import CIRCLE_COLUMNS, match_detections
from mammo_ml.transfer import MINI_MIAS, SETS, TransferParameters, films_of_study
from mammo_ml.transfer_figures import SHOWN, transfer_figure, transfer_table
from pipelines import stage
from pipelines.recording import save_figure


def evaluate_compare_transfer() -> None:
    paths = stage.arguments(__doc__, *(f"{name}_catalog" for name in SETS), "predicted", "out")
    asked = stage.section("compare_transfer", TransferParameters)
    predicted = {
        name: _read(paths.predicted / f"{name}.csv").rename(columns={"film_id": "item"})
        for name in asked.configurations
    }
    metrics: dict[str, dict[str, dict[str, float]]] = {name: {} for name in asked.configurations}
    with stage.bar(len(SETS), "sets judged", "set") as advance:
        for dataset in SETS:
            catalog = getattr(paths, f"{dataset}_catalog")
            every_lesion = read_table(catalog / "lesions.csv", LESIONS)
            own_films = films_of_study(dataset, read_table(catalog / "films.csv", FILMS), every_lesion, asked)
            films = located_films(own_films[own_films["apart"]], every_lesion)
            lesions = lesions_of_films(every_lesion, films)
            if dataset != MINI_MIAS:
                lesions[CIRCLE_COLUMNS] = np.nan
            matched = {
                name: [
                    match_detections(part, lesions, films, "films")
                    for _, part in own[own["item"].isin(films["item"]) & (own["dataset"] == dataset)].groupby("seed")
                ]
                for name, own in predicted.items()
            }
            knows_nothing = match_detections(
                random_boxes(films, lesions, asked.folds_seed), lesions, films, "films"
            ).figures()
            baseline = {f"{figure}_baseline": knows_nothing[figure] for figure in SHOWN}
            references = dict.fromkeys(matched, asked.reference)
            for name, own in compared(matched, references, SHOWN, asked.resamples, asked.folds_seed).items():
                metrics[name][dataset] = own | baseline
            advance(1)
    for name, by_set in metrics.items():
        write_metrics(by_set, paths.out / name / "metrics.json")
    (paths.out / "table.md").write_text(transfer_table(metrics), encoding="utf-8")
    save_figure(transfer_figure(metrics, asked.reference), paths.out / "chart.png")


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"film_id": "str"}).rename(columns={"film_id": "item"})


if __name__ == "__main__":
    stage.main(evaluate_compare_transfer)
