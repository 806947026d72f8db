"""A film as every model sees it: chest wall on the left, 0.2 mm per pixel, 8 bits, with its breast mask."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_ml.datasets.catalog import rows
from mammo_ml.errors import MammoError, raise_if_any
from mammo_ml.imaging.breast import CanonicalTransform, breast_box, breast_mask, canonical_transform
from mammo_ml.imaging.readers import Film, read_film
from mammo_ml.manifest import file_sha256


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


def to_canonical(film_id: str, film: Film, side: str, pixel_spacing_mm: float | None) -> CanonicalFilm:
    """Bring one film into canonical form; `side` is where its chest wall is, "left" or "right".

    Raises:
        MammoError: naming the film, when its spacing is not known or no breast is found on it.
    """
    height, width = film.pixels.shape
    try:
        transform = canonical_transform(side, width, height, pixel_spacing_mm)
        pixels = transform.image(eight_bits(film))
        mask = breast_mask(pixels)
    except MammoError as error:
        raise MammoError(f"film {film_id}: {error}") from None
    return CanonicalFilm(film_id, pixels, mask, transform)


def eight_bits(film: Film) -> NDArray[np.uint8]:
    """Pixels (H, W) of a film as uint8, 255 being its white: deeper films are scaled, not cut off.

    Models see 8 bits of every film, for mini-MIAS has no more. What that takes from a deeper film is at most half a
    grey level in 255.
    """
    if film.max_value == 255:
        return film.pixels.astype(np.uint8, copy=False)
    scaled: NDArray[np.uint8] = np.round(film.to_unit() * 255).astype(np.uint8)
    return scaled


def check_films(folder: Path, films: pd.DataFrame) -> None:
    """Compare every film file with its row of films.csv before anything is computed from it.

    Raises:
        BadInputError: naming every file that is missing or whose bytes are not those the catalog was made from.
    """
    raise_if_any(
        f"films in {folder}",
        filter(None, (_fault(folder, row.path, row.sha256) for row in rows(films))),
        "Restore them: `dvc checkout --force`. If they still differ, DVC's own copy is damaged: "
        "delete the folder and run `make repro`.",
    )


def _fault(folder: Path, name: str, sha256: str) -> str:
    path = folder / name
    if not path.is_file():
        return f"{name} is missing"
    found = file_sha256(path)
    return "" if found == sha256 else f"{name}: sha256 {found[:12]}…, the catalog says {sha256[:12]}…"


def canonical_films(folder: Path, films: pd.DataFrame) -> Iterator[CanonicalFilm]:
    """Films of a catalog one by one, in its order; every file is compared with its hash before the first is read.

    Raises:
        BadInputError: as `check_films`; or naming every film whose spacing the catalog does not know.
    """
    unknown = films.loc[~(films["pixel_spacing_mm"] > 0), "film_id"]
    raise_if_any(
        "films to bring to 0.2 mm per pixel",
        [f"film {film_id}: pixel spacing unknown" for film_id in unknown],
        "Give pixel_spacing_mm, the edge of a pixel in mm, in films.csv.",
    )
    check_films(folder, films)
    for row in rows(films):
        film = read_film(folder / row.path)
        yield to_canonical(row.film_id, film, row.chest_wall, row.pixel_spacing_mm)
