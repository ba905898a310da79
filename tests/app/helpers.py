"""What the tests of the App share: jobs that are run in this process, and workers in threads of it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from random import random
from typing import Any

from gtask import App, Signature
from gtask.answers import decode_failure
from gtask.context import LocalReporter, Reporter
from gtask.housekeeper import FUNCTIONS, LANES, SLOTS, Housekeeper
from gtask.message import Message, decode_message
from gtask.publish import DELAYED, unpack_later
from gtask.runner import PutOff, Runner
from gtask.states import ErrorInfo, Outcome
from gtask.types import Submission
from gtask.worker.blocking import BlockingDriver, fresh_unique
from gtask.worker.core import CoreOptions, WorkerCore
from gtask.worker.job import End, Ending, Job
from gtask.worker.solo import SoloPool
from gtask.worker.threads import ThreadPool

NOWHERE = "gearman://127.0.0.1:1"
"""A job server that is never there: nothing is to be sent."""

LIMIT = 30.0
"""Seconds that something may take; only what hangs takes them."""


def seal(app: App, step: Signature[Any], *rest: Signature[Any], foreground: bool = False) -> Submission:
    """What the caller submits for a step and those that follow it."""
    later = [one.data(one.new_id()).to_list() for one in reversed(rest)]
    return app.publisher.seal(app.publisher.prepare(step.data(step.new_id()), app.now(), later, foreground))


def job_of(submission: Submission, attempt: int = 0) -> Job:
    """The job that a worker grabs: a delayed one when it was moved into the queue of its task."""
    function, unique, workload = submission.function, submission.unique, submission.workload
    if function in DELAYED:
        later = unpack_later(workload)
        function, unique, workload = later.function, later.unique, later.workload
    job = Job(None, b"H:test:1", function, unique, workload)  # type: ignore[arg-type]
    job.attempt = attempt
    return job


def message_of(submission: Submission) -> Message:
    """The message in a submission, or in the delayed job that it is."""
    job = job_of(submission)
    return decode_message(job.function, job.workload, fallback_id=job.unique)


def run_one(app: App, submission: Submission, attempt: int = 0, reporter: Reporter | None = None) -> Ending | PutOff:
    """Runs one job as a process of a worker does."""
    runner = Runner(app, "worker:1")
    try:
        return runner.run(job_of(submission, attempt), reporter or LocalReporter())
    finally:
        runner.close_loop()


def ending_of(app: App, submission: Submission, attempt: int = 0) -> Ending:
    """As `run_one`, for a job that ends."""
    ending = run_one(app, submission, attempt)
    assert isinstance(ending, Ending)
    return ending


def unparked(ending: Ending | PutOff) -> Ending:
    """How a job ends, without the dead letter that it leaves behind."""
    assert isinstance(ending, Ending)
    return ending._replace(optional=())


def work_off(app: App, *submissions: Submission, limit: int = 100) -> list[Ending | PutOff]:
    """Runs jobs, and those that follow from them, until there is none left."""
    waiting = deque(submissions)
    endings: list[Ending | PutOff] = []
    while waiting:
        assert len(endings) < limit
        ending = run_one(app, waiting.popleft())
        endings.append(ending)
        if isinstance(ending, Ending):
            waiting.extend(ending.submissions)
    return endings


class _Reporter(LocalReporter):
    """Reports of a job that runs in this process."""

    def __init__(self, driver: BlockingDriver, job: Job) -> None:
        self._driver = driver
        self._job = job

    def _send(self, name: str, *args: Any) -> bool:
        return self._driver.report(self._job, lambda: getattr(self._job.link.protocol, name)(self._job.handle, *args))

    def progress(self, numerator: int, denominator: int) -> bool:
        return self._send("send_status", numerator, denominator)

    def data(self, data: bytes) -> bool:
        return self._send("send_data", data)

    def warning(self, data: bytes) -> bool:
        return self._send("send_warning", data)


def _run(runner: Runner, driver: BlockingDriver, job: Job) -> Ending | None:
    ending = runner.run(job, _Reporter(driver, job))
    if isinstance(ending, PutOff):
        assert driver.put_off(job, ending.delay)
        return None
    return ending


@contextmanager
def working(app: App, slots: int = 2, pool: str = "thread") -> Iterator[BlockingDriver]:
    """A worker in threads of this process: it runs the App's tasks, and moves delayed jobs."""
    runner = Runner(app, "worker:1")
    ready = [threading.Event(), threading.Event()]
    slots = slots if pool == "thread" else 1
    core = WorkerCore(app.servers, runner.functions, CoreOptions(slots, pack=app.publisher.pack), random, fresh_unique)
    options = CoreOptions(SLOTS, 0, exceptions=True, pack=app.publisher.pack)
    keeping = WorkerCore(app.servers, FUNCTIONS, options, random, fresh_unique, LANES)
    with BlockingDriver(core, None, ready[0].set) as driver, BlockingDriver(keeping, None, ready[1].set) as keeper:
        run = partial(_run, runner, driver)
        made = ThreadPool(driver, run, slots, 0, runner.close_loop) if pool == "thread" else SoloPool(driver, run)

        def serve() -> None:
            made.serve()
            runner.close_loop()

        threads = [
            threading.Thread(target=serve, name="pool"),
            threading.Thread(target=keeper.serve, args=(Housekeeper(app, keeper, "worker:2"),), name="housekeeper"),
        ]
        for thread in threads:
            thread.start()
        try:
            assert all(event.wait(LIMIT) for event in ready)
            yield driver
        finally:
            driver.stop()
            threads[0].join(LIMIT)
            keeper.stop()
            threads[1].join(LIMIT)
            assert not any(thread.is_alive() for thread in threads)


def foreign(function: str, workload: bytes) -> Submission:
    """A foreground job of a caller that knows nothing of gtask."""
    return Submission(function, workload, "some-unique", background=False)


def outcome(app: App, submission: Submission) -> Outcome:
    """What is stored of the task in a submission."""
    info = app.AsyncResult(message_of(submission).id).info
    assert info is not None
    return info


def error_of(ending: Ending) -> ErrorInfo:
    """The error in the exception that a job ended with."""
    assert ending.end is End.EXCEPTION
    return decode_failure(ending.data)
