"""The cascade's curve as a picture: what is lost over the threshold, and what is saved over what is lost."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mammo_ml.figures import BLUE, GREEN, GREY, ORANGE, VERMILION

LINES = {
    "compute_saved_ratio": ("multiply-adds", BLUE, "-"),
    "seconds_saved_ratio": ("seconds", ORANGE, "-"),
    "compute_shared_saved_ratio": ("multiply-adds, had the detector the classifier's trunk", GREEN, "--"),
    "compute_vgg16_saved_ratio": ("multiply-adds, had the detector VGG16's", VERMILION, "--"),
}
TICKS = (0.2, 0.5, 1, 2, 5, 10, 20, 50)
AIM = (0.02, 5.0)
"""Sensitivity lost at most, and how many times less computing, that were aimed at."""


def cascade_figure(curve: pd.DataFrame, chosen: Mapping[str, float], title: str) -> Figure:
    """Two plots of a curve's rows, and the operating point `chosen` of which the figures speak.

    Args:
        curve: threshold, sensitivity_lost with _lo and _hi, searched_share, and the ratios of `LINES`.
        chosen: sensitivity_lost and the ratios where the inner parts put the threshold.
        title: of the picture.
    """
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _over_threshold(left, curve)
    for column, (name, colour, style) in LINES.items():
        right.plot(curve["sensitivity_lost"], curve[column], color=colour, linestyle=style, label=name)
    for column in ("compute_saved_ratio", "seconds_saved_ratio"):
        right.plot(chosen["sensitivity_lost"], chosen[column], "o", color=LINES[column][1])
    right.plot([], [], "o", color=GREY, label="threshold of the inner parts")
    right.plot(*AIM, "*", color="black", markersize=10, label="aim: 5 times less, 0.02 lost")
    right.axhline(1, color=GREY, linestyle=":", label="as much as the detector everywhere")
    right.set_yscale("log")
    right.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
    right.set_yticks([], minor=True)
    right.set_xlabel("sensitivity lost at 1 false positive per film")
    right.set_ylabel("times cheaper than the detector everywhere")
    right.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    right.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    return figure


def _over_threshold(axes: Axes, curve: pd.DataFrame) -> None:
    axes.plot(curve["threshold"], curve["searched_share"], color=GREY, linestyle="--", label="tiles searched")
    axes.step(curve["threshold"], curve["sensitivity_lost"], where="post", color=BLUE, label="sensitivity lost")
    axes.fill_between(
        curve["threshold"],
        curve["sensitivity_lost_lo"],
        curve["sensitivity_lost_hi"],
        step="post",
        color=BLUE,
        alpha=0.2,
        label="95 %, women resampled",
    )
    axes.axhline(AIM[0], color=GREY, linestyle=":")
    axes.set_xlim(0, 1)
    axes.set_xlabel("threshold on the classifier's P(abnormal)")
    axes.set_ylabel("share of the tiles, of the lesions")
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    axes.grid(alpha=0.3)
