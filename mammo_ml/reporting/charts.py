"""Drawings of the report: arrays in, an SVG as data URI out. Colours are those of `mammo_ml.figures`.

What is told by colour is told by the shape of the marker or line as well. Each is drawn as wide as a phone shows it.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mammo_ml.figures import BLUE, GREY, VERMILION
from mammo_ml.reporting.blocks import Value

Floats = NDArray[np.float64]
BLACK = "#222222"
WIDTH_IN = 4.8
STYLES: Mapping[str, tuple[str, str, float, str]] = {
    "claimed": (BLACK, "D", -0.27, "claimed"),
    "leaky": (VERMILION, "s", -0.09, "measured here, leaky protocol"),
    "honest": (BLUE, "o", 0.09, "measured here, by patient"),
    "nothing": (GREY, "X", 0.27, "knows nothing"),
}
"""Colour, marker, place within the row and name of what the leakage chart shows."""


@dataclass(frozen=True)
class Row:
    """A row of the leakage chart: any of `STYLES` with its value."""

    title: str
    values: Mapping[str, Value]


def as_uri(figure: Figure) -> str:
    """The figure as SVG in a data URI; the same figure has the same bytes."""
    with matplotlib.rc_context({"svg.hashsalt": "mammo_ml", "font.size": 10}):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def leakage_chart(rows: Sequence[Row], label: str) -> str:
    """Claimed, leaky, by patient and knowing nothing, a group for each row, 0 to 1."""
    figure = Figure(figsize=(WIDTH_IN, 1.5 + 0.95 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        title = axes.text(0.0, place - 0.42, row.title, fontsize=9.5, fontweight="bold", va="bottom")
        title.set_in_layout(False)
        for name, value in row.values.items():
            colour, marker, offset, _ = STYLES[name]
            _marked(axes, value, place + offset, colour, marker)
    for colour, marker, _, name in STYLES.values():
        axes.plot([], [], marker, color=colour, label=name, markersize=6)
    axes.set_ylim(len(rows) - 0.45, -0.85)
    axes.set_xlim(0, 1)
    axes.set_yticks([])
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["left", "right", "top"]].set_visible(False)
    figure.legend(loc="outside upper left", fontsize=8.5, frameon=False, ncols=2)
    return as_uri(figure)


def _marked(axes: Axes, value: Value, height: float, colour: str, marker: str) -> None:
    if np.isfinite(value.lo) and np.isfinite(value.hi):
        axes.plot([value.lo, value.hi], [height, height], color=colour, linewidth=2)
    axes.plot(value.point, height, marker, color=colour, markersize=6)
    edge = value.hi if np.isfinite(value.hi) else value.point
    left = edge > 0.86
    edge = (value.lo if np.isfinite(value.lo) else value.point) if left else edge
    axes.annotate(
        f"{value.point:.3f}",
        (edge, height),
        textcoords="offset points",
        xytext=(-6 if left else 6, 0),
        ha="right" if left else "left",
        va="center",
        fontsize=8,
        color=colour,
    )


def forest_chart(names: Sequence[str], values: Sequence[Value], whole: Value) -> str:
    """Subgroups in rows with their intervals; the broken line is the figure of all together."""
    figure = Figure(figsize=(WIDTH_IN, 1.0 + 0.3 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(whole.point, color=GREY, linestyle="--", label=f"all together, {whole.point:.3f}")
    for row, value in enumerate(values):
        axes.plot([value.lo, value.hi], [row, row], color=BLUE, linewidth=2)
        axes.plot(value.point, row, "o", color=BLUE, markersize=5)
    axes.set_yticks(range(len(names)), names, fontsize=8.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", fontsize=8.5, frameon=False)
    return as_uri(figure)


def roc_chart(curve: tuple[Floats, Floats], grid: Floats, band: tuple[Floats, Floats], title: str) -> str:
    """ROC curve with the band of its sensitivities at the false positive rates `grid` (T,)."""
    figure, axes = _square(title, "1 - specificity", "sensitivity")
    axes.fill_between(grid, *band, step="post", color=BLUE, alpha=0.2, label="95 %, women resampled")
    axes.step(*curve, where="post", color=BLUE, linewidth=2, label="by patient")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="knows nothing")
    axes.legend(loc="lower right", fontsize=8.5, frameon=False)
    return as_uri(figure)


def froc_chart(rates: Floats, sensitivities: Floats, band: tuple[Floats, Floats], nothing: Floats, title: str) -> str:
    """FROC from 1/8 to 8 false positives per film, (T,), with its band; `nothing` (7,): random boxes at 1/8 … 8."""
    figure, axes = _square(title, "false positives per film", "lesions found")
    marks = 2.0 ** np.arange(-3, 4)
    axes.fill_between(rates, *band, step="post", color=BLUE, alpha=0.2, label="95 %, women resampled")
    axes.step(rates, sensitivities, where="post", color=BLUE, linewidth=2, label="by patient")
    axes.plot(marks, nothing, "X:", color=GREY, label="random boxes on the breast")
    axes.set_xscale("log", base=2)
    axes.set_xlim(1 / 8, 8)
    axes.set_xticks(marks, ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes.legend(loc="upper left", fontsize=8.5, frameon=False)
    return as_uri(figure)


def precision_recall_chart(recall: Floats, precision: Floats, band: tuple[Floats, Floats], title: str) -> str:
    """Precision over recall, (T,), with its band."""
    figure, axes = _square(title, "recall (lesions found)", "precision (boxes that are right)")
    axes.fill_between(recall, *band, step="pre", color=BLUE, alpha=0.2, label="95 %, women resampled")
    axes.step(recall, precision, where="pre", color=BLUE, linewidth=2, label="by patient")
    axes.legend(loc="upper right", fontsize=8.5, frameon=False)
    return as_uri(figure)


def reliability_chart(confidence: Floats, correct: Floats, bounds: tuple[Floats, Floats], counts: Floats) -> str:
    """Share correct over the probability of the predicted class, (B,) bins with intervals; areas are counts."""
    figure, axes = _square("Calibration of patches, by patient", "probability of the predicted class", "share correct")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfectly calibrated")
    for x, low, high in zip(confidence, *bounds, strict=True):
        axes.plot([x, x], [low, high], color=BLUE, linewidth=1.5)
    axes.scatter(confidence, correct, s=12 + counts, color=BLUE, alpha=0.85, label="bin (area: patches)")
    axes.legend(loc="upper left", fontsize=8.5, frameon=False)
    return as_uri(figure)


def trials_chart(folds: Sequence[int], trials: Sequence[Floats], label: str) -> str:
    """Figure of every trial of each fold; the first (defaults) is a square, the one that was taken a filled circle."""
    figure = Figure(figsize=(WIDTH_IN, 2.6), layout="constrained")
    axes = figure.subplots()
    for place, values in enumerate(trials):
        offsets = place + np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else np.array([float(place)])
        axes.plot(offsets, values, "o", color=GREY, markersize=5)
        axes.plot(offsets[0], values[0], "s", color=VERMILION, markersize=7, fillstyle="none")
        best = int(np.nanargmax(values))
        axes.plot(offsets[best], values[best], "o", color=BLUE, markersize=5)
    axes.plot([], [], "s", color=VERMILION, fillstyle="none", label="trial 0: the values of params.yaml")
    axes.plot([], [], "o", color=BLUE, label="taken")
    axes.plot([], [], "o", color=GREY, label="other trial")
    axes.set_xticks(range(len(folds)), [f"fold {fold}" for fold in folds])
    axes.set_ylabel(label, fontsize=9)
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside upper left", fontsize=8.5, frameon=False, ncols=2)
    return as_uri(figure)


def _square(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_IN, 4.3), layout="constrained")
    axes = figure.subplots()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.01)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    return figure, axes
