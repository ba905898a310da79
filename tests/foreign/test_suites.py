"""Every call of PHP's gearman extension and of Perl's Gearman distribution: what they see is the same on both servers.

`suites/suite.php` and `suites/suite.pl` run the scenarios and write down what they saw; `suites/php.json` and
`suites/perl.json` say what that is to be.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from gtask.testing.embedded import EmbeddedServer
from gtask.testing.processes import JobServerProgram, gearmand
from gtask.testing.programs import Program, wait_until
from gtask.testing.requirements import require

FOLDER: Final = Path(__file__).with_name("suites")
LIMIT: Final = 120.0
"""Seconds that all scenarios of one library may take; only what hangs takes nearly as long."""

EXPECTED: Final[dict[str, dict[str, Any]]] = {
    language: json.loads((FOLDER / f"{language}.json").read_text()) for language in ("php", "perl")
}

ON_GEARMAND: Final[dict[tuple[str, str], tuple[str, Any]]] = {
    ("perl", "a result that is nothing"): (
        "section 1: gearmand waits for the argument that is missing, and reads the next packet as it (defect 40)",
        [
            ["fail", "Task s_empty elapsed timeout [2.5s]"],
            None,
            ["fail", "Task s_zero elapsed timeout [2.5s]"],
            None,
            ["fail", "Task s_half_status elapsed timeout [2.5s]"],
            None,
        ],
    ),
}
"""What differs on gearmand 1.1.20: why, and what is seen instead. It is held strictly: what is here has to differ."""


def command(language: str) -> list[str]:
    """The interpreter and its script; without them the test is skipped."""
    if language == "php":
        check = "exit(extension_loaded('gearman') ? 0 : 1);"
        return [require("php", "-r", check, package="php-gearman"), str(FOLDER / "suite.php")]
    perl = require("perl", "-MGearman::Client", "-e1", package="libgearman-client-perl")
    return [perl, str(FOLDER / "suite.pl")]


def run(language: str, server: EmbeddedServer | JobServerProgram) -> dict[str, Any]:
    """Everything that the scenarios of one library have seen on a server."""
    address = f"{server.host}:{server.port}"
    with Program([*command(language), address, "serve"]):
        # The function that it registers last.
        wait_until(lambda: "s_counts\t0\t0\t1" in server.admin("status"), LIMIT, "the functions of the suite")
        calling = [*command(language), address, "call"]
        done = subprocess.run(calling, capture_output=True, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"ended with {done.returncode}, in the last scenario of these:\n{done.stderr[-2000:]}"
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


@pytest.fixture(scope="module", params=["gtask", "gearmand"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each job server in turn."""
    name: str = request.param
    return name


@pytest.fixture(scope="module", params=sorted(EXPECTED))
def suite(kind: str, request: pytest.FixtureRequest) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """One library's scenarios on one job server: the server's kind, the language, and what was seen."""
    if kind == "gtask":
        with EmbeddedServer() as embedded:
            yield kind, request.param, run(request.param, embedded)
    else:
        require("gearmand", package="gearman-job-server")
        with gearmand("--verbose=ERROR") as server:
            yield kind, request.param, run(request.param, server)


def test_a_library_sees_what_it_is_to_see(suite: tuple[str, str, dict[str, Any]]) -> None:
    kind, language, seen = suite
    expected = dict(EXPECTED[language])
    if kind == "gearmand":
        for (whose, scenario), (reason, value) in ON_GEARMAND.items():
            if whose == language:
                assert expected[scenario] != value, reason
                expected[scenario] = value
    assert sorted(seen) == sorted(expected)
    for scenario, value in expected.items():
        assert seen[scenario] == value, scenario
