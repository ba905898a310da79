"""The runner: a job in, and how it is to be ended out."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import anyio
import pytest

from gtask import App, Signature, TaskFailed
from gtask.answers import decode_answer
from gtask.codecs import pack
from gtask.context import LocalReporter
from gtask.errors import EncodeError, TaskExpired
from gtask.runner import PutOff, Runner
from gtask.states import State
from gtask.types import Submission
from gtask.worker.job import End, Ending
from tests.app.helpers import (
    LIMIT,
    NOWHERE,
    ending_of,
    error_of,
    foreign,
    job_of,
    message_of,
    outcome,
    run_one,
    seal,
    unparked,
)


@dataclass
class Order:
    """An argument with a type."""

    amount: Decimal


# --- background and foreground -----------------------------------------------------------------------------------


def test_a_background_job_stores_its_result_and_answers_nothing(stored: App) -> None:
    @stored.task
    def double(order: Order) -> Order:
        return Order(order.amount * 2)

    submission = seal(stored, double.s(Order(Decimal("1.50"))))
    assert run_one(stored, submission) == Ending()
    found = outcome(stored, submission)
    assert (found.state, found.value, found.task) == (State.SUCCESS, {"amount": Decimal(3)}, "double")
    assert (found.worker, found.retries) == ("worker:1", 0)
    assert found.started is not None
    assert found.finished is not None
    assert found.started <= found.finished


def test_a_foreground_job_answers_and_stores_nothing(stored: App) -> None:
    task = stored.task(name="task")(lambda n: n * 2)
    submission = seal(stored, task.s(4), foreground=True)
    ending = ending_of(stored, submission)
    assert (ending.end, decode_answer(ending.data)) == (End.COMPLETE, 8)
    assert stored.AsyncResult(message_of(submission).id).info is None


def test_a_failure_is_stored_or_answered(stored: App) -> None:
    @stored.task
    def fails(n: int) -> None:
        raise ValueError(f"order {n}")

    submission = seal(stored, fails.s(4))
    assert unparked(run_one(stored, submission)) == Ending(End.FAIL)
    found = outcome(stored, submission)
    assert found.state is State.FAILURE
    assert found.error is not None
    assert (found.error.type, found.error.message) == ("ValueError", "order 4")
    info = error_of(ending_of(stored, seal(stored, fails.s(5), foreground=True)))
    assert (info.type, info.message) == ("ValueError", "order 5")
    assert "fails" in (info.traceback or "")


def test_an_ignored_result_is_not_stored(stored: App) -> None:
    task = stored.task(name="task", ignore_result=True)(lambda: 1)
    submission = seal(stored, task.s())
    assert run_one(stored, submission) == Ending()
    assert stored.AsyncResult(message_of(submission).id).info is None


def test_a_result_that_cannot_be_stored_fails_the_task_and_stops_the_chain(stored: App) -> None:
    task = stored.task(name="task")(lambda *a: {"deep": [object()]})
    first, last = task.s(), task.s().set(task_id="last")
    submission = seal(stored, first, last)
    assert unparked(run_one(stored, submission)) == Ending(End.FAIL)
    found = outcome(stored, submission)
    assert found.error is not None
    assert (found.state, found.error.type) == (State.FAILURE, "gtask.errors.EncodeError")
    assert "deep[0]: " in found.error.message
    with pytest.raises(EncodeError, match=r"deep\[0\]"):
        stored.AsyncResult("last").get(timeout=0)


def test_an_answer_that_cannot_be_sent_is_an_exception(app: App) -> None:
    task = app.task(name="task")(lambda *a: object())
    info = error_of(ending_of(app, seal(app, task.s(), foreground=True)))
    assert info.type == "gtask.errors.EncodeError"
    text = ending_of(app, foreign("task", b"1"))
    assert (text.end, text.data[:12]) == (End.EXCEPTION, b"gtask.errors")


@pytest.mark.parametrize("foreground", [False, True])
def test_a_result_that_is_too_large_is_an_error(stored: App, foreground: bool) -> None:
    app = App("shop", NOWHERE, stored.store, max_message=2000)
    task = app.task(name="task")(lambda: b"x" * 3000)
    submission = seal(app, task.s(), foreground=foreground)
    ending = ending_of(app, submission)
    info = error_of(ending) if foreground else outcome(app, submission).error
    assert info is not None
    assert "max_message allows 2000" in info.message


# --- what cannot be run ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workload", "match"),
    [
        (b"\x85\xa5gtask\x01", "msgpack|end"),
        (pack({"gtask": 2, "id": "x"}), "version 2"),
        (pack({"gtask": 1, "id": "x", "args": 5}), "args are a int"),
        (pack({"gtask": 1, "id": "x", "headers": {"task": "other"}}), "for the task 'other'"),
        (pack({"gtask": 1, "id": "x", "headers": {"retries": "many"}}), "header 'retries'"),
        (b'{"gtask": 2}', "version 2"),
        (b"[" * 1000 + b"]" * 1000, "(?i)deep|nest"),
    ],
)
def test_a_corrupt_message_fails_with_a_clear_error(
    app: App, workload: bytes, match: str, caplog: pytest.LogCaptureFixture
) -> None:
    app.task(name="task")(lambda *a: 1)
    info = error_of(ending_of(app, foreign("task", workload)))
    assert info.type == "gtask.errors.DecodeError"
    assert_matches(match, info.message)
    assert "of task cannot be run" in caplog.text


def assert_matches(pattern: str, text: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(text)


def test_whoever_waits_for_a_corrupt_background_job_is_told(stored: App) -> None:
    task = stored.task(name="task")(lambda: 1)
    submission = seal(stored, task.s())
    task_id = message_of(submission).id
    broken = Submission("task", submission.workload[:-20], submission.unique)
    assert ending_of(stored, broken).end is End.EXCEPTION
    assert stored.AsyncResult(task_id).failed()


def test_a_function_that_is_not_here_is_refused(app: App) -> None:
    app.function("elsewhere")
    for function in ("elsewhere", "nothing"):
        info = error_of(ending_of(app, foreign(function, b"1")))
        assert (info.type, "has no task" in info.message) == ("gtask.errors.UnknownTask", True)


def test_arguments_that_do_not_fit_are_a_type_error(stored: App) -> None:
    @stored.task
    def task(a: int, b: str = "") -> None: ...

    for workload, match in ((b'"seven"', "task: a: "), (b"null", "task: a: "), (b"", "missing a required argument")):
        info = error_of(ending_of(stored, foreign("task", workload)))
        assert info.type == "gtask.errors.BadArguments"
        assert match in info.message
    submission = seal(stored, Signature(task, (1, 2, 3)))
    assert unparked(run_one(stored, submission)) == Ending(End.FAIL)
    with pytest.raises(TypeError, match="too many positional arguments"):
        stored.AsyncResult(message_of(submission).id).get(timeout=0)


def test_an_expired_task_is_not_run(stored: App) -> None:
    ran: list[int] = []
    task = stored.task(name="task")(ran.append)
    submission = seal(stored, task.s(1).set(expires=-1), task.s().set(task_id="last"))
    assert unparked(run_one(stored, submission)) == Ending(End.FAIL)
    assert ran == []
    assert outcome(stored, submission).state is State.REVOKED
    for task_id in (message_of(submission).id, "last"):
        with pytest.raises(TaskExpired, match="within its expires time"):
            stored.AsyncResult(task_id).get(timeout=0)
    info = error_of(ending_of(stored, seal(stored, task.s(1).set(expires=-1), foreground=True)))
    assert info.type == "gtask.errors.TaskExpired"


# --- foreign callers ---------------------------------------------------------------------------------------------


def test_a_foreign_caller_is_answered_in_its_own_form(stored: App) -> None:
    stored.task(name="echo")(lambda *args: args[0] if args else "nothing")
    for workload, answer in (
        (b'{"a": 1.5}', b'{"a":1.5}'),
        (b"plain text", b"plain text"),
        (b"\xff\xfe", b"\xff\xfe"),
        (b"", b'"nothing"'),
        (b'{"gtask": 1, "args": [7]}', b"7"),
    ):
        assert ending_of(stored, foreign("echo", workload)) == Ending(End.COMPLETE, answer)


def test_a_foreign_caller_is_told_of_failures_as_text(app: App) -> None:
    @app.task
    def fails(n: int) -> None:
        raise ValueError(f"order {n}")

    assert ending_of(app, foreign("fails", b"7")) == Ending(End.EXCEPTION, b"ValueError: order 7")


def test_a_json_envelope_in_the_background_stores_under_its_id(stored: App) -> None:
    task = stored.task(name="task")(lambda n: n * 2)
    ending = ending_of(stored, Submission("task", b'{"gtask": 1, "id": "own", "args": [4]}', "u"))
    assert ending == Ending(End.COMPLETE, b"8")
    assert stored.AsyncResult("own", task.name).get(timeout=0) == 8


# --- exceptions of every kind ------------------------------------------------------------------------------------


def leave() -> None:
    sys.exit(3)


def interrupt() -> None:
    raise KeyboardInterrupt


async def cancelled() -> None:
    task = asyncio.ensure_future(asyncio.sleep(LIMIT))
    task.cancel()
    await task


@pytest.mark.parametrize(
    ("body", "kind"),
    [(leave, "SystemExit"), (interrupt, "KeyboardInterrupt"), (cancelled, "asyncio.exceptions.CancelledError")],
)
def test_what_ends_other_programs_ends_only_the_task(stored: App, body: Any, kind: str) -> None:
    task = stored.task(name="task")(body)
    last = stored.task(name="last")(lambda value: value)
    submission = seal(stored, task.s(), last.s().set(task_id="last"))
    assert unparked(run_one(stored, submission)) == Ending(End.FAIL)
    for task_id in (message_of(submission).id, "last"):
        with pytest.raises(TaskFailed) as caught:
            stored.AsyncResult(task_id).get(timeout=0)
        assert caught.value.type == kind


@pytest.mark.parametrize("body", [leave, interrupt, cancelled])
def test_it_is_so_in_the_async_pool_too(stored: App, body: Any) -> None:
    task = stored.task(name="task")(body)
    runner = Runner(stored, "worker:1", in_loop=True)
    submission = seal(stored, task.s())

    async def main() -> Ending | PutOff:
        with anyio.fail_after(LIMIT):
            return await runner.arun(job_of(submission), LocalReporter())

    assert unparked(anyio.run(main)) == Ending(End.FAIL)
    assert stored.AsyncResult(message_of(submission).id).failed()


@pytest.mark.anyio
async def test_a_worker_that_is_cancelled_ends_what_runs(stored: App) -> None:
    started = anyio.Event()

    @stored.task
    async def waits() -> None:
        started.set()
        await anyio.sleep_forever()

    runner = Runner(stored, "worker:1", in_loop=True)
    endings: list[Any] = []
    submission = seal(stored, waits.s())

    async def run() -> None:
        endings.append(await runner.arun(job_of(submission), LocalReporter()))

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await started.wait()
            group.cancel_scope.cancel()
    assert endings == []
    assert (await stored.AsyncResult(message_of(submission).id).aready()) is False


def test_exceptions_of_the_users_own_are_rebuilt_where_the_task_says_so(stored: App) -> None:
    class Refused(Exception):
        pass

    @stored.task(throws=(Refused,))
    def task() -> None:
        raise Refused("no", 7)

    submission = seal(stored, task.s())
    run_one(stored, submission)
    with pytest.raises(Refused) as caught:
        stored.AsyncResult(message_of(submission).id, "task").get(timeout=0)
    assert caught.value.args == ("no", 7)
    assert isinstance(caught.value.__cause__, TaskFailed)
