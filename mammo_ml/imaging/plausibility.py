"""Whether a picture can be a mammogram, by its outline; and whether a mammogram is unlike those models learned from.

A model answers any picture. Here those are refused that show no breast: a mammogram is a dark ground and one bright
shape on it, cut straight by the chest wall on one side and round on the other. The limits lie outside every film of
mini-MIAS, CBIS-DDSM and CDD-CESM at hand; docs/dicom.md has the figures. Another organ of that shape would pass.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.morphology import convex_hull_image

from mammo_ml.imaging.breast import CANONICAL_SPACING_MM
from mammo_ml.imaging.dicom import DescribedFilm
from mammo_ml.imaging.readers import Film

_Grey = NDArray[np.float32]
_Mask = NDArray[np.bool_]

WORKING_EDGE_PX = 128
"""Longer edge of the picture that is looked at: outlines need no more, and a film takes milliseconds."""
LEAST_EDGE_PX = 256
"""Longer edge of the smallest film taken: at 0.2 mm, 5 cm."""
FILM_EDGE_MM = (50, 450)
"""Longer edge of a film or of a detector: 18 x 24 to 35 x 43 cm, and magnified views cut to their field."""
# Limits of `Outline`, each outside what 1,719 films have (docs/dicom.md has both, side by side).
LEAST_CONTRAST = 60
MOST_GROUND = 28
MOST_EVEN_GROUND = 70
"""Film scanned without cutting off its grey base is brighter where nothing is on it, but even."""
LEAST_EVEN = 0.2
LEAST_CHEST_WALL = 0.6
MOST_OPPOSITE = 0.88
MOST_PIECES = 1.65
FULL_WIDTH = 0.97
MOST_OPPOSITE_AT_FULL_WIDTH = 0.4
MOST_DETAIL_AT_FULL_WIDTH = 0.045
MOST_SYMMETRY_AT_FULL_WIDTH = 0.7
MOST_SYMMETRY = 0.92
MOST_DETAIL_OF_SCANS = 0.08
"""Above every scanned film of mini-MIAS and CBIS-DDSM, below most digital ones."""
LEAST_LIGHT = 95
"""Below every film of mini-MIAS and CBIS-DDSM."""


@dataclass(frozen=True)
class Outline:
    """What is measured on a picture; grey levels from 0 to 255, shares from 0 to 1.

    Attributes:
        ground, light: grey level that a twentieth of the picture is darker than, and a hundredth brighter than.
        even: share of the picture within 8 grey levels of the ground.
        chest_wall: share of its height over which the shape's convex hull reaches the side of its own box, on the side
            where that is more.
        opposite: the same of the shape itself, on the side where it is less.
        width: width of the shape's box, as a share of the picture's.
        pieces: into how many pieces a row of the shape falls, on average.
        symmetry: correlation of the shape's box with its mirror image.
        detail: fine detail within the shape, as a share of its brightness.
    """

    ground: float
    light: float
    even: float
    chest_wall: float
    opposite: float
    width: float
    pieces: float
    symmetry: float
    detail: float


def not_a_mammogram(film: Film) -> list[str]:
    """Reasons, as sentences for the user, for which a picture is no mammogram; none for one that may be."""
    height, width = film.pixels.shape
    if max(height, width) < LEAST_EDGE_PX:
        return [f"it is {width} x {height} px; a mammogram has at least {LEAST_EDGE_PX} along its longer edge"]
    reasons = []
    if film.pixel_spacing_mm is not None:
        edge_mm, (least, most) = max(height, width) * film.pixel_spacing_mm, FILM_EDGE_MM
        if not least <= edge_mm <= most:
            reasons.append(
                f"at {film.pixel_spacing_mm:g} mm per pixel it is {edge_mm:,.0f} mm long, not {least} to {most}"
            )
    found = outline(film)
    return reasons + (_faults(found) if found else ["no shape as large as a breast is on it"])


def unlike_training(film: Film) -> list[str]:
    """Ways, as sentences for the user, in which a mammogram is unlike the scanned films that models learned from.

    They make its scores less sure; they do not refuse it. What the file says is in `DescribedFilm.notes`.
    """
    found = outline(film)
    known_digital = isinstance(film, DescribedFilm) and film.origin == "digital"
    is_dark = found is not None and found.light < LEAST_LIGHT
    looks_digital = found is not None and found.detail > MOST_DETAIL_OF_SCANS
    spacing = film.pixel_spacing_mm
    ways = {
        "it is digital; models learned from scanned films, which show tissue in another contrast": known_digital,
        "it has more fine contrast than the scanned films that models learned from: is it digital?": looks_digital
        and not known_digital,
        f"its tissue is darker than on any film that models learned from (below {LEAST_LIGHT} of 255)": is_dark,
        "the edge of a pixel is not known, so neither is the size of what is on it": spacing is None,
        f"its pixels are coarser than the {CANONICAL_SPACING_MM} mm that models look at, so it was enlarged": spacing
        is not None
        and spacing > 1.05 * CANONICAL_SPACING_MM,
    }
    return [way for way, is_true in ways.items() if is_true]


def outline(film: Film) -> Outline | None:
    """Measure the largest bright shape of a film; None when nothing on it is large or bright enough."""
    small = small_film(film)
    smooth: _Grey = ndimage.gaussian_filter(small, 1.5)
    ground, light = (float(level) for level in np.percentile(smooth, (5, 99)))
    if light - ground < 1 or (shape := _largest(smooth > ground + max(5.0, 0.08 * (light - ground)))) is None:
        return None
    rows, columns = _box(shape)
    inside = shape[rows, columns]
    starts = np.diff(np.pad(inside, ((0, 0), (1, 1))).astype(np.int8), axis=1) == 1
    levels = smooth[rows, columns] - smooth[rows, columns].mean()
    core = ndimage.binary_erosion(shape, iterations=3)
    detail = np.abs(small - smooth)[core].mean() / max(1.0, float(small[core].mean())) if core.any() else 0.0
    return Outline(
        ground,
        light,
        even=float((np.abs(smooth - ground) <= 8).mean()),
        # Dark fat at the chest wall leaves gaps in the shape, which its hull spans.
        chest_wall=max(_reach(convex_hull_image(shape))),
        opposite=min(_reach(shape)),
        width=inside.shape[1] / shape.shape[1],
        pieces=float(starts.sum(axis=1).mean()),
        symmetry=float((levels * levels[:, ::-1]).sum() / max(1e-6, float((levels**2).sum()))),
        detail=float(detail),
    )


def small_film(film: Film, edge_px: int = WORKING_EDGE_PX) -> _Grey:
    """Grey levels 0 to 255 of a film (H, W), its longer edge brought to `edge_px`; a few milliseconds."""
    height, width = film.pixels.shape
    # Whole blocks first, and without the rest at the edges, for they need no copy of the film in another type.
    step = max(1, max(height, width) // (4 * edge_px))
    blocks = film.pixels[: height // step * step, : width // step * step].reshape(height // step, step, -1, step)
    means = blocks.mean(axis=(1, 3), dtype=np.float32) * np.float32(255 / film.max_value)
    scale = edge_px / max(means.shape)
    size = tuple(max(1, round(edge * scale)) for edge in means.shape[::-1])
    return np.asarray(Image.fromarray(means).resize((size[0], size[1]), Image.Resampling.BOX), dtype=np.float32)


def _faults(found: Outline) -> list[str]:
    at_full_width = found.width > FULL_WIDTH and found.opposite > MOST_OPPOSITE_AT_FULL_WIDTH
    most_ground = MOST_EVEN_GROUND if found.even >= LEAST_EVEN else MOST_GROUND
    faults = {
        "there is hardly any contrast on it": found.light - found.ground < LEAST_CONTRAST,
        "it has no dark ground around a breast (a negative, a photograph or a page?)": found.ground > most_ground,
        "the shape on it is nowhere cut straight by a chest wall": found.chest_wall < LEAST_CHEST_WALL,
        "the shape on it is cut straight on both sides": found.opposite > MOST_OPPOSITE,
        "what is on it falls into several pieces": found.pieces > MOST_PIECES,
        "what is on it reaches from side to side and is full of fine detail": at_full_width
        and found.detail > MOST_DETAIL_AT_FULL_WIDTH,
        "what is on it is its own mirror image (a head, a chest?)": found.symmetry
        > (MOST_SYMMETRY_AT_FULL_WIDTH if at_full_width else MOST_SYMMETRY),
    }
    return [fault for fault, is_true in faults.items() if is_true]


def _largest(bright: _Mask, radius: int = 3) -> _Mask | None:
    """Largest shape once edges of the film, labels and scratches, thinner than twice the radius, are gone."""
    padded = np.pad(bright, radius + 1)
    kept = ndimage.distance_transform_edt(padded) > radius
    if not kept.any():
        return None
    kept = ndimage.distance_transform_edt(~kept) <= radius
    shapes, _ = ndimage.label(kept[radius + 1 : -radius - 1, radius + 1 : -radius - 1])
    sizes = np.bincount(shapes.ravel())
    sizes[0] = 0
    filled: _Mask = ndimage.binary_fill_holes(shapes == sizes.argmax())
    return filled


def _reach(shape: _Mask) -> tuple[float, float]:
    """Share of the height of a shape's box over which it reaches the box's left side, and its right side."""
    inside = shape[_box(shape)]
    strip = max(2, round(0.04 * inside.shape[1]))
    return float(inside[:, :strip].any(axis=1).mean()), float(inside[:, -strip:].any(axis=1).mean())


def _box(shape: _Mask) -> tuple[slice, slice]:
    """Rows and columns of a shape, without those where next to nothing of it is."""

    def extent(counts: NDArray[np.int64]) -> slice:
        kept = np.flatnonzero(counts >= 0.15 * counts.max())
        return slice(int(kept[0]), int(kept[-1]) + 1)

    return extent(shape.sum(axis=1)), extent(shape.sum(axis=0))
