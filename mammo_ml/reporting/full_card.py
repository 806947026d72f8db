"""The whole model card, stored with a version's files: the short card, data, every figure, subgroups, checklists."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from mammo_ml.datasets.catalog import rows
from mammo_ml.models.bundle import BundleConfig
from mammo_ml.reporting.checklists import checklist_tables
from mammo_ml.reporting.model_card import PHANTOM, SECTIONS, Figures

CARD = "model_card.md"
"""Beside the manifest of a registered version, which names its hash."""
TECHNIQUES: Mapping[str, str] = {
    "classifier": "deep learning: a convolutional network that classifies patches",
    "detector": "deep learning: a single-shot detector (SSD)",
    "locator": "deep learning: a classifier that chooses where a detector looks",
}
SOURCES: Mapping[str, str] = {
    "mini_mias": "mini-MIAS, digitised screen films (docs/data.md)",
    "phantom": "synthetic films, no women",
}
SUFFIXES = ("_lo", "_hi", "_baseline")


@dataclass(frozen=True)
class Made:
    """What a card tells beside the configuration and the figures of a bundle.

    Attributes:
        training_films: of the bundle, dataset, patient_id and step of each film.
        primary: name of the primary figure, as by_patient.auc_macro.
        leak_free: the leak audit found nothing.
        data_valid: the data validation passed.
        commit: of the code; empty where there is no git.
        subgroups: subgroups.csv of the evaluation, None where there is none.
    """

    training_films: pd.DataFrame
    primary: str
    leak_free: bool
    data_valid: bool
    commit: str = ""
    subgroups: pd.DataFrame | None = None


def full_card(name: str, config: BundleConfig, figures: Figures, made: Made) -> str:
    """Markdown card of a version of the registered model `name`, arguments else as `model_card.card`.

    What is not known is said to be open or not recorded; leaky figures are left out.
    """
    added = {
        "Data": _data(made),
        "All figures": _figures(figures),
        "Subgroups": _subgroups(made),
        "Checks": _checks(made),
        "Checklists": checklist_tables(_facts(config, figures, made)),
    }
    short = {title: text(config, figures) for title, text in SECTIONS.items()}
    limits = {"Limits": short.pop("Limits")}
    sections = short | {key: added[key] for key in ("Data", "All figures", "Subgroups")} | limits
    sections |= {key: added[key] for key in ("Checks", "Checklists")}
    head = [f"# Model card: {name}", *([PHANTOM] if config.phantom else [])]
    return "\n\n".join([*head, *(f"## {title}\n\n{text}" for title, text in sections.items())]) + "\n"


def _data(made: Made) -> str:
    lines = ["| learned from | step | films | women |", "| --- | --- | ---: | ---: |"]
    for (dataset, step), own in made.training_films.groupby(["dataset", "step"]):
        lines.append(f"| `{dataset}` | {step} | {len(own)} | {own['patient_id'].nunique()} |")
    return "\n".join(lines)


def _figures(figures: Figures) -> str:
    names = [name for name in figures if not name.endswith(SUFFIXES) and "leaky" not in name]
    if not names:
        return "None was recorded with this version."
    lines = ["| figure | value [95 %] | knowing nothing |", "| --- | ---: | ---: |"]
    for name in names:
        if ".n_" in name:
            lines.append(f"| `{name}` | {figures[name]:,.0f} | |")
            continue
        bounds = f" [{_text(figures[f'{name}_lo'])}, {_text(figures[f'{name}_hi'])}]" if f"{name}_lo" in figures else ""
        baseline = _text(figures[f"{name}_baseline"]) if f"{name}_baseline" in figures else ""
        lines.append(f"| `{name}` | {_text(figures[name])}{bounds} | {baseline} |")
    return "\n".join(lines)


def _subgroups(made: Made) -> str:
    if made.subgroups is None or made.subgroups.empty:
        return "Not recorded with this version."
    honest = made.subgroups[~made.subgroups["protocol"].str.contains("leaky")]
    lines = [
        "| subgroup | figure | women | films | lesions | value [95 %] |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows(honest):
        value = f"{_text(row.point)} [{_text(row.lo)}, {_text(row.hi)}]"
        counts = f"{row.n_women} | {row.n_films} | {row.n_lesions}"
        lines.append(f"| {row.subgroup}: {row.value} | `{row.protocol}.{row.figure}` | {counts} | {value} |")
    return "\n".join([*lines, "", "Small groups say little: read the interval, not the value."])


def _checks(made: Made) -> str:
    lines = [
        f"Leak audit: {'passed' if made.leak_free else '**FAILED**'}.",
        f"Data validation: {'passed' if made.data_valid else '**FAILED**'}.",
        f"Registered from commit {made.commit or 'unknown: no git'}.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _facts(config: BundleConfig, figures: Figures, made: Made) -> dict[str, str]:
    """What the checklists are filled with; a fact that is not known is left out."""
    own = made.training_films[made.training_films["step"] == "training"]
    facts = {
        "technique": TECHNIQUES[config.kind],
        "folds": config.folds_sha256[:12],
        "leak_free": _yes(made.leak_free),
        "data_valid": _yes(made.data_valid),
        "ensemble": "two models, one after the other" if str(config.kind) == "locator" else "none",
        "initialised": f"started from `{config.ancestry[0].name}`"
        if config.ancestry
        else "started from random weights",
        "trained": f"{len(own)} films of {own['patient_id'].nunique()} women",
    }
    value, low, high = (figures.get(f"{made.primary}{suffix}", math.nan) for suffix in ("", "_lo", "_hi"))
    judged = [(figures.get(f"{made.primary.partition('.')[0]}.n_{unit}"), unit) for unit in ("women", "films")]
    known = {
        "source": SOURCES.get(config.dataset),
        "commit": f"`{made.commit[:7]}`" if made.commit else None,
        "primary": None if math.isnan(value) else f"`{made.primary}` {value:.3f} [{_text(low)}, {_text(high)}]",
        "judged": ", ".join(f"{count:,.0f} {unit}" for count, unit in judged if count is not None) or None,
        "subgroups": None if made.subgroups is None or made.subgroups.empty else "Subgroups",
    }
    return facts | {key: text for key, text in known.items() if text is not None}


def _yes(flag: bool) -> str:
    return "yes" if flag else "NO"


def _text(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"
