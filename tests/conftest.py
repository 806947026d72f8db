"""What several test modules share: a copy of the project to run in, and the rule about skipped tests."""

import os
import shutil
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("mammo_ml", "pipelines", "expectations", "dvc.yaml", "params.yaml", ".dvcignore", ".gitignore")
NO_SKIPS = "MAMMO_NO_SKIPS"
"""Set to 1 where everything the tests need is there: a skipped test is then a failed one."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"may_skip(reason): may be skipped even where {NO_SKIPS}=1")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    return report if _may_skip(item) else _skipped_is_failed(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    return _skipped_is_failed(report)


_left_out: list[str] = []


def pytest_deselected(items: list[pytest.Item]) -> None:
    _left_out.extend(item.nodeid for item in items)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _left_out:
        terminalreporter.section("left out here; `make test-all` runs them")
        for name in _left_out:
            terminalreporter.line(name)


def _may_skip(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("may_skip")
    if marker is not None and not marker.kwargs.get("reason"):
        raise pytest.UsageError(f"{item.nodeid}: may_skip needs a reason")
    return marker is not None


def _skipped_is_failed(report: Any) -> Any:
    if os.environ.get(NO_SKIPS) == "1" and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{reason}\n{NO_SKIPS}=1: nothing may be left out here, so this counts as a failure."
    return report


@pytest.fixture(scope="session")
def copy_project() -> Callable[[Path], Path]:
    """A function that lays out the pipeline, as it stands, as a git repository of its own with one commit."""

    def copy(folder: Path) -> Path:
        folder.mkdir(parents=True)
        for name in PARTS:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(ROOT / name, folder / name)
        (folder / ".dvc").mkdir()
        shutil.copy2(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
        (folder / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n", encoding="utf-8")
        author = ["-c", "user.name=tester", "-c", "user.email=tester@localhost", "-c", "commit.gpgsign=false"]
        for arguments in (["init", "--quiet"], ["add", "--all"], [*author, "commit", "--quiet", "-m", "copy"]):
            subprocess.run(["git", *arguments], cwd=folder, check=True)
        return folder

    return copy
