"""Which films are shown to judge a detector by eye, and what is marked on them. Tables and pixels in, pictures out."""

from collections import Counter

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_ml.datasets.catalog import BOX_COLUMNS, rows
from mammo_ml.figures import MarkedPicture

MARGIN_PX = 20
"""Round the breast, px of the film file."""
PER_DENSITY = 4


def panel_films(films: pd.DataFrame, lesions: pd.DataFrame, per_density: int = PER_DENSITY) -> list[str]:
    """The fixed panel: of every density a film without lesions, then films with one, each of another woman.

    The first film_id wins, among films with lesions one of the kind that the panel has least of. Nothing of a model is
    looked at, so that the panels of two models show the same films.

    Args:
        films: film_id, patient_id, density; those that were judged.
        lesions: film_id, kind.
        per_density: films of each density, one of them without lesions.

    Returns:
        film_ids, density by density.
    """
    kind = lesions.drop_duplicates("film_id").set_index("film_id")["kind"]
    table = films.assign(kind=films["film_id"].map(kind)).sort_values("film_id")
    densities = sorted(set(films["density"]))
    chosen: dict[str, list[str]] = {density: [] for density in densities}
    women, kinds = set[str](), Counter[str]()
    for number in range(per_density):
        for density in densities:
            of_density = table[(table["density"] == density) & ~table["patient_id"].isin(women)]
            wanted = of_density[of_density["kind"].isna() if number == 0 else of_density["kind"].notna()]
            if wanted.empty:
                continue
            film = min(rows(wanted), key=lambda row: (0 if number == 0 else kinds[row.kind], row.film_id))
            chosen[density].append(film.film_id)
            women.add(film.patient_id)
            kinds.update([film.kind] if number else [])
    return [film_id for density in densities for film_id in chosen[density]]


def surest_false_positives(detections: pd.DataFrame, hits: NDArray[np.bool_], n: int) -> list[str]:
    """The n films whose surest false positive is the surest.

    Args:
        detections: film_id, p_benign, p_malignant.
        hits: which of them (D,) are hits.
        n: how many films.
    """
    false = detections[~hits]
    score = (false["p_benign"] + false["p_malignant"]).groupby(false["film_id"]).max()
    return sorted(score.index, key=lambda film: (-score[film], film))[:n]


def marked_film(
    pixels: NDArray[np.uint8],
    breast: NDArray[np.float64],
    lesions: pd.DataFrame,
    detections: pd.DataFrame,
    hits: NDArray[np.bool_],
    caption: str,
) -> MarkedPicture:
    """The breast on its film at half size, with its lesions and what was found.

    Args:
        pixels: the film file, (H, W).
        breast: its bounding box (4,), px of the film file.
        lesions: x1 … y2 of its lesions, px of the film file.
        detections: x1 … y2, p_benign, p_malignant to show.
        hits: which of them (D,) are hits.
        caption: above the picture.
    """
    height, width = pixels.shape
    x1, y1 = (int(max(0, edge - MARGIN_PX)) for edge in breast[:2])
    x2, y2 = int(min(width, breast[2] + MARGIN_PX)), int(min(height, breast[3] + MARGIN_PX))
    origin = np.array([x1, y1, x1, y1])
    return MarkedPicture(
        _half(pixels[y1:y2, x1:x2]),
        caption,
        (lesions[BOX_COLUMNS].to_numpy(dtype=np.float64) - origin) / 2,
        (detections[BOX_COLUMNS].to_numpy(dtype=np.float64) - origin) / 2,
        (detections["p_benign"] + detections["p_malignant"]).to_numpy(dtype=np.float64),
        hits,
    )


def _half(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of 2 x 2 px; an odd last row or column is left out."""
    height, width = (edge // 2 * 2 for edge in pixels.shape)
    mean = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
    halved: NDArray[np.uint8] = mean.round().astype(np.uint8)
    return halved
