"""What the cascade saves and what it loses: from what both networks say of every tile, for any threshold.

Both networks have looked at every tile once; a cascade at a threshold is then a choice of boxes. What it loses is
counted against the detector on the same tiles under the same mask, which is the cascade at threshold 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from torchvision.ops import nms

from mammo_ml.datasets.catalog import BOX_COLUMNS
from mammo_ml.errors import raise_if_any
from mammo_ml.evaluation import EvaluateParameters, Figures, rounded, with_bounds
from mammo_ml.imaging.canonical import CanonicalFilm
from mammo_ml.locator import Calibration, boxes_in_tiles, film_score, fit_scores, scaled, scores_of
from mammo_ml.metrics.classification import auc
from mammo_ml.metrics.froc import froc, sensitivity_at
from mammo_ml.metrics.matching import Detections, GroundTruth, match_by_centre
from mammo_ml.metrics.resampling import resample_women
from mammo_ml.models.ssd import LesionSSD
from mammo_ml.multiply_adds import TileCosts
from mammo_ml.parameters import Parameters
from mammo_ml.prediction import FilmDetectionParameters, MergeParameters, tiles_of_film
from mammo_ml.truth import CIRCLE

TILES_FILE, BOXES_FILE, FITTED_FILE = "tiles.csv", "boxes.csv", "locator.json"
Floats = NDArray[np.float64]


class SweepParameters(Parameters):
    """Section `predict_locator`: how the threshold is chosen, on an inner part."""

    step: float = Field(gt=0, le=0.5, description="distance of the thresholds that are tried, from 0 to 1")
    sensitivity_lost: float = Field(ge=0, le=1, description="at most this much may be lost")
    fp_per_film: float = Field(gt=0, description="false positives per film at which sensitivity is read")

    @property
    def thresholds(self) -> Floats:
        """All that are tried; the last searches nothing but what is certainly abnormal."""
        return np.round(np.arange(0, 1 + self.step / 2, self.step), 6)


class LocatorEvaluateParameters(EvaluateParameters):
    """Section `evaluate_locator`; the seconds are those `python -m benchmarks.locator` measured."""

    seconds_per_tile_classifier: float = Field(gt=0)
    seconds_per_tile_detector: float = Field(gt=0)

    @property
    def seconds(self) -> TileCosts:
        """Seconds of a tile, its share of a batch."""
        own = self.seconds_per_tile_detector
        return TileCosts(own, self.seconds_per_tile_classifier, own)


@dataclass(frozen=True)
class Looked:
    """What both networks say of the tiles of some films.

    Attributes:
        films: item, film_id, patient_id, label; a film that several folds looked at is several items.
        tiles: item, tile (its number on the film), p_abnormal.
        boxes: item, tile, p_abnormal of that tile, x1 … y2 (px of the film file), p_benign, p_malignant; not merged.
    """

    films: pd.DataFrame
    tiles: pd.DataFrame
    boxes: pd.DataFrame

    def only(self, items: Sequence[str]) -> "Looked":
        """The part that some films make up."""
        return Looked(*(table[table["item"].isin(items)] for table in (self.films, self.tiles, self.boxes)))

    def found(self, threshold: float, merge: MergeParameters) -> pd.DataFrame:
        """The cascade's boxes at a threshold, as they are committed: item, x1 … y2, p_benign, p_malignant."""
        searched = self.boxes[self.boxes["p_abnormal"] >= threshold]
        boxes, scores = torch.tensor(searched[BOX_COLUMNS].to_numpy()), torch.tensor(scores_of(searched))
        rows = [torch.tensor(own) for own in searched.groupby("item", sort=False).indices.values()]
        kept = [own[nms(boxes[own], scores[own], merge.nms_iou)[: merge.max_per_film]].numpy() for own in rows]
        found = searched.iloc[np.concatenate([np.empty(0, dtype=np.int64), *kept])]
        return rounded(found.drop(columns=["tile", "p_abnormal"]).reset_index(drop=True))

    def counts(self, threshold: float) -> tuple[Floats, Floats]:
        """Number of tiles, and of those searched at a threshold, of each film (N,)."""
        searched = (self.tiles["p_abnormal"] >= threshold).groupby(self.tiles["item"]).agg(["size", "sum"])
        counts = searched.loc[self.films["item"]].to_numpy(dtype=np.float64)
        return counts[:, 0], counts[:, 1]


def search(
    film: CanonicalFilm, classified: pd.DataFrame, detector: LesionSSD, looking: FilmDetectionParameters
) -> pd.DataFrame:
    """What the detector finds in every tile of a film, not merged: film_id, tile, x1 … y2 (film file px), p_*.

    Args:
        film: the film.
        classified: its tiles as the classifier saw them, x1 … y2.
        detector: the network.
        looking: where it looks.

    Raises:
        BadInputError: when the classifier looked at other tiles.
    """
    windows = tiles_of_film(film, looking.tiles)
    seen, places = classified[BOX_COLUMNS].to_numpy(dtype=np.float64), film.transform.boxes_to_film(windows)
    same = seen.shape == places.shape and np.allclose(seen, places)
    raise_if_any(
        f"film {film.film_id}",
        [] if same else [f"the classifier looked at {len(seen)} tiles, the detector at {len(places)} or elsewhere"],
        "Give predict_classifier and predict_detector the same window_px, step_px and min_breast_share.",
    )
    tiles = boxes_in_tiles(detector, film, windows, looking.merge)
    boxes = pd.concat([table.assign(tile=tile) for tile, table in enumerate(tiles)], ignore_index=True)
    boxes[BOX_COLUMNS] = film.transform.boxes_to_film(boxes[BOX_COLUMNS].to_numpy(dtype=np.float64))
    return boxes.assign(film_id=film.film_id)[["film_id", "tile", *BOX_COLUMNS, "p_benign", "p_malignant"]]


def read_tiles(path: Path) -> pd.DataFrame:
    """Read a table of tiles, or of what was found in them, every number as it was written."""
    return pd.read_csv(path, dtype={"film_id": "str"}, keep_default_na=False, float_precision="round_trip")


def read_looked(folder: Path, films: pd.DataFrame, role: str, item_prefix: str = "") -> Looked:
    """Read what a fold's `predict_locator` wrote of the films of one role.

    Args:
        folder: of the fold.
        films: films.csv.
        role: inner or test.
        item_prefix: before the film's name in `item`.
    """
    tiles, boxes = read_tiles(folder / TILES_FILE), read_tiles(folder / BOXES_FILE)
    tiles = tiles[tiles["role"] == role].assign(p_abnormal=lambda table: 1 - table["p_normal"])
    return looked_at(films[films["film_id"].isin(tiles["film_id"])], tiles, boxes, item_prefix)


def looked_at(films: pd.DataFrame, tiles: pd.DataFrame, boxes: pd.DataFrame, item_prefix: str = "") -> Looked:
    """Join films, their tiles (film_id, tile, p_abnormal, …) and the boxes in them (film_id, tile, x1 … y2, p_*)."""
    own = boxes[boxes["film_id"].isin(tiles["film_id"])]
    own = own.merge(tiles[["film_id", "tile", "p_abnormal"]], on=["film_id", "tile"], validate="many_to_one")
    tables = [
        films[["film_id", "patient_id", "label"]],
        tiles[["film_id", "tile", "p_abnormal"]],
        own[["film_id", "tile", "p_abnormal", *BOX_COLUMNS, "p_benign", "p_malignant"]],
    ]
    first, *others = (table.assign(item=item_prefix + table["film_id"]).reset_index(drop=True) for table in tables)
    return Looked(first, *(table.drop(columns="film_id") for table in others))


def pooled(parts: Sequence[Looked]) -> Looked:
    """Several parts as one."""
    return Looked(
        *(pd.concat([getattr(part, name) for part in parts], ignore_index=True) for name in ("films", "tiles", "boxes"))
    )


# ------------------------------------------------------------------------------------------------------------ hits


@dataclass(frozen=True)
class Hits:
    """Boxes (D,) of films (N,), best first: score, whether it is a hit, and the number of its film; and N's lesions."""

    film: NDArray[np.int64]
    scores: Floats
    hit: NDArray[np.bool_]
    lesions: Floats

    def sensitivity(self, rate: float, weights: Floats | None = None) -> float:
        """Share of the lesions found at a rate of false positives per film; films weighted (N,)."""
        weights = np.ones(len(self.lesions)) if weights is None else weights
        curve = froc(self.scores, self.hit, weights.sum(), float(weights @ self.lesions), weights[self.film])
        return sensitivity_at(curve, rate)


def hits_of(found: pd.DataFrame, films: pd.DataFrame, lesions: pd.DataFrame) -> Hits:
    """Match boxes to the located lesions (film_id, x1 … y2, circles) of films (item, film_id) by their centres."""
    index = pd.Index(films["item"])
    truth = films[["item", "film_id"]].merge(lesions[["film_id", *BOX_COLUMNS, *CIRCLE]], on="film_id")
    on = index.get_indexer(truth["item"]).astype(np.int64)
    boxes = Detections(
        index.get_indexer(found["item"]).astype(np.int64), found[BOX_COLUMNS].to_numpy(np.float64), scores_of(found)
    )
    true = GroundTruth(on, truth[BOX_COLUMNS].to_numpy(np.float64), truth[CIRCLE].to_numpy(np.float64))
    n_lesions = np.bincount(on, minlength=len(films)).astype(np.float64)
    best_first = np.argsort(-boxes.scores, kind="stable")  # so that a thousand resamples need not sort
    hit = match_by_centre(boxes, true) >= 0
    return Hits(boxes.image[best_first], boxes.scores[best_first], hit[best_first], n_lesions)


# -------------------------------------------------------------------------------------------- threshold, calibration


def sweep(looked: Looked, lesions: pd.DataFrame, merge: MergeParameters, parameters: SweepParameters) -> pd.DataFrame:
    """A row per threshold: threshold, searched (tiles), sensitivity, sensitivity_lost (against threshold 0)."""
    found = []
    for threshold in parameters.thresholds:
        hits = hits_of(looked.found(threshold, merge), looked.films, lesions)
        searched = looked.counts(threshold)[1].sum()
        found.append((threshold, searched, hits.sensitivity(parameters.fp_per_film)))
    table = pd.DataFrame(found, columns=["threshold", "searched", "sensitivity"])
    return table.assign(sensitivity_lost=table["sensitivity"].iloc[0] - table["sensitivity"])


def choose_threshold(swept: pd.DataFrame, parameters: SweepParameters) -> float:
    """Threshold that searches the fewest tiles of those that lose no more than allowed; the lowest such one.

    The fewer tiles are searched, the less is computed, whatever a tile costs: so costs play no part.
    """
    # sensitivities are shares of few lesions: compared beyond the last digit that differs by rounding alone
    allowed = swept[swept["sensitivity_lost"] <= parameters.sensitivity_lost + 1e-9]
    raise_if_any("sweep", [] if len(allowed) else ["no threshold is allowed: there is no located lesion to lose"])
    return float(allowed.sort_values(["searched", "threshold"])["threshold"].iloc[0])


def fit_calibration(
    tiles: Mapping[str, list[float]], looked: Looked, lesions: pd.DataFrame, merge: MergeParameters, threshold: float
) -> dict[str, dict[str, list[float]]]:
    """Calibration of a locator, ready for JSON: that of its tiles is given, of boxes and films fitted to what it finds.

    Args:
        tiles: scaling of the classifier's probabilities.
        looked: the films to fit to.
        lesions: located lesions.
        merge: of boxes.
        threshold: of the cascade.
    """
    found = looked.found(threshold, merge)
    hits = hits_of(found, looked.films, lesions)
    films = fit_scores(film_scores(found, looked.films), (looked.films["label"] != "normal").to_numpy())
    return {"tiles": dict(tiles), "boxes": fit_scores(hits.scores, hits.hit).to_dict(), "films": films.to_dict()}


def film_scores(found: pd.DataFrame, films: pd.DataFrame) -> Floats:
    """Score (N,) of the most suspicious box of each film; the lowest where there is none."""
    nothing = film_score(found[:0])
    best = found.assign(score=scores_of(found)).groupby("item")["score"].max()
    return best.reindex(films["item"]).fillna(nothing).to_numpy(dtype=np.float64)


def located(looked: Looked, threshold: float, merge: MergeParameters, known: Calibration) -> tuple[pd.DataFrame, ...]:
    """What a locator says of films: its boxes, with `score`, and the films, with tiles, searched and p_abnormal."""
    found = looked.found(threshold, merge)
    tiles, searched = looked.counts(threshold)
    p_abnormal = scaled(known.films, film_scores(found, looked.films))
    films = looked.films.assign(tiles=tiles, searched=searched, p_abnormal=p_abnormal)
    return found.assign(score=scaled(known.boxes, scores_of(found))), films


# ---------------------------------------------------------------------------------------------------------- figures


@dataclass(frozen=True)
class Cascade:
    """The cascade beside the detector everywhere, both on the same films (N,), for figures with intervals.

    Attributes:
        everywhere, cascade: what each finds.
        tiles, searched: numbers (N,) of each film's tiles.
        patient_ids: the woman of each film.
        rate: false positives per film.
    """

    everywhere: Hits
    cascade: Hits
    tiles: Floats
    searched: Floats
    patient_ids: pd.Series
    rate: float

    def figures(self, costs: Mapping[str, TileCosts], weights: Floats | None = None) -> Figures:
        """`sensitivity_lost`, `searched_share` and `<name>_saved_ratio` for each kind of cost; films weighted (N,)."""
        weights = np.ones(len(self.tiles)) if weights is None else weights
        tiles, searched = float(weights @ self.tiles), float(weights @ self.searched)
        lost = self.everywhere.sensitivity(self.rate, weights) - self.cascade.sensitivity(self.rate, weights)
        saved = {f"{name}_saved_ratio": cost.saved_ratio(tiles, searched) for name, cost in costs.items()}
        return {"sensitivity_lost": lost, "searched_share": searched / tiles, **saved}

    def with_intervals(self, costs: Mapping[str, TileCosts], parameters: EvaluateParameters) -> Figures:
        """The same with `_lo` and `_hi`, women resampled; `_baseline` is the detector everywhere."""
        point = self.figures(costs)
        baseline = {name: 0.0 if name == "sensitivity_lost" else 1.0 for name in point}
        return with_bounds(point, lambda row: self.figures(costs, row), self.patient_ids, baseline, parameters)


def beside_everywhere(
    looked: Looked, found: pd.DataFrame, said: pd.DataFrame, lesions: pd.DataFrame, merge: MergeParameters, rate: float
) -> Cascade:
    """What a cascade found (item, x1 … y2, p_*) on films beside what the detector finds on all their tiles.

    `said` tells of each film its item and the numbers of its tiles and of those searched: each fold has its threshold.
    """
    numbers = said.set_index("item").loc[looked.films["item"], ["tiles", "searched"]].to_numpy(dtype=np.float64)
    return Cascade(
        hits_of(looked.found(0.0, merge), looked.films, lesions),
        hits_of(found, looked.films, lesions),
        numbers[:, 0],
        numbers[:, 1],
        looked.films["patient_id"],
        rate,
    )


def film_figures(films: pd.DataFrame, parameters: EvaluateParameters) -> Figures:
    """`film_auc_normal_vs_abnormal` of films: patient_id, label, p_abnormal."""
    scores, abnormal = films["p_abnormal"].to_numpy(dtype=np.float64), (films["label"] != "normal").to_numpy()

    def figures(weights: Floats | None = None) -> Figures:
        return {"film_auc_normal_vs_abnormal": auc(scores, abnormal, weights)}

    nothing = {"film_auc_normal_vs_abnormal": 0.5}
    return with_bounds(figures(), figures, films["patient_id"], nothing, parameters)


def curve(
    looked: Looked,
    lesions: pd.DataFrame,
    merge: MergeParameters,
    sweeping: SweepParameters,
    costs: Mapping[str, TileCosts],
    parameters: EvaluateParameters,
) -> pd.DataFrame:
    """A row per threshold, the same for all folds: what is searched, lost (95 %, women resampled) and saved."""
    weights = resample_women(list(looked.films["patient_id"]), parameters.resamples, parameters.seed)
    everywhere = hits_of(looked.found(0.0, merge), looked.films, lesions)
    rate = sweeping.fp_per_film
    drawn = np.array([everywhere.sensitivity(rate, row) for row in weights])
    found = []
    for threshold in sweeping.thresholds:
        hits = hits_of(looked.found(threshold, merge), looked.films, lesions)
        cascade = Cascade(everywhere, hits, *looked.counts(threshold), looked.films["patient_id"], rate)
        lost = drawn - np.array([hits.sensitivity(rate, row) for row in weights])
        low, high = np.nanquantile(lost, [0.025, 0.975])
        point = {"threshold": threshold, "sensitivity": hits.sensitivity(rate)} | cascade.figures(costs)
        found.append(point | {"sensitivity_lost_lo": low, "sensitivity_lost_hi": high})
    return pd.DataFrame(found).round(6)
