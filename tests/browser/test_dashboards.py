"""What a person sees of runs, models and studies in a browser."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from playwright.sync_api import Page, expect

from mammo_ml.tracking import Store
from tests.served_models import free_port, server

pytestmark = pytest.mark.slow  # the phantom pass takes minutes where no other test has made it yet
EVALUATED = "tags.stage = 'evaluate_classifier'"
FIGURE = "by_patient.film_auc_macro"
Photograph = Callable[[str, int], Path]


@pytest.fixture(scope="module")
def mlflow_ui(two_passes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of `mammo-ml ui`."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = ["mammo_ml.cli", "ui", "--port", str(port), "--workspace", str(two_passes)]
    with server(command, f"{address}/health", tmp_path_factory.mktemp("ui") / "log"):
        yield address


@pytest.fixture(scope="module")
def tuning_ui(eight_trials: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address of `mammo-ml tuning-ui`, and what it said."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = ["mammo_ml.cli", "tuning-ui", "--port", str(port), "--workspace", str(eight_trials)]
    log = tmp_path_factory.mktemp("tuning_ui") / "log"
    with server(command, f"{address}/api/studies", log):
        yield address, log


def evaluated_runs(workspace: Path) -> list[Any]:
    client = Store(workspace).client
    experiment = client.get_experiment_by_name("phantom").experiment_id
    return list(client.search_runs([experiment], EVALUATED))


def test_two_passes_selected_in_the_table_are_compared_with_figures_and_pictures(
    page: Page, mlflow_ui: str, two_passes: Path, photograph: Photograph
) -> None:
    runs = evaluated_runs(two_passes)
    values = {run.info.run_id: run.data.metrics[FIGURE] for run in runs}
    assert len(set(values.values())) == 2
    page.set_viewport_size({"width": 1600, "height": 1500})  # in wide letters a narrower page hides the names of files
    page.goto(f"{mlflow_ui}/#/experiments/{runs[0].info.experiment_id}/runs?searchFilter={quote(EVALUATED)}")
    passes = page.get_by_role("row").filter(has=page.get_by_role("link", name=re.compile("^pass ")))
    expect(passes).to_have_count(2)
    for n in range(2):
        passes.nth(n).get_by_role("gridcell").get_by_role("button").first.click()
    rows = page.get_by_role("row").filter(has=page.get_by_role("link", name=re.compile("^evaluate_classifier")))
    expect(rows).to_have_count(2)
    for n in range(2):
        rows.nth(n).get_by_label("Press Space to toggle row selection").check()
    page.get_by_role("button", name="Compare", exact=True).click()

    expect(page.get_by_role("heading", name="Comparing 2 Runs from 1 Experiment")).to_be_visible()
    order = re.findall("[0-9a-f]{32}", unquote(page.url))
    page.get_by_text("Visualizations").click()
    page.get_by_label("Metrics - Show diff only").click()
    names, numbers = (page.get_by_role("grid").nth(n) for n in range(2))
    expect(names.get_by_text(FIGURE, exact=True)).to_be_visible()
    listed, shown = (grid.inner_text().split() for grid in (names, numbers))
    place = listed.index(FIGURE)
    assert [float(text) for text in shown[2 * place : 2 * place + 2]] == [round(values[one], 3) for one in order]

    page.get_by_text("confusion.png").first.click()
    # counted in the page at one moment: MLflow draws them one after the other, and again while it measures the columns
    page.wait_for_function(
        """new Set([...document.images]
            .filter(one => one.src.startsWith("blob:") && one.naturalWidth > 300)
            .map(one => one.src)).size === 2"""
    )
    photograph("mlflow-compare", 1500)


def test_the_page_of_a_model_shows_its_aliases_and_its_card(
    page: Page, mlflow_ui: str, two_passes: Path, photograph: Photograph
) -> None:
    page.goto(f"{mlflow_ui}/#/models/mammo-classifier")
    for number, alias in ((1, "champion"), (2, "challenger")):
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=f"Version {number}", exact=True))
        expect(row.get_by_text(alias)).to_be_visible()

    page.get_by_role("link", name="Version 1", exact=True).click()
    expect(page.get_by_role("heading", name="Version 1")).to_be_visible()
    expect(page.get_by_text("champion").first).to_be_visible()
    expect(page.get_by_role("heading", name="Intended use")).to_be_visible()
    expect(page.get_by_text("not for diagnosis")).to_be_visible()
    figures = json.loads((two_passes / "reports" / "evaluate_classifier" / "metrics.json").read_text(encoding="utf-8"))
    # the primary figure is of patches, which the second pass did not touch
    row = page.get_by_role("row", name="patches: AUC, mean of the three classes (by_patient.auc_macro)")
    expect(row).to_contain_text(f"{figures['by_patient']['auc_macro']:.3f} [")
    photograph("mlflow-model", 940)


def test_the_tuning_dashboard_names_the_studies_and_shows_their_trials(
    page: Page, tuning_ui: tuple[str, Path], photograph: Photograph
) -> None:
    address, log = tuning_ui
    said = log.read_text(encoding="utf-8")
    trials = {"tune_classifier@0": "8 trials, 8", "tune_classifier@1": "1 trial, 1", "tune_detector@0": "1 trial, 1"}
    for name, counts in trials.items():
        assert re.search(rf"{name} · [0-9a-f]{{16}}: {counts} finished, best [01]\.\d{{4}}", said)
    page.goto(address)
    page.get_by_text("tune_classifier@0").first.click()
    for title in ("History", "Hyperparameter Importance", "Best Trial"):
        expect(page.get_by_role("heading", name=title).first).to_be_visible()
    photograph("tuning-history", 1220)
