"""The detector's committed figures: films and cuts by patient, the leaky protocol beside them, FROC and pictures."""

import argparse

import pandas as pd

from mammo_ml import evaluation, figures
from mammo_ml.cutting import CutSet, truth_of_cuts
from mammo_ml.datasets.catalog import BOX_COLUMNS, BREAST_COLUMNS, FILMS, LESIONS, read_table, rows, write_table
from mammo_ml.film_pictures import marked_film, panel_films, surest_false_positives
from mammo_ml.imaging.canonical import check_films, eight_bits
from mammo_ml.imaging.readers import read_film
from mammo_ml.metrics.detection import MatchedDetections, match_detections
from mammo_ml.metrics.precision_recall import precision_at_recalls, precision_recall_band
from mammo_ml.metrics.subgroups import detector_subgroups, lesion_hit, thresholds_at
from mammo_ml.splits import RandomSplitParameters, in_folds, read_folds, split_at_random_leaky
from mammo_ml.truth import ITEMS_FILE, LESIONS_FILE, judged_items, judged_lesions
from pipelines import stage
from pipelines.recording import record_and_register, save_figure

COLUMNS = ["protocol", "fold", "unit", "item", "film_id", "patient_id", *BOX_COLUMNS, "p_benign", "p_malignant"]
SHOWN_OF_EACH = 4
TITLES = {
    "gallery": "Rows: lesions found most surely, lesions found least, films with the surest false positives",
    "panel": "The fixed panel: films chosen by density and kind of lesion, the same for every model",
}
LEGEND = "green: lesion; orange: hit, broken: false positive, at 1 false positive per film"


def evaluate_detector() -> None:
    paths = stage.arguments(
        __doc__, "films", "catalog", "cuts", "folds", "predicted", "leaky", "model", "checks", "out", "gallery"
    )
    parameters = stage.section("evaluate_detector", evaluation.EvaluateParameters)
    lesions, all_films = (
        read_table(paths.catalog / "lesions.csv", LESIONS),
        read_table(paths.catalog / "films.csv", FILMS),
    )
    films = all_films[in_folds(read_folds(paths.folds), all_films["patient_id"], stage.folds())]
    seen = evaluation.of_folds(paths.predicted, "films_seen.csv")
    evaluation.check_complete(set(seen["film_id"]), set(films["film_id"]), str(paths.predicted))
    found = {
        unit: evaluation.rounded(evaluation.of_folds(paths.predicted, f"{unit}.csv")) for unit in ("films", "cuts")
    }
    leaky = evaluation.rounded(pd.read_csv(paths.leaky))

    films = evaluation.located_films(films, lesions)
    truth = evaluation.lesions_of_films(lesions, films)
    judged = found["films"][found["films"]["film_id"].isin(films["film_id"])]
    nothing = evaluation.random_boxes(films, truth, parameters.seed)
    by_film, matched = evaluation.evaluate_detections(judged, nothing, truth, films, "films", parameters)

    every_cut = CutSet.load(paths.cuts)
    cuts = every_cut.only((every_cut.cuts["kind"] == "centred").to_numpy())
    views = cuts.items_of_views()
    upright = views[(views["view"] == "identity") & views["film_id"].isin(films["film_id"])]
    upright = upright.assign(item=upright["cut_id"])
    roles = split_at_random_leaky(len(views), stage.section("leaky_detector", RandomSplitParameters).seed)
    tested = views[roles == "test"]
    metrics = {
        "films_by_patient": by_film,
        "cuts_by_patient": evaluation.evaluate_cuts(found["cuts"], cuts, upright, all_films, parameters),
        "cuts_at_random_leaky": evaluation.evaluate_cuts(leaky, cuts, tested, all_films, parameters)
        | evaluation.all_sets(evaluation.evaluate_cuts(leaky, cuts, views, all_films, parameters)),
    }

    parts = {"films_by_patient": found["films"], "cuts_by_patient": found["cuts"], "cuts_at_random_leaky": leaky}
    predictions = pd.concat([part.assign(protocol=name) for name, part in parts.items()], ignore_index=True)
    evaluation.write_metrics(metrics, paths.out / "metrics.json")
    write_table(predictions[COLUMNS], paths.out / "predictions.csv")
    units = {"films_by_patient": ("film", films, truth)}
    units["cuts_by_patient"] = ("cut", upright, truth_of_cuts(cuts, upright, all_films))
    items = [judged_items(name, unit, own, all_films) for name, (unit, own, _) in units.items()]
    true = [judged_lesions(name, own, lesions, all_films) for name, (_, _, own) in units.items()]
    write_table(pd.concat(items, ignore_index=True), paths.gallery / ITEMS_FILE)
    write_table(pd.concat(true, ignore_index=True), paths.gallery / LESIONS_FILE)
    by_subgroup = detector_subgroups(matched, judged, true[0], items[0], parameters.resamples, parameters.seed)
    write_table(by_subgroup, paths.out / "subgroups.csv")
    random = match_detections(nothing, truth, films, "films")
    _draw_froc(matched, random, parameters, paths)
    _draw_precision_recall(matched, random, parameters, paths)
    _draw_films(matched, judged, true[0].merge(truth[["lesion_id", "film_id"]]), films, paths)
    record_and_register("detector", parameters, paths)


def _draw_froc(
    matched: MatchedDetections,
    nothing: MatchedDetections,
    parameters: evaluation.EvaluateParameters,
    paths: argparse.Namespace,
) -> None:
    curve, band = evaluation.froc_band(matched, parameters)
    write_table(curve.round(6), paths.out / "froc.csv")
    random = nothing.froc()
    figure = figures.froc_figure(
        curve["fp_per_film"].to_numpy(),
        curve["sensitivity"].to_numpy(),
        band,
        (random.fp_per_film, random.sensitivity),
        f"Lesions found on films by patient ({len(matched.items)} films)",
    )
    save_figure(figure, paths.out / "froc.png")


def _draw_precision_recall(
    matched: MatchedDetections,
    nothing: MatchedDetections,
    parameters: evaluation.EvaluateParameters,
    paths: argparse.Namespace,
) -> None:
    curve = precision_recall_band(matched, parameters.resamples, parameters.seed)
    write_table(curve.round(6), paths.out / "pr.csv")
    recall, precision, low, high = curve.to_numpy().T
    title = f"Boxes of IoU 0.5 or more on films by patient ({len(matched.items)} films)"
    figure = figures.precision_recall_figure(recall, precision, (low, high), precision_at_recalls(nothing), title)
    save_figure(figure, paths.out / "pr.png")


def _draw_films(
    matched: MatchedDetections,
    judged: pd.DataFrame,
    lesions: pd.DataFrame,
    films: pd.DataFrame,
    paths: argparse.Namespace,
) -> None:
    """Best and worst films, and the fixed panel: what is called at 1 false positive per film."""
    hits = lesion_hit(judged, lesions, films) >= 0
    best_and_worst = evaluation.best_and_worst_films(judged, lesions, SHOWN_OF_EACH)
    chosen = {
        "gallery": best_and_worst + surest_false_positives(judged, hits, SHOWN_OF_EACH),
        "panel": panel_films(films, lesions),
    }
    [threshold] = thresholds_at(matched.froc(), [1.0])
    score = judged["p_benign"] + judged["p_malignant"]
    known = films.set_index("film_id")
    breasts = known[BREAST_COLUMNS].astype("float64")
    check_films(paths.films, known.loc[sorted({film_id for one in chosen.values() for film_id in one})])

    def show(film_id: str) -> figures.MarkedPicture:
        film, own = known.loc[film_id], lesions[lesions["film_id"] == film_id]
        found = ((judged["film_id"] == film_id) & (score >= threshold)).to_numpy()
        what = ", ".join(f"{row.kind} {row.severity}" for row in rows(own)) or "normal"
        caption = f"{film_id}, density {film['density']}: {what}"
        pixels = eight_bits(read_film(paths.films / film["path"]))
        return marked_film(pixels, breasts.loc[film_id].to_numpy(), own, judged[found], hits[found], caption)

    for name, film_ids in chosen.items():
        title = f"{TITLES[name]}\n{LEGEND} (score {threshold:.2f} or more)"
        figure = figures.marked_figure([show(film_id) for film_id in film_ids], title, SHOWN_OF_EACH, inches=3)
        save_figure(figure, paths.gallery / f"{name}.png")


if __name__ == "__main__":
    stage.main(evaluate_detector)
