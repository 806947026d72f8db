"""What several test modules share: a copy of the project to run in, the rule about skipped tests, and the bars.

Processes that share the tests (`-n`) get those of a file together: what a file makes once is made once.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mammo_ml.reporting.reliability_table import BARS

if TYPE_CHECKING:
    from tests.pipelines.phantom_run import PhantomRun

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("mammo_ml", "pipelines", "expectations", "feedback", "dvc.yaml", "params.yaml", ".dvcignore", ".gitignore")
NO_SKIPS = "MAMMO_NO_SKIPS"
"""Set to 1 where everything the tests need is there: a skipped test is then a failed one."""
ON_THE_PHANTOM_PASS = (
    "tests/browser/test_dashboards.py",
    "tests/pipelines/test_phantom_pipeline.py",
    "tests/pipelines/test_rebuilding.py",
    "tests/pipelines/test_reproducing.py",
    "tests/reporting/test_report_of_a_pass.py",
)
"""Files whose tests use `run`, which takes minutes to make."""
TAKE_LONG = ("tests/pipelines/test_phantom_oracle.py", *ON_THE_PHANTOM_PASS)
PHASES = pytest.StashKey[list[pytest.TestReport]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", type=Path, metavar="FILE", help="write a line of JSON per bar and test")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"may_skip(reason): may be skipped even where {NO_SKIPS}=1")
    config.addinivalue_line(
        "markers", "bar(*ids): shows these bars; record_property('tried', …) says what was injected"
    )
    if file := config.getoption("reliability"):
        file = config.option.reliability = file.resolve()  # tests change the folder
        file.parent.mkdir(parents=True, exist_ok=True)
        if not _is_worker(config):
            file.write_text("", encoding="utf-8")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for marker in item.iter_markers("bar"):
            if not marker.args or any(name not in BARS for name in marker.args):
                raise pytest.UsageError(f"{item.nodeid}: bar{marker.args} is none of {', '.join(BARS)}")
    if _is_worker(config):  # the longest first: no process is left waiting for it
        items.sort(key=lambda item: not item.nodeid.startswith(TAKE_LONG))


def _share(nodeid: str) -> str:
    """Tests of one share are run by one process: those of a file, and those that look at the one phantom pass."""
    file = nodeid.partition("::")[0]
    return "phantom pass" if file in ON_THE_PHANTOM_PASS else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share out as `_share` says, in the order collected. (xdist's groups do nothing with pytest 9.2.)"""
    from xdist.scheduler import LoadFileScheduling

    class Shares(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return _share(nodeid)

    config.option.loadscopereorder = False
    return Shares(config, log)


def _is_worker(config: pytest.Config) -> bool:
    """Whether this is one of several processes that share the tests."""
    return hasattr(config, "workerinput")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    report = report if _may_skip(item) else _skipped_is_failed(report)
    _record(item, report)
    return report


def _record(item: pytest.Item, report: pytest.TestReport) -> None:
    """Once a test is torn down, append a line for each of its bars to the file of --reliability."""
    phases = item.stash.setdefault(PHASES, [])
    phases.append(report)
    file = item.config.getoption("reliability")
    if file is None or report.when != "teardown":
        return
    outcomes = {phase.outcome for phase in phases}
    line = {
        "test": item.nodeid,
        "tried": "; ".join(str(value) for name, value in item.user_properties if name == "tried"),
        "outcome": next((found for found in ("failed", "skipped") if found in outcomes), "passed"),
        "seconds": round(sum(phase.duration for phase in phases), 2),
    }
    with file.open("a", encoding="utf-8") as lines:
        for bar in dict.fromkeys(name for marker in item.iter_markers("bar") for name in marker.args):
            lines.write(json.dumps({"bar": bar, **line}, ensure_ascii=False) + "\n")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    return _skipped_is_failed(report)


_left_out: dict[str, None] = {}


def pytest_deselected(items: list[pytest.Item]) -> None:
    _left_out.update(dict.fromkeys(item.nodeid for item in items))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _is_worker(session.config):
        session.config.workeroutput["left_out"] = list(_left_out)  # type: ignore[attr-defined]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker has ended: what it left out is told by the process that has the terminal."""
    _left_out.update(dict.fromkeys(getattr(node, "workeroutput", {}).get("left_out", ())))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _left_out:
        terminalreporter.section("left out here; `make test-slow` runs them")
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


@pytest.fixture(scope="session", autouse=True)
def own_signing_key(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """Models that tests register are signed with a key of their own, never with the developer's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MAMMO_SIGNING_KEY", raising=False)
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("configuration")))
        yield


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


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, copy_project: Callable[[Path], Path]) -> "PhantomRun":
    """One small pass of the whole pipeline; whoever changes something in it works on a copy of its workspace."""
    # imported here: tests of this file use it in folders of their own, where there is no package `tests`
    from tests.pipelines.phantom_run import make_phantom_run

    return make_phantom_run(tmp_path_factory.mktemp("phantom"), copy_project)
