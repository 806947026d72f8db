"""What a pass did, as the report tells it: what tuning tried, data and hashes, what was validated, how long it took."""

import json
from collections.abc import Hashable

import pandas as pd

from mammo_ml import tracking
from mammo_ml.datasets.catalog import LABELS
from mammo_ml.recipe import OF_TRIALS
from mammo_ml.reporting import charts
from mammo_ml.reporting.blocks import Block, Cell, Chart, Table, Text, number
from mammo_ml.reporting.outputs import Outputs
from mammo_ml.reporting.results_table import Model

TUNED_FOR = {"classifier": "AUC, inner part", "detector": "lesions found, inner part"}


OF_DATA = ("data/ingest", "data/catalog", "data/split", "data/finalize")


def tuning(outputs: Outputs, model: Model) -> list[Block]:
    """What tuning tried in every fold, and which trial was taken."""
    folder = f"data/tune_{model}"
    folds = sorted(
        int(path.parent.name.removeprefix("fold_")) for path in outputs.path(folder).glob("fold_*/trials.csv")
    )
    if not folds:
        return [Text(f"{folder} holds no trials.csv.", "missing")]
    trials = {fold: outputs.table(f"{folder}/fold_{fold}/trials.csv") for fold in folds}
    rows: list[list[Cell]] = []
    every: list[list[Cell]] = []
    kept = 0
    for fold, table in trials.items():
        values, taken = table["value"].to_numpy(), int(table["value"].argmax())
        tried = [", ".join(f"{name} {_short(value)}" for name, value in row.items()) for row in _tried(table)]
        gain = f"{values[taken] - values[0]:+.3f}"
        rows.append([f"fold {fold}", f"{len(table)}", number(values[0]), number(values[taken]), gain, tried[taken]])
        every += [[f"fold {fold}, trial {n}", number(values[n]), tried[n]] for n in range(len(table))]
        kept += taken == 0
    told = f"{model.capitalize()}: {kept} of {len(folds)} folds kept trial 0, the values of params.yaml."
    source = charts.trials_chart(folds, [table["value"].to_numpy() for table in trials.values()], TUNED_FOR[model])
    head = ["fold", "trials", "trial 0", "best", "gain", "values taken"]
    return [
        Chart(source, f"{told} " + " ".join(f"{row[0]}: from {row[2]} to {row[3]}." for row in rows), told),
        Table(f"{model.capitalize()}: trials, judged on women of the inner part", head, rows),
        Table(f"{model.capitalize()}: every trial", ["trial", "figure", "values"], every, folded=True),
    ]


def _tried(table: pd.DataFrame) -> list[dict[Hashable, float | str]]:
    return table.drop(columns=list(OF_TRIALS), errors="ignore").to_dict("records")


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


# ----------------------------------------------------------------------------------------------------- data, validation


def data(outputs: Outputs) -> list[Block]:
    """Films, women and lesions, and the hashes of what every stage wrote."""
    films, lesions = (outputs.table(f"data/catalog/{name}.csv") for name in ("films", "lesions"))
    located = int(lesions["has_location"].sum())
    counts: list[list[Cell]] = [["films", f"{len(films)}"], ["women", f"{films['patient_id'].nunique()}"]]
    counts += [[f"films labelled {label}", f"{int((films['label'] == label).sum())}"] for label in LABELS]
    counts.append(["lesions", f"{len(lesions)}, {located} of them located"])
    return [Table(f"Data set {outputs.dataset}", ["what", "count"], counts)]


def hashes(outputs: Outputs) -> list[Block]:
    """md5 of every output as dvc.lock has it, and the commit and parameters of the pass."""
    a_pass = tracking.current_pass(outputs.workspace, outputs.dataset)
    rows: list[list[Cell]] = [
        ["commit", a_pass.commit + (" (files of it were changed)" if a_pass.dirty else "")],
        ["pass in MLflow", a_pass.name],
    ]
    made = [(path, entry.label, md5) for entry, found in outputs.entries for path, md5 in found.items()]
    if not made:
        outputs.note("dvc.lock is not here or holds no finished stage")
        return [Table("The pass", ["what", "value"], rows), Text("dvc.lock holds no finished stage.", "missing")]
    rows += [[path, md5] for path, _, md5 in made if path.startswith(OF_DATA)]
    return [
        Table("The pass, and the md5 of its data and models in dvc.lock", ["what", "value"], rows),
        Table(f"Every output: {len(made)}", ["output", "stage", "md5"], made, folded=True),
    ]


def validation(outputs: Outputs, stage: str) -> list[Block]:
    """What a validating stage found; the pages with every expectation are named."""
    metrics = outputs.metrics(stage)
    found = metrics.get("validation", {})
    if "expectations_evaluated" not in found:
        return [Text(f"{stage} left no count of expectations.", "missing")]
    total, failed, warned = (int(found.get(f"expectations_{name}", 0)) for name in ("evaluated", "failed", "warned"))
    rows: list[list[Cell]] = [
        ["expectations", f"{total - failed - warned} of {total} passed, {warned} warned, {failed} failed"]
    ]
    rows += [[key.replace("_", " "), f"{value:,.0f}"] for key, value in found.items() if key.startswith("rows_")]
    for name, figures in metrics.items():
        if name != "validation":
            rows += [[f"{name}: {key}".replace("_", " "), f"{value:g}"] for key, value in figures.items()]
    page = f"data/{stage}/index.html"
    told = f"Data Docs, every expectation: {page}" + ("" if outputs.has(page) else " (not here)")
    return [
        Table(f"{stage}: {'valid' if found.get('valid') == 1.0 else 'NOT VALID'}", ["what", "found"], rows),
        Text(told),
    ]


# ----------------------------------------------------------------------------------------------------------------- time

NO_TIMES = "No times: MLflow's store of this workspace has no live run of these stages."
TIMES = (
    "From the newest finished run in MLflow of each stage with the same parameters and data; folds are added up. "
    "Stages that keep no live run (those that prepare, check, predict and evaluate) are not timed. A run on a busy "
    "machine, or one that went on after a stop, says so nowhere."
)


def times(outputs: Outputs) -> list[Block]:
    """Seconds of each stage, as its runs in MLflow tell."""
    seconds = tracking.stage_seconds(outputs.workspace, outputs.dataset, [entry for entry, _ in outputs.entries])
    if not seconds:
        outputs.note(NO_TIMES)
        return [Text(NO_TIMES, "missing")]
    by_stage: dict[str, list[float]] = {}
    for label, duration in seconds.items():
        by_stage.setdefault(label.partition("@")[0], []).append(duration)
    rows: list[list[Cell]] = [[stage, f"{len(own)}", _duration(sum(own))] for stage, own in by_stage.items()]
    rows.append(["together", "", _duration(sum(seconds.values()))])
    untimed = sorted({entry.stage for entry, _ in outputs.entries} - set(by_stage))
    told = f" Not timed here: {', '.join(untimed)}." if untimed else ""
    return [Table("Time per stage", ["stage", "runs", "time"], rows), Text(TIMES + told, "note")]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.0f} s"


def parameters(outputs: Outputs) -> list[Block]:
    """params.yaml as it stands."""
    rows: list[list[Cell]] = [
        [str(section), json.dumps(values, ensure_ascii=False)] for section, values in outputs.parameters.items()
    ]
    return [Table("params.yaml", ["section", "values"], rows, folded=True)]
