"""The README's tables say what the committed metrics and params.yaml say."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from mammo_ml.errors import BadInputError
from mammo_ml.reporting.results_table import (
    BUDGETS,
    MODELS,
    NO_RESULTS,
    REPORT,
    ROWS,
    budgets_table,
    committed_metrics,
    results_table,
    update_readme,
)

ROOT = Path(__file__).parents[2]


def metrics_of(model):
    """metrics.json of one model, every figure 0.6 [0.5, 0.7] against 0.5 by patient and 0.9 where it leaks."""
    metrics = {}
    for row in ROWS:
        if row.model != model:
            continue
        if row.protocol:
            own = {"": 0.6, "_lo": 0.5, "_hi": 0.7, "_baseline": 0.5}
            figures = metrics.setdefault(row.protocol, {"n_women": 161.0, "n_films": 316.0, "n_patches": 1351.0})
            figures |= {row.figure + suffix: value for suffix, value in own.items()}
            figures["n_cuts"] = 117.0
        if row.regression_protocol:
            metrics.setdefault(row.regression_protocol, {})[row.figure] = 0.55
        if row.leaky_protocol:
            metrics.setdefault(row.leaky_protocol, {})[row.figure] = 0.9
    return metrics


def both():
    return {model: metrics_of(model) for model in MODELS}


def line_of(table, figure):
    return next(line for line in table.splitlines() if f"`{figure}`" in line)


def as_git_has_it(path):
    """Text of a file in git's index, None where it has none; without git, the file itself.

    The index, not the folder: whoever runs the pipeline anew has other metrics there until they are staged with the
    README that tells them.
    """
    if subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, check=False).returncode != 0:
        return (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).is_file() else None
    shown = subprocess.run(["git", "-C", ROOT, "show", f":{path}"], capture_output=True, check=False)
    return shown.stdout.decode("utf-8") if shown.returncode == 0 else None


def test_the_readme_tells_the_committed_figures():
    texts = {model: as_git_has_it(REPORT.format(model=model)) for model in MODELS}
    committed = {model: json.loads(text) for model, text in texts.items() if text is not None}
    if not committed:
        pytest.skip("no metrics are committed yet")
    readme = as_git_has_it("README.md")
    assert readme is not None
    assert update_readme(readme, results_table(committed)) == readme, "run `make readme` and commit README.md"


def test_the_readme_tells_the_committed_budgets():
    readme, parameters = as_git_has_it("README.md"), as_git_has_it("params.yaml")
    if readme is None or parameters is None:
        pytest.skip("README.md and params.yaml are not committed yet")
    table = budgets_table(yaml.safe_load(parameters))
    assert update_readme(readme, table, BUDGETS) == readme, "run `make readme` and commit README.md"


def test_a_figure_stands_beside_its_interval_its_baseline_and_its_leaky_twin():
    line = line_of(results_table(both()), "auc_macro")
    assert line.split("|")[3:7] == [" 0.600 [0.500, 0.700] ", " 0.500 ", " 0.550 ", " 0.900 "]


def test_a_figure_of_films_has_no_leaky_twin():
    assert line_of(results_table(both()), "froc_mean").split("|")[5:7] == [" - ", " - "]


def test_training_items_are_scored_by_the_leaky_protocol_alone():
    assert line_of(results_table(both()), "map_50_all_sets").split("|")[3:7] == [" - ", " - ", " - ", " 0.900 "]


def test_every_row_has_as_many_cells_as_the_head():
    rows = [line for line in results_table(both()).splitlines() if line.startswith("|")]
    assert len(rows) == len(ROWS) + 2
    assert {line.count("|") for line in rows} == {7}


def test_the_table_says_how_much_was_judged():
    last = results_table(both()).splitlines()[-1]
    assert last == "Judged by patient: classifier 161 women, 1,351 patches; detector 316 films, 117 cuts."


def test_one_model_alone_gives_its_rows():
    table = results_table({"detector": metrics_of("detector")})
    assert "`froc_mean`" in table
    assert "classifier" not in table


def test_an_undefined_figure_is_said_to_be_so():
    metrics = both()
    metrics["classifier"]["by_patient"]["accuracy"] = None
    assert "undefined [0.500, 0.700]" in line_of(results_table(metrics), "accuracy")


def test_missing_figures_are_named_all_at_once():
    metrics = both()
    del metrics["classifier"]["by_patient"]["accuracy_lo"]
    del metrics["detector"]["cuts_at_random_leaky"]
    with pytest.raises(BadInputError) as raised:
        results_table(metrics)
    for missing in (
        "classifier: by_patient.accuracy_lo",
        "detector: cuts_at_random_leaky.map_50 ",
        "detector: cuts_at_random_leaky.map_50_all_sets",
    ):
        assert missing in str(raised.value)


def test_an_unknown_model_is_named():
    with pytest.raises(BadInputError, match="segmenter"):
        results_table({"segmenter": {}})


def test_without_metrics_the_table_says_so():
    assert results_table({}) == NO_RESULTS


def test_the_table_replaces_what_stood_between_the_markers_and_nothing_else():
    readme = "# Title\n<!-- results:begin -->\nold\n<!-- results:end -->\nrest\n"
    once = update_readme(readme, "| new |")
    assert once == "# Title\n<!-- results:begin -->\n| new |\n<!-- results:end -->\nrest\n"
    assert update_readme(once, "| new |") == once


@pytest.mark.parametrize(
    "readme",
    [
        "no markers",
        "<!-- results:begin -->",
        "<!-- results:end --><!-- results:begin -->",
        "<!-- results:begin --><!-- results:begin --><!-- results:end -->",
    ],
)
def test_a_readme_with_broken_markers_is_left_alone(readme):
    with pytest.raises(BadInputError, match=r"README\.md"):
        update_readme(readme, "| new |")


def test_the_budget_counts_every_training_of_a_pass():
    training = {"budget_samples": 1600, "epoch_samples": 200}
    parameters = {"folds": [0, 1, 2, 3, 4]}
    for model in MODELS:
        parameters[f"train_{model}"] = {"training": training}
        parameters[f"tune_{model}"] = {"trials": 3, "budget_samples": 400}
    # 5 folds x (3 trials x 400 + 1600), the registered model 1600, the leaky one 1600
    assert "| classifier | 3 trials of 400 | 1,600 | 17,200 |" in budgets_table(parameters)


def test_a_budget_is_paid_in_whole_epochs():
    training = {"budget_samples": 500, "epoch_samples": 300}
    parameters = {"folds": [0]}
    for model in MODELS:
        parameters[f"train_{model}"] = {"training": training}
        parameters[f"tune_{model}"] = {"trials": 1, "budget_samples": 100}
    # ceil(500 / 300) = 2 epochs of 300; a trial of 100 still runs one epoch
    assert "| detector | 1 trials of 300 | 600 | 2,100 |" in budgets_table(parameters)


def test_metrics_are_found_where_the_stages_write_them(tmp_path):
    path = tmp_path / "reports" / "evaluate_detector" / "metrics.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"films_by_patient": {"froc_mean": null}}')
    assert committed_metrics(tmp_path) == {"detector": {"films_by_patient": {"froc_mean": None}}}


def test_metrics_that_are_not_json_are_named(tmp_path):
    path = tmp_path / "reports" / "evaluate_classifier" / "metrics.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(BadInputError, match="evaluate_classifier"):
        committed_metrics(tmp_path)
