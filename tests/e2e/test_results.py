"""Results over the job server: with a service, without one, and with one that was away."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from gtask import App, ResultsUnavailable, ResultTimeout, State, chord, group
from gtask.testing.processes import JobServerProgram, gearmand, job_server, worker
from gtask.testing.programs import wait_until
from gtask.testing.requirements import require
from tests.e2e.conftest import LIMIT, ROOT, Staffed, results_service
from tests.e2e.tasks import lines, make


@pytest.fixture(scope="module", params=["gtask", "gearmand"])
def bare(request: pytest.FixtureRequest) -> Iterator[JobServerProgram]:
    """Each job server in turn, without a results service."""
    if request.param == "gtask":
        with job_server() as server:
            yield server
    else:
        require("gearmand", package="gearman-job-server")
        with gearmand() as server:
            yield server


def test_without_a_service_get_says_so_at_once(bare: JobServerProgram) -> None:
    with make(bare.url) as app:
        result = app.tasks["add"].delay(1, 2)
        begun = time.monotonic()
        with pytest.raises(ResultsUnavailable, match=r"gtask results.*--with-results.*sqlite:///.*call\(\)"):
            result.get(timeout=LIMIT)
        assert time.monotonic() - begun < LIMIT / 4, "two seconds, and a generous bound for a loaded machine"

        async def main() -> None:
            async with app:
                with pytest.raises(ResultsUnavailable):
                    await result.aget(timeout=LIMIT)

        for backend in ("asyncio", "trio"):
            anyio.run(main, backend=backend)


def test_outcomes_wait_for_the_service(bare: JobServerProgram, tmp_path: Path) -> None:
    with make(bare.url) as app, worker("tests.e2e.tasks:app", cwd=ROOT, servers=bare.url) as program:
        program.wait_for_line(r"WARN +No results service is connected to .*--with-results FILE", LIMIT)
        path = tmp_path / "runs"
        results = [app.tasks["note"].delay(str(path), str(n)) for n in range(30)]
        chained = (app.tasks["add"] | app.tasks["add"].s(1)).delay(1, 2)
        joined = chord([app.tasks["add"].s(n) for n in range(5)], app.tasks["total"]).delay()
        wait_until(lambda: len(lines(path)) == 30, LIMIT, "all runs")
        with results_service(bare.url, tmp_path / "results.db") as service:
            assert [result.get(timeout=LIMIT) for result in results] == [str(n) for n in range(30)]
            assert chained.get(timeout=LIMIT) == 4
            assert joined.get(timeout=LIMIT) == 10
            assert results[0].state is State.SUCCESS
            service.terminate()
            assert service.wait(LIMIT) == 0
        after = app.tasks["add"].delay(5, 5)
        with results_service(bare.url, tmp_path / "results.db"):
            assert after.get(timeout=LIMIT) == 10
            assert results[0].get(timeout=LIMIT) == "0"
            assert app.AsyncResult(results[1].id).get(timeout=LIMIT) == "1"


def test_a_killed_service_comes_back_under_a_waiting_caller(bare: JobServerProgram, tmp_path: Path) -> None:
    with make(bare.url) as app, worker("tests.e2e.tasks:app", cwd=ROOT, servers=bare.url):
        with results_service(bare.url, tmp_path / "results.db") as service:
            known = app.tasks["add"].delay(1, 2)
            assert known.get(timeout=LIMIT) == 3
            result = app.tasks["gated"].delay(str(tmp_path), "a")
            wait_until(lambda: lines(tmp_path / "a.started"), LIMIT, "the task's start")
            with pytest.raises(ResultTimeout):
                result.get(timeout=0.2)
            service.kill()
            service.wait(LIMIT)
        (tmp_path / "a.go").touch()
        with results_service(bare.url, tmp_path / "results.db"):
            assert result.get(timeout=LIMIT) == int(lines(tmp_path / "a.started")[0])
            assert app.AsyncResult(known.id).get(timeout=LIMIT) == 3


@pytest.mark.parametrize("pool", ["prefork", "thread", "async"])
@pytest.mark.parametrize("kind", ["gtask", "gearmand"])
def test_a_result_outlives_its_job_in_a_queue_in_memory(tmp_path: Path, kind: str, pool: str) -> None:
    """The job server forgets the job while it runs, and what it returns is there all the same."""
    with (
        job_server() if kind == "gtask" else gearmand() as server,
        results_service(server.url, tmp_path / "results.db"),
        make(server.url) as app,
        worker("tests.e2e.tasks:app", cwd=ROOT, servers=server.url, pool=pool) as program,
    ):
        result = app.tasks["gated"].delay(str(tmp_path), "a")
        wait_until(lambda: lines(tmp_path / "a.started"), LIMIT, "the task's start")
        server.restart(signal.SIGKILL)
        (tmp_path / "a.go").touch()
        program.wait_for_line("results? (is|are) handed over all the same", LIMIT)
        # It may be back later than the worker: get() does not wait for a service that is not there.
        wait_until(lambda: app.store is not None and app.store.served(), LIMIT, "the results service")
        assert result.get(timeout=LIMIT) == int(lines(tmp_path / "a.started")[0])
        assert len(lines(tmp_path / "a.started")) == 1


@pytest.mark.parametrize("pool", ["prefork", "thread", "async", "solo"])
def test_a_worker_carries_the_service_along(bare: JobServerProgram, tmp_path: Path, pool: str) -> None:
    option = f"--with-results={tmp_path / 'results.db'}"
    with make(bare.url) as app, worker("tests.e2e.tasks:app", option, cwd=ROOT, servers=bare.url, pool=pool) as program:
        assert app.tasks["add"].delay(1, 2).get(timeout=LIMIT) == 3
        assert group(app.tasks["add"].s(n) for n in range(50)).delay().join(timeout=LIMIT) == list(range(50))
        program.terminate()
        assert program.wait(LIMIT) == 0


def test_beside_a_service_a_workers_own_stands_by(bare: JobServerProgram, tmp_path: Path) -> None:
    """Two that serve would split the results: calls would time out, and chords never finish."""
    option = f"--with-results={tmp_path / 'second.db'}"
    with make(bare.url) as app, results_service(bare.url, tmp_path / "results.db") as service:
        wait_until(lambda: "gtask.results.wait" in str(bare.admin("workers")), LIMIT, "the service")
        with worker("tests.e2e.tasks:app", option, cwd=ROOT, servers=bare.url) as program:
            program.wait_for_line("Another results service serves .*; this one stands by until that ends", LIMIT)
            results = [app.tasks["add"].delay(n) for n in range(30)]
            assert [result.get(timeout=LIMIT) for result in results] == list(range(30))
            assert chord([app.tasks["add"].s(n) for n in range(5)], app.tasks["total"]).delay().get(timeout=LIMIT) == 10
            service.kill()
            program.wait_for_line("No other results service serves any more", LIMIT)
            wait_until(lambda: "gtask.results.wait" in str(bare.admin("workers")), LIMIT, "the service of the worker")
            assert app.tasks["add"].delay(1, 2).get(timeout=LIMIT) == 3


def test_any_process_reads_a_result_by_its_id(staffed: Staffed) -> None:
    result = staffed.app.tasks["add"].delay(1, 2)
    with App("other", staffed.house.server.url) as other:
        assert other.AsyncResult(result.id).get(timeout=LIMIT) == 3
        assert other.AsyncResult(result.id).state is State.SUCCESS
        result.forget()
        wait_until(lambda: other.AsyncResult(result.id).state is State.UNKNOWN, LIMIT, "the end of the record")


def test_states_on_the_way(staffed: Staffed, tmp_path: Path) -> None:
    result = staffed.app.tasks["gated"].delay(str(tmp_path), "a")
    wait_until(lambda: lines(tmp_path / "a.started"), LIMIT, "the task's start")
    assert result.state is State.STARTED
    later = staffed.app.tasks["add"].apply_async((1,), countdown=600)
    assert later.state is State.PENDING
    (tmp_path / "a.go").touch()
    result.get(timeout=LIMIT)
    assert result.state is State.SUCCESS
    retried = staffed.app.tasks["retried"].delay(str(tmp_path / "runs"), 1.0, 1)
    wait_until(lambda: retried.state is State.RETRY, LIMIT, "the retry")
    assert retried.get(timeout=LIMIT) == 1
    info = retried.info
    assert info is not None
    assert info.retries == 1
    assert ":" in info.worker


def test_a_task_calls_and_waits_for_others(staffed: Staffed) -> None:
    assert staffed.app.tasks["parent"].delay(4).get(timeout=LIMIT) == 10
    assert staffed.app.tasks["parent"].call(4) == 10


def test_async_tasks_in_processes(staffed: Staffed) -> None:
    who = staffed.app.tasks["who"]
    assert who.call(1) == [1, "who", True]
    assert group(who.s(n) for n in range(20)).delay().join(timeout=LIMIT) == [[n, "who", True] for n in range(20)]
