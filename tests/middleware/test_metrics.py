"""Metrics: what was sent, what waited, what ran and what it led to."""

from __future__ import annotations

import pytest

from gtask import App, Retry, TaskContext
from gtask.signing import Keyring
from gtask.types import Submission
from tests.middleware.recording import Points, define, seal, work_off


def test_metrics_need_no_spans(app: App, points: Points) -> None:
    def flaky(ctx: TaskContext, n: int) -> int:
        if not ctx.retries:
            raise Retry(delay=0)
        if n < 0:
            raise KeyError(n)
        return n

    calculate = app.task(name="calculate", bind=True)(flaky)
    work_off(app, seal(app, calculate.s(7)), seal(app, calculate.s(-1)))

    counted = {
        (point.attributes["gtask.task"], point.attributes["gtask.state"]): point.value
        for point in points("gtask.tasks")
    }
    assert counted == {("calculate", "RETRY"): 2, ("calculate", "SUCCESS"): 1, ("calculate", "FAILURE"): 1}

    (sent,) = points("messaging.client.operation.duration")
    assert sent.count == 4
    assert dict(sent.attributes) == {
        "messaging.system": "gearman",
        "messaging.destination.name": "calculate",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "server.address": "queue.example",
        "server.port": 4731,
    }

    good, bad = sorted(points("messaging.process.duration"), key=lambda point: "error.type" in point.attributes)
    assert (good.count, bad.count) == (3, 1)
    assert bad.attributes["error.type"] == "KeyError"
    assert good.attributes["messaging.operation.name"] == "process"
    assert good.explicit_bounds[0] == 0.005
    assert good.explicit_bounds[-1] == 10

    (queued,) = points("gtask.queue.duration")
    assert queued.count == 4
    assert queued.max < 60
    assert dict(queued.attributes) == {"gtask.task": "calculate"}


def test_the_time_in_the_queue_starts_when_a_task_is_due(
    app: App, points: Points, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = app.now()
    clock = [now]
    monkeypatch.setattr(app, "now", lambda: clock[0])
    calculate = define(app, "calculate", abs)
    delayed = seal(app, calculate.s(7).set(countdown=100))
    clock[0] = now + 103
    work_off(app, delayed)
    (queued,) = points("gtask.queue.duration")
    assert queued.sum == pytest.approx(3, abs=0.01)


def test_a_clock_that_is_behind_makes_no_negative_time(
    app: App, points: Points, monkeypatch: pytest.MonkeyPatch
) -> None:
    calculate = define(app, "calculate", abs)
    sent = seal(app, calculate.s(7))
    now = app.now()
    monkeypatch.setattr(app, "now", lambda: now - 60)
    work_off(app, sent)
    (queued,) = points("gtask.queue.duration")
    assert queued.sum == 0


def test_a_foreign_caller_does_not_say_when_it_sent(app: App, points: Points) -> None:
    define(app, "calculate", abs)
    work_off(app, Submission("calculate", b"7", "u1"))
    assert points("gtask.queue.duration") == []
    assert len(points("gtask.tasks")) == 1


def test_what_cannot_be_run_is_counted_by_its_reason(app: App, points: Points) -> None:
    define(app, "calculate", abs)
    signed = Keyring({"k1": "a secret of many bytes"}).sign("calculate", b"7", 0.0)
    work_off(app, Submission("calculate", signed, "u1"), Submission("calculate", b"\x85\xa5gtask", "u2"))
    counted = {point.attributes["error.type"]: point.value for point in points("gtask.tasks")}
    assert counted == {"gtask.errors.SignatureError": 1, "gtask.errors.DecodeError": 1}
    assert {point.attributes["gtask.state"] for point in points("gtask.tasks")} == {"REFUSED"}
