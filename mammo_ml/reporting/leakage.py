"""The chart against belief in 0.99: what was claimed, what a leaky protocol gives here, and what is left by patient."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mammo_ml.reporting.blocks import Block, Cell, Chart, Table, Text, Value
from mammo_ml.reporting.charts import Row, leakage_chart
from mammo_ml.reporting.outputs import Metrics, NotHereError, Outputs, without_null
from mammo_ml.reporting.results_table import MODELS, Model

HOW_TO_READ = (
    "Where films of one woman, or copies of one lesion, are in training and test, a network is rewarded for knowing "
    "them again. Beside each claim stands what our network scores here under such a protocol, and what is left when no "
    "woman is on both sides. Bars: 95 %, women resampled. Knows nothing: a model that never looked at a film."
)
OF_LAB = (
    "The leakage lab: the same network and the same number of gradient steps in every row, only the protocol differs. "
    "It is a study of its own, run apart from this pass."
)
NOT_REACHED = "not reached in this budget"
WORDS = {"claimed": "claimed", "leaky": "leaky protocol here", "honest": "by patient", "nothing": "knows nothing"}


@dataclass(frozen=True)
class Claim:
    """A figure that was reported for mini-MIAS, and where its counterparts stand in metrics.json (protocol, figure)."""

    model: Model
    title: str
    by: str
    value: float
    leaky: tuple[str, str]
    honest: tuple[str, str]


CLAIMS = (
    Claim("classifier", "classifier: AUC of patches", "Ting, Tan and Sim 2019", 0.901,
          ("patches_at_random_leaky", "auc_macro"), ("by_patient", "auc_macro")),
    Claim("classifier", "classifier: accuracy of patches", "slides on CNNI-BCC", 0.7325,
          ("patches_at_random_leaky", "accuracy"), ("by_patient", "accuracy")),
    Claim("detector", "detector: mAP 50 of test cuts", "poster on SSD", 0.803,
          ("cuts_at_random_leaky", "map_50"), ("cuts_by_patient", "map_50")),
    Claim("detector", "detector: mAP 50, training cuts too", "poster on SSD", 0.902,
          ("cuts_at_random_leaky", "map_50_all_sets"), ("cuts_by_patient", "map_50")),
)  # fmt: skip
"""None of them says that the women of its test items were kept out of training."""


def value_of(metrics: Metrics, protocol: str, figure: str) -> Value | None:
    """A figure of metrics.json with its interval; None where it is not there."""
    figures = metrics.get(protocol, {})
    if figure not in figures:
        return None
    return Value(figures[figure], figures.get(f"{figure}_lo", math.nan), figures.get(f"{figure}_hi", math.nan))


def leakage(outputs: Outputs) -> list[Block]:
    """Chart and table of the claims.

    Raises:
        NotHereError: when neither model was evaluated.
    """
    found: dict[str, Metrics] = {}
    for model in MODELS:
        if outputs.has(f"reports/evaluate_{model}/metrics.json"):
            found[model] = outputs.metrics(f"evaluate_{model}")
    # nobody claimed anything about phantoms
    phantom = outputs.dataset == "phantom"
    claims = [dataclasses.replace(one, value=math.nan, by="") if phantom else one for one in CLAIMS]
    rows = [(claim, _values(claim, found[claim.model])) for claim in claims if claim.model in found]
    if not rows:
        raise NotHereError("Neither evaluation is here: `dvc repro evaluate_classifier evaluate_detector`.")
    return [Text(HOW_TO_READ), *_shown(rows)]


def lab(outputs: Outputs) -> list[Block]:
    """Chart and tables of the leakage lab, where that study was run; nothing elsewhere."""
    name = "reports/studies/leakage_lab/metrics.json"
    if not outputs.has(name):
        return []
    from mammo_ml.leaky_protocols import EXPOSURES, FIGURE_OF, PROTOCOLS, honest

    read = json.loads(outputs.path(name).read_text(encoding="utf-8"))
    metrics: dict[str, Metrics] = {model: without_null(protocols) for model, protocols in read.items()}
    rows: list[tuple[Claim, Mapping[str, Value]]] = []
    seen: list[list[Cell]] = []
    for protocol in PROTOCOLS.values():
        own = metrics.get(protocol.model, {})
        if protocol.name not in own:
            continue
        seen.append([protocol.name, *(_share(own[protocol.name].get(f"{kind}_in_training")) for kind in EXPOSURES)])
        if not protocol.can_be_promoted:
            figure, by_patient = FIGURE_OF[protocol.task], honest(protocol).name
            claimed = math.nan if protocol.claimed is None else protocol.claimed
            title = f"{protocol.name}, {figure}"
            claim = Claim(
                protocol.model, title, protocol.source, claimed, (protocol.name, figure), (by_patient, figure)
            )
            rows.append((claim, _values(claim, own)))
    leaks = [[one.name, one.leaks] for one in PROTOCOLS.values() if one.leaks]
    return [
        Text(OF_LAB),
        *_shown(rows),
        Table(
            "Share of test items whose picture, film, lesion or woman was in training", ["protocol", *EXPOSURES], seen
        ),
        Table("What leaks", ["protocol", "in one sentence"], leaks),
    ]


def _share(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.0%}"


def _shown(rows: Sequence[tuple[Claim, Mapping[str, Value]]]) -> list[Block]:
    chart = leakage_chart([Row(_name(claim), values) for claim, values in rows], "figure (0 to 1, higher is better)")
    alt = "Leakage chart. " + " ".join(_words(claim, values) for claim, values in rows)
    head = ["figure", "claimed", "leaky protocol here", "by patient", "knows nothing"]
    return [Chart(chart, alt), Table("The same in numbers", head, [_cells(claim, values) for claim, values in rows])]


def _values(claim: Claim, metrics: Metrics) -> Mapping[str, Value]:
    values = {
        "claimed": Value(claim.value),
        "leaky": value_of(metrics, *claim.leaky),
        "honest": value_of(metrics, *claim.honest),
        "nothing": value_of(metrics, claim.honest[0], f"{claim.honest[1]}_baseline"),
    }
    return {name: value for name, value in values.items() if value is not None and not math.isnan(value.point)}


def _words(claim: Claim, values: Mapping[str, Value]) -> str:
    told = ", ".join(f"{WORDS[name]} {value} {value.interval}".strip() for name, value in values.items())
    return f"{_name(claim)}: {told}."


def _name(claim: Claim) -> str:
    return claim.title + (f" ({claim.by})" if claim.by else "")


def _cells(claim: Claim, values: Mapping[str, Value]) -> list[Cell]:
    shown = dict(values)
    if "claimed" in shown:
        shown["claimed"] = dataclasses.replace(shown["claimed"], remark=claim.by)
    if {"leaky", "claimed"} <= shown.keys() and not _reached(shown["leaky"], claim.value):
        shown["leaky"] = dataclasses.replace(shown["leaky"], remark=NOT_REACHED)
    return [claim.title, *(shown.get(name, "-") for name in WORDS)]


def _reached(value: Value, claimed: float) -> bool:
    return max(value.point, value.point if math.isnan(value.hi) else value.hi) >= claimed
