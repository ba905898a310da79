"""A job whose task has ended is not run again: which jobs are looked up, at what cost, and what follows from them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import random
from typing import Any

import anyio
import pytest

from gtask import App
from gtask.context import LocalReporter
from gtask.message import Message, encode_message
from gtask.repeats import FIRST_PAUSE, MAX_IDS, Repeats
from gtask.results import SqliteStore
from gtask.results.records import outcome_to_record
from gtask.runner import Runner
from gtask.states import ErrorInfo, Outcome, Record, State
from gtask.testing import wait_until
from gtask.types import Submission
from gtask.worker.blocking import fresh_unique
from gtask.worker.core import CoreOptions, WorkerCore
from gtask.worker.job import End, Ending, Job
from gtask.worker.ledger import Ledger, Running
from tests.app.helpers import NOWHERE, message_of, seal
from tests.middleware.recording import Points


class Asked(SqliteStore):
    """A store that notes what it is asked for, and answers nothing while it is `broken`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked: list[set[str]] = []
        self.broken = False

    def get(self, ids: Collection[str]) -> dict[str, Record]:
        """As every store."""
        self.asked.append(set(ids))
        if self.broken:
            raise OSError("no such disk")
        return super().get(ids)


@dataclass
class Shop:
    """An App and a worker of it without a connection: jobs are given to it by hand."""

    app: App
    store: Asked
    runs: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = Ledger(1)
        self.core = WorkerCore(self.app.servers, ["pay"], CoreOptions(), random, fresh_unique)
        self.link = self.core.links[0]
        self.runner = Runner(self.app, "worker:1")
        self.repeats = self.runner.repeats = Repeats(self.app, self.core, self.ledger)

        @self.app.task
        def pay(order: int) -> int:
            self.runs.append(order)
            return order

        @self.app.task(ignore_result=True)
        def quiet(order: int) -> None:
            self.runs.append(order)

    def sent(self, **options: Any) -> Submission:
        """A call of `pay`."""
        return seal(self.app, self.app.tasks["pay"].s(7).set(**options))

    def reconnect(self) -> None:
        """The connection is made anew, after everything that was sent so far."""
        self.link.opened_at = time.monotonic() + 1

    def job(self, submission: Submission) -> Job:
        """The job, as it comes over the connection."""
        return Job(self.link, b"H:x:1", submission.function, submission.unique, submission.workload)

    def run(self, submission: Submission) -> Ending:
        """Runs a job."""
        ending = self.runner.run(self.job(submission), LocalReporter())
        assert isinstance(ending, Ending)
        return ending

    def ended(self, submission: Submission, state: State = State.SUCCESS, value: Any = 7, **also: Any) -> None:
        """Puts the outcome of an earlier run into the store."""
        self.store.put([outcome_to_record(Outcome(message_of(submission).id, state, value, **also))], 60)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    store = Asked(tmp_path / "results.db")
    with App("shop", servers=NOWHERE, results=store) as app:
        yield Shop(app, store)


def test_a_new_job_is_not_looked_up(shop: Shop) -> None:
    shop.link.opened_at = time.monotonic() - 60
    for _ in range(10):
        shop.run(shop.sent())
    assert (shop.store.asked, len(shop.runs)) == ([], 10)


def test_a_job_from_before_the_connection_is_run_once(shop: Shop) -> None:
    submission = shop.sent()
    first = shop.run(submission)
    shop.reconnect()
    assert shop.run(submission) == first == Ending()
    assert shop.runs == [7]
    assert shop.store.asked == [{submission.unique}]


def test_one_that_has_not_run_yet_is_run(shop: Shop) -> None:
    submission = shop.sent()
    shop.reconnect()
    shop.run(submission)
    assert (shop.runs, len(shop.store.asked)) == ([7], 1)


def test_waiting_for_the_store_does_not_make_a_task_a_long_one(shop: Shop) -> None:
    """A worker that thinks so holds no job beside it, and asks the store about each one alone."""
    job = shop.job(shop.sent())
    shop.reconnect()
    job.started = time.monotonic() - 100.0
    shop.runner.run(job, LocalReporter())
    assert time.monotonic() - job.started < 50.0


def test_one_that_is_being_tried_again_is_run(shop: Shop) -> None:
    submission = shop.sent()
    shop.ended(submission, State.RETRY, None, error=ErrorInfo("OSError"))
    shop.reconnect()
    shop.run(submission)
    assert shop.runs == [7]


def test_the_death_of_a_process_makes_older_jobs_suspect(shop: Shop) -> None:
    submission = shop.sent()
    shop.link.opened_at = time.monotonic() - 60
    shop.ended(submission)
    assert shop.ledger.died_at == 0.0
    shop.ledger.died_at = time.time() + 1
    shop.run(submission)
    assert shop.runs == []
    shop.ledger.blame(Running(0, "x", "f"))
    assert (shop.ledger.blamed("x").crashes, shop.ledger.died_at > time.time() - 60) == (1, True)


def test_what_follows_is_submitted_again_and_looked_up_in_its_turn(shop: Shop) -> None:
    pay = shop.app.tasks["pay"]
    submission = seal(shop.app, pay.s(1), pay.s().set(headers={"mine": 1}))
    first = shop.run(submission)
    shop.reconnect()
    again = shop.run(submission)
    assert [(one.function, one.unique) for one in again.submissions] == [
        (one.function, one.unique) for one in first.submissions
    ]
    message = message_of(again.submissions[0])
    assert message.args == (1,)
    assert (message.headers["replayed"], message.headers["mine"]) == (True, 1)
    assert "replayed" not in message_of(first.submissions[0]).headers
    shop.link.opened_at = time.monotonic() - 60
    shop.run(first.submissions[0])
    assert shop.runs == [1, 1]
    shop.run(again.submissions[0])
    assert shop.runs == [1, 1]


def test_a_failure_fails_again_without_a_run(shop: Shop) -> None:
    pay = shop.app.tasks["pay"]
    submission = shop.sent(link_error=pay.s())
    shop.ended(submission, State.FAILURE, None, error=ErrorInfo("OSError", "gone"), retries=2, task="pay")
    shop.reconnect()
    ending = shop.run(submission)
    assert (ending.end, shop.runs) == (End.FAIL, [])
    assert [one.function for one in ending.submissions] == ["pay"]
    assert [one.function for one in ending.optional] == ["pay.dead"]


def test_jobs_that_wait_are_looked_up_together(shop: Shop) -> None:
    waiting = [shop.sent() for _ in range(20)]
    for submission in waiting[:10]:
        shop.ended(submission)
    stranger = Job(shop.link, b"H:x:2", "pay", "f" * 32, b"7")
    elsewhere = Job(WorkerCore(shop.app.servers, ["pay"], CoreOptions(), random, fresh_unique).links[0], *_parts(shop))
    jobs = [shop.job(submission) for submission in waiting]
    shop.core.backlog.extend([*jobs[1:], stranger, elsewhere])
    shop.reconnect()
    for job in jobs:
        shop.runner.run(job, LocalReporter())
    assert shop.store.asked == [{submission.unique for submission in waiting}]
    assert len(shop.runs) == 10


def _parts(shop: Shop) -> tuple[bytes, str, str, bytes]:
    submission = shop.sent()
    return b"H:x:3", submission.function, submission.unique, submission.workload


def test_a_question_is_bounded(shop: Shop) -> None:
    shop.core.backlog.extend(shop.job(shop.sent()) for _ in range(MAX_IDS + 50))
    submission = shop.sent()
    shop.reconnect()
    shop.run(submission)
    wait_until(lambda: len(shop.store.asked) == 2, 30)
    assert [len(ids) for ids in shop.store.asked] == [MAX_IDS, 51]


def test_what_comes_meanwhile_is_looked_up_while_others_run(shop: Shop) -> None:
    first, *others = [shop.sent() for _ in range(5)]
    for submission in others:
        shop.ended(submission)
    jobs = [shop.job(submission) for submission in others]
    shop.reconnect()
    gate = threading.Event()
    asked, get = shop.store.asked, shop.store.get

    def slow(ids: Collection[str]) -> dict[str, Record]:
        if threading.current_thread() is not threading.main_thread():
            assert gate.wait(30)
        elif first.unique in ids:
            shop.core.backlog.extend(jobs)  # they come while the question is under way
        return get(ids)

    shop.store.get = slow  # type: ignore[method-assign]
    shop.run(first)
    assert asked == [{first.unique}]
    gate.set()
    for job in jobs:
        shop.runner.run(job, LocalReporter())
    assert asked == [{first.unique}, {submission.unique for submission in others}]
    assert shop.runs == [7]


def test_what_keeps_no_result_is_not_looked_up(shop: Shop) -> None:
    quiet, pay = shop.app.tasks["quiet"], shop.app.tasks["pay"]
    submissions = [seal(shop.app, quiet.s(1)), seal(shop.app, pay.s(1), foreground=True)]
    submissions.append(Submission("pay", b"1", "u1", background=False))
    shop.reconnect()
    for submission in submissions:
        shop.run(submission)
    assert (shop.store.asked, shop.runs) == ([], [1, 1, 1])


def test_delayed_jobs_count_from_when_they_were_due(shop: Shop) -> None:
    now = time.time()
    shop.link.opened_at = time.monotonic()
    for due, asked in ((now - 50, 1), (now + 50, 0)):
        headers = {"task": "pay", "sent": now - 100, "eta": due}
        id = shop.app.new_id("pay")
        shop.run(Submission("pay", encode_message(Message(id, "pay", (7,), headers=headers)), id))
        assert len(shop.store.asked) == asked
        shop.store.asked.clear()


def test_a_caller_who_does_not_say_when_is_believed_after_a_while(shop: Shop) -> None:
    message = Message("order-7", "pay", (7,))
    for age, asked in ((1, 1), (60, 0)):
        shop.link.opened_at = time.monotonic() - age
        shop.run(Submission("pay", encode_message(message), "order-7"))
        assert len(shop.store.asked) == asked
        shop.store.asked.clear()


def test_a_store_that_does_not_answer_stops_no_task(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    submissions = [shop.sent() for _ in range(5)]
    shop.reconnect()
    shop.store.broken = True
    for submission in submissions[:3]:
        shop.run(submission)
    assert len(shop.runs) == 3
    assert len(shop.store.asked) == 1
    assert "no such disk" in caplog.text
    shop.store.broken = False
    shop.ended(submissions[3])
    shop.repeats._blind_until -= FIRST_PAUSE
    shop.run(submissions[3])
    assert len(shop.runs) == 3


def test_a_record_that_cannot_be_read_stops_no_task(shop: Shop) -> None:
    submission = shop.sent()
    shop.store.put([Record(submission.unique, State.SUCCESS, b"\xc1")], 60)
    shop.reconnect()
    shop.run(submission)
    assert shop.runs == [7]


def test_so_it_is_in_the_async_pool(shop: Shop) -> None:
    runner = Runner(shop.app, "worker:1", in_loop=True)
    runner.repeats = shop.repeats
    done, new = shop.sent(), shop.sent()
    shop.ended(done)
    waiting = shop.job(new)
    shop.core.backlog.append(waiting)
    shop.reconnect()

    async def main() -> None:
        for job in (shop.job(done), waiting):
            assert await runner.arun(job, LocalReporter()) == Ending()
        shop.store.broken = True
        await runner.arun(shop.job(shop.sent(headers={"replayed": True})), LocalReporter())
        await runner.arun(shop.job(shop.sent(headers={"replayed": True})), LocalReporter())

    anyio.run(main)
    assert shop.runs == [7, 7, 7]
    assert shop.store.asked[0] == {done.unique, new.unique}
    assert len(shop.store.asked) == 2


def test_it_is_counted_and_logged(shop: Shop, points: Points, caplog: pytest.LogCaptureFixture) -> None:
    submission = shop.sent()
    shop.run(submission)
    shop.reconnect()
    with caplog.at_level(logging.INFO, "gtask.task"):
        shop.run(submission)
    assert f"Task pay[{submission.unique}] is not run again: it has ended before (SUCCESS)" in caplog.text
    (point,) = points("gtask.tasks.skipped")
    assert (point.value, dict(point.attributes)) == (1, {"gtask.task": "pay"})
    assert sum(point.value for point in points("gtask.tasks")) == 1
    (queued,) = points("gtask.queue.duration")
    assert queued.count == 1
