"""Chords of a thousand, some of whose parts are handed out twice: the body runs once, or the errback does. And a large
group before another one, whose messages the job server has to hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gtask import App, AsyncResult, group
from gtask.layout import lay_out_canvas
from gtask.sendable import Canvas
from gtask.testing.processes import admin, gearmand, job_server, worker
from gtask.testing.programs import wait_until
from gtask.testing.requirements import require
from tests.e2e.canvas_tasks import make as canvas_app
from tests.e2e.conftest import LIMIT, ROOT, results_service
from tests.e2e.large import make
from tests.e2e.tasks import lines

PARTS = 1000
TWICE = 20
"""Every so many-th part is sent again while it may be running, and when the whole has ended."""

MEMBERS = 600
"""Of each of two groups that follow each other."""

MEMORY = 16 * 1024 * 1024
"""Bytes that the job server may grow by for these; it took 33 million when every member brought what follows."""

KILLS = 100
"""Every so many-th part kills its process: the job server hands it out again."""


@dataclass
class Large:
    """An App as a caller, with a worker, and a folder for what its tasks write."""

    app: App
    folder: Path


@pytest.fixture(scope="module", params=["gearman", "sqlite"])
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Large]:
    """gearmand with its results service, and the embedded server with a file for results."""
    folder = tmp_path_factory.mktemp("large")
    results = "gearman://" if request.param == "gearman" else f"sqlite:///{folder / 'results.db'}"
    with ExitStack() as stack:
        if request.param == "gearman":
            require("gearmand", package="gearman-job-server")
            server = stack.enter_context(gearmand())
            stack.enter_context(results_service(server.url, folder / "results.db"))
        else:
            server = stack.enter_context(job_server())
        env = {"CANVAS_RESULTS": results, "LARGE_FOLDER": str(folder)}
        stack.enter_context(worker("tests.e2e.large:app", cwd=ROOT, servers=server.url, concurrency=4, env=env))
        yield Large(stack.enter_context(make(server.url, results, str(folder))), folder)


def test_a_chord_of_a_thousand_runs_its_body_once_though_parts_come_twice(large: Large) -> None:
    app, folder = large.app, large.folder
    parts = group(app.tasks["part"].s(number, KILLS) for number in range(PARTS))
    handle, again = send(app, (parts | app.tasks["body"].s("whole")).link_error(app.tasks["errback"].s()))
    again()
    assert handle.get(timeout=LIMIT) == list(range(PARTS))
    again()
    wait_for_the_end(app)
    runs = lines(folder / "parts")
    print(f"{PARTS} parts, {len(runs) - PARTS} runs more")
    assert set(runs) == set(map(str, range(PARTS)))
    assert len(runs) >= PARTS + PARTS // KILLS
    assert lines(folder / "whole") == ["body"]
    assert not (folder / "errback").exists()


def test_a_chord_of_a_thousand_with_one_bad_part_calls_its_errback_once(large: Large) -> None:
    app, folder = large.app, large.folder
    parts = group(app.tasks["part"].s(number, 2 * KILLS, 500) for number in range(PARTS))
    handle, again = send(app, (parts | app.tasks["body"].s("bad")).link_error(app.tasks["errback"].s()))
    again()
    with pytest.raises(ValueError, match="part 500 is bad"):
        handle.get(timeout=LIMIT)
    wait_until(lambda: (folder / "errback").exists(), LIMIT, "the errback")
    again()
    wait_for_the_end(app)
    assert lines(folder / "errback") == ["part: part 500 is bad"]
    assert not (folder / "bad").exists()


def test_a_large_group_before_a_large_group_costs_no_more_than_both(tmp_path: Path) -> None:
    """What follows the first group goes through the job server once; 3,000 and 3,000 are measured in docs/canvas.md."""
    with ExitStack() as stack:
        server = stack.enter_context(job_server(db=tmp_path / "queue.db", results=tmp_path / "results.db"))
        stack.enter_context(worker("tests.e2e.canvas_tasks:app", cwd=ROOT, servers=server.url))
        app = stack.enter_context(canvas_app(server.url))
        square, count, tag = (app.tasks[name] for name in ("square", "count", "tag"))
        first, second = group(square.s(n) for n in range(MEMBERS)), group(count.s() for _ in range(MEMBERS))
        canvas = first | second | tag.s(0)
        sizes = sorted(len(app.publisher.seal(one).workload) for one in lay_out_canvas(app, canvas).sendings)
        print(f"{MEMBERS} messages with {sum(sizes)} bytes: {sizes[0]} to {sizes[-2]}, and one of {sizes[-1]}")
        assert sizes[-2] < 300
        assert sum(sizes) < MEMBERS * 400
        before = memory(server.pid)
        assert canvas.delay().get(timeout=LIMIT) == [0, [MEMBERS] * MEMBERS]
        grown = memory(server.pid) - before
        print(f"the job server's memory has grown by {grown} bytes")
        assert grown < MEMORY


def memory(pid: int) -> int:
    """The most memory that a process has had, in bytes; 0 where nobody says it."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def send(app: App, canvas: Canvas) -> tuple[AsyncResult[Any], Callable[[], object]]:
    """Sends a chord; its handle, and what sends every so many-th part again, as a job server does that has missed the
    end of a job."""
    layout = lay_out_canvas(app, canvas)
    jobs = [app.publisher.seal(sending) for sending in layout.sendings]
    client = app._sender.client
    client.submit_many(jobs)
    assert isinstance(layout.handle, AsyncResult)
    return layout.handle, lambda: client.submit_many(jobs[::TWICE])


def wait_for_the_end(app: App) -> None:
    """Waits until no job is left."""
    server = app.servers[0]
    own = (*app.tasks, "gtask.canvas", "gtask.results.put")

    def is_empty() -> bool:
        rows = [line.split("\t") for line in admin(server.host, server.port, "status") if line != "."]
        return not any(int(row[1]) for row in rows if row[0] in own)

    wait_until(is_empty, LIMIT, "the end of all jobs")
