"""A film as every model sees it: chest wall on the left, 0.2 mm per pixel, 8 bits, with its breast mask."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_ml.datasets.catalog import rows
from mammo_ml.errors import MammoError, raise_if_any
from mammo_ml.imaging.breast import CanonicalTransform, breast_box, breast_mask, canonical_transform
from mammo_ml.imaging.readers import Film, read_pgm


@dataclass(frozen=True)
class CanonicalFilm:
    """Canonical pixels uint8 (H, W) and breast mask bool (H, W); `transform` leads back to the film file."""

    film_id: str
    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    transform: CanonicalTransform

    @property
    def breast_box(self) -> tuple[float, float, float, float]:
        """Bounding box of the breast, canonical px."""
        return breast_box(self.mask)


def to_canonical(film_id: str, film: Film, side: str, pixel_spacing_mm: float) -> CanonicalFilm:
    """Bring one film into canonical form; `side` is where its chest wall is, "left" or "right".

    Raises:
        MammoError: naming the film, when no breast is found on it.
    """
    height, width = film.pixels.shape
    transform = canonical_transform(side, width, height, pixel_spacing_mm)
    pixels = transform.image(eight_bits(film))
    try:
        mask = breast_mask(pixels)
    except MammoError as error:
        raise MammoError(f"film {film_id}: {error}") from None
    return CanonicalFilm(film_id, pixels, mask, transform)


def eight_bits(film: Film) -> NDArray[np.uint8]:
    """Pixels (H, W) of a film as uint8; 16 bits are scaled, not cut off."""
    if film.max_value == 255:
        return film.pixels.astype(np.uint8, copy=False)
    scaled: NDArray[np.uint8] = np.round(film.pixels.astype(np.float64) * (255 / film.max_value)).astype(np.uint8)
    return scaled


def chest_wall_of(laterality: str) -> str:
    """Side of the chest wall on a mini-MIAS film, all mirrored: right for a left breast, left for a right one."""
    return {"L": "right", "R": "left"}[laterality]


def check_films(folder: Path, films: pd.DataFrame) -> None:
    """Compare every film file with its row of films.csv before anything is computed from it.

    Raises:
        BadInputError: naming every file that is missing or whose bytes are not those the catalog was made from.
    """
    raise_if_any(
        f"films in {folder}",
        filter(None, (_fault(folder / row.path, row.sha256) for row in rows(films))),
        "Restore them: `dvc checkout --force`, or delete the folder and run `make repro`.",
    )


def _fault(path: Path, sha256: str) -> str:
    if not path.is_file():
        return f"{path.name} is missing"
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    return "" if found == sha256 else f"{path.name}: sha256 {found[:12]}…, the catalog says {sha256[:12]}…"


def canonical_films(folder: Path, films: pd.DataFrame) -> Iterator[CanonicalFilm]:
    """Films of a catalog one by one, in its order, checked against their hashes first."""
    check_films(folder, films)
    for row in rows(films):
        yield to_canonical(
            row.film_id, read_pgm(folder / row.path), chest_wall_of(row.laterality), row.pixel_spacing_mm
        )
