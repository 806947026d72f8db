"""The README's tables, made from the committed metrics and from params.yaml: no figure is ever typed by hand.

`python -m mammo_ml.reporting.results_table` (or `make readme`) rewrites them in the README.md of the current folder.
"""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mammo_ml.errors import BadInputError, raise_if_any
from mammo_ml.parameters import read_yaml

Model = Literal["classifier", "detector"]
MODELS: tuple[Model, ...] = ("classifier", "detector")
Metrics = Mapping[str, Mapping[str, float | None]]
"""metrics.json as read: protocol, figure, number; null where a figure is undefined."""
RESULTS, BUDGETS = "results", "budgets"
"""Names of the README's sections, each between `<!-- name:begin -->` and `<!-- name:end -->`."""
NOTHING = "-"
UNDEFINED = "undefined"
NO_RESULTS = "No results are committed yet."
REPORT = "reports/evaluate_{model}/metrics.json"


@dataclass(frozen=True)
class Row:
    """One figure: what it is called, where metrics.json has it, and where its leaky counterpart stands, if any."""

    model: Model
    title: str
    protocol: str | None
    figure: str
    leaky_protocol: str | None = None
    regression_protocol: str | None = None


def _patches(title: str, figure: str) -> Row:
    return Row("classifier", title, "by_patient", figure, "patches_at_random_leaky", "logistic_baseline")


ROWS = (
    _patches("patches: AUC, mean of the three classes", "auc_macro"),
    _patches("patches: AUC, normal against abnormal", "auc_normal_vs_abnormal_patch"),
    _patches("patches: AUC, benign against malignant", "auc_benign_vs_malignant"),
    _patches("patches: accuracy", "accuracy"),
    _patches("patches: balanced accuracy", "balanced_accuracy"),
    Row("classifier", "films: AUC, normal against abnormal", "by_patient", "film_auc_normal_vs_abnormal"),
    Row("classifier", "films: balanced accuracy", "by_patient", "film_balanced_accuracy"),
    Row(
        "classifier",
        "films: the same, called by what stands highest above its share",
        "by_patient",
        "film_balanced_accuracy_by_share",
    ),
    Row("detector", "cuts: mAP at IoU 0.5", "cuts_by_patient", "map_50", "cuts_at_random_leaky"),
    Row("detector", "cuts: the same, training cuts included", None, "map_50_all_sets", "cuts_at_random_leaky"),
    Row("detector", "films: lesions found at 1 false positive per film", "films_by_patient", "sensitivity_at_1_fp"),
    Row("detector", "films: mean of lesions found at 1/8 to 8", "films_by_patient", "froc_mean"),
    Row("detector", "films: AP at IoU 0.5, whatever the class", "films_by_patient", "ap_50_any"),
)
COUNTS: Mapping[Model, tuple[tuple[str, str, str], ...]] = {
    "classifier": (("by_patient", "n_women", "women"), ("by_patient", "n_patches", "patches")),
    "detector": (("films_by_patient", "n_films", "films"), ("cuts_by_patient", "n_cuts", "cuts")),
}


def results_table(metrics_by_model: Mapping[str, Metrics]) -> str:
    """Markdown table of the committed figures: by patient with its interval, baselines, and the leaky protocol's.

    Args:
        metrics_by_model: contents of metrics.json by model, `classifier` and `detector`; one alone gives its rows.

    Raises:
        BadInputError: naming every model that is unknown and every figure that is missing.
    """
    unknown = sorted(set(metrics_by_model) - set(MODELS))
    raise_if_any("results table", [f"model '{name}' is unknown" for name in unknown], f"Known: {', '.join(MODELS)}.")
    if not metrics_by_model:
        return NO_RESULTS
    rows = [row for row in ROWS if row.model in metrics_by_model]
    problems: list[str] = []
    cells = [_cells(row, metrics_by_model[row.model], problems) for row in rows]
    counts = [_counts(model, metrics_by_model[model], problems) for model in MODELS if model in metrics_by_model]
    raise_if_any("results table", problems, "Evaluate again: `dvc repro evaluate_classifier evaluate_detector`.")
    head = ["model", "figure", "by patient [95 %]", "knowing nothing", "five numbers", "leaky protocol"]
    lines = [head, ["---", "---", *["---:"] * 4], *cells]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\nJudged by patient: {'; '.join(counts)}."


def _cells(row: Row, metrics: Metrics, problems: list[str]) -> list[str]:
    honest, baseline, regression, leaky = NOTHING, NOTHING, NOTHING, NOTHING
    if row.protocol:
        value, low, high, nothing = (
            _number(row.model, metrics, row.protocol, row.figure + suffix, problems)
            for suffix in ("", "_lo", "_hi", "_baseline")
        )
        honest, baseline = f"{_text(value)} [{_text(low)}, {_text(high)}]", _text(nothing)
    if row.regression_protocol:
        regression = _text(_number(row.model, metrics, row.regression_protocol, row.figure, problems))
    if row.leaky_protocol:
        leaky = _text(_number(row.model, metrics, row.leaky_protocol, row.figure, problems))
    return [row.model, f"{row.title} (`{row.figure}`)", honest, baseline, regression, leaky]


def _counts(model: Model, metrics: Metrics, problems: list[str]) -> str:
    found = [(_number(model, metrics, protocol, figure, problems), unit) for protocol, figure, unit in COUNTS[model]]
    return f"{model} " + ", ".join(f"{value:,.0f} {unit}" for value, unit in found)


def _number(model: str, metrics: Metrics, protocol: str, figure: str, problems: list[str]) -> float:
    """Look a figure up, NaN where it is null; one that is missing is added to `problems`."""
    figures = metrics.get(protocol, {})
    if figure not in figures:
        problems.append(f"{model}: {protocol}.{figure} is missing")
        return math.nan
    value = figures[figure]
    return math.nan if value is None else float(value)


def _text(value: float) -> str:
    return UNDEFINED if math.isnan(value) else f"{value:.3f}"


def budgets_table(parameters: Mapping[str, Any]) -> str:
    """Markdown table of the training samples each model may see; `parameters` is the whole of params.yaml."""
    n_folds = len(parameters["folds"])
    lines = [
        "| model | tuning, each fold | training, each fold | at most, in a whole pass |",
        "| --- | ---: | ---: | ---: |",
    ]
    for model in MODELS:
        training = parameters[f"train_{model}"]["training"]
        study = parameters[f"tune_{model}"]
        whole = _samples(training["budget_samples"], training)
        trial = _samples(study["budget_samples"], training)
        own = parameters.get(f"leaky_{model}", {}).get("values", {})
        by_heart = own.get("budget_samples", training["budget_samples"])
        # the two trainings outside the folds: the model that is registered, and the leaky one
        total = n_folds * (study["trials"] * trial + whole) + whole + _samples(by_heart, training)
        lines.append(f"| {model} | {study['trials']} trials of {trial:,} | {whole:,} | {total:,} |")
    return "\n".join(lines)


def _samples(budget: int, training: Mapping[str, Any]) -> int:
    """Samples of whole epochs that cover the budget, as `mammo_ml.training` counts them."""
    epoch = int(training["epoch_samples"])
    return max(1, math.ceil(budget / epoch)) * epoch


def update_readme(readme_text: str, table: str, section: str = RESULTS) -> str:
    """Put a table between the section's two markers; everything else stays.

    Raises:
        BadInputError: when a marker is missing, is there twice, or the end comes before the beginning.
    """
    begin, end = f"<!-- {section}:begin -->", f"<!-- {section}:end -->"
    problems = [
        f"{marker} is there {readme_text.count(marker)} times, not once"
        for marker in (begin, end)
        if readme_text.count(marker) != 1
    ]
    if not problems and readme_text.index(end) < readme_text.index(begin):
        problems.append(f"{end} comes before {begin}")
    raise_if_any("README.md", problems, "The table is written between these two lines: put them back.")
    before, _, rest = readme_text.partition(begin)
    after = rest.partition(end)[2]
    return f"{before}{begin}\n{table}\n{end}{after}"


def committed_metrics(root: Path) -> dict[str, Metrics]:
    """Contents of the evaluating stages' metrics.json below `root`, by model; a model without one is left out.

    Raises:
        BadInputError: naming a file that is not JSON.
    """
    found: dict[str, Metrics] = {}
    for model in MODELS:
        path = root / REPORT.format(model=model)
        if path.is_file():
            try:
                found[model] = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                remedy = f"Evaluate again: `dvc repro evaluate_{model}`."
                raise BadInputError(str(path), [f"not JSON: {error}"], remedy) from None
    return found


def main() -> None:
    """Rewrite the tables in README.md and docs/benchmark.md of the current folder."""
    root = Path.cwd()
    results = results_table(committed_metrics(root))
    tables = {
        "README.md": {RESULTS: results, BUDGETS: budgets_table(read_yaml(root / "params.yaml"))},
        "docs/benchmark.md": {RESULTS: results},
    }
    for name, sections in tables.items():
        before = after = (root / name).read_text(encoding="utf-8")
        for section, table in sections.items():
            after = update_readme(after, table, section)
        (root / name).write_text(after, encoding="utf-8")
        sys.stderr.write(f"{name} was up to date\n" if before == after else f"{name}: tables rewritten\n")


if __name__ == "__main__":
    main()
