"""A missing program is a skip that is listed at the end, and with CI=true a failure. Real pytest runs show it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gtask.testing.requirements import require, require_module

NEEDY = """
import pytest
from gtask.testing.requirements import require, require_module

@pytest.mark.parametrize("n", range(2))
def test_needs_a_program(n):
    require("no-such-program", package="no-such-package")

def test_needs_a_module():
    require_module("no_such_module", extra="sql")

def test_needs_nothing():
    pass

def test_is_skipped_for_another_reason():
    pytest.skip("because")
"""


def pytest_run(folder: Path, ci: str) -> subprocess.CompletedProcess[str]:
    folder.joinpath("test_needy.py").write_text(NEEDY)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_needy.py"]
    env = {**os.environ, "CI": ci}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_missing_things_are_skipped_and_listed_at_the_end(tmp_path: Path) -> None:
    done = pytest_run(tmp_path, ci="")

    assert done.returncode == 0
    summary = done.stdout.partition("not tested, because something is missing")[2].splitlines()[1:3]
    assert summary == [
        "Python module no_such_module (pip install 'gtask[sql]'): 1 test",
        "program no-such-program (apt-get install no-such-package): 2 tests",
    ]


def test_missing_things_are_failures_in_ci(tmp_path: Path) -> None:
    done = pytest_run(tmp_path, ci="true")

    assert done.returncode == 1
    assert "3 failed, 1 passed, 1 skipped" in done.stdout
    assert "missing: program no-such-program" in done.stdout


def test_what_is_there_is_returned() -> None:
    assert require("sh", "-c", "exit 0").endswith("/sh")
    require_module("json")


def test_a_failing_check_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="missing: sh -c exit 1"):
        require("sh", "-c", "exit 1")
