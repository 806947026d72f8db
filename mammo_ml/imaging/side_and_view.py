"""What a film without a header looks like: which breast, and which view. Guesses, and said to be so."""

import numpy as np

from mammo_ml.errors import MammoError
from mammo_ml.imaging.breast import breast_mask, chest_wall_side
from mammo_ml.imaging.dicom import DescribedFilm
from mammo_ml.imaging.dicom_kind import Laterality
from mammo_ml.imaging.plausibility import small_film
from mammo_ml.imaging.readers import Film

_LOOKED_AT_EDGE_PX = 256
_LEAST_TOP_OF_MLO = 0.22
"""A mediolateral oblique view shows the armpit, so the breast reaches this share of the film's upper edge."""


def guess_side_and_view(film: Film) -> tuple[Laterality, str] | None:
    """Breast, "L" or "R", and view, "MLO" or "CC", as a film looks; None when no breast is found.

    Films are usually hung with the chest wall of the left breast on the left, but many are stored mirrored: the breast
    was right for 78 % of CBIS-DDSM and CDD-CESM films. The view was right for 96 % of CBIS-DDSM and 99 % of mini-MIAS,
    but for three in five of CDD-CESM, whose films are cropped.
    """
    small = np.round(small_film(film, _LOOKED_AT_EDGE_PX)).astype(np.uint8)
    lit = np.flatnonzero(np.count_nonzero(small, axis=0) >= 0.1 * small.shape[0])
    try:
        mask = breast_mask(small)
    except MammoError:
        return None
    top = mask[: small.shape[0] // 20, lit[0] : lit[-1] + 1].any(axis=0).mean()
    return "L" if chest_wall_side(mask) == "left" else "R", "MLO" if top > _LEAST_TOP_OF_MLO else "CC"


def guesses_from_image(film: DescribedFilm) -> list[str]:
    """Notes on the breast and view that a film looks like, where its file says neither."""
    if film.laterality is not None and film.view is not None:
        return []
    guess = guess_side_and_view(film)
    if guess is None:
        return []
    notes = []
    if film.laterality is None:
        breast = {"L": "left", "R": "right"}[guess[0]]
        notes.append(
            f"the file does not say which breast: hung the usual way it is the {breast}; a mirrored film misleads"
        )
    if film.view is None:
        notes.append(f"the file does not say which view: it looks like {guess[1]}")
    return notes
