"""Do the coordinates belong to the films? A wrong origin, a flip or swapped axes pass every check of a table alone."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_ml.errors import BadInputError
from mammo_ml.imaging.breast import breast_mask

MIN_BRIGHTER_SHARE = 0.88
"""Of mini-MIAS' 117 lesions 113 are brighter than their surroundings; 78 without the flip, 62 with x, y swapped."""
MIN_MEAN_ON_BREAST = 0.95
"""Mean over the lesions of the disc's share on the breast: 0.99 on mini-MIAS; lesions are cut by the film's edge."""
MIN_SURE_ON_BREAST = 0.99
"""For films named as sure, where only the right convention puts the disc on the breast."""
RING_FACTOR = 1.5
"""The ring reaches from the lesion's radius to this many radii; at least 10 px wide, so that a dot has surroundings."""
_MIN_RING_PX = 10.0

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class _Disc:
    lesion_id: str
    film_id: str
    on_breast: float
    brighter: bool


def lesions_match_pixels(
    films: pd.DataFrame,
    lesions: pd.DataFrame,
    read_pixels: Callable[[str], Pixels],
    surely_on_breast: Collection[str] = (),
) -> dict[str, float]:
    """Compare every located lesion with the pixels of its film.

    Args:
        films: table of films.
        lesions: table of lesions; those without location are left out.
        read_pixels: film_id to the film's pixels, uint8 (H, W).
        surely_on_breast: film_ids whose lesions lie wholly on the breast, and would not under another convention.

    Returns:
        n_lesions; brighter_share, of lesions whose disc is brighter than the ring round it (mean grey, breast only);
        on_breast_mean and on_breast_min, the disc's share on the breast mask.

    Raises:
        BadInputError: when these say that coordinates and films do not belong together, or there is no located lesion.
    """
    located = lesions[lesions["has_location"]]
    unknown = sorted(set(located["film_id"]) - set(films["film_id"]))
    problems = [f"film {film_id} has a lesion but is not in films.csv" for film_id in unknown]
    discs: list[_Disc] = []
    for film_id, group in located[~located["film_id"].isin(unknown)].groupby("film_id", sort=True):
        pixels = read_pixels(str(film_id))
        mask = breast_mask(pixels)
        discs += [_measure(lesion, pixels, mask) for lesion in group.itertuples()]
    problems += _problems(discs, surely_on_breast)
    if problems:
        raise BadInputError(
            "lesions.csv against the films' pixels",
            problems,
            "Coordinates do not match the films. Is the origin in the right corner (mini-MIAS: bottom left), was y "
            "flipped once and only once, are x and y in order, and are the films mirrored?",
        )
    on_breast = np.array([disc.on_breast for disc in discs])
    return {
        "n_lesions": float(len(discs)),
        "brighter_share": float(np.mean([disc.brighter for disc in discs])),
        "on_breast_mean": float(on_breast.mean()),
        "on_breast_min": float(on_breast.min()),
    }


def _problems(discs: list[_Disc], surely_on_breast: Collection[str]) -> list[str]:
    if not discs:
        return ["no located lesion, so nothing was compared"]
    problems = []
    n_brighter = sum(disc.brighter for disc in discs)
    if n_brighter < MIN_BRIGHTER_SHARE * len(discs):
        problems.append(
            f"only {n_brighter} of {len(discs)} lesions are brighter than their surroundings; "
            f"at least {MIN_BRIGHTER_SHARE:.0%} are where coordinates are right"
        )
    mean = float(np.mean([disc.on_breast for disc in discs]))
    if mean < MIN_MEAN_ON_BREAST:
        problems.append(f"the discs lie on the breast with {mean:.3f} of their area, not {MIN_MEAN_ON_BREAST} or more")
    problems += [
        f"film {disc.film_id}, lesion {disc.lesion_id}: {disc.on_breast:.2f} of the disc is on the breast, not all"
        for disc in discs
        if disc.film_id in surely_on_breast and disc.on_breast < MIN_SURE_ON_BREAST
    ]
    absent = sorted(set(surely_on_breast) - {disc.film_id for disc in discs})
    return problems + [f"film {film_id} should have a located lesion and has none" for film_id in absent]


def _measure(lesion: object, pixels: Pixels, mask: NDArray[np.bool_]) -> _Disc:
    """Share of the disc on the breast, and whether the disc is brighter than the ring. Off the film counts as off."""
    x, y, radius = (float(getattr(lesion, column)) for column in ("x_px", "y_px", "radius_px"))
    height, width = pixels.shape
    rows, columns = np.ogrid[:height, :width]
    distance = np.hypot(columns + 0.5 - x, rows + 0.5 - y)
    disc = distance <= radius
    ring = (distance > radius) & (distance <= max(RING_FACTOR * radius, radius + _MIN_RING_PX)) & mask
    n_pixels = _pixels_in_disc(x, y, radius)
    on_breast = np.count_nonzero(disc & mask) / n_pixels if n_pixels else 0.0
    inside = disc & mask
    brighter = bool(inside.any() and ring.any() and pixels[inside].mean() > pixels[ring].mean())
    return _Disc(str(getattr(lesion, "lesion_id")), str(getattr(lesion, "film_id")), on_breast, brighter)  # noqa: B009


def _pixels_in_disc(x: float, y: float, radius: float) -> int:
    """Pixels of the whole disc, those off the film included."""
    rows = np.arange(np.floor(y - radius), np.ceil(y + radius) + 1)[:, None]
    columns = np.arange(np.floor(x - radius), np.ceil(x + radius) + 1)[None, :]
    return int(np.count_nonzero(np.hypot(columns + 0.5 - x, rows + 0.5 - y) <= radius))
