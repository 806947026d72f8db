"""The card of a registered version: what it is for, what it was made from, what its figures mean, and its limits.

A card is a list of sections, each a function of the model's configuration and its figures; a longer one has more.
"""

import math
from collections.abc import Callable, Mapping

from mammo_ml.locator_bundle import THRESHOLD, LocatorConfig
from mammo_ml.models.bundle import BundleConfig
from mammo_ml.reporting.results_table import COUNTS, ROWS, Row

Figures = Mapping[str, float]
"""Numbers of metrics.json by protocol and name, as `by_patient.auc_macro`; NaN where one is undefined."""
USES: Mapping[str, str] = {
    "classifier": "Gives a film its probabilities of being normal, of showing a benign and a malignant lesion.",
    "locator": "Finds lesions on a film without being told that there is one: a classifier looks at every tile, the "
    "detector only where that finds it suspicious.",
    "detector": "Marks lesions on a film with boxes, each with its probabilities of being benign and malignant.",
}
NOT_FOR = (
    "For research only. Not a medical device, not for diagnosis, no advice about any person; a score is no probability "
    "that a given woman has cancer."
)
PHANTOM = (
    "**Made from synthetic films (phantoms).** It shows that the pipeline works; none of its figures says anything "
    "about real mammograms."
)
MEANING = (
    "Out-of-fold figures of the *procedure*: each woman was judged by a model that had seen no film of hers. Brackets: "
    "95 %, women resampled. *Knowing nothing*: what a model without any knowledge of the films scores. The registered "
    "weights were trained on every film that gave a patch or a cut and were never judged on one of them; what they "
    "answer about these films is no evidence, and comes back as `seen_in_training`."
)
LIMITS = (
    "Digitised films of one collection: nothing is known about digital mammograms, other scanners, other populations, "
    "or prevalences as in screening.",
    "The intervals hold for these trained models; another seed or another collection of women may differ by more.",
    "A film's scale must be known (`pixel_spacing_mm`): a wrong one gives wrong answers, not an error.",
)


LOCATOR_ROWS = (
    Row("detector", "films: AUC, normal against abnormal", "films_by_patient", "film_auc_normal_vs_abnormal"),
    Row("detector", "lesions lost against the detector everywhere", "films_by_patient", "sensitivity_lost"),
    Row("detector", "multiply-adds, detector everywhere over ours", "films_by_patient", "compute_saved_ratio"),
)


def card(config: BundleConfig, figures: Figures) -> str:
    """Markdown card of a version, short enough for the description of a version in MLflow.

    Args:
        config: of the registered bundle.
        figures: numbers of its metrics.json, flat, as `mammo_ml.tracking.flat_figures` gives them; headline figures
            that are not among them are left out.
    """
    return "\n\n".join(f"### {title}\n\n{text(config, figures)}" for title, text in SECTIONS.items()) + "\n"


def _intended_use(config: BundleConfig, _: Figures) -> str:
    return "\n\n".join([USES[config.kind], *([PHANTOM] if config.phantom else []), NOT_FOR])


def _made_from(config: BundleConfig, _: Figures) -> str:
    window = config.preprocessing
    millimetres = window.window_px * window.pixel_spacing_mm
    lines = [
        f"Data set `{config.dataset}`, folds `{config.folds_sha256[:12]}`; `training_films.csv` names every film.",
        f"Sees windows of {millimetres:g} mm ({window.window_px} px) as {window.input_px} px.",
        *(_parents(config) if isinstance(config, LocatorConfig) else []),
        *(_ancestors(config) or ["Started from random weights: no pre-training."]),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _parents(config: LocatorConfig) -> list[str]:
    parents = " and ".join(f"the {one.kind} with bundle `{one.bundle_sha256[:12]}`" for one in config.parents)
    threshold = config.thresholds[THRESHOLD]
    return [f"Put together from {parents}; searches tiles whose P(abnormal) is at least {threshold:g}."]


def _ancestors(config: BundleConfig) -> list[str]:
    return [
        f"{'Started from' if place == 0 else '… which started from'} `{one.name}` (weights "
        f"`{one.weights_sha256[:12]}`), trained on `{one.dataset}`: `{one.command}`."
        for place, one in enumerate(config.ancestry)
    ]


def _figures(config: BundleConfig, figures: Figures) -> str:
    # a locator is judged by what its detector is judged by on films, and by what it saves
    locator = isinstance(config, LocatorConfig)
    kind = "detector" if locator else config.kind
    known = [row for row in ROWS if row.model == kind] + [*(LOCATOR_ROWS if locator else ())]
    rows = [row for row in known if f"{row.protocol}.{row.figure}" in figures]
    if not rows:
        return "None of the headline figures was recorded with this version."
    lines = ["| figure | value [95 %] | knowing nothing |", "| --- | ---: | ---: |"]
    for row in rows:
        value, low, high, nothing = (
            _text(figures.get(f"{row.protocol}.{row.figure}{suffix}")) for suffix in ("", "_lo", "_hi", "_baseline")
        )
        lines.append(f"| {row.title} (`{row.protocol}.{row.figure}`) | {value} [{low}, {high}] | {nothing} |")
    judged = [(figures.get(f"{protocol}.{name}"), unit) for protocol, name, unit in COUNTS[kind]]
    counts = ", ".join(f"{count:,.0f} {unit}" for count, unit in judged if count is not None)
    return "\n".join([*lines, "", MEANING, *(["", f"Judged: {counts}."] if counts else [])])


def _text(value: float | None) -> str:
    if value is None:
        return "not recorded"
    return "undefined" if math.isnan(value) else f"{value:.3f}"


def _limits(_: BundleConfig, __: Figures) -> str:
    return "\n".join(f"- {limit}" for limit in LIMITS)


SECTIONS: Mapping[str, Callable[[BundleConfig, Figures], str]] = {
    "Intended use": _intended_use,
    "Made from": _made_from,
    "Figures": _figures,
    "Limits": _limits,
}
