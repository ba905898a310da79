"""Waiting for a result under faults: it ends within its timeout, and the result is there when the fault is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.fleet import results_service
from gtask import App
from gtask.errors import NetworkError, ResultError
from gtask.testing import FaultProxy, JobServerProgram, gearmand, job_server, wait_until
from gtask.testing.requirements import require
from tests.faults.helpers import BOUND, ROOT, Recorded, ended_within, recorded, recording_worker

TIMEOUT = 1.5
"""Seconds each wait is given."""

SLACK = 1.0
"""Seconds beyond that: what the answer may need, and a busy machine."""


@pytest.fixture(params=["gtask", "gearmand"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobServerProgram]:
    """Each job server, with a results service."""
    with ExitStack() as stack:
        if request.param == "gearmand":
            require("gearmand", package="gearman-job-server")
            made = stack.enter_context(gearmand())
        else:
            made = stack.enter_context(job_server(cwd=ROOT))
        stack.enter_context(results_service([made.url], tmp_path))
        wait_until(lambda: any("gtask.results.wait\t0\t0\t1" in line for line in made.admin("status")))
        yield made


@pytest.fixture
def tasks(proxy: FaultProxy, tmp_path: Path) -> Iterator[Recorded]:
    """Tasks that are sent, and waited for, through the proxy."""
    with recorded([proxy.server], tmp_path) as made:
        yield made


@pytest.fixture
def proxy(server: JobServerProgram) -> Iterator[FaultProxy]:
    """The caller's way to the job server."""
    with FaultProxy(server.server) as made:
        yield made


FAULTS: dict[str, Callable[[FaultProxy], object]] = {
    "half-open": lambda proxy: proxy.half_open(),
    "black hole": lambda proxy: proxy.half_open(new=True),
    "stall": lambda proxy: proxy.stall(),
    "stalled answers": lambda proxy: proxy.stall("down"),
    "cut": lambda proxy: proxy.cut(),
}


@pytest.mark.parametrize(
    ("when", "fault"), [*(("while", fault) for fault in FAULTS), ("before", "black hole"), ("before", "half-open")]
)
def test_a_wait_ends_in_time_and_the_result_is_there_afterwards(
    server: JobServerProgram, proxy: FaultProxy, tasks: Recorded, tmp_path: Path, when: str, fault: str
) -> None:
    result = tasks.record.delay("number", 0.0)
    if when == "before":
        FAULTS[fault](proxy)
        ended = ended_within(TIMEOUT + SLACK, lambda: result.get(timeout=TIMEOUT))
    else:
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(ended_within, TIMEOUT + SLACK, lambda: result.get(timeout=TIMEOUT))
            wait_until(lambda: any("gtask.results.wait\t1\t1\t1" in line for line in server.admin("status")))
            FAULTS[fault](proxy)
            ended = waiting.result()
    assert isinstance(ended.error, NetworkError | ResultError)
    proxy.heal()
    with recording_worker([server.server], tmp_path):
        assert ended_within(30.0, lambda: result.get(timeout=BOUND)).value == "number"


def test_a_result_that_is_there_is_had_at_once_though_the_connection_is_dead(
    server: JobServerProgram, proxy: FaultProxy, tasks: Recorded, tmp_path: Path
) -> None:
    """With the usual patience of ten seconds for a request: the question is asked again over another connection."""
    caller = App("caller", proxy.url)
    with caller, recording_worker([server.server], tmp_path):
        result = tasks.record.delay("number", 0.0)
        result.get(timeout=30.0)
        assert caller.AsyncResult(result.id).get(timeout=30.0) == "number"
        proxy.half_open()
        assert ended_within(BOUND, lambda: caller.AsyncResult(result.id).get(timeout=30.0)).value == "number"
