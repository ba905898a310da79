"""The quick start in a user's folder: every line of it, on both job servers and with every pool."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gtask.testing.processes import JobServerProgram, gearmand, job_server, worker
from gtask.testing.requirements import require

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart"
LIMIT = 120.0

ANSWERS = """\
here       87.50
delay      87.50
reopened   87.50
urgent     87.50
later      87.50
call       87.50
options    87.50
chain      87.50 EUR sent by send
chain      87.50 EUR sent by send
group      [Decimal('0.00'), Decimal('12.50'), Decimal('25.00'), Decimal('37.50'), Decimal('50.00')]
adelay     87.50
acall      87.50
chain      87.50 EUR sent by send
"""


@pytest.fixture(scope="module", params=["gtask", "gearmand"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServerProgram]:
    """Each job server in turn."""
    folder = tmp_path_factory.mktemp("queue")
    with ExitStack() as stack:
        if request.param == "gtask":
            yield stack.enter_context(job_server(db=folder / "queue.db", results=folder / "results.db"))
        else:
            require("gearmand", package="gearman-job-server")
            yield stack.enter_context(gearmand())


@pytest.mark.parametrize("pool", ["prefork", "thread", "async"])
def test_every_line_of_the_quick_start(server: JobServerProgram, pool: str, tmp_path: Path) -> None:
    options = (f"--with-results={tmp_path / 'results.db'}",) if server.kind == "gearmand" else ()
    with worker("app:app", *options, cwd=QUICKSTART, servers=server.url, concurrency=8, pool=pool):
        done = subprocess.run(
            [sys.executable, "call.py"],
            cwd=QUICKSTART,
            env={**os.environ, "GTASK_SERVERS": server.url},
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
    assert done.stderr == ""
    assert done.stdout == ANSWERS
    assert done.returncode == 0
