"""Queues and slots, fairness between functions, and several job servers of which one dies and comes back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from gtask import App, group
from gtask.client import Client
from gtask.testing.processes import JobServerProgram, gearmand, job_server, worker
from gtask.testing.programs import Program, free_port, wait_until
from gtask.testing.requirements import require
from gtask.types import Submission
from tests.e2e.conftest import LIMIT, ROOT, House
from tests.e2e.tasks import lines, make

NAMES = ("first", "second", "third")


@pytest.mark.parametrize(("pool", "concurrency"), [("prefork", 1), ("thread", 2), ("async", 2)])
def test_no_function_starves(house: House, tmp_path: Path, pool: str, concurrency: int) -> None:
    """gearmand 1.1.20 alone would serve the one that was registered last until its queue is empty."""
    path, total = tmp_path / "runs", 300
    tasks = [house.app.tasks[name] for name in NAMES]
    group(task.s(str(path), task.name) for task in tasks for _ in range(total)).delay()
    with house.worker(pool=pool, concurrency=concurrency):
        wait_until(lambda: len(lines(path)) == total * len(NAMES), LIMIT, "all of them")
    ran = lines(path)
    half = ran[: len(ran) // 2]
    # A turn may be as long as the most grabs that are under way at once, 128.
    assert all(half.count(name) > total // 10 for name in NAMES), [half.count(name) for name in NAMES]


def test_a_short_queue_does_not_wait_for_a_long_one(house: House, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    first, second, third = (house.app.tasks[name] for name in NAMES)
    group(task.s(str(path), task.name) for task in (first, third) for _ in range(1000)).delay()
    second.delay(str(path), "second")
    with house.worker(concurrency=1):
        wait_until(lambda: "second" in lines(path), LIMIT, "the one")
        wait_until(lambda: len(lines(path)) == 2001, LIMIT, "all of them")
    assert lines(path).index("second") < 1000


def test_priorities_hold(house: House, tmp_path: Path) -> None:
    path = str(tmp_path / "runs")
    first = house.app.tasks["first"]
    for priority in ("low", "normal", "high"):
        first.apply_async((path, priority), priority=priority)
    with house.worker(pool="solo"):
        wait_until(lambda: len(lines(Path(path))) == 3, LIMIT, "all of them")
    assert lines(Path(path)) == ["high", "normal", "low"]


def test_foreground_retries_hold_no_slot(house: House, tmp_path: Path) -> None:
    app, path = house.app, tmp_path / "runs"
    with house.worker(concurrency=1):
        answers: list[int] = []
        call = app.tasks["retried"].options(timeout=LIMIT)
        threads = [threading.Thread(target=lambda: answers.append(call.call(str(path), 1.5, 1))) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(lines(path)) == 3, LIMIT, "the first runs")
        assert app.tasks["add"].call(1, 2) == 3
        assert not answers
        for thread in threads:
            thread.join(LIMIT)
        assert answers == [1, 1, 1]


@dataclass
class Pair:
    """Two job servers of one kind, one worker on both, and the App on both."""

    servers: list[JobServerProgram]
    worker: Program
    app: App


@pytest.fixture(scope="module", params=["gtask", "gearmand"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    with ExitStack() as stack:
        if request.param == "gtask":
            servers = [stack.enter_context(job_server(db=folder / f"queue{n}.db")) for n in range(2)]
        else:
            require("gearmand", package="gearman-job-server")
            servers = [stack.enter_context(gearmand()) for _ in range(2)]
        urls = [server.url for server in servers]
        program = stack.enter_context(
            worker("tests.e2e.tasks:app", f"--with-results={folder / 'results.db'}", cwd=ROOT, servers=urls)
        )
        yield Pair(servers, program, stack.enter_context(make(urls)))


def test_both_servers_are_served(pair: Pair, tmp_path: Path) -> None:
    assert pair.app.tasks["add"].call(1, 2) == 3
    assert pair.app.tasks["add"].delay(1, 2).get(timeout=LIMIT) == 3
    for server in pair.servers:
        with Client(server.url) as client:
            assert client.call(Submission("add", b"7", background=False), LIMIT) == b"7"


def test_one_dies_and_the_other_goes_on_and_it_rejoins(pair: Pair, tmp_path: Path) -> None:
    add, (dead, alive) = pair.app.tasks["add"], pair.servers
    dead.kill()
    dead.wait(LIMIT)
    for n in range(10):
        assert add.options(timeout=LIMIT).call(n, 1) == n + 1
        assert add.delay(n, 1).get(timeout=LIMIT) == n + 1
    assert (add | add.s(1)).delay(1).get(timeout=LIMIT) == 2
    assert add.apply_async((1,), countdown=0.2).get(timeout=LIMIT) == 1
    dead.start()
    dead.wait_until_ready(LIMIT)
    wait_until(lambda: _workers(dead, "add") == 2, LIMIT, "the worker's processes at the server that came back")
    wait_until(lambda: _workers(dead, "gtask.later") == 1, LIMIT, "the housekeeper at the server that came back")
    wait_until(lambda: _workers(dead, "gtask.results.wait") == 1, LIMIT, "the results service there")
    with Client(dead.url) as client:
        assert client.call(Submission("add", b"7", background=False), LIMIT) == b"7"
    alive.restart(signal.SIGKILL, timeout=LIMIT)
    wait_until(lambda: _workers(alive, "add") == 2, LIMIT, "the worker's processes at the other server")
    assert add.delay(1, 2).get(timeout=LIMIT) == 3
    assert pair.worker.running


def _workers(server: JobServerProgram, function: str) -> int:
    rows = [line.split("\t") for line in server.admin("status")]
    return next((int(row[3]) for row in rows if row[0] == function), 0)


def test_a_worker_starts_before_its_server(tmp_path: Path) -> None:
    port = free_port()
    url = f"gearman://127.0.0.1:{port}"
    with worker("tests.e2e.tasks:app", cwd=ROOT, servers=url, ready=None) as program:
        program.wait_for_line("could not be reached.*Trying again until it answers", LIMIT)
        with job_server(port=port, db=tmp_path / "q.db"), make(url, None) as app:
            program.wait_for_line(r"\bready\b", LIMIT)
            assert app.tasks["add"].options(timeout=LIMIT).call(1, 2) == 3
