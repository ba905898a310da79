"""What the tests of tracing share: recorded spans, and messages that are sealed, run and ended in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import anyio
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gtask import App, Signature
from gtask.context import LocalReporter
from gtask.message import decode_message
from gtask.publish import DELAYED, unpack_later
from gtask.runner import PutOff, Runner
from gtask.types import Submission
from gtask.worker.job import Ending, Job

SERVER = "gearman://queue.example:4731"


class Spans:
    """What was recorded so far, in the order in which it ended."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    @property
    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def of(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.of(name)
        return span

    def ancestry(self, span: ReadableSpan) -> list[str]:
        """The names from the root down to a span."""
        by_id = {one.context.span_id: one for one in self.all}
        names = [span.name]
        while span.parent is not None:
            span = by_id[span.parent.span_id]
            names.insert(0, span.name)
        return names


Points = Callable[[str], list[Any]]
"""The data points of a metric by its name."""


def seal(app: App, step: Signature[Any], *rest: Signature[Any], foreground: bool = False) -> Submission:
    """What the caller submits for a step and those that follow it."""
    later = [one.data(one.new_id()).to_list() for one in reversed(rest)]
    return app.publisher.seal(app.publisher.prepare(step.data(step.new_id()), app.now(), later, foreground))


def job(submission: Submission) -> Job:
    """The job that a worker grabs: a delayed one when it was moved into the queue of its task."""
    if submission.function in DELAYED:
        later = unpack_later(submission.workload)
        return Job(None, b"H:test:1", later.function, later.unique, later.workload)  # type: ignore[arg-type]
    return Job(None, b"H:test:1", submission.function, submission.unique, submission.workload)  # type: ignore[arg-type]


def work_off(app: App, *submissions: Submission) -> list[Ending | PutOff]:
    """Runs jobs, and those that follow from them, until there is none left."""
    runner = Runner(app, "worker:1")
    waiting = deque(submissions)
    endings = []
    while waiting:
        ending = runner.run(job(waiting.popleft()), LocalReporter())
        endings.append(ending)
        if isinstance(ending, Ending):
            waiting.extend(ending.submissions)
    runner.close_loop()
    return endings


def headers(submission: Submission) -> dict[str, Any]:
    task = job(submission)
    return decode_message(task.function, task.workload).headers


def attributes(recorded: ReadableSpan | Event) -> dict[str, Any]:
    return dict(recorded.attributes or {})


def seconds(span: ReadableSpan) -> float:
    return ((span.end_time or 0) - (span.start_time or 0)) / 1e9


def define(app: App, name: str, body: Callable[..., Any], asynchronous: bool = False, **options: Any) -> Any:
    """A task of `body`, as a plain function or as a coroutine function."""
    if not asynchronous:
        return app.task(name=name, **options)(body)

    async def run(*args: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        return body(*args)

    return app.task(name=name, **options)(run)
