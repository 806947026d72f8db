"""The lesion locator: the classifier looks at every tile of a film, the detector only where that finds it suspicious.

Pure composition: both networks, their tiles and the merging of boxes are those of `mammo_ml.prediction`. The same code
answers for pipeline stages, command line and server. At threshold 0 every tile is searched, and the boxes are the
detector's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from mammo_ml.classifier import PROBABILITY_COLUMNS
from mammo_ml.datasets.catalog import BOX_COLUMNS
from mammo_ml.detector import detect
from mammo_ml.errors import BadInputError
from mammo_ml.imaging.canonical import CanonicalFilm
from mammo_ml.imaging.patches import TileParameters, Tiling, crop
from mammo_ml.imaging.readers import Film
from mammo_ml.metrics import calibration
from mammo_ml.metrics.calibration import VectorScaling
from mammo_ml.models.ssd import LesionSSD
from mammo_ml.prediction import (
    DETECTION_COLUMNS,
    MergeParameters,
    calibrated,
    classify_tiles,
    kept_by_suppression,
    names_of_tiles,
    out_of_window,
    prepared_film,
    tiles_of_film,
)

LOWEST_SCORE = 0.01
"""Score of a film without a box: `predict_boxes` leaves out boxes of this score or less."""
LOCATED_COLUMNS = [*DETECTION_COLUMNS, "score"]
TILE_COLUMNS = [*BOX_COLUMNS, *PROBABILITY_COLUMNS, "p_abnormal", "searched"]


@dataclass(frozen=True)
class Located:
    """What the locator says of one film. Boxes are in px of the film file as read.

    Attributes:
        boxes: a row per lesion, most suspicious first: x1, y1, x2, y2; p_benign and p_malignant as the detector gives
            them; score: calibrated probability that the box's centre lies in a lesion.
        p_abnormal: calibrated probability that there is a lesion on the film, from its highest score.
        tiles: the heat map, a row per tile of the breast: x1 … y2, calibrated p_normal, p_benign, p_malignant,
            p_abnormal = 1 - p_normal, and searched: whether the detector looked at it.
    """

    boxes: pd.DataFrame
    p_abnormal: float
    tiles: pd.DataFrame

    @property
    def n_skipped(self) -> int:
        """Number of tiles the detector did not look at."""
        return int((~self.tiles["searched"]).sum())


@dataclass(frozen=True)
class Calibration:
    """From the networks' numbers to probabilities: tiles by class (3), boxes and films by lesion or none (2)."""

    tiles: VectorScaling
    boxes: VectorScaling
    films: VectorScaling

    @classmethod
    def from_dict(cls, values: dict[str, dict[str, list[float]]]) -> "Calibration":
        """Restore what `to_dict` gave."""
        return cls(**{name: VectorScaling.from_dict(scaling) for name, scaling in values.items()})

    def to_dict(self) -> dict[str, dict[str, list[float]]]:
        """Give the fitted numbers, ready for JSON."""
        return {"tiles": self.tiles.to_dict(), "boxes": self.boxes.to_dict(), "films": self.films.to_dict()}


@dataclass(frozen=True)
class Locator:
    """Classifier and detector in a row, ready to look at films.

    Attributes:
        tiles: where both look.
        classifier_px: edge of the classifier's input.
        threshold: tiles whose calibrated 1 - P(normal) is at least this are searched; 0 searches all, above 1 none.
    """

    classifier: nn.Module
    detector: LesionSSD
    tiles: Tiling
    classifier_px: int
    merge: MergeParameters
    calibration: Calibration
    threshold: float

    def locate(self, film: Film, name: str = "film") -> Located:
        """Find the lesions on a film as read; `name` is for messages.

        Raises:
            BadInputError: when the film has no pixel spacing, or is smaller than a tile.
            MammoError: when no breast is found.
        """
        if film.pixel_spacing_mm is None:
            raise BadInputError(name, ["its pixel spacing is not known"], "Give the edge of a pixel in mm.")
        return self.locate_canonical(prepared_film(name, film))

    def locate_canonical(self, film: CanonicalFilm) -> Located:
        """The same for a film that was brought to canonical form; boxes are in px of its file all the same."""
        own = TileParameters(**dict(self.tiles) | {"input_px": self.classifier_px})
        tiles = searched_at(calibrated(classify_tiles(self.classifier, film, own), self.calibration.tiles), self)
        windows = tiles_of_film(film, self.tiles)[tiles["searched"].to_numpy()]
        found = pd.concat([_no_boxes(), *boxes_in_tiles(self.detector, film, windows, self.merge)])
        boxes = merged(found, self.merge)
        boxes[BOX_COLUMNS] = film.transform.boxes_to_film(boxes[BOX_COLUMNS].to_numpy(dtype=np.float64))
        boxes["score"] = scaled(self.calibration.boxes, scores_of(boxes))
        p_abnormal = float(scaled(self.calibration.films, np.array([film_score(boxes)]))[0])
        return Located(boxes[LOCATED_COLUMNS], p_abnormal, tiles[TILE_COLUMNS])


def searched_at(tiles: pd.DataFrame, locator: Locator) -> pd.DataFrame:
    """The tiles with p_abnormal, and whether the locator's detector looks at them."""
    p_abnormal = 1 - tiles["p_normal"]
    return tiles.assign(p_abnormal=p_abnormal, searched=p_abnormal >= locator.threshold)


def boxes_in_tiles(
    detector: LesionSSD, film: CanonicalFilm, windows: NDArray[np.float64], merge: MergeParameters
) -> list[pd.DataFrame]:
    """What the detector finds in each window (T, 4) of a film, not merged: x1 … y2 (canonical px), p_*."""
    pictures = crop(film.pixels, windows, detector.side_px)
    names = names_of_tiles(film, windows)
    found = detect(detector, pictures, merge.nms_iou, merge.max_per_tile, names)
    return [out_of_window(table, window, detector.side_px) for table, window in zip(found, windows, strict=True)]


def merged(boxes: pd.DataFrame, merge: MergeParameters) -> pd.DataFrame:
    """The boxes of one film that are left of those of its tiles, best first."""
    return boxes.iloc[kept_by_suppression(boxes, merge)].reset_index(drop=True)


def _no_boxes() -> pd.DataFrame:
    return pd.DataFrame(columns=DETECTION_COLUMNS, dtype="float64")


# -------------------------------------------------------------------------------------------------------- calibration


def scores_of(boxes: pd.DataFrame) -> NDArray[np.float64]:
    """The detector's score (D,) of each box: p_benign + p_malignant, which is 1 - P(background)."""
    scores: NDArray[np.float64] = boxes[["p_benign", "p_malignant"]].to_numpy(dtype=np.float64).sum(axis=1)
    return scores


def film_score(boxes: pd.DataFrame) -> float:
    """Score of the most suspicious box of a film."""
    return float(scores_of(boxes).max(initial=LOWEST_SCORE))


def scaled(scaling: VectorScaling, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Calibrated probabilities (N,) of scores (N,) in 0 to 1; a higher score never gets a lower probability."""
    probabilities: NDArray[np.float64] = scaling.apply(np.stack([1 - scores, scores], axis=1))[:, 1]
    return probabilities


def fit_scores(scores: NDArray[np.float64], true: Sequence[bool] | NDArray[np.bool_]) -> VectorScaling:
    """Scaling of scores (N,) by whether each was right (N,); as they are, where all or none were."""
    right = np.asarray(true, dtype=np.int64)
    if len(np.unique(right)) < 2:
        return VectorScaling.identity(2)
    return calibration.fit(np.stack([1 - scores, scores], axis=1), right)
