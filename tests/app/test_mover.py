"""Delayed jobs on their way from one of their queues to the next, and to their task."""

from __future__ import annotations

import time

import pytest

from gtask import App, mover
from gtask.client import Client
from gtask.publish import FAR, LATER, SOON, Later, pack_later
from gtask.testing import FaultProxy
from gtask.testing.embedded import EmbeddedServer
from gtask.testing.programs import wait_until
from gtask.types import Submission, parse_server
from gtask.worker import endings
from tests.app.helpers import LIMIT, working


def jobs(server: EmbeddedServer) -> dict[str, int]:
    """How many jobs each function has that has any."""
    rows = (line.split("\t") for line in server.admin("status"))
    return {row[0]: int(row[1]) for row in rows if int(row[1])}


def put(app: App, function: str, left: float, unique: str, target: str = "nobody") -> None:
    """Queues a job that is due in so many seconds, in the queue of one kind, to be handed out at once."""
    later = Later(target, f"of-{unique}", "normal", time.time() + left, b"x")
    with Client(app.servers) as client:
        client.submit(Submission(function, pack_later(later), unique))


def test_what_was_far_away_waits_with_what_is_near_under_the_same_unique(
    served: App, gtask_server: EmbeddedServer
) -> None:
    put(served, FAR, 119.0, "u1")
    with working(served), Client(served.servers) as client:
        wait_until(lambda: jobs(gtask_server) == {LATER: 1}, LIMIT)
        assert client.status("u1").known


def test_what_is_late_goes_to_its_task_from_wherever_it_is(served: App, gtask_server: EmbeddedServer) -> None:
    for number, function in enumerate((SOON, LATER, FAR)):
        put(served, function, -5.0, f"u{number}")
    with working(served):
        wait_until(lambda: jobs(gtask_server) == {"nobody": 3}, LIMIT)


def test_a_worker_that_stops_sends_back_what_it_cannot_wait_for(served: App, gtask_server: EmbeddedServer) -> None:
    put(served, SOON, mover.HOLD - 1.0, "u1")
    put(served, LATER, mover.HOLD - 2.0, "u2")
    with working(served):
        wait_until(lambda: _running(gtask_server) == 2, LIMIT)
        began = time.monotonic()
    assert time.monotonic() - began < mover.HOLD / 2
    assert jobs(gtask_server) == {LATER: 2}


def test_a_move_that_is_repeated_is_made_once(served: App, gtask_server: EmbeddedServer) -> None:
    """As after a crash between the submission of a job and the end of the delayed one."""
    put(served, LATER, -1.0, "u1")
    later = Later("nobody", "of-u1", "normal", time.time() - 1.0, b"x")
    with Client(served.servers) as client:
        client.submit(Submission(later.function, later.workload, later.unique))
    with working(served):
        wait_until(lambda: jobs(gtask_server) == {"nobody": 1}, LIMIT)


def test_what_was_held_over_a_connection_that_is_cut_is_handed_out_again(gtask_server: EmbeddedServer) -> None:
    server = parse_server(gtask_server.url)
    with FaultProxy(server) as proxy, App("shop", servers=proxy.url, results=None) as app, working(app):
        app.task(name="add")(lambda a: a)
        put(app, SOON, 1.5, "u1")
        wait_until(lambda: _running(gtask_server) == 1, LIMIT)
        proxy.cut()
        wait_until(lambda: jobs(gtask_server) == {"nobody": 1}, LIMIT)


def test_what_finds_the_queue_of_its_task_full_waits_again(
    served: App, gtask_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "OPTIONAL_PATIENCE", 0.3)
    monkeypatch.setattr(mover, "PAUSE", 3.0)
    with Client(served.servers) as client:
        client.submit(Submission("nobody", b"x", "there"))
    gtask_server.admin("maxqueue nobody 1")
    put(served, SOON, -1.0, "u1")
    with working(served):
        wait_until(lambda: jobs(gtask_server) == {"nobody": 1, LATER: 1}, LIMIT)
        gtask_server.admin("maxqueue nobody 0")
        wait_until(lambda: jobs(gtask_server) == {"nobody": 2}, LIMIT)


def _running(server: EmbeddedServer) -> int:
    return sum(int(row.split("\t")[2]) for row in server.admin("status"))
