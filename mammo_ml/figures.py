"""Arrays in, Figure out. Colours are Okabe and Ito's, told apart by colour-blind readers too."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, Rectangle
from numpy.typing import NDArray

matplotlib.use("Agg")

BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"
Floats = NDArray[np.float64]
PNG = {"Software": None}
"""Metadata to save with, so that the same picture has the same bytes."""


def roc_figure(curves: dict[str, tuple[Floats, Floats]], title: str) -> Figure:
    """ROC curves by name (with its AUC in the name), each false and true positive rates (T,)."""
    figure, axes = _square(title, "1 - specificity", "sensitivity")
    for colour, (name, (false_positives, true_positives)) in zip(
        cycle((BLUE, ORANGE, GREEN, VERMILION)), curves.items(), strict=False
    ):
        axes.step(false_positives, true_positives, where="post", color=colour, label=name, linewidth=2)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="knows nothing")
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    return figure


def froc_figure(
    rates: Floats,
    sensitivities: Floats,
    band: tuple[Floats, Floats] | None,
    baseline: tuple[Floats, Floats],
    title: str,
) -> Figure:
    """Lesion sensitivity over false positives per film, 1/8 to 8, with its 95 % band and the random boxes beside it."""
    figure, axes = _square(title, "false positives per film", "lesion sensitivity")
    axes.step(rates, sensitivities, where="post", color=BLUE, linewidth=2, label="detector")
    if band is not None:
        axes.fill_between(rates, *band, step="post", color=BLUE, alpha=0.2, label="95 %, women resampled")
    axes.step(*baseline, where="post", color=GREY, linestyle=":", label="random boxes on the breast")
    axes.set_xscale("log", base=2)
    axes.set_xlim(1 / 8, 8)
    axes.set_xticks([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8], ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    return figure


def precision_recall_figure(
    recalls: Floats, precisions: Floats, band: tuple[Floats, Floats], baseline: Floats, title: str
) -> Figure:
    """Precision over recall with its 95 % band and the random boxes beside it, all (T,); their means in the legend."""
    figure, axes = _square(title, "recall (lesions found)", "precision (boxes that are right)")
    axes.step(
        recalls, precisions, where="pre", color=BLUE, linewidth=2, label=f"detector, average {precisions.mean():.2f}"
    )
    axes.fill_between(recalls, *band, step="pre", color=BLUE, alpha=0.2, label="95 %, women resampled")
    told = f"random boxes on the breast, average {baseline.mean():.2f}"
    axes.step(recalls, baseline, where="pre", color=GREY, linestyle=":", label=told)
    axes.legend(loc="upper right", fontsize=8, frameon=False)
    return figure


def difference_figure(names: Sequence[str], points: Floats, lows: Floats, highs: Floats, title: str) -> Figure:
    """Forest plot: differences (N,) with their intervals, one row each, zero marked; those that exclude it in blue."""
    figure = Figure(figsize=(7, 1.2 + 0.36 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linestyle=":")
    for row, (point, low, high) in enumerate(zip(points, lows, highs, strict=True)):
        colour = BLUE if low > 0 or high < 0 else GREY
        axes.plot([low, high], [row, row], color=colour, linewidth=2)
        axes.plot(point, row, "o", color=colour)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("difference (95 %, women resampled)")
    axes.set_title(title, fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    return figure


def confusion_figure(matrix: Floats, names: Sequence[str], title: str) -> Figure:
    """Confusion matrix (C, C), truth in rows; shades are shares of the row, numbers are counts."""
    figure = Figure(figsize=(4.2, 4), layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(matrix):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    axes.set_title(title, fontsize=10)
    return figure


def reliability_figure(confidence: Floats, correct: NDArray[np.bool_], title: str, n_bins: int = 10) -> Figure:
    """Accuracy over the probability of the predicted class, in equal-width bins; areas of the dots are counts."""
    figure, axes = _square(title, "probability of the predicted class", "share correct")
    bins = np.clip((confidence * n_bins).astype(int), 0, n_bins - 1)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfectly calibrated")
    for number in np.unique(bins):
        own = bins == number
        axes.scatter(confidence[own].mean(), correct[own].mean(), s=8 + own.sum(), color=BLUE, alpha=0.8)
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    return figure


@dataclass(frozen=True)
class MarkedPicture:
    """A picture uint8 (H, W) with what is marked on it, in its own px.

    Attributes:
        lesions: boxes (G, 4) of the ellipses that are true.
        boxes: found boxes (D, 4), with their `scores` (D,) and whether each is a hit, `hits` (D,).
    """

    pixels: NDArray[np.uint8]
    caption: str
    lesions: Floats = field(default_factory=lambda: np.empty((0, 4)))
    boxes: Floats = field(default_factory=lambda: np.empty((0, 4)))
    scores: Floats = field(default_factory=lambda: np.empty(0))
    hits: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, dtype=np.bool_))


def marked_figure(pictures: Sequence[MarkedPicture], title: str, columns: int, inches: float = 2.1) -> Figure:
    """Pictures, at least one, side by side: lesions in green, hits in orange, false positives in broken lines."""
    shapes = np.array([picture.pixels.shape for picture in pictures]).reshape(-1, 2)
    heights = inches * np.maximum.reduceat(shapes[:, 0] / shapes[:, 1], range(0, len(pictures), columns)) + 0.35
    figure = Figure(figsize=(inches * columns, heights.sum() + 0.4), layout="constrained")
    grid = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights.tolist())
    text_size = max(6.0, 2.6 * inches)
    for axes in grid.flat:
        axes.axis("off")
        axes.set_anchor("N")
    for axes, picture in zip(grid.flat, pictures, strict=False):
        axes.imshow(picture.pixels, cmap="gray", vmin=0, vmax=255)
        axes.set_title(picture.caption, fontsize=text_size)
        for x1, y1, x2, y2 in picture.lesions:
            true = Ellipse(((x1 + x2) / 2, (y1 + y2) / 2), x2 - x1, y2 - y1, fill=False, edgecolor=GREEN, linewidth=1.5)
            axes.add_patch(true)
        for (x1, y1, x2, y2), score, hit in zip(picture.boxes, picture.scores, picture.hits, strict=True):
            style = "-" if hit else (0, (3, 2))
            box = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=ORANGE, linewidth=1.2, linestyle=style)
            axes.add_patch(box)
            ground = {"facecolor": "black", "alpha": 0.8, "edgecolor": "none", "pad": 0.6}
            place = (max(x1, 0), max(y1, 12))
            axes.text(*place, f"{score:.2f}", color=ORANGE, fontsize=text_size, va="bottom", bbox=ground)
    figure.suptitle(title, fontsize=10)
    return figure


@dataclass(frozen=True)
class HeatPicture:
    """A picture uint8 (H, W), what lies over it (H, W) at least 0, and boxes (G, 4) of the ellipses that are true."""

    pixels: NDArray[np.uint8]
    heat: Floats
    lesions: Floats
    caption: str


def heat_figure(pictures: Sequence[HeatPicture], title: str, columns: int, inches: float = 1.9) -> Figure:
    """Pictures, at least one, in rows: heat over the film, its strongest place as a cross, lesions in green."""
    n_rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(inches * columns, (inches + 0.4) * n_rows + 0.4), layout="constrained")
    grid = figure.subplots(n_rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, picture in zip(grid.flat, pictures, strict=False):
        height, width = picture.pixels.shape
        extent = (0, width, height, 0)
        axes.imshow(picture.pixels, cmap="gray", vmin=0, vmax=255, extent=extent)
        share = picture.heat / max(float(picture.heat.max()), 1e-12)
        axes.imshow(share, cmap="inferno", alpha=0.45 * share, extent=extent)
        row, column = np.unravel_index(int(share.argmax()), share.shape)
        axes.plot(column + 0.5, row + 0.5, "+", color=ORANGE, markersize=10, markeredgewidth=2)
        for x1, y1, x2, y2 in picture.lesions:
            middle = ((x1 + x2) / 2, (y1 + y2) / 2)
            axes.add_patch(Ellipse(middle, x2 - x1, y2 - y1, fill=False, edgecolor=GREEN, linewidth=1.5))
        axes.set_title(picture.caption, fontsize=7)
    figure.suptitle(title, fontsize=10)
    return figure


def _square(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.01)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    return figure, axes
