"""What each fold's classifier looks at on cuts that show a lesion off their centre: the pointing game, by patient."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mammo_ml import figures, track_outputs
from mammo_ml.classifier import PROBABILITY_COLUMNS, ClassifierRecipe, predict_probabilities
from mammo_ml.cutting import CutSet
from mammo_ml.datasets.catalog import BOX_COLUMNS, write_table
from mammo_ml.evaluation import EvaluateParameters, rounded, write_metrics
from mammo_ml.metrics.resampling import intervals, resample_women
from mammo_ml.models.classifiers import build_classifier
from mammo_ml.recipe import load_best
from mammo_ml.saliency import RULES, grad_cam, pointing_game
from mammo_ml.splits import read_folds, roles_of
from mammo_ml.training import load_weights
from pipelines import stage
from pipelines.recording import save_figure

SHOWN = 6
NAMED = ["fold", "cut_id", "film_id", "patient_id", "lesion_id", "severity"]
GAINS = RULES[1:]


def explain_classifier() -> None:
    paths = stage.arguments(__doc__, "cuts", "folds", "tuned", "trained", "out", "gallery")
    parameters = stage.section("explain_classifier", EvaluateParameters)
    base = stage.section("train_classifier", ClassifierRecipe)
    cuts, folds = _off_centre(CutSet.load(paths.cuts)), read_folds(paths.folds)
    lesions = cuts.boxes.set_index("cut_id").loc[cuts.cuts["cut_id"]].reset_index()
    boxes = lesions[BOX_COLUMNS].to_numpy(dtype=np.float64)
    maps = np.zeros(cuts.pictures[:, 0].shape)
    tables = []
    for fold in stage.folds():
        recipe = base.with_values(load_best(paths.tuned / f"fold_{fold}" / "best.json"))
        model = build_classifier(recipe.network)
        load_weights(model, paths.trained / f"fold_{fold}" / "weights.safetensors")
        own = np.flatnonzero(roles_of(folds, lesions["patient_id"], fold) == "test")
        pictures = cuts.pictures[own, 0]
        maps[own] = grad_cam(model, pictures)
        table = pointing_game(maps[own], pictures, boxes[own]).set_index(own)
        table[PROBABILITY_COLUMNS] = predict_probabilities(model, pictures)
        tables.append(pd.concat([lesions.loc[own].assign(fold=fold), table], axis=1))
    pointed = pd.concat(tables).sort_index()
    write_metrics({"cuts_by_patient": _figures(pointed, parameters)}, paths.out / "metrics.json")
    write_table(rounded(pointed)[[*NAMED, "x_px", "y_px", *RULES, *PROBABILITY_COLUMNS]], paths.out / "pointing.csv")
    save_figure(_gallery(pointed, cuts.pictures[:, 0], maps, boxes), paths.gallery / "looked_at.png")
    read = [paths.cuts, paths.folds, paths.tuned, paths.trained]
    with stage.run("explain_classifier", parameters, read) as run:
        track_outputs.shown_by("explain_classifier", [paths.out, paths.gallery]).log(run)


def _off_centre(cuts: CutSet) -> CutSet:
    """The jittered cuts that show one lesion: in a centred one, pointing at the middle is always right."""
    n_seen = cuts.boxes.groupby("cut_id").size()
    single = cuts.cuts["cut_id"].isin(n_seen.index[n_seen == 1])
    return cuts.only(((cuts.cuts["kind"] == "jittered") & single).to_numpy())


def _figures(pointed: pd.DataFrame, parameters: EvaluateParameters) -> dict[str, float]:
    """The share of hits by each rule, and how much more the classifier's place hits than each of the others."""
    values = {rule: pointed[rule].to_numpy(dtype=np.float64) for rule in RULES}
    values |= {rule.replace("game", "game_minus"): values[RULES[0]] - values[rule] for rule in GAINS}

    def means(weights: NDArray[np.float64]) -> dict[str, float]:
        return {name: float(np.average(value, weights=weights)) for name, value in values.items()}

    found = means(np.ones(len(pointed)))
    weights = resample_women(list(pointed["patient_id"]), parameters.resamples, parameters.seed)
    for name, (low, high) in intervals(means, weights).items():
        found |= {f"{name}_lo": low, f"{name}_hi": high}
    return found | {"n_cuts": len(pointed), "n_women": pointed["patient_id"].nunique()}


def _gallery(
    pointed: pd.DataFrame, pictures: NDArray[np.uint8], maps: NDArray[np.float64], boxes: NDArray[np.float64]
) -> Figure:
    """The surest hits and the surest misses, one cut of each lesion."""
    sure = pointed.assign(p_abnormal=1 - pointed["p_normal"]).sort_values("p_abnormal", ascending=False, kind="stable")
    sure = sure.drop_duplicates("lesion_id")
    shown = pd.concat([sure[sure[RULES[0]] == hit].head(SHOWN) for hit in (1, 0)])
    heat = [
        figures.HeatPicture(
            pictures[n], maps[n], boxes[[n]], f"{row.film_id} {row.severity}\nP(abnormal) = {row.p_abnormal:.2f}"
        )
        for n, row in zip(shown.index, shown.itertuples(), strict=True)
    ]
    return figures.heat_figure(heat, "Looked at: surest hits (above), surest misses (below)", columns=SHOWN)


if __name__ == "__main__":
    stage.main(explain_classifier)
