import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_that_needs_films():
    pytest.skip("the films are not here")

@pytest.mark.may_skip(reason="needs a device that no machine of the tests has")
def test_that_needs_a_device():
    pytest.skip("no device")

def test_that_runs():
    assert 1 + 1 == 2
"""


@pytest.mark.parametrize(("no_skips", "outcome"), [("1", "1 failed, 1 passed, 1 skipped"), ("", "1 passed, 2 skipped")])
def test_a_skipped_test_fails_where_nothing_may_be_left_out(tmp_path: Path, no_skips: str, outcome: str) -> None:
    shutil.copy2(Path(__file__).with_name("conftest.py"), tmp_path / "conftest.py")
    (tmp_path / "test_some.py").write_text(TESTS, encoding="utf-8")
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        env=os.environ | {"MAMMO_NO_SKIPS": no_skips},
        capture_output=True,
        text=True,
        check=False,
    )

    assert outcome in finished.stdout
    assert "the films are not here" in finished.stdout  # -ra lists what was left out, and why
    assert finished.returncode == (1 if no_skips else 0)


def test_processes_that_share_the_tests_keep_a_file_together_and_tell_what_was_left_out(
    tmp_path: Path,
) -> None:
    shutil.copy2(Path(__file__).with_name("conftest.py"), tmp_path / "conftest.py")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow: takes minutes\n", encoding="utf-8")
    for name in ("one", "other"):
        (tmp_path / f"test_{name}.py").write_text(
            "import os, pathlib, pytest\n\n"
            "@pytest.mark.parametrize('number', range(20))\n"
            f"def test_{name}(number):\n"
            f"    with pathlib.Path('{name}.txt').open('a') as file:\n"
            "        file.write(f'{os.getpid()}\\n')\n\n"
            "@pytest.mark.slow\n"
            f"def test_slow_{name}():\n"
            "    raise AssertionError\n",
            encoding="utf-8",
        )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile"]
    finished = subprocess.run(
        [*command, "-m", "not slow", "."], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert "40 passed" in finished.stdout, finished.stdout
    ran_in = [(tmp_path / f"{name}.txt").read_text(encoding="utf-8").split() for name in ("one", "other")]
    assert [len(numbers) for numbers in ran_in] == [20, 20]
    assert all(len(set(numbers)) == 1 for numbers in ran_in)
    left_out = finished.stdout.partition("left out here; `make test-slow` runs them")[2]
    for name in ("one", "other"):
        assert left_out.count(f"test_{name}.py::test_slow_{name}\n") == 1
