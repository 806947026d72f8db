"""What is told of an external validation: the table on the terminal, metrics.json, a section of the model card."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from mammo_ml.evaluation import Figures
from mammo_ml.external.validation import BOUNDS, ExternalFigures

RATE = re.compile(r"at_[0-9_]+_fp")
BASELINE = "_baseline"
NOTHING_YET = "None yet: `mammo-ml validate-external MODEL DATASET` makes one."
CARD_FIGURES = {
    "detector": (
        "froc_mean", "sensitivity_at_0_5_fp", "sensitivity_at_1_fp", "sensitivity_at_2_fp", "ap_50_any",
        "sensitivity_at_internal_threshold", "fp_per_film_at_internal_threshold",
    ),
    "classifier": (
        "film_auc_normal_vs_abnormal", "film_auc_macro", "film_auc_benign_vs_malignant", "auc_benign_vs_malignant",
        "film_sensitivity_at_internal_threshold", "film_specificity_at_internal_threshold",
    ),
}  # fmt: skip
"""Those of a card, by kind; a locator's are a detector's."""


def names_of(figures: Mapping[str, float]) -> list[str]:
    """Names of the figures that stand there, without bounds, counts and what is undefined."""
    return [
        name for name, value in figures.items() if not name.endswith(BOUNDS) and name[:2] != "n_" and value == value
    ]


def comparison_table(found: ExternalFigures) -> pd.DataFrame:
    """Table for a reader: figure, internal (out-of-fold), the same on lesion films where that is told, and external.

    Last, what one who knows nothing reaches there: random boxes on the breasts, by which large lesions are hit; any
    constant answer for a classifier.
    """
    columns = _columns(found.internal, found.lesion_films, found.external)
    rows = [(name, *(value_text(figures, name) for figures in columns.values())) for name in names_of(found.external)]
    return pd.DataFrame(rows, columns=["figure", *columns])


def _columns(internal: Figures, lesion_films: Figures, external: Figures) -> dict[str, Figures]:
    nothing = {name.removesuffix(BASELINE): external[name] for name in external if name.endswith(BASELINE)}
    columns = {"internal (out-of-fold)": internal, "internal, lesion films": lesion_films, "external": external}
    return {name: figures for name, figures in (columns | {"external, knowing nothing": nothing}).items() if figures}


def value_text(figures: Mapping[str, float], name: str) -> str:
    """A figure with its interval, as `0.516 [0.434, 0.598]`; a hyphen where there is none."""
    value, low, high = (figures.get(f"{name}{suffix}", math.nan) for suffix in ("", "_lo", "_hi"))
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" + ("" if math.isnan(low) or math.isnan(high) else f" [{low:.3f}, {high:.3f}]")


def absent_lines(absent: Mapping[str, str]) -> list[str]:
    """One line for each reason, with the figures that do not exist for it; those of every rate are one."""
    by_reason: dict[str, dict[str, None]] = {}
    for name, why in absent.items():
        by_reason.setdefault(why, {})[RATE.sub("at_*_fp", name)] = None
    return [f"{', '.join(names)}: {why}" for why, names in by_reason.items()]


def metrics_json(found: ExternalFigures, about: Mapping[str, Any]) -> str:
    """metrics.json: `about` (model, set, date …), columns of figures, what is absent and why, the notes."""
    columns = {"external": found.external, "internal": found.internal, "internal_lesion_films": found.lesion_films}
    content = {
        **about,
        **{name: _clean(figures) for name, figures in columns.items()},
        "absent": dict(found.absent),
        "notes": list(found.notes),
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _clean(figures: Figures) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else round(float(value), 6) for name, value in figures.items()}


def card_section(records: Iterable[Mapping[str, Any]], faults: Iterable[str] = ()) -> str:
    """Markdown section of a model card: for each external set its figures, and what could not be computed.

    Args:
        records: contents of metrics.json, one of each set.
        faults: what is wrong with records that are not shown, a sentence each.
    """
    parts = [_set_of_card(record) for record in records]
    parts += [f"**Not shown:** {fault}." for fault in faults]
    return "\n\n".join(["## External validation", *(parts or [NOTHING_YET])]) + "\n"


def _set_of_card(record: Mapping[str, Any]) -> str:
    external = _figures(record["external"])
    columns = _columns(_figures(record["internal"]), _figures(record["internal_lesion_films"]), external)
    counts = ", ".join(f"{external[f'n_{what}']:,.0f} {what}" for what in ("women", "films", "lesions"))
    kind = "classifier" if record["kind"] == "classifier" else "detector"
    names = [name for name in CARD_FIGURES[kind] if not math.isnan(external.get(name, math.nan))]
    lines = [f"| figure | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    lines += [
        f"| `{name}` | {' | '.join(value_text(figures, name) for figures in columns.values())} |" for name in names
    ]
    notes = [f"- {note}" for note in record["notes"]]
    notes += [f"- Not computed: {line}." for line in absent_lines(record["absent"])]
    return "\n".join([f"### {record['set']} ({record['date']})", "", f"Judged: {counts}.", "", *lines, "", *notes])


def _figures(column: Mapping[str, float | None]) -> Figures:
    return {name: math.nan if value is None else float(value) for name, value in column.items()}
