"""The breast on a film, and the one transform between the film file and the canonical film.

Canonical film: chest wall on the left, 0.2 mm per pixel, any height and width. Film file: the pixels as read.
Boxes follow `mammo_ml.imaging.boxes`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mammo_ml.errors import MammoError
from mammo_ml.imaging import boxes as bx

CANONICAL_SPACING_MM = 0.2
"""Edge of a canonical pixel, the spacing of mini-MIAS (Info.txt: "reduced to a 200 micron pixel edge")."""

Side = Literal["left", "right"]
Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]

_WORKING_EDGE_PX = 256
"""The mask is computed at about this many pixels along the longer edge (a quarter of a mini-MIAS film)."""
_OPENING_RADIUS_PX = 6
"""At working size. Plates and film edges that touch the breast do so over less than twice this width."""
_FILM_COLUMN_SHARE = 0.1
"""A column belongs to the film when this share of it is not black: mini-MIAS pads films to 1024 columns, and one
wrapped line on row 0 keeps the padding from being all black (174 of 322 films)."""
_LOWEST_THRESHOLD = 18
"""Grey level above the background of every mini-MIAS film (its mode is 14 at most)."""
_BACKGROUND_MARGIN = 6


def breast_mask(pixels: Pixels) -> Mask:
    """Find the breast, pectoral muscle included, without labels, marker plates, film edges and scanner strips.

    Args:
        pixels: film of any size, uint8 (H, W), bright tissue on a dark background.

    Returns:
        bool (H, W), one connected region without holes.

    Raises:
        MammoError: when nothing as large as a breast is brighter than the background; the caller knows the film's name.
    """
    height, width = pixels.shape
    reduction = max(1, round(max(height, width) / _WORKING_EDGE_PX))
    columns = np.flatnonzero(np.count_nonzero(pixels, axis=0) >= _FILM_COLUMN_SHARE * height)
    if columns.size == 0:
        raise MammoError("no breast found: the film is black. Check that the file holds a mammogram.")
    first, last = int(columns[0]), int(columns[-1]) + 1
    small = _reduce(pixels[:, first:last], reduction)
    region = _largest_opened(small > _threshold(small))
    if region is None:
        raise MammoError(
            "no breast found: nothing larger than a label is brighter than the background. "
            "Check that the file holds a mammogram."
        )
    mask = np.zeros((height, width), dtype=np.bool_)
    enlarged = region.repeat(reduction, axis=0).repeat(reduction, axis=1)
    mask[:, first:last] = enlarged[:height, : last - first]
    return mask


def _reduce(pixels: Pixels, factor: int) -> NDArray[np.float32]:
    """Mean of blocks of `factor` x `factor` px; the last block repeats the edge."""
    height, width = pixels.shape
    padded = np.pad(pixels, ((0, -height % factor), (0, -width % factor)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor)
    means: NDArray[np.float32] = blocks.mean(axis=(1, 3), dtype=np.float32)
    return means


def _threshold(small: NDArray[np.float32]) -> float:
    """Grey level between the film's own background, the commonest dark grey, and the skin line."""
    counts = np.bincount(small.ravel().astype(np.int64), minlength=256)[:64]
    background = int(np.convolve(counts, np.ones(5), mode="same")[:48].argmax())
    return float(max(_LOWEST_THRESHOLD, background + _BACKGROUND_MARGIN))


def _largest_opened(bright: Mask) -> Mask | None:
    """Largest component of the opened mask, holes filled. Outside the picture counts as dark, so thin edges go."""
    radius = _OPENING_RADIUS_PX
    padded = np.pad(bright, radius + 1)
    # a disc of radius r by distance transform costs the same for every r, and is round at every r
    components, n_components = ndimage.label(ndimage.distance_transform_edt(padded) > radius)
    if n_components == 0:
        return None
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    opened = ndimage.distance_transform_edt(components != sizes.argmax()) <= radius
    inside = slice(radius + 1, -radius - 1)
    filled: Mask = ndimage.binary_fill_holes(opened[inside, inside])
    return filled


def breast_box(mask: Mask) -> tuple[float, float, float, float]:
    """Bounding box (x1, y1, x2, y2) in px of a mask bool (H, W).

    Raises:
        MammoError: when the mask is empty.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        raise MammoError("the breast mask is empty, so it has no bounding box.")
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def chest_wall_side(mask: Mask) -> Side:
    """Side of the film, "left" or "right", where the chest wall is: the edge along which the breast is cut off.

    mask: bool (H, W), not empty. Counts the breast in a strip along each side of its box, in the upper half of the
    box: below, the fold under the breast darkens the chest wall's side where a breast fills the film (151 and 152 of
    mini-MIAS). Two equal strips are told apart by the halves of the box.

    Raises:
        MammoError: when the mask is empty.
    """
    x1, y1, x2, y2 = (int(edge) for edge in breast_box(mask))
    upper = mask[y1 : (y1 + y2 + 1) // 2, x1:x2]
    strip, middle = max(1, (x2 - x1) // 20), (x2 - x1) // 2
    left, right = int(upper[:, :strip].sum()), int(upper[:, -strip:].sum())
    if left == right:
        left, right = int(upper[:, :middle].sum()), int(upper[:, -middle:].sum())
    return "left" if left >= right else "right"


@dataclass(frozen=True)
class CanonicalTransform:
    """Film file <-> canonical film: mirror so that the chest wall is on the left, then resize to 0.2 mm per pixel.

    Attributes:
        width_px, height_px: size of the film file.
        flipped: whether the film is mirrored left to right.
        factor: canonical pixels per film pixel, the same along x and y.
    """

    width_px: int
    height_px: int
    flipped: bool
    factor: float

    @property
    def canonical_size(self) -> tuple[int, int]:
        """Width and height of the canonical film; the last row or column may cover a part of a pixel."""
        return math.ceil(round(self.width_px * self.factor, 6)), math.ceil(round(self.height_px * self.factor, 6))

    def image(self, pixels: NDArray[np.generic]) -> Pixels:
        """Canonical film, uint8 (H', W'), of a film uint8 (H, W).

        Raises:
            ValueError: when the film does not have the size this transform was made for.
        """
        if pixels.shape != (self.height_px, self.width_px) or pixels.dtype != np.uint8:
            expected = f"uint8 {(self.height_px, self.width_px)}"
            raise ValueError(f"expected a film {expected}, found {pixels.dtype} {pixels.shape}")
        turned = pixels[:, ::-1] if self.flipped else pixels
        if self.factor == 1.0:
            return np.ascontiguousarray(turned, dtype=np.uint8)
        width, height = self.canonical_size
        # `box` keeps the scale exact where the size is not a whole number: pixels past the film repeat its edge
        extra_x, extra_y = width / self.factor - self.width_px, height / self.factor - self.height_px
        padded = np.pad(turned, ((0, math.ceil(extra_y)), (0, math.ceil(extra_x))), mode="edge").astype(np.uint8)
        source = (0.0, 0.0, self.width_px + max(0.0, extra_x), self.height_px + max(0.0, extra_y))
        resized = Image.fromarray(padded).resize((width, height), Image.Resampling.BILINEAR, box=source)
        return np.asarray(resized, dtype=np.uint8)

    def boxes_to_canonical(self, boxes: bx.Boxes) -> bx.Boxes:
        """Boxes (N, 4) of the film file, px, as boxes of the canonical film, px."""
        turned = bx.flip_horizontal(boxes, self.width_px) if self.flipped else boxes
        return bx.scale(turned, self.factor, self.factor)

    def boxes_to_film(self, boxes: bx.Boxes) -> bx.Boxes:
        """Boxes (N, 4) of the canonical film, px, as boxes of the film file, px: undoes `boxes_to_canonical`."""
        scaled = boxes / self.factor
        return bx.flip_horizontal(scaled, self.width_px) if self.flipped else scaled


def canonical_transform(side: str, width_px: int, height_px: int, pixel_spacing_mm: float | None) -> CanonicalTransform:
    """Make the transform for a film of `width_px` x `height_px` whose chest wall is on `side`, "left" or "right".

    Raises:
        MammoError: when the spacing is unknown (None, NaN, zero or negative): sizes would mean nothing.
        ValueError: when `side` is another word.
    """
    if side not in ("left", "right"):
        raise ValueError(f"side must be 'left' or 'right', found {side!r}")
    if pixel_spacing_mm is None or not math.isfinite(pixel_spacing_mm) or pixel_spacing_mm <= 0:
        raise MammoError(
            f"pixel spacing unknown (found {pixel_spacing_mm}): give the edge of a pixel in mm, "
            f"for example {CANONICAL_SPACING_MM} for mini-MIAS."
        )
    return CanonicalTransform(width_px, height_px, side == "right", pixel_spacing_mm / CANONICAL_SPACING_MM)
