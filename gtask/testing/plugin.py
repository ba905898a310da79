"""The pytest plugin of gtask: job servers as fixtures, and a list of what was skipped because it is not installed.

pytest loads it by itself wherever gtask is installed, so servers are loaded by the fixtures that use them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gtask.testing.embedded import EmbeddedServer
    from gtask.testing.processes import JobServerProgram

# A contract's tests are in modules that users' test files import: their assertions are to explain themselves too.
pytest.register_assert_rewrite("gtask.testing.contracts", "gtask.testing.joins")


@pytest.fixture
def gtask_server() -> Iterator[EmbeddedServer]:
    """A fresh embedded job server in a thread of this process, in memory: `.url`, `.host`, `.port`, `.admin(...)`."""
    from gtask.testing.embedded import EmbeddedServer

    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def gearmand_server() -> Iterator[JobServerProgram]:
    """A fresh gearmand as a process: `.url`, `.host`, `.port`, `.admin(...)`; without gearmand the test is skipped."""
    from gtask.testing.processes import gearmand
    from gtask.testing.requirements import require

    require("gearmand", package="gearman-job-server")
    with gearmand() as server:
        yield server


@pytest.fixture(params=["gtask", "gearmand"])
def any_server(request: pytest.FixtureRequest) -> EmbeddedServer | JobServerProgram:
    """Each job server in turn: the embedded one, then gearmand. `.kind` says which: ``gtask`` or ``gearmand``."""
    server: EmbeddedServer | JobServerProgram = request.getfixturevalue(f"{request.param}_server")
    return server


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lists what was not tested because a program or a module is missing."""
    from gtask.testing.requirements import PREFIX

    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ").removeprefix(PREFIX)
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and PREFIX in report.longrepr[2]
    )
    if reasons:
        terminalreporter.section("not tested, because something is missing", sep="-", yellow=True)
        for reason, count in sorted(reasons.items()):
            terminalreporter.line(f"{reason}: {count} test{'s' if count > 1 else ''}")
