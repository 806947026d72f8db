"""One self-contained HTML file per pass of the pipeline: `mammo-ml report`.

It reads what the stages left behind and nothing else, fetches nothing, and never fails for something that is missing:
that is named in it.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from mammo_ml import __version__, tracking
from mammo_ml.errors import MammoError
from mammo_ml.reporting import report_record as record
from mammo_ml.reporting import report_sections as parts
from mammo_ml.reporting.blocks import Block, Chart, Section, Text, Value
from mammo_ml.reporting.gallery import failures
from mammo_ml.reporting.leakage import lab, leakage, value_of
from mammo_ml.reporting.looked_at import looked_at
from mammo_ml.reporting.outputs import Outputs
from mammo_ml.reporting.results_table import MODELS

REPORT = Path("build/report.html")
"""In the workspace: a folder that neither git nor DVC looks at."""
TEMPLATES = Path(__file__).parent / "templates"
Maker = Callable[[Outputs], list[Block]]
READING = (
    "Brackets are 95 % intervals: women are drawn with replacement, all films of a woman together, given these trained "
    "models. By patient: each woman was judged by a model that had seen no film of hers. Leaky: one random split of "
    "augmented items, as the literature does it; such a figure can never promote a model. Knows nothing: the score of "
    "a model that never looked at a film. Whether one model is better than another is read from their difference on "
    "the same women (`mammo-ml compare`), not from whether two intervals touch."
)
PARTS: Sequence[tuple[str, str, Sequence[Maker]]] = (
    ("leakage", "What was claimed, and what is left by patient", (leakage, lab)),
    (
        "protocols",
        "Protocols side by side",
        (parts.classifier_protocols, parts.detector_protocols, parts.locator_protocols),
    ),
    ("curves", "Curves", (parts.roc_curves, parts.froc_curve, parts.precision_recall_curve)),
    ("calibration", "Calibration", (parts.calibration,)),
    ("subgroups", "Subgroups", tuple(partial(parts.subgroups, model=model) for model in MODELS)),
    ("failures", "Where the detector fails", (failures,)),
    ("looked_at", "What the classifier looks at", (looked_at,)),
    ("tuning", "What tuning tried", tuple(partial(record.tuning, model=model) for model in MODELS)),
    ("data", "Data and hashes", (record.data, record.hashes, record.parameters)),
    (
        "validation",
        "Validation",
        tuple(partial(record.validation, stage=stage) for stage in ("validate_tables", "validate_cuts")),
    ),
    ("time", "Time per stage", (record.times,)),
)
"""Anchor, heading and makers of each section, in the order of the report."""
PRIMARY = (
    (
        "classifier",
        "by_patient.auc_macro",
        "AUC of patches, mean of three classes",
        "patches_at_random_leaky.auc_macro",
    ),
    ("detector", "films_by_patient.froc_mean", "lesions found, mean of 1/8 to 8 false positives per film", ""),
)
"""Model, its primary figure, what that is, and its leaky counterpart: the figures at the top."""


@dataclasses.dataclass(frozen=True)
class KeyFigure:
    """A figure at the top, with what it is compared with."""

    title: str
    value: Value
    beside: str


def write_report(workspace: Path, out: Path | None = None, day: str = "") -> Path:
    """Write the report of a workspace's last pass.

    Args:
        workspace: folder with params.yaml, dvc.lock, reports and data.
        out: the file; `REPORT` in the workspace by default.
        day: written at the end.

    Returns:
        The file.

    Raises:
        MammoError: when the workspace is no folder with params.yaml.
    """
    if not (workspace / "params.yaml").is_file():
        raise MammoError(f"{workspace} has no params.yaml: name the project's folder, or build/phantom (--workspace).")
    path = workspace / REPORT if out is None else out
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report_html(workspace, day), encoding="utf-8")
    return path


def record_report(workspace: Path, path: Path) -> None:
    """Record a report in MLflow, with the pass it is about.

    Raises:
        MlflowException: when the store fails.
    """
    tracking.log_to_pass(workspace, Outputs(workspace).dataset, [path])


def report_of_pass(workspace: Path, day: str) -> str:
    """Write the report of a workspace and record it in MLflow; returns the lines to print and raises nothing."""
    try:
        path = write_report(workspace, day=day)
    # the pipeline is finished by now: no fault of its report may make it look failed
    except Exception as error:
        return f"The report could not be written: {type(error).__name__}: {error}"
    line = f"Report: {path.resolve().as_uri()}"
    try:
        record_report(workspace, path)
    except tracking.store_errors() as error:
        reason = tracking.without_password(" ".join(str(error).split())[:400])
        return f"MLflow: the report is not recorded: {type(error).__name__}: {reason}\n{line}"
    return line


def report_html(workspace: Path, day: str = "") -> str:
    """The report as one HTML text; arguments as `write_report`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    outputs = Outputs(workspace.resolve())
    outputs.check_order()
    sections = [Section(name, title, _blocks(outputs, makers)) for name, title, makers in PARTS]
    key = [one for one in map(partial(_key_figure, outputs), PRIMARY) if one is not None]
    sections.append(Section("missing", "What is missing, and how to read this", _faults(outputs)))
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    real = outputs.dataset != "phantom"
    closing = f"mammo-ml {__version__}. " + (f"Written {day}. " if day else "")
    return environment.get_template("report.html.j2").render(
        title="mammo-ml: report of a pass" + ("" if real else " on phantom films"),
        subtitle=f"Data set {outputs.dataset}, {_folds(outputs)}",
        phantom=not real,
        faults=outputs.faults,
        key=key,
        sections=[_grouped(section) for section in sections],
        css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        closing=closing,
    )


def _blocks(outputs: Outputs, makers: Iterable[Maker]) -> list[Block]:
    """Blocks of a section; where a part cannot be made, words that say why."""
    blocks: list[Block] = []
    for maker in makers:
        try:
            blocks += maker(outputs)
        except MammoError as error:
            blocks.append(Text(f"Not shown: {error}", "missing"))
        # a damaged table may fail anywhere in pandas or numpy; the rest of the report must come out all the same
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            outputs.note(f"a part could not be made: {told}")
            blocks.append(Text(f"Not shown, for its data are not what they should be. {told}", "missing"))
    return blocks


def _faults(outputs: Outputs) -> list[Block]:
    found: list[Block] = [Text(fault, "missing") for fault in outputs.faults]
    return [*(found or [Text("Nothing is missing, and nothing that was read differs from dvc.lock.")]), Text(READING)]


def _key_figure(outputs: Outputs, primary: tuple[str, str, str, str]) -> KeyFigure | None:
    model, figure, title, leaky = primary
    try:
        metrics = outputs.metrics(f"evaluate_{model}")
    except MammoError:
        return None
    value, nothing = (value_of(metrics, *name.split(".")) for name in (figure, f"{figure}_baseline"))
    other = value_of(metrics, *leaky.split(".")) if leaky else None
    if value is None:
        return None
    beside = [f"knows nothing: {nothing}"] if nothing else []
    beside += [f"leaky protocol: {other} {other.interval}"] if other else []
    return KeyFigure(f"{model.capitalize()}: {title}, by patient", value, "; ".join(beside))


def _folds(outputs: Outputs) -> str:
    folds = outputs.parameters.get("folds")
    split = outputs.parameters.get("split")
    kind = split.get("folds", "") if isinstance(split, dict) else ""
    return f"{len(folds) if isinstance(folds, list) else 'unknown'} {kind} folds".replace("  ", " ")


def _grouped(section: Section) -> dict[str, Any]:
    """A section for the template: charts that follow one another stand side by side."""
    groups: list[list[dict[str, Any]]] = []
    for is_chart, blocks in groupby(section.blocks, key=lambda block: isinstance(block, Chart)):
        shown = [{"kind_of": type(block).__name__} | vars(block) for block in blocks]
        groups += [shown] if is_chart else [[block] for block in shown]
    return {"name": section.name, "title": section.title, "groups": groups}
