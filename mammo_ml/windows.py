"""Training pictures drawn from whole films, a new window every time: for sets large enough to be seen only once.

Cuts (`mammo_ml.cutting`) are made once and versioned; a window is decided by the training's own generator when it is
needed: a share of them round a lesion, off its centre, the others anywhere on the breast.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor

from mammo_ml.classifier import to_tensor
from mammo_ml.datasets.catalog import BOX_COLUMNS, LABELS
from mammo_ml.errors import raise_if_any
from mammo_ml.imaging import boxes as bx
from mammo_ml.imaging.augmentation import AugmentationParameters, augment, view_of_boxes, view_of_image
from mammo_ml.imaging.canonical import CanonicalFilm
from mammo_ml.imaging.patches import resized
from mammo_ml.models.ssd import LesionSSD, detection_loss
from mammo_ml.parameters import Parameters

ROTATIONS = ("identity", "rotate_90", "rotate_180", "rotate_270")
PLACES_EVERY_PX = 16
"""Grid, in input px, of the places on the breast where a window without a lesion is centred."""
BATCH = 64
DRAWS = 6
"""Random numbers that decide one window: its size, its place (3), its view (2)."""


class WindowParameters(Parameters):
    """How windows are drawn; shares are of the window's side."""

    window_px: int = Field(ge=32, description="edge of a window on the canonical film, before its size is changed")
    lesion_share: float = Field(ge=0, le=1, description="share of the windows that lie round a lesion")
    max_offset: float = Field(ge=0, le=0.5, description="how far off the centre, along x and along y, the lesion lies")
    max_scale: float = Field(ge=1, le=2, description="a window is up to so many times larger or smaller")
    min_visible_share: float = Field(gt=0, le=1, description="a lesion less visible than this has no box")
    inner_windows: int = Field(
        default=512, ge=1, description="windows of the inner films that a detector's best epoch is chosen by"
    )


@dataclass(frozen=True)
class WindowFilm:
    """A film at the scale of the network's input.

    Attributes:
        film_id: its name.
        pixels: uint8 (H, W).
        places: centres (P, 2) of windows on the breast; none where the film must give no lesion-free windows.
        boxes: located lesions (G, 4), px of `pixels`.
        labels: their classes (G,), 1 benign or 2 malignant.
    """

    film_id: str
    pixels: NDArray[np.uint8]
    places: NDArray[np.float64]
    boxes: bx.Boxes
    labels: NDArray[np.int64]


def window_films(
    films: Iterable[CanonicalFilm], lesions: pd.DataFrame, parameters: WindowParameters, input_px: int
) -> list[WindowFilm]:
    """Bring canonical films to the input's scale, with their lesions.

    A film with a lesion that has no location gives windows round its other lesions alone: its tissue is neither
    positive nor negative.

    Raises:
        BadInputError: naming every film smaller than the largest window, every lesion whose class is not known, and
            every one whose box is not finite or has no area on the film.
    """
    unknown = lesions[lesions["has_location"] & ~lesions["severity"].isin(LABELS)]
    problems = [f"lesion {lesion}: its class is not known" for lesion in unknown["lesion_id"]]
    found = []
    for film in films:
        own = lesions[lesions["film_id"] == film.film_id]
        if min(film.pixels.shape) < parameters.window_px * parameters.max_scale:
            height, width = film.pixels.shape
            problems.append(f"film {film.film_id}: {width} x {height} px is smaller than the largest window")
        problems += _faulty_boxes(film, own[own["has_location"]])
        if not problems:
            found.append(_window_film(film, own, input_px / parameters.window_px))
    raise_if_any(
        "films to draw windows from", problems, "Mend or leave out what is named, or choose a smaller window_px."
    )
    return found


def _faulty_boxes(film: CanonicalFilm, located: pd.DataFrame) -> list[str]:
    """Lesions that no window could show, so that they would be taught as background."""
    corners = located[BOX_COLUMNS].to_numpy(dtype=np.float64)
    height, width = film.pixels.shape
    shown = bx.clip(film.transform.boxes_to_canonical(corners), width, height)
    return [
        f"lesion {lesion}: its box {box.tolist()} has no area on film {film.film_id}"
        for lesion, box, seen in zip(located["lesion_id"], corners, shown, strict=True)
        if not ((box[:2] < box[2:]).all() and (seen[:2] < seen[2:]).all())
    ]


def _window_film(film: CanonicalFilm, lesions: pd.DataFrame, scale: float) -> WindowFilm:
    height, width = (round(edge * scale) for edge in film.pixels.shape)
    pixels = resized(film.pixels, width, height)
    across, down = width / film.pixels.shape[1], height / film.pixels.shape[0]
    located = lesions[lesions["has_location"]]
    boxes = film.transform.boxes_to_canonical(located[BOX_COLUMNS].to_numpy(dtype=np.float64))
    step = round(PLACES_EVERY_PX / scale)
    rows, columns = np.nonzero(film.mask[step // 2 :: step, step // 2 :: step])
    places = (np.stack([columns, rows], axis=1) + 0.5) * step * [across, down]
    return WindowFilm(
        film.film_id,
        pixels,
        places if len(located) == len(lesions) else np.empty((0, 2)),
        bx.scale(boxes, across, down),
        located["severity"].map(LABELS.index).to_numpy(dtype=np.int64, copy=True),
    )


class WindowTask:
    """The detector's loss on windows of films; satisfies `mammo_ml.training.Task`.

    A sample is the number of a lesion or, beyond the last lesion, of a film; where its window lies is drawn from the
    training's generator, so a training that was interrupted goes on with the same windows.

    Args:
        model: the detector.
        train: films to learn from.
        inner: films the inner loss is taken on, with windows that never change; may be empty.
        parameters: how windows are drawn.
        augmentation: random changes on top.
        seed: of the inner windows.
    """

    def __init__(
        self,
        model: LesionSSD,
        train: Sequence[WindowFilm],
        inner: Sequence[WindowFilm],
        parameters: WindowParameters,
        augmentation: AugmentationParameters,
        seed: int,
    ) -> None:
        self.model, self._parameters, self._augmentation = model, parameters, augmentation
        self._source = WindowSource(train, parameters, model.side_px)
        self._inner = self._windows_of(WindowSource(inner, parameters, model.side_px), seed) if inner else None

    def _windows_of(self, source: "WindowSource", seed: int) -> tuple[NDArray[np.uint8], list[Tensor], list[Tensor]]:
        samples = source.draw(self._parameters.inner_windows, np.random.default_rng(seed))
        return source.pictures(samples, torch.Generator().manual_seed(seed))

    def draw(self, n: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Lesions and films, each lesion as often as any other and each film as often as any other."""
        return self._source.draw(n, generator)

    def loss(self, samples: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        """Confidence plus localisation loss of a batch."""
        pictures, boxes, labels = self._source.pictures(samples, generator)
        images, moved, kept = augment(to_tensor(pictures), boxes, generator, self._augmentation)
        assert moved is not None
        assert kept is not None
        return detection_loss(self.model, images, moved, [own[left] for own, left in zip(labels, kept, strict=True)])

    @torch.no_grad()
    def inner_loss(self) -> float:
        """Loss over the inner windows."""
        if self._inner is None:
            return float("nan")
        self.model.eval()
        pictures, boxes, labels = self._inner
        total = 0.0
        for start in range(0, len(pictures), BATCH):
            part = slice(start, start + BATCH)
            n = len(pictures[part])
            total += n * float(detection_loss(self.model, to_tensor(pictures[part]), boxes[part], labels[part]))
        return total / len(pictures)

    def describe(self, samples: NDArray[np.int64]) -> str:
        """Names of the films."""
        return "windows of films " + ", ".join(self._source.film_of(int(sample)).film_id for sample in samples)


class WindowSource:
    """Windows by number: one round each lesion first, then one somewhere on each film.

    Args:
        films: the films.
        parameters: how windows are drawn.
        input_px: side of the pictures.
    """

    def __init__(self, films: Sequence[WindowFilm], parameters: WindowParameters, input_px: int) -> None:
        self._films, self._parameters, self._input_px = films, parameters, input_px
        self._lesions = [(film, number) for film in films for number in range(len(film.boxes))]
        self._grounds = [film for film in films if len(film.places)]

    @property
    def n_lesions(self) -> int:
        """Samples below this number lie round a lesion."""
        return len(self._lesions)

    @property
    def n_grounds(self) -> int:
        """Films that give windows anywhere on the breast: samples from `n_lesions` on."""
        return len(self._grounds)

    def lesion_class(self, sample: int) -> int:
        """Class of the lesion that a sample below `n_lesions` lies round: 1 benign or 2 malignant."""
        film, number = self._lesions[sample]
        return int(film.labels[number])

    def draw(self, n: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Lesions and films, each lesion as often as any other and each film as often as any other."""
        n_lesions = round(n * self._parameters.lesion_share) if self._grounds else n
        n_lesions = n_lesions if self._lesions else 0
        lesions = generator.integers(len(self._lesions), size=n_lesions) if n_lesions else np.empty(0, dtype=np.int64)
        grounds = generator.integers(max(1, len(self._grounds)), size=n - n_lesions) + len(self._lesions)
        return generator.permutation(np.concatenate([lesions, grounds]))

    def film_of(self, sample: int) -> WindowFilm:
        """The film a sample is of."""
        n = len(self._lesions)
        return self._lesions[sample][0] if sample < n else self._grounds[sample - n]

    def pictures(
        self, samples: NDArray[np.int64], generator: torch.Generator
    ) -> tuple[NDArray[np.uint8], list[Tensor], list[Tensor]]:
        """Pictures (N, S, S), and the boxes (G, 4) and classes (G,) seen in each."""
        draws = torch.rand(len(samples), DRAWS, generator=generator, dtype=torch.float64).tolist()
        found = [self._picture(int(sample), draw) for sample, draw in zip(samples, draws, strict=True)]
        pictures = np.stack([picture for picture, _, _ in found])
        boxes = [torch.from_numpy(seen).float() for _, seen, _ in found]
        return pictures, boxes, [torch.from_numpy(labels) for _, _, labels in found]

    def _picture(self, sample: int, draw: list[float]) -> tuple[NDArray[np.uint8], bx.Boxes, NDArray[np.int64]]:
        film, side = self.film_of(sample), self._input_px
        size = round(side * self._parameters.max_scale ** (2 * draw[0] - 1))
        offset = self._parameters.max_offset * size * (2 * np.array(draw[1:3]) - 1)
        if sample < len(self._lesions):
            box = film.boxes[self._lesions[sample][1]]
            centre = (box[:2] + box[2:]) / 2 + offset
        else:
            centre = film.places[int(draw[3] * len(film.places))] + offset
        height, width = film.pixels.shape
        x1, y1 = np.clip(np.floor(centre - size / 2), 0, [width - size, height - size]).astype(int)
        window = Image.fromarray(film.pixels[y1 : y1 + size, x1 : x1 + size])
        picture = np.asarray(window.resize((side, side), Image.Resampling.BILINEAR))

        seen = bx.clip(bx.shift(film.boxes, -float(x1), -float(y1)), size, size)
        visible = bx.area(seen) >= self._parameters.min_visible_share * bx.area(film.boxes)
        boxes = bx.scale(seen[visible], side / size, side / size)
        views = [ROTATIONS[int(draw[4] * len(ROTATIONS))], "flip_horizontal" if draw[5] < 0.5 else "identity"]
        for view in views:
            picture, boxes = view_of_image(picture, view), view_of_boxes(boxes, side, side, view)
        return picture, boxes, film.labels[visible]
