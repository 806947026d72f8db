"""Patches, detector cuts and tiles of canonical films (chest wall left, 0.2 mm per pixel).

*patch*: the classifier's input, one class. *cut*: a detector training picture with its boxes. *tile*: a window of a
whole film. All are windows of `window_px` resized to `input_px`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator

from mammo_ml.errors import BadInputError
from mammo_ml.imaging import boxes as bx
from mammo_ml.imaging.canonical import CanonicalFilm
from mammo_ml.parameters import Parameters


class CutParameters(Parameters):
    """Sizes of windows and how many are cut; px are canonical, 0.2 mm."""

    window_px: int = Field(ge=32, description="edge of a window on the film")
    input_px: int = Field(ge=32, description="edge of the classifier's input; a detector's cuts have that of its base")
    normals_per_lesion: int = Field(ge=1, description="normal patches, of normal films, matched to each located lesion")
    lesion_free_per_lesion: int = Field(
        default=0,
        ge=0,
        description="normal patches, of abnormal films away from their lesions, matched to each located lesion",
    )
    min_breast_share: float = Field(
        ge=0,
        le=1,
        description="least share of breast in a normal window, and in a lesion's patch, which is moved into the breast "
        "for it as little as it takes, the lesion whole",
    )
    jittered_per_lesion: int = Field(ge=0, description="detector cuts with the lesion off the centre")
    jitter_px: int = Field(ge=0, description="largest offset of a jittered cut, along x and along y")
    normal_cuts_per_film: int = Field(ge=0, description="lesion-free detector cuts of each normal film")
    min_visible_share: float = Field(
        gt=0, le=1, description="a lesion less visible than this in a cut has no box there"
    )
    seed: int = Field(ge=0)


class Tiling(Parameters):
    """Where the tiles of a whole film lie; px are canonical, 0.2 mm."""

    window_px: int = Field(ge=32)
    step_px: int = Field(ge=1)
    min_breast_share: float = Field(ge=0, le=1, description="tiles with less breast are not looked at")

    @model_validator(mode="after")
    def _tiles_leave_no_gaps(self) -> Self:
        if self.step_px > self.window_px:
            raise ValueError(f"step_px {self.step_px} leaves gaps between tiles of window_px {self.window_px}")
        return self


class TileParameters(Tiling):
    """How a whole film is tiled, and what a tile is brought to."""

    input_px: int = Field(ge=32, description="edge of the network's input")


def window_at(centre_x: float, centre_y: float, size: int, width: int, height: int) -> bx.Boxes:
    """Square window (1, 4) of `size` px round a centre, shifted inside the film where it would leave it.

    Raises:
        BadInputError: when the film is smaller than the window.
    """
    if width < size or height < size:
        raise BadInputError("film", [f"{width}x{height} px is smaller than a window of {size} px"])
    x1 = float(np.clip(np.floor(centre_x - size / 2), 0, width - size))
    y1 = float(np.clip(np.floor(centre_y - size / 2), 0, height - size))
    return np.array([[x1, y1, x1 + size, y1 + size]])


def tile_windows(width: int, height: int, size: int, step: int) -> bx.Boxes:
    """Windows (T, 4) that cover a film row by row; the last of each row and column is shifted inside."""
    if width < size or height < size:
        raise BadInputError("film", [f"{width}x{height} px is smaller than a tile of {size} px"])
    lefts, tops = _starts(width, size, step), _starts(height, size, step)
    return np.array([[x, y, x + size, y + size] for y in tops for x in lefts], dtype=np.float64)


def _starts(length: int, size: int, step: int) -> list[int]:
    return sorted({*range(0, length - size + 1, step), length - size})


@contextmanager
def of_film(film_id: str) -> Iterator[None]:
    """Say of which film it is that it is smaller than a window, and what to do."""
    try:
        yield
    except BadInputError as error:
        raise BadInputError(f"film {film_id}", error.problems, "Choose a smaller window_px.") from None


def breast_tiles(mask: NDArray[np.bool_], parameters: Tiling) -> bx.Boxes:
    """Tiles (T, 4) of a film with at least `min_breast_share` breast; the best one where none has."""
    height, width = mask.shape
    windows = tile_windows(width, height, parameters.window_px, parameters.step_px)
    shares = breast_shares(mask, windows)
    enough = shares >= parameters.min_breast_share
    return windows[enough] if enough.any() else windows[[int(np.argmax(shares))]]


def breast_shares(mask: NDArray[np.bool_], windows: bx.Boxes) -> NDArray[np.float64]:
    """Share (N,) of breast in each window (N, 4)."""
    return np.array([mask[y1:y2, x1:x2].mean() for x1, y1, x2, y2 in windows.astype(int)])


def _shares_of_many(mask: NDArray[np.bool_], windows: bx.Boxes) -> NDArray[np.float64]:
    """As `breast_shares`, of windows inside the film by the thousand: from a table of sums."""
    sums = np.pad(mask.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    x1, y1, x2, y2 = windows.astype(int).T
    shares: NDArray[np.float64] = (sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]) / ((x2 - x1) * (y2 - y1))
    return shares


def crop(pixels: NDArray[np.uint8], windows: bx.Boxes, input_px: int) -> NDArray[np.uint8]:
    """Pictures (N, input_px, input_px) of the windows (N, 4)."""
    pictures = np.empty((len(windows), input_px, input_px), dtype=np.uint8)
    for n, (x1, y1, x2, y2) in enumerate(windows.astype(int)):
        pictures[n] = resized(pixels[y1:y2, x1:x2], input_px, input_px)
    return pictures


def resized(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Pixels (H, W) made smaller by averaging areas, larger bilinearly."""
    way = Image.Resampling.BOX if width <= pixels.shape[1] else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(pixels).resize((width, height), way))


def boxes_in_window(
    boxes: bx.Boxes, window: bx.Boxes, input_px: int, min_visible_share: float
) -> tuple[bx.Boxes, NDArray[np.int64]]:
    """Film boxes (L, 4) seen through one window (1, 4): clipped boxes (K, 4) in input px, and which (K,) they are."""
    x1, y1, x2, y2 = window[0]
    seen = bx.clip(bx.shift(boxes, -x1, -y1), x2 - x1, y2 - y1)
    visible = np.flatnonzero(bx.area(seen) >= min_visible_share * bx.area(boxes))
    return bx.scale(seen[visible], input_px / (x2 - x1), input_px / (y2 - y1)), visible


def centred_windows(boxes: bx.Boxes, size: int, width: int, height: int) -> bx.Boxes:
    """One window (L, 4) centred on each lesion box (L, 4), shifted inside the film where it would leave it."""
    windows = [window_at(x, y, size, width, height) for x, y in (boxes[:, :2] + boxes[:, 2:]) / 2]
    return np.concatenate([np.empty((0, 4)), *windows])


def lesion_window(box: bx.Boxes, film: CanonicalFilm, parameters: CutParameters) -> bx.Boxes:
    """Window (1, 4) of a lesion's patch: the most centred of those that show its box (1, 4) whole, with enough breast.

    A lesion larger than the window fills it. Where no such window holds enough breast, those count that hold most.
    """
    size, (height, width) = parameters.window_px, film.pixels.shape
    centred = centred_windows(box, size, width, height)
    lefts, tops = (
        _starts_that_show(box[0, axis], box[0, axis + 2], size, edge) for axis, edge in enumerate((width, height))
    )
    x, y = (corner.ravel() for corner in np.meshgrid(lefts, tops))
    windows = np.stack([x, y, x + size, y + size], axis=1).astype(np.float64)
    shares = _shares_of_many(film.mask, windows)
    enough = shares >= min(parameters.min_breast_share, shares.max())
    away = np.linalg.norm(windows[enough] - centred, axis=1)
    most_centred: bx.Boxes = windows[enough][[int(np.argmin(away))]]
    return most_centred


def _starts_that_show(low: float, high: float, size: int, length: int) -> range:
    """First pixels of windows, `size` of `length` px, that contain low to high, or lie within it if it is longer."""
    first, last = sorted((high - size, low))
    ends = np.clip([np.ceil(first), np.floor(last)], 0, length - size).astype(int)
    return range(int(ends.min()), int(ends.max()) + 1)


def jittered_windows(
    box: bx.Boxes, width: int, height: int, parameters: CutParameters, generator: np.random.Generator
) -> bx.Boxes:
    """Windows (J, 4) whose centre lies up to `jitter_px` off that of one lesion box (1, 4), along each axis."""
    offsets = generator.uniform(-parameters.jitter_px, parameters.jitter_px, (parameters.jittered_per_lesion, 2))
    return centred_windows(box + np.tile(offsets, 2), parameters.window_px, width, height)


def normal_windows(film: CanonicalFilm, n: int, parameters: CutParameters, generator: np.random.Generator) -> bx.Boxes:
    """Windows (n, 4) of a normal film drawn among its tiles of 32 px steps with enough breast, the fullest if none."""
    height, width = film.pixels.shape
    windows = tile_windows(width, height, parameters.window_px, 32)
    shares = breast_shares(film.mask, windows)
    good = np.flatnonzero(shares >= parameters.min_breast_share)
    if len(good) == 0:
        good = np.array([int(np.argmax(shares))])
    chosen: bx.Boxes = windows[generator.choice(good, size=n, replace=len(good) < n)]
    return chosen


NOTHING: bx.Boxes = np.empty((0, 4))


def matched_normal_window(
    window: bx.Boxes,
    abnormal: CanonicalFilm,
    normal: CanonicalFilm,
    min_breast_share: float,
    step_px: int = 8,
    keep_off: bx.Boxes = NOTHING,
) -> bx.Boxes:
    """Window (1, 4) of lesion-free tissue that sits as the lesion's window (1, 4) sits in its own film.

    Of all windows at `step_px` with enough breast, the one nearest in place relative to the breast's box and in share
    of breast: so neither tells the class.

    Args:
        window: the lesion's window (1, 4).
        abnormal: the lesion's film.
        normal: the film to find a window on.
        min_breast_share: least share of breast in it.
        step_px: between two windows.
        keep_off: boxes (L, 4) of that film's lesions; a window keeps a lesion's radius away from each.

    Returns:
        The window, or none (0, 4) where every one holds too little breast or comes too near to a lesion.
    """
    size = window[0, 2] - window[0, 0]
    height, width = normal.pixels.shape
    candidates = tile_windows(width, height, int(size), step_px)
    shares = _shares_of_many(normal.mask, candidates)
    radii = (keep_off[:, 2:] - keep_off[:, :2]) / 2
    grown = np.concatenate([keep_off[:, :2] - radii, keep_off[:, 2:] + radii], axis=1)
    free: NDArray[np.bool_] = (bx.iou(candidates, grown) == 0).all(axis=1) & (shares >= min_breast_share)
    if not free.any():
        return NOTHING
    away = np.linalg.norm(_place_in_breast(candidates, normal) - _place_in_breast(window, abnormal), axis=1)
    unlike = np.abs(shares - breast_shares(abnormal.mask, window))
    nearest: bx.Boxes = candidates[[int(np.argmin(np.where(free, away + unlike, np.inf)))]]
    return nearest


def _place_in_breast(windows: bx.Boxes, film: CanonicalFilm) -> NDArray[np.float64]:
    """Centres (N, 2) of windows as shares of the breast's bounding box."""
    x1, y1, x2, y2 = film.breast_box
    centres = (windows[:, :2] + windows[:, 2:]) / 2
    places: NDArray[np.float64] = (centres - [x1, y1]) / [x2 - x1, y2 - y1]
    return places
