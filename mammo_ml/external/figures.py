"""What sets the films of an external set apart from those a model learned from: grey values, pixels, lesions."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mammo_ml.figures import BLUE, VERMILION
from mammo_ml.imaging.canonical import CanonicalFilm

GREY_BINS = 64
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FilmTraits:
    """Traits of some films.

    Attributes:
        name: of the set.
        grey: (GREY_BINS,) pixels of the breasts by grey value, 0 to 255; each film counts as much as any other.
        spacing_mm: (N,) edge of a pixel of each film file.
        radius_mm: (G,) radius of each located lesion.
    """

    name: str
    grey: Floats
    spacing_mm: Floats
    radius_mm: Floats


def grey_histogram(film: CanonicalFilm) -> NDArray[np.int64]:
    """Pixels of the breast of a canonical film by grey value, (GREY_BINS,)."""
    return np.bincount(film.pixels[film.mask] // (256 // GREY_BINS), minlength=GREY_BINS)


def film_traits(name: str, histograms: NDArray[np.int64], films: pd.DataFrame, lesions: pd.DataFrame) -> FilmTraits:
    """Traits of films (film_id, pixel_spacing_mm) with histograms (N, GREY_BINS), and of their located lesions."""
    shares = histograms / np.maximum(histograms.sum(axis=1, keepdims=True), 1)
    spacing = films.set_index("film_id")["pixel_spacing_mm"]
    located = lesions[lesions["has_location"] & lesions["film_id"].isin(films["film_id"])]
    radius = (located["radius_px"] * located["film_id"].map(spacing)).dropna()
    return FilmTraits(name, shares.mean(axis=0), spacing.to_numpy(np.float64), radius.to_numpy(np.float64))


def shift_figures(internal: FilmTraits, external: FilmTraits) -> dict[str, dict[str, float]]:
    """Quartiles of every trait on both sides, and the share of the grey histograms that overlaps (1: the same)."""
    return {
        "internal": _quartiles(internal),
        "external": _quartiles(external),
        "overlap": {"grey": round(float(np.minimum(internal.grey, external.grey).sum()), 4)},
    }


def _quartiles(traits: FilmTraits) -> dict[str, float]:
    middles = (np.arange(GREY_BINS) + 0.5) * 256 / GREY_BINS
    found = {}
    for share in (25, 50, 75):
        # the bin in which that share of the pixels is reached
        grey = middles[min(int(np.searchsorted(np.cumsum(traits.grey), share / 100)), GREY_BINS - 1)]
        found[f"grey_q{share}"] = float(grey)
        for name, values in (("spacing_mm", traits.spacing_mm), ("radius_mm", traits.radius_mm)):
            if len(values):
                found[f"{name}_q{share}"] = round(float(np.percentile(values, share)), 4)
    return found


def domain_shift_figure(internal: FilmTraits, external: FilmTraits, title: str) -> Figure:
    """Three histograms, each side by side: grey values inside the breast, pixel spacing, radius of lesions.

    Internal films are filled in blue, external ones are a thick vermilion line: told apart without colour too.
    """
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    grey, spacing, radius = figure.subplots(1, 3)
    edges = np.linspace(0, 256, GREY_BINS + 1)
    _stairs(grey, edges, internal.grey, external.grey, (internal.name, external.name))
    grey.set(xlabel="grey value inside the breast (0 to 255)", ylabel="share of pixels, each film alike")
    for axes, what, sides in (
        (spacing, "edge of a pixel of the film file (mm)", (internal.spacing_mm, external.spacing_mm)),
        (radius, "radius of located lesions (mm)", (internal.radius_mm, external.radius_mm)),
    ):
        names = [f"{one.name} ({len(values)})" for one, values in zip((internal, external), sides, strict=True)]
        edges = _edges(np.concatenate(sides))
        shares = [np.histogram(values, edges)[0] / max(len(values), 1) for values in sides]
        _stairs(axes, edges, shares[0], shares[1], (names[0], names[1]))
        axes.set(xlabel=what, ylabel=f"share of {'films' if axes is spacing else 'lesions'}")
    figure.suptitle(title, fontsize=10)
    return figure


def _edges(values: Floats) -> Floats:
    """25 bins over all values; a set whose values are all one gets a bin round it."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    room = 0.02 * (high - low) or 0.05 * max(high, 1e-6)
    edges: Floats = np.linspace(low - room, high + room, 26)
    return edges


def _stairs(axes: Axes, edges: Floats, internal: Floats, external: Floats, names: tuple[str, str]) -> None:
    axes.stairs(internal, edges, fill=True, color=BLUE, alpha=0.45, label=f"internal: {names[0]}")
    axes.stairs(external, edges, color=VERMILION, linewidth=2, label=f"external: {names[1]}")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
