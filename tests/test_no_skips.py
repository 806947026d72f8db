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
