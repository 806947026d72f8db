"""Figures of each base under the three protocols, with intervals, beside detectors that know nothing."""

import pandas as pd

from mammo_ml.base_comparison import CUTS, FILMS, LEAKY, PROTOCOLS, BaseComparison, bases_table
from mammo_ml.cutting import CutSet
from mammo_ml.datasets.catalog import FILMS as FILM_TABLE
from mammo_ml.datasets.catalog import LESIONS, read_table, write_table
from mammo_ml.evaluation import (
    EvaluateParameters,
    Figures,
    all_sets,
    evaluate_cuts,
    evaluate_detections,
    lesions_of_films,
    located_films,
    random_boxes,
    write_metrics,
)
from mammo_ml.splits import in_folds, make_folds, split_at_random_leaky
from pipelines import stage

NAMES = dict.fromkeys(["fold", "item", "film_id", "patient_id"], "str")


def evaluate_compare_base() -> None:
    paths = stage.arguments(__doc__, "catalog", "predicted", "out")
    asked = stage.section("compare_base", BaseComparison)
    parameters = EvaluateParameters(resamples=asked.resamples, seed=asked.folds_seed)
    every_film = read_table(paths.catalog / "films.csv", FILM_TABLE)
    lesions = read_table(paths.catalog / "lesions.csv", LESIONS)
    folds = make_folds(every_film, asked.folds_seed)
    found: dict[str, dict[str, Figures]] = {}
    with stage.bar(len(asked.configurations), "bases judged", "base") as advance:
        for name, choice in asked.configurations.items():
            folder = paths.predicted / name
            boxes = pd.read_csv(folder / "predictions.csv", dtype=NAMES)
            own = {protocol: boxes[boxes["protocol"] == protocol] for protocol in PROTOCOLS}
            tested = every_film[in_folds(folds, every_film["patient_id"], choice.folds)]
            films = located_films(tested, lesions)
            truth = lesions_of_films(lesions, films)
            judged = own[FILMS][own[FILMS]["item"].isin(films["item"])]
            nothing = random_boxes(films, truth, parameters.seed)
            every_cut = CutSet.load(folder / "cuts")
            cuts = every_cut.only((every_cut.cuts["kind"] == "centred").to_numpy())
            views = cuts.items_of_views()
            upright = views[(views["view"] == "identity") & views["film_id"].isin(films["film_id"])]
            upright = upright.assign(item=upright["cut_id"])
            test_views = views[split_at_random_leaky(len(views), asked.leaky_seed) == "test"]
            found[name] = {
                FILMS: evaluate_detections(judged, nothing, truth, films, "films", parameters)[0],
                CUTS: evaluate_cuts(own[CUTS], cuts, upright, every_film, parameters),
                LEAKY: evaluate_cuts(own[LEAKY], cuts, test_views, every_film, parameters)
                | all_sets(evaluate_cuts(own[LEAKY], cuts, views, every_film, parameters)),
            }
            write_metrics(found[name], paths.out / name / "metrics.json")
            write_table(boxes, paths.out / name / "predictions.csv")
            advance(1)
    (paths.out / "table.md").write_text(bases_table(asked, found), encoding="utf-8")


if __name__ == "__main__":
    stage.main(evaluate_compare_base)
