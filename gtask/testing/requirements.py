"""`require`: a test that needs a program or a module says so; absent is a skip, and in CI a failure.

What was skipped is listed once more at the end of the run, so that nobody takes a half-tested state for a tested one.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from typing import NoReturn

import pytest

from gtask.testing.processes import find_program

PREFIX = "missing: "
"""How the reason of such a skip begins; the summary at the end finds them by it."""


def in_ci() -> bool:
    """Whether ``$CI`` is set to something that means yes."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false", "no")


def missing(what: str, remedy: str = "") -> NoReturn:
    """Ends the test because `what` is not there: a skip, or a failure when ``$CI`` is set."""
    reason = f"{PREFIX}{what}{f' ({remedy})' if remedy else ''}"
    if in_ci():
        pytest.fail(f"{reason}. With CI=true everything that the tests need has to be installed.", pytrace=False)
    pytest.skip(reason)


def require(program: str, *check: str, package: str = "", timeout: float = 30.0) -> str:
    """Returns the path of a program that the test needs, or ends the test as `missing` does.

    With `check`, the program is also run with these arguments and has to exit with 0 within `timeout` seconds:
    ``require("perl", "-MGearman::Client", "-e1")``. `package` is the Debian package that has it.
    """
    remedy = f"apt-get install {package}" if package else ""
    path = find_program(program)
    if path is None:
        missing(f"program {program}", remedy)
    if check:
        done = subprocess.run([path, *check], capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            missing(f"{' '.join([program, *check])}", remedy)
    return path


def require_module(name: str, extra: str = "") -> None:
    """Ends the test as `missing` does unless the Python module `name` is installed; `extra` names gtask's extra."""
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # a parent package is not there
        found = None
    if found is None:
        missing(f"Python module {name}", f"pip install 'gtask[{extra}]'" if extra else "")
