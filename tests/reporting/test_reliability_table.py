"""docs/reliability.md says of each bar what was tried and what came of it, and says so when nothing was."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mammo_ml.errors import BadInputError
from mammo_ml.reporting.reliability_table import BARS, NOT_SHOWN, Trial, read_trials, reliability_table

TESTS = Path(__file__).parents[1]


def trial(bar="T2", test="tests/faults/test_x.py::test_t2_a", tried="", outcome="passed"):
    return Trial(bar, test, tried, outcome, 1.0)


def row_of(bar, *trials):
    line = next(line for line in reliability_table(trials).splitlines() if line.startswith(f"| {bar} "))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_every_bar_has_a_row_in_the_order_of_the_list():
    table = reliability_table([])
    assert re.findall(r"^\| ([A-Z]\d) ", table, re.MULTILINE) == list(BARS)
    assert len(BARS) == 40  # D5 L6 P5 T5 U3 G6 S8 M2
    assert f"0 of {len(BARS)} bars are shown" in table


def test_a_bar_without_a_passed_test_is_not_shown():
    assert row_of("T1")[-3:] == ["-", "-", NOT_SHOWN]
    assert row_of("T1", trial("T1", outcome="skipped"))[-1] == NOT_SHOWN


def test_one_failed_test_fails_its_bar_and_a_skipped_one_is_told():
    passed, failed, skipped = (trial(outcome=outcome) for outcome in ("passed", "failed", "skipped"))
    assert row_of("T2", passed)[-1] == "passed"
    assert row_of("T2", passed, failed, skipped)[-1] == "FAILED: 1 of 3 tests"
    assert row_of("T2", passed, passed, skipped)[-1] == "in part: 1 of 3 skipped"
    assert "**1 of" in reliability_table([passed])
    assert "**0 of" in reliability_table([passed, skipped])


def test_variants_of_a_test_are_counted_and_what_was_tried_is_told_once():
    a, b = (trial(test=f"tests/faults/test_x.py::test_t2_a[{n}]", tried="12 kills | both models") for n in "ab")
    _, _, tried, tests, _ = row_of("T2", a, b, trial(test="tests/faults/test_y.py::test_t2_b", tried="3 kills"))
    assert tried == r"12 kills \| both models; 3 kills"
    first, second = "[test_x.py](../tests/faults/test_x.py)", "[test_y.py](../tests/faults/test_y.py)"
    assert tests == f"{first}<br>`test_t2_a` x 2<br>{second}<br>`test_t2_b`"


def test_lines_that_are_no_trial_are_all_named(tmp_path):
    file = tmp_path / "lines"
    file.write_text('{"bar": "T2"}\nnonsense\n' + json.dumps(vars(trial("X9"))) + "\n")
    with pytest.raises(BadInputError) as caught:
        read_trials(file)
    assert [problem[:8] for problem in caught.value.problems] == ["line 1: ", "line 2: ", "unknown "]
    file.write_text("")
    with pytest.raises(BadInputError, match="holds no test"):
        read_trials(file)
    with pytest.raises(BadInputError, match="no such file"):
        read_trials(tmp_path / "none")


def test_every_test_named_after_a_bar_is_marked_with_it():
    pattern = re.compile(r"((?:^@.*\n(?:^[ )].*\n)*)*)^def (test_([a-z]\d)_\w+)", re.MULTILINE)
    unmarked = [
        f"{file.name}::{name}"
        for file in sorted((TESTS / "faults").glob("test_*.py"))
        for decorators, name, bar in pattern.findall(file.read_text(encoding="utf-8"))
        if f'"{bar.upper()}"' not in decorators
    ]
    assert unmarked == []


# ------------------------------------------------------------------------------------------- the marker and its option

MARKED = """
import pytest

@pytest.fixture
def broken():
    raise OSError("disk full")

@pytest.mark.bar("D1", "D2")
@pytest.mark.parametrize("n", [1, 2])
def test_two(n, record_property):
    record_property("tried", f"{n} cuts")

@pytest.mark.bar("D3")
def test_skipped():
    pytest.skip("no films")

@pytest.mark.bar("D4")
def test_broken_setup(broken):
    pass

def test_of_no_bar():
    pass
"""


def run_pytest(folder: Path, tests: str, *options: str):
    shutil.copy2(TESTS / "conftest.py", folder / "conftest.py")
    (folder / "test_some.py").write_text(tests, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers", *options, "."]
    environment = os.environ | {"MAMMO_NO_SKIPS": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_run_writes_a_line_for_each_bar_of_each_test_with_its_outcome(tmp_path):
    (tmp_path / "lines").write_text("from the last run")
    run_pytest(tmp_path, MARKED, "--reliability", "lines")
    assert [(found.bar, found.test, found.tried, found.outcome) for found in read_trials(tmp_path / "lines")] == [
        ("D1", "test_some.py::test_two[1]", "1 cuts", "passed"),
        ("D2", "test_some.py::test_two[1]", "1 cuts", "passed"),
        ("D1", "test_some.py::test_two[2]", "2 cuts", "passed"),
        ("D2", "test_some.py::test_two[2]", "2 cuts", "passed"),
        ("D3", "test_some.py::test_skipped", "", "skipped"),
        ("D4", "test_some.py::test_broken_setup", "", "failed"),
    ]


@pytest.mark.parametrize("arguments", ['"Z9"', ""])
def test_a_bar_that_does_not_exist_stops_the_run(arguments, tmp_path):
    finished = run_pytest(tmp_path, f"import pytest\n\n@pytest.mark.bar({arguments})\ndef test_it():\n    pass\n")
    assert finished.returncode == pytest.ExitCode.USAGE_ERROR
    assert "is none of D1, D2" in finished.stderr + finished.stdout
