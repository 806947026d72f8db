"""Headless Chromium, and a workspace with two passes to look at.

Screenshots go to the folder that MAMMO_SCREENSHOTS names (`docs/images` for those of the documents), else to a
temporary one.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser, Page, sync_playwright

from tests.pipelines.phantom_run import PhantomRun, run_in

SCREENSHOTS = "MAMMO_SCREENSHOTS"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT_MS = 60_000
NO_ASSISTANT = """
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
"""
"""MLflow opens a chat on the first visit."""


@pytest.fixture(scope="session")
def two_passes(tmp_path_factory: pytest.TempPathFactory, run: PhantomRun) -> Path:
    """A phantom workspace: a pass rebuilt from its outputs, one with overlapping tiles, and version 1 as champion."""
    workspace = tmp_path_factory.mktemp("two_passes") / "workspace"
    shutil.copytree(run.workspace, workspace, ignore=shutil.ignore_patterns(".mlflow"))
    _do(workspace, "mammo_ml.cli", "track")
    reason = "a model of phantoms for this test, whatever its figures"
    _do(workspace, "mammo_ml.cli", "promote", "mammo-classifier", "--override", reason)
    _set(workspace, "predict_classifier", "step_px", 128)
    _do(workspace, "dvc", "repro", "evaluate_classifier")
    return workspace


@pytest.fixture(scope="session")
def eight_trials(two_passes: Path) -> Path:
    """The same workspace after the first study has gone on to eight trials."""
    _set(two_passes, "tune_classifier", "trials", 8)
    _do(two_passes, "dvc", "repro", "--single-item", "tune_classifier@0")
    return two_passes


def _set(workspace: Path, section: str, key: str, value: int) -> None:
    path = workspace / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params[section][key] = value
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def _do(workspace: Path, *command: str) -> None:
    done = run_in(workspace, *command)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.skip("Chromium is not installed (on Debian: apt-get install chromium)")
    # its sandbox does not work for root
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        yield playwright.chromium.launch(executable_path=found, args=arguments)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 1500})
    context.add_init_script(NO_ASSISTANT)
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    # it praises the new registry once, on top of whatever is there
    praise = page.get_by_role("button", name="Try it now")
    page.add_locator_handler(praise, lambda button: button.click())
    yield page
    context.close()


@pytest.fixture
def photograph(page: Page, tmp_path: Path) -> Callable[[str, int], Path]:
    """A function that takes a picture of the page, so many px high, and returns where it is."""
    folder = Path(os.environ.get(SCREENSHOTS) or tmp_path).resolve()

    def take(name: str, height: int) -> Path:
        path = folder / f"{name}.png"
        assert page.viewport_size is not None
        page.screenshot(path=path, clip={"x": 0, "y": 0, "width": page.viewport_size["width"], "height": height})
        return path

    return take
