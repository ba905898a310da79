"""Background jobs on the embedded server outlive it: kill -9, start again, and none is lost.

``GTASK_TEST_JOBS=100000`` runs the first test with as many jobs as the issue names; without it the suite takes fewer.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gtask import App, group
from gtask.testing.processes import JobServerProgram, job_server, worker
from gtask.testing.programs import wait_until
from tests.e2e.conftest import LIMIT, ROOT, House, house_of
from tests.e2e.tasks import lines, make

JOBS = int(os.environ.get("GTASK_TEST_JOBS", "20000"))
CHUNK = 10_000


@contextmanager
def durable(folder: Path) -> Iterator[tuple[JobServerProgram, App]]:
    """The embedded server with its queue in a file, and the App as its caller."""
    with job_server(db=folder / "queue.db") as server, make(server.url, results=None) as app:
        yield server, app


def jobs(server: JobServerProgram, function: str = "count") -> int:
    """How many jobs of a function there are, queued and running."""
    return sum(int(row.split("\t")[1]) for row in server.admin("status") if row.startswith(f"{function}\t"))


def test_many_queued_jobs_outlive_a_kill(tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    path = tmp_path / "counted"
    with durable(tmp_path) as (server, app):
        count, begun = app.tasks["count"], time.monotonic()
        for first in range(0, JOBS, CHUNK):
            group(count.s(str(path), n) for n in range(first, min(first + CHUNK, JOBS))).delay()
        queued = time.monotonic()
        server.restart(signal.SIGKILL, timeout=LIMIT)
        back = time.monotonic()
        assert jobs(server) == JOBS
        with worker("tests.e2e.tasks:app", "--loglevel=warning", cwd=ROOT, servers=server.url, ready=None):
            wait_until(lambda: jobs(server) == 0, LIMIT * (1 + JOBS / 20_000), "the end of the queue")
        done = time.monotonic()
    assert sorted(map(int, lines(path))) == list(range(JOBS))
    figures = {"jobs": JOBS, "queue": queued - begun, "restart": back - queued, "drain": done - back}
    record_property("durability", figures)
    print(", ".join(f"{name} {value:.1f}" for name, value in figures.items()))


def test_jobs_outlive_kills_while_they_are_queued_and_run(tmp_path: Path) -> None:
    """The server dies again and again, under a caller and a worker at work. Some jobs run twice; none is lost."""
    path, total, kills = tmp_path / "counted", 4000, 3
    with (
        durable(tmp_path) as (server, app),
        worker("tests.e2e.tasks:app", "--loglevel=warning", cwd=ROOT, servers=server.url, ready=None),
    ):
        count = app.tasks["count"]
        for kill in range(kills + 1):
            first = kill * total
            group(count.s(str(path), n) for n in range(first, first + total)).delay()
            if kill < kills:
                before = len(lines(path))
                wait_until(lambda before=before: len(lines(path)) > before + 50, LIMIT, "work")
                server.restart(signal.SIGKILL, timeout=LIMIT)
        wait_until(lambda: jobs(server) == 0, LIMIT, "the end of the queue")
        runs = Counter(map(int, lines(path)))
    assert sorted(runs) == list(range(total * (kills + 1)))
    assert max(runs.values()) <= 1 + kills


def test_delayed_and_urgent_jobs_outlive_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "order"
    with durable(tmp_path) as (server, app):
        note = app.tasks["first"]
        note.apply_async((str(path), "later"), countdown=1.5, priority="high")
        for priority in ("low", "normal", "high"):
            for n in range(3):
                note.apply_async((str(path), f"{priority} {n}"), priority=priority)
        server.restart(signal.SIGKILL, timeout=LIMIT)
        with worker("tests.e2e.tasks:app", cwd=ROOT, servers=server.url, concurrency=1):
            wait_until(lambda: len(lines(path)) == 10, LIMIT, "all of them")
    ran = lines(path)
    ran.remove("later")  # its time may have come before the worker did
    assert ran == [f"{priority} {n}" for priority in ("high", "normal", "low") for n in range(3)]


@pytest.fixture(scope="module", params=["gtask", "gearmand"])
def emptied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Each job server in turn, alone."""
    with house_of(request.param, tmp_path_factory.mktemp("house")) as made:
        yield made


def test_a_worker_is_not_deaf_after_its_server_came_back(emptied: House, tmp_path: Path) -> None:
    add = emptied.app.tasks["add"]
    with emptied.worker() as program:
        assert add.call(1, 2) == 3
        for number in (signal.SIGTERM, signal.SIGKILL):
            position = program.output.position
            emptied.server.restart(number, timeout=LIMIT)
            program.wait_for_line("Connected to", LIMIT, position)
            assert add.options(timeout=LIMIT).call(1, 2) == 3
            assert add.delay(1, 3).get(timeout=LIMIT) == 4
            assert add.apply_async((1, 4), countdown=0.2).get(timeout=LIMIT) == 5
        assert (add | add.s(1)).delay(1).get(timeout=LIMIT) == 2


def test_a_foreground_call_goes_on_after_its_server_came_back(emptied: House, tmp_path: Path) -> None:
    answers: list[object] = []
    gated = emptied.app.tasks["gated"].options(timeout=LIMIT)
    with emptied.worker():
        thread = threading.Thread(target=lambda: answers.append(gated.call(str(tmp_path), "a")))
        thread.start()
        wait_until(lambda: lines(tmp_path / "a.started"), LIMIT, "the task's start")
        emptied.server.restart(signal.SIGKILL, timeout=LIMIT)
        wait_until(lambda: len(lines(tmp_path / "a.started")) == 2, LIMIT, "the task's second start")
        (tmp_path / "a.go").touch()
        thread.join(LIMIT)
    assert answers == [int(lines(tmp_path / "a.started")[1])]
