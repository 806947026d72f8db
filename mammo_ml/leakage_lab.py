"""The leakage lab: one network and one number of steps under every protocol, only the protocol changes.

A pass over a protocol trains, then predicts its test items; `protocol_figures` judges them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field

from mammo_ml.classifier import PROBABILITY_COLUMNS, ClassifierRecipe, ClassifierTask, predict_probabilities
from mammo_ml.datasets.catalog import BOX_COLUMNS, LABELS
from mammo_ml.detector import DetectorRecipe, DetectorTask, Target, detect, new_detector
from mammo_ml.errors import raise_if_any
from mammo_ml.imaging import boxes as bx
from mammo_ml.imaging.canonical import CanonicalFilm
from mammo_ml.imaging.patches import centred_windows
from mammo_ml.leaky_protocols import Protocol, Task, items_of
from mammo_ml.models.classifiers import build_classifier
from mammo_ml.parameters import Parameters
from mammo_ml.splits import SplitParameters
from mammo_ml.turned_windows import TurnedWindows, boxes_on_picture, circles_from_centre, cut_sources

PREDICTED_AT_ONCE = 256
TRUTH_COLUMNS = ["item", "lesion_id", "severity", *BOX_COLUMNS]


class LeakageLabParameters(Parameters):
    """Section `leakage_lab`; each recipe's `budget_samples` is what every training of that model gets."""

    split: SplitParameters
    test_folds: tuple[int, ...] = Field(
        min_length=1, description="folds tested by patient; more of them pool more women, each costs a training"
    )
    seed: int = Field(ge=0, description="seed of the leaky draws and of the copies")
    min_visible_share: float = Field(gt=0, le=1, description="a lesion less visible than this in a cut has no box")
    nms_iou: float = Field(gt=0, lt=1, description="of two boxes that overlap more, the one of lower score goes")
    max_per_cut: int = Field(ge=1, description="boxes of a cut that are judged")
    classifier: ClassifierRecipe
    detector: DetectorRecipe


@dataclass(frozen=True)
class LabItems:
    """All items of a protocol.

    Attributes:
        table: a row per item: item, source, angle, mirrored, film_id, patient_id, lesion_id, label, x1 … y2.
        pictures: of the items (N), made when they are asked for.
        circles: of each source, (G, 3) as x, y from the window's centre and radius, input px.
        lesions: of each source, lesion_id and severity (G) of the circles.
        min_visible_share: a lesion less visible than this in an item has no box there.
    """

    table: pd.DataFrame
    pictures: TurnedWindows
    circles: tuple[NDArray[np.float64], ...]
    lesions: tuple[pd.DataFrame, ...]
    min_visible_share: float

    def truth(self, numbers: Iterable[int]) -> pd.DataFrame:
        """Lesions of the items with these numbers: item, lesion_id, severity, x1 … y2 in px of the item's picture."""
        parts = [pd.DataFrame(columns=TRUTH_COLUMNS)]
        names = self.table["item"].tolist()
        for n in numbers:
            boxes, which = self._boxes(n)
            part = self.lesions[self.pictures.source[n]].iloc[which].reset_index(drop=True)
            part[BOX_COLUMNS] = boxes
            parts.append(part.assign(item=names[n]))
        return _stacked(parts)

    def targets(self) -> list[Target]:
        """Boxes (G, 4) and classes (G,) of every item, as the detector learns them."""
        classes = [own["severity"].map(LABELS.index).to_numpy(dtype=np.int64) for own in self.lesions]
        found = []
        for n, source in enumerate(self.pictures.source):
            boxes, which = self._boxes(n)
            found.append((boxes, classes[source][which]))
        return found

    def _boxes(self, n: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        own = self.pictures
        angle, mirrored = int(own.angle[n]), bool(own.mirrored[n])
        circles = self.circles[own.source[n]]
        return boxes_on_picture(circles, angle, mirrored, own.input_px, self.min_visible_share)


def windows_for(task: Task, patches: pd.DataFrame) -> pd.DataFrame:
    """Windows of a task out of the patches table: lesions', and for `patches` those of normal films.

    Normal tissue of abnormal films is left out, as the claims leave it out: with it three patches of four are normal.

    Raises:
        BadInputError: when there is none.
    """
    is_lesion = patches["label"] != LABELS[0]
    of_normal_film = ~patches["film_id"].isin(patches.loc[is_lesion, "film_id"])
    chosen = patches[is_lesion | of_normal_film] if task == "patches" else patches[is_lesion]
    raise_if_any("patches.csv", [] if len(chosen) else [f"no window for the protocols on {task}"])
    return chosen.reset_index(drop=True)


def make_items(
    protocol: Protocol,
    windows: pd.DataFrame,
    films: Iterable[CanonicalFilm],
    lesions: pd.DataFrame,
    input_px: int,
    parameters: LeakageLabParameters,
) -> LabItems:
    """Items of a protocol.

    Args:
        protocol: decides what every window becomes.
        windows: patch_id, film_id, patient_id, lesion_id, label, x1 … y2 on the canonical film. Those of crops and cuts
            are centred on their lesions here.
        films: every film that has a window.
        lesions: lesions.csv.
        input_px: edge of a picture.
        parameters: seed, and the least share of a lesion that has a box.
    """
    corners = windows[BOX_COLUMNS].to_numpy(dtype=np.float64)
    sources: dict[int, NDArray[np.uint8]] = {}
    circles, seen = dict[int, NDArray[np.float64]](), dict[int, pd.DataFrame]()
    for film in films:
        own = np.flatnonzero(windows["film_id"] == film.film_id)
        sources |= dict(zip(own.tolist(), cut_sources(film.pixels, corners[own], input_px), strict=True))
        on_film = lesions[(lesions["film_id"] == film.film_id) & lesions["has_location"]].reset_index(drop=True)
        if protocol.task != "patches" and len(own):
            corners[own] = _centred(corners[own], windows["lesion_id"].iloc[own].tolist(), film, on_film)
        for n in own.tolist():
            circles[n] = circles_from_centre(_canonical_circles(film, on_film), corners[n].tolist(), input_px)
            seen[n] = on_film[["lesion_id", "severity"]]
    missing = sorted(set(windows["film_id"].drop(list(sources))))
    raise_if_any("films of the windows", [f"film {film_id} is not there" for film_id in missing])
    windows = windows.assign(**dict(zip(BOX_COLUMNS, corners.T, strict=True)))
    table = items_of(windows, protocol.views, parameters.seed)
    order = range(len(windows))
    source, angle, mirrored = (table[column].to_numpy() for column in ("source", "angle", "mirrored"))
    pictures = TurnedWindows(np.stack([sources[n] for n in order]), source, angle, mirrored, input_px)
    return LabItems(
        table, pictures, tuple(circles[n] for n in order), tuple(seen[n] for n in order), parameters.min_visible_share
    )


def _centred(corners: bx.Boxes, names: list[str], film: CanonicalFilm, lesions: pd.DataFrame) -> bx.Boxes:
    """Windows (N, 4) of a film, centred on the lesions they are of: patches are moved into the breast."""
    circles = _canonical_circles(film, lesions.set_index("lesion_id").loc[names])
    size, (height, width) = int(corners[0, 2] - corners[0, 0]), film.pixels.shape
    return centred_windows(bx.circles_to_boxes(circles[:, :2], circles[:, 2]), size, width, height)


def _canonical_circles(film: CanonicalFilm, lesions: pd.DataFrame) -> NDArray[np.float64]:
    """Circles (G, 3) as x, y, radius on the canonical film, not cut at its edge."""
    x, y, radius = lesions[["x_px", "y_px", "radius_px"]].to_numpy(dtype=np.float64).T
    boxes = film.transform.boxes_to_canonical(np.stack([x - radius, y - radius, x + radius, y + radius], axis=1))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.concatenate([centres, (boxes[:, 2:3] - boxes[:, :1]) / 2], axis=1)


# -------------------------------------------------------------------------------------------- training and predicting


def task_for(
    items: LabItems, roles: NDArray[np.str_], recipe: ClassifierRecipe | DetectorRecipe
) -> ClassifierTask | DetectorTask:
    """A new network and its training items; there is no inner part, for nothing is chosen."""
    train, nothing = np.flatnonzero(roles == "train"), np.empty(0, dtype=np.int64)
    pictures, names = cast(NDArray[np.uint8], items.pictures), list(items.table["item"])
    if isinstance(recipe, DetectorRecipe):
        targets = items.targets()
        model = new_detector(recipe, [targets[index][0] for index in train])
        return DetectorTask(model, pictures, targets, names, train, nothing, recipe.augmentation)
    labels = items.table["label"].map(LABELS.index).to_numpy(dtype=np.int64)
    torch.manual_seed(recipe.training.seed)
    return ClassifierTask(
        build_classifier(recipe.network),
        pictures,
        labels,
        names,
        train,
        nothing,
        recipe.augmentation,
        recipe.objective,
    )


def predict_items(
    task: ClassifierTask | DetectorTask, items: LabItems, numbers: NDArray[np.int64], parameters: LeakageLabParameters
) -> pd.DataFrame:
    """Class probabilities of the items with these numbers, a row each; or boxes in px of their pictures."""
    columns = PROBABILITY_COLUMNS if isinstance(task, ClassifierTask) else [*BOX_COLUMNS, "p_benign", "p_malignant"]
    parts = [pd.DataFrame(columns=["item", *columns])]
    for start in range(0, len(numbers), PREDICTED_AT_ONCE):
        some = numbers[start : start + PREDICTED_AT_ONCE]
        names = items.table["item"].iloc[some].tolist()
        if isinstance(task, ClassifierTask):
            found = predict_probabilities(task.model, items.pictures[some], names)
            parts.append(pd.DataFrame(found, columns=PROBABILITY_COLUMNS).assign(item=names))
        else:
            boxes = detect(task.model, items.pictures[some], parameters.nms_iou, parameters.max_per_cut, names)
            parts += [own.assign(item=name) for name, own in zip(names, boxes, strict=True)]
    return _stacked(parts)


def _stacked(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Tables below each other; the first, which is empty, names and orders the columns."""
    filled = [part for part in parts if len(part)]
    return pd.concat(filled or parts, ignore_index=True)[list(parts[0].columns)]
