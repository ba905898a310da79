"""An App's own middleware around gtask's, and the lines a worker writes."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from gtask import App, TaskContext
from gtask.answers import decode_answer
from gtask.message import Message
from gtask.middleware import Middleware
from gtask.middleware.base import Next
from gtask.states import Outcome
from gtask.worker.job import End, Ending
from tests.app.helpers import (
    NOWHERE,
    ending_of,
    error_of,
    message_of,
    run_one,
    seal,
    unparked,
)


def assert_matches(pattern: str, text: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(text)


# --- middleware --------------------------------------------------------------------------------------------------


class Noted(Middleware):
    """Writes down when each of its hooks is entered and left."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self.name = name
        self.seen = seen

    @contextmanager
    def publishing(self, message: Message) -> Iterator[Message]:
        self.seen.append(f"{self.name} publishes")
        yield message

    async def executing(self, call_next: Next, context: TaskContext) -> Outcome:
        self.seen.append(f"{self.name} before")
        try:
            found = await call_next(context)
        except BaseException as error:
            self.seen.append(f"{self.name} saw {type(error).__name__}")
            raise
        self.seen.append(f"{self.name} after {found.state}")
        return found

    @contextmanager
    def running(self, context: TaskContext) -> Iterator[None]:
        self.seen.append(f"{self.name} in {threading.current_thread().name}")
        yield
        self.seen.append(f"{self.name} out")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_first_middleware_is_the_outermost(asynchronous: bool) -> None:
    seen: list[str] = []
    app = App("shop", NOWHERE, None, middleware=[Noted("a", seen), Noted("b", seen)])

    async def later() -> None:
        seen.append("body")

    app.task(name="task")(later if asynchronous else lambda: seen.append("body"))
    submission = seal(app, app.tasks["task"].s(), foreground=True)
    ending_of(app, submission)
    thread = threading.current_thread().name
    assert seen == [
        "a publishes",
        "b publishes",
        "a before",
        "b before",
        f"a in {thread}",
        f"b in {thread}",
        "body",
        "b out",
        "a out",
        "b after SUCCESS",
        "a after SUCCESS",
    ]


def test_middleware_sees_outcomes_not_exceptions() -> None:
    seen: list[str] = []
    app = App("shop", NOWHERE, None, middleware=[Noted("a", seen)])

    @app.task
    def fails() -> None:
        raise ValueError

    ending_of(app, seal(app, fails.s(), foreground=True))
    assert seen[-1] == "a after FAILURE"


def test_middleware_may_await(app: App) -> None:
    class Slow(Middleware):
        async def executing(self, call_next: Next, context: TaskContext) -> Outcome:
            await asyncio.sleep(0)
            return await call_next(context)

    slow = App("shop", NOWHERE, None, middleware=[Slow()])
    task = slow.task(name="task")(lambda: 5)
    assert decode_answer(ending_of(slow, seal(slow, task.s(), foreground=True)).data) == 5


class Breaks(Middleware):
    """Raises in the hook that it is made for."""

    def __init__(self, where: str) -> None:
        self.where = where

    async def executing(self, call_next: Next, context: TaskContext) -> Outcome:
        if self.where == "before":
            raise LookupError("before")
        found = await call_next(context)
        if self.where == "after":
            raise LookupError("after")
        return found

    @contextmanager
    def running(self, context: TaskContext) -> Iterator[None]:
        if self.where == "running":
            raise LookupError("running")
        yield


@pytest.mark.parametrize("where", ["before", "after", "running"])
def test_a_middleware_that_breaks_fails_the_task_and_nothing_else(
    stored: App, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("shop", NOWHERE, stored.store, middleware=[Breaks(where)])
    task = app.task(name="task")(lambda: 5)
    submission = seal(app, task.s(), task.s().set(task_id="last"))
    assert unparked(run_one(app, submission)) == Ending(End.FAIL)
    with pytest.raises(LookupError, match=where):
        app.AsyncResult(message_of(submission).id).get(timeout=0)
    info = error_of(ending_of(app, seal(app, task.s(), foreground=True)))
    assert (info.type, info.message) == ("LookupError", where)
    assert "task[" in caplog.text


def test_an_outcome_may_be_changed_by_middleware(stored: App) -> None:
    class Rounded(Middleware):
        async def executing(self, call_next: Next, context: TaskContext) -> Outcome:
            found = await call_next(context)
            if context.foreground:
                found.value = round(found.value)
            return found

    app = App("shop", NOWHERE, None, middleware=[Rounded()])
    task = app.task(name="task")(lambda: 5.25)
    assert decode_answer(ending_of(app, seal(app, task.s(), foreground=True)).data) == 5


# --- the store and the log ---------------------------------------------------------------------------------------


def test_a_store_that_refuses_is_tried_again(stored: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gtask.runner.STORE_PAUSES", (0.0, 0.0))
    store = stored.store
    assert store is not None
    attempts: list[int] = []
    real = store.put

    def put(*args: Any) -> None:
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError("disk full")
        real(*args)

    monkeypatch.setattr(store, "put", put)
    task = stored.task(name="task")(lambda: 5)
    submission = seal(stored, task.s(), task.s())
    assert len(ending_of(stored, submission).submissions) == 1
    assert stored.AsyncResult(message_of(submission).id).get(timeout=0) == 5
    monkeypatch.setattr(store, "put", partial(_refuse, OSError("disk full")))
    assert unparked(ending_of(stored, seal(stored, task.s(), task.s()))) == Ending(End.FAIL)


def _refuse(error: Exception, *args: Any) -> None:
    raise error


def test_log_lines_say_what_happens(stored: App, caplog: pytest.LogCaptureFixture) -> None:
    @stored.task(bind=True, max_retries=1)
    def task(ctx: TaskContext, what: str) -> str:
        if what == "retry":
            ctx.retry(ValueError("again"), delay=2)
        if what == "fail":
            raise ValueError("broken")
        return what

    caplog.set_level(logging.INFO, "gtask.task")
    for what in ("fine", "retry", "fail"):
        run_one(stored, seal(stored, task.s(what)))
    run_one(stored, seal(stored, task.s("late").set(expires=-1)))
    lines = [record.getMessage() for record in caplog.records if record.name == "gtask.task"]
    assert_matches(r"Task task\[[0-9a-f]{32}\] received", lines[0])
    assert_matches(r"Task task\[[0-9a-f]{32}\] succeeded in \d\.\d{3} s: 'fine'|fine", lines[1])
    assert_matches(r"retried in 2.0 s: ValueError: again", lines[3])
    assert_matches(r"(?s)failed in \d\.\d{3} s: ValueError: broken\nTraceback", lines[5])
    assert_matches(r"not run: gtask.errors.TaskExpired: ", lines[7])
    record = next(record for record in caplog.records if "succeeded" in record.getMessage())
    assert (record.task, record.state, record.retries) == ("task", "SUCCESS", 0)  # type: ignore[attr-defined]
