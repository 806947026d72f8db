"""What the leakage lab shows: the figures of every protocol, one chart, one table."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mammo_ml.evaluation import EvaluateParameters, Figures, evaluate_detections, evaluate_patches, median_box
from mammo_ml.figures import BLUE, GREY, ORANGE, VERMILION
from mammo_ml.leaky_protocols import EXPOSURES, FIGURE_OF, PROTOCOLS, Protocol, Task

NOT_REACHED = "not reached in this budget"
TITLES: dict[Task, str] = {
    "patches": "Classifier, normal / benign / malignant patches: accuracy",
    "crops": "Classifier, benign / malignant crops: accuracy",
    "cuts": "Detector, lesion-centred cuts: mAP at IoU 0.5",
}
LabFigures = dict[str, dict[str, Figures]]
"""By model and protocol."""


def protocol_figures(
    protocol: Protocol,
    tested: pd.DataFrame,
    predictions: pd.DataFrame,
    truth: pd.DataFrame | None,
    input_px: int,
    parameters: EvaluateParameters,
) -> Figures:
    """Figures of one protocol with bounds and baseline, its claim, and the share of test items that were in training.

    Args:
        protocol: which.
        tested: item, film_id, patient_id, label, and whether pixels, film, lesion, woman were in training.
        predictions: item and class probabilities, or item, x1 … y2 (picture px), p_benign, p_malignant.
        truth: a detector's lesions: item, severity, x1 … y2 (picture px).
        input_px: edge of a picture.
        parameters: number of resamples and seed.
    """
    if truth is None:
        figures = evaluate_patches(tested.merge(predictions, on="item", validate="1:1"), parameters)
    else:
        items = tested.assign(x1=0.0, y1=0.0, x2=float(input_px), y2=float(input_px))
        # What knows nothing sees no circles: hits are no figure of cuts.
        nothing = median_box(truth, items)
        figures = evaluate_detections(predictions, nothing, truth, items, "cuts", parameters)[0]
    shares = {f"{kind}_in_training": float(tested[kind].dropna().astype(float).mean()) for kind in EXPOSURES}
    claim = {} if protocol.claimed is None else {"claimed": protocol.claimed}
    return figures | shares | claim


def write_lab_metrics(metrics: LabFigures, path: Path) -> None:
    """Write metrics.json: nested by model and protocol, numbers only, undefined ones null."""
    clean = {
        model: {
            protocol: {name: None if math.isnan(value) else round(float(value), 6) for name, value in figures.items()}
            for protocol, figures in protocols.items()
        }
        for model, protocols in metrics.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(clean, indent=1) + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------------------------------- chart, table


@dataclass(frozen=True)
class Row:
    """One protocol on the chart: its figure with bounds, what knows nothing, the claim, and a word on the claim."""

    protocol: Protocol
    figure: float
    low: float
    high: float
    baseline: float
    note: str


def chart_rows(metrics: Mapping[str, Mapping[str, Figures]]) -> dict[Task, list[Row]]:
    """Rows by task, the leaky protocols first, by patient last; a claim above the upper bound is not reached.

    Protocols that have no figures are left out.
    """
    rows: dict[Task, list[Row]] = {}
    for protocol in sorted(PROTOCOLS.values(), key=lambda one: one.can_be_promoted):
        own = metrics.get(protocol.model, {}).get(protocol.name)
        if own is None:
            continue
        name = FIGURE_OF[protocol.task]
        value, low, high, baseline = (own[key] for key in (name, f"{name}_lo", f"{name}_hi", f"{name}_baseline"))
        reached = protocol.claimed is None or high >= protocol.claimed
        rows.setdefault(protocol.task, []).append(
            Row(protocol, value, low, high, baseline, "" if reached else NOT_REACHED)
        )
    return {task: rows[task] for task in TITLES if task in rows}


def leakage_figure(rows: Mapping[Task, list[Row]]) -> Figure:
    """One panel for each task: claimed, reproduced under that protocol, by patient, knows nothing."""
    figure = Figure(figsize=(8, 1.1 + sum(0.55 + 0.62 * len(own) for own in rows.values())), layout="constrained")
    panels = figure.subplots(len(rows), squeeze=False, height_ratios=[len(own) for own in rows.values()])[:, 0]
    for axes, (task, own) in zip(panels, rows.items(), strict=True):
        _draw_panel(axes, task, own)
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), fontsize=9, frameon=False
    )
    return figure


def _draw_panel(axes: Axes, task: Task, rows: list[Row]) -> None:
    for place, row in enumerate(rows):
        honest = row.protocol.can_be_promoted
        colour, marker = (BLUE, "o") if honest else (ORANGE, "s")
        name = "by patient [95 %]" if honest else "reproduced under the protocol [95 %]"
        axes.plot([row.low, row.high], [place, place], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot(row.figure, place, marker, color=colour, markersize=8, label=name, linestyle="none")
        axes.plot(row.baseline, place, "|", color=GREY, markersize=18, markeredgewidth=2.5, label="knows nothing")
        text = f"{row.figure:.2f}"
        if row.protocol.claimed is not None:
            axes.plot(
                row.protocol.claimed, place, "D", color=VERMILION, markersize=8, label="claimed", mfc="none", mew=2
            )
            text += f", {row.protocol.source} claimed {row.protocol.claimed:.2f}"
            text += f": {row.note}" if row.note else ""
        axes.text(0.0, place - 0.3, text, fontsize=8, va="center", color="#333333")
    axes.set_yticks(range(len(rows)), [row.protocol.name for row in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.set_xlim(-0.02, 1.02)
    axes.set_title(TITLES[task], fontsize=10, loc="left")
    axes.grid(axis="x", alpha=0.3)


def leakage_table(metrics: Mapping[str, Mapping[str, Figures]]) -> str:
    """Markdown table: claimed, reproduced and knowing nothing, and the share of test items that were in training."""
    head = ["protocol", "figure", "claimed", "here [95 %]", "knows nothing", "women / items tested"]
    lines = [head + [f"{kind} seen" for kind in EXPOSURES]]
    for task, rows in chart_rows(metrics).items():
        for row in rows:
            own = metrics[row.protocol.model][row.protocol.name]
            claimed = "" if row.protocol.claimed is None else f"{row.protocol.claimed:.3f} ({row.protocol.source})"
            here = f"{row.figure:.3f} [{row.low:.3f}, {row.high:.3f}]" + (f", {row.note}" if row.note else "")
            n_items = own["n_cuts" if task == "cuts" else "n_patches"]
            counts = f"{own['n_women']:.0f} / {n_items:.0f}"
            shares = [f"{own[f'{kind}_in_training']:.0%}" for kind in EXPOSURES]
            figure = FIGURE_OF[task]
            lines.append([f"`{row.protocol.name}`", figure, claimed, here, f"{row.baseline:.3f}", counts, *shares])
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
