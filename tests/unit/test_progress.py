"""What a run says of its progress: how often it is sent, what is kept, and how it is read again."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from gtask.progress import MAX_KEPT, MAX_MESSAGE, Progress, Teller, of_outcome, seen, to_outcome
from gtask.states import Outcome, State
from gtask.timers import Timers
from gtask.types import JobStatus

LIMIT = 30.0


class Said:
    """A teller whose reports are noted and whose timer is this test."""

    def __init__(self, live: bool = False) -> None:
        self.sent: list[tuple[int, int]] = []
        self.kept: list[Progress] = []
        self.due: list[Callable[[], object]] = []
        self.teller = Teller(self.status, lambda seconds, call: self.due.append(call), self.kept.append, live)

    def status(self, done: int, total: int) -> bool:
        self.sent.append((done, total))
        return True

    def ring(self) -> None:
        due, self.due = self.due, []
        for call in due:
            call()


def test_a_tight_loop_sends_little_and_the_last_one() -> None:
    said = Said()
    for n in range(100_000):
        said.teller.tell(n, 100_000, None)
    assert len(said.sent) < 100, "ten a second, on a machine however slow"
    assert len(said.due) <= 1 + len(said.sent), "one timer at a time"
    said.ring()
    assert said.sent[-1] == (99_999, 100_000)
    said.ring()
    count = len(said.sent)
    said.teller.finish()
    assert len(said.sent) == count, "nothing is sent twice"
    assert said.kept == [], "without a message the job server knows it all"


def test_the_end_sends_what_is_left() -> None:
    said = Said()
    for n in range(3):
        said.teller.tell(n, 3, f"at {n}")
    said.teller.finish()
    assert said.sent == [(0, 3), (2, 3)]
    said.ring()
    assert [one.message for one in said.kept] == ["at 0"], "the record of the result is next"


def test_messages_are_kept_once_a_second_and_the_last_one_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("gtask.progress.monotonic", lambda: now[0])
    said = Said()
    for n in range(50):
        said.teller.tell(n, 50, f"at {n}")
        now[0] += 0.01
    assert [one.message for one in said.kept] == ["at 0"]
    assert len(said.sent) <= 6
    now[0] += 1.0
    said.ring()
    assert said.kept[-1] == Progress(49, 50, "at 49")
    assert said.sent[-1] == (49, 50)
    said.teller.tell(50, 50, "x" * 5000)
    now[0] += 1.0
    said.ring()
    assert said.kept[-1].message == "x" * MAX_MESSAGE


def test_numbers_too_large_for_a_job_server_are_scaled_and_kept_exactly() -> None:
    said = Said()
    said.teller.tell(3 << 40, 6 << 40, None)
    done, total = said.sent[0]
    assert done * 2 == total
    assert total <= MAX_KEPT
    assert said.kept == [Progress(3 << 40, 6 << 40)]
    live = Said(live=True)
    live.teller.tell(3 << 40, -5, None)
    assert live.sent == [(3 << 40, 0)]
    assert live.kept == []


def test_a_fraction_is_a_part_of_one() -> None:
    assert Progress(1, 4).fraction == 0.25
    assert Progress(9, 4).fraction == 1.0
    assert Progress(9).fraction is None


def test_what_job_servers_and_store_say_together() -> None:
    stored = to_outcome(Progress(1, 10, "reading"), Outcome("a", State.STARTED))
    assert of_outcome(stored) == Progress(1, 10, "reading")
    assert of_outcome(Outcome("a", State.PROGRESS, value="damaged")) is None
    running, silent = JobStatus(True, True, 2, 10), JobStatus(True, True)
    assert seen([JobStatus(), running], None) == Progress(2, 10)
    assert seen([running], stored) == Progress(2, 10, "reading")
    assert seen([silent], stored) is None, "a new run has said nothing yet"
    assert seen([JobStatus(known=True)], stored) is None, "it waits to be run again"
    assert seen([JobStatus()], stored) == Progress(1, 10, "reading"), "its end is on its way to the store"
    assert seen([running], Outcome("a", State.SUCCESS, 5)) is None
    exact = to_outcome(Progress(3 << 40, 6 << 40), Outcome("a", State.STARTED))
    assert seen([running], exact) == Progress(3 << 40, 6 << 40)


def test_timers_call_in_order_and_survive_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    timers, done, order = Timers("test"), threading.Event(), []

    def fail() -> None:
        raise ValueError("on purpose")

    timers.call(0.05, lambda: (order.append(2), done.set()))
    timers.call(0.0, fail)
    timers.call(0.01, lambda: order.append(1))
    assert done.wait(LIMIT)
    assert order == [1, 2]
    assert "on purpose" in caplog.text
