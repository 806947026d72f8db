"""The table and the picture of what transfers to what: ways of teaching down, sets across."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from mammo_ml.figures import BLUE, GREY, ORANGE
from mammo_ml.transfer import MINI_MIAS, SETS

SHOWN = ("froc_mean", "sensitivity_at_0_25_fp", "sensitivity_at_1_fp", "sensitivity_at_4_fp", "ap_50_any")
PRIMARY = "froc_mean"
TITLES = {MINI_MIAS: "mini-MIAS", "cbis_ddsm": "CBIS-DDSM", "cdd_cesm": "CDD-CESM"}
Transfers = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Figures by way of teaching, then by the set that was looked at."""


def transfer_table(metrics: Transfers) -> str:
    """Markdown table of `froc_mean` with its interval on each set, and the paired gain over the reference."""
    lines = [["taught by"], ["---"]]
    for dataset in SETS:
        lines[0] += [f"{TITLES[dataset]} [95 %]", "gain [95 %]"]
        lines[1] += ["---"] * 2
    nothing = next(iter(metrics.values()))
    lines.append(
        ["random boxes", *(cell for name in SETS for cell in (f"{nothing[name][f'{PRIMARY}_baseline']:.3f}", ""))]
    )
    for name, by_set in metrics.items():
        cells = [f"`{name}`"]
        for own in (by_set[dataset] for dataset in SETS):
            gain = _with_bounds(own, f"{PRIMARY}_gain", "+") if f"{PRIMARY}_gain" in own else "reference"
            cells += [_with_bounds(own, PRIMARY), gain]
        lines.append(cells)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _with_bounds(figures: Mapping[str, float], name: str, sign: str = "") -> str:
    point, low, high = (figures[f"{name}{end}"] for end in ("", "_lo", "_hi"))
    return f"{point:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def transfer_figure(metrics: Transfers, reference: str) -> Figure:
    """`froc_mean` of every way of teaching, a panel for each set; the line is the reference, the dots are seeds."""
    figure = Figure(figsize=(11, 1.4 + 0.42 * len(metrics)), layout="constrained")
    places = np.arange(len(metrics))[::-1]
    for axes, dataset in zip(figure.subplots(1, len(SETS), sharey=True), SETS, strict=True):
        for place, (name, by_set) in zip(places, metrics.items(), strict=True):
            own = by_set[dataset]
            colour = ORANGE if name == reference else BLUE
            axes.plot([own[f"{PRIMARY}_lo"], own[f"{PRIMARY}_hi"]], [place, place], color=colour, linewidth=3)
            axes.plot(own[PRIMARY], place, "o", color=colour, markersize=8)
            ends = [own[f"{PRIMARY}_seed_min"], own[f"{PRIMARY}_seed_max"]]
            axes.plot(ends, [place, place], "|", color="black", markersize=9)
        axes.axvline(metrics[reference][dataset][PRIMARY], color=ORANGE, linewidth=1, linestyle=":")
        axes.axvline(metrics[reference][dataset][f"{PRIMARY}_baseline"], color=GREY, linewidth=1, linestyle="--")
        axes.set_title(f"on {TITLES[dataset]}", fontsize=10)
        axes.set_yticks(places, list(metrics), fontsize=9)
        axes.set_xlim(0, 1)
        axes.grid(axis="x", alpha=0.3)
    figure.supxlabel("mean sensitivity of FROC; bar 95 %, ticks single seeds, dashed random boxes", fontsize=9)
    return figure
