"""What fails for good is parked: which tasks, with what, and what becomes of a letter that nobody takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from gtask import App, Retry
from gtask.context import LocalReporter, TaskContext
from gtask.errors import TimeLimitExceeded, UnknownOption, WorkerLost
from gtask.letters import MAX_HISTORY, MAX_REASON, Letter, dead_function, decode_letter
from gtask.message import Message, encode_message
from gtask.middleware import Middleware
from gtask.middleware.base import Next
from gtask.publish import CALL, LATER
from gtask.results import SqliteStore
from gtask.runner import Runner
from gtask.states import Outcome
from gtask.types import Submission
from gtask.worker.job import End, Ending
from tests.app.helpers import NOWHERE, foreign, job_of, run_one, seal, work_off


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[App]:
    with App("shop", servers=NOWHERE, results=SqliteStore(tmp_path / "results.db")) as app:
        yield app


def only(ending: Any) -> Letter:
    """The one letter of an ending."""
    assert isinstance(ending, Ending)
    (submission,) = ending.optional
    letter = decode_letter(submission.workload)
    assert submission.background
    assert len(submission.unique) <= 63
    return letter


def test_a_failure_is_parked_with_its_message(stored: App) -> None:
    @stored.task
    def pay(order: int) -> None:
        raise ValueError(f"no such order: {order}")

    submission = seal(stored, pay.s(7).set(priority="high"))
    ending = run_one(stored, submission)
    assert isinstance(ending, Ending)
    assert ending.optional[0].function == "pay.dead"
    letter = only(ending)
    assert (letter.task, letter.function, letter.task_id) == ("pay", "pay", submission.unique)
    assert (letter.id, letter.unique) == (submission.unique, submission.unique)
    assert letter.message == submission.workload
    assert (letter.error.type, letter.error.message) == ("ValueError", "no such order: 7")
    assert "no such order" in (letter.error.traceback or "")
    assert abs(letter.failed_at - stored.now()) < 60
    assert (letter.worker, letter.priority, letter.retries, letter.history) == ("worker:1", "high", 0, ())
    assert (letter.stored, letter.refused) == ("SqliteStore", False)


def test_two_letters_of_one_run_are_copies_and_share_no_unique(stored: App) -> None:
    @stored.task
    def pay() -> None:
        raise ValueError

    submission = seal(stored, pay.s())
    first, second = run_one(stored, submission), run_one(stored, submission)
    assert only(first).key == only(second).key
    assert isinstance(first, Ending)
    assert isinstance(second, Ending)
    assert first.optional[0].unique != second.optional[0].unique


def test_the_attempts_before_are_told_of(app: App) -> None:
    @app.task(max_retries=2, autoretry_for=(OSError,), default_retry_delay=0)
    def pay() -> None:
        raise OSError(7, "out of order")

    endings = work_off(app, seal(app, pay.s()))
    assert [len(ending.optional) for ending in endings if isinstance(ending, Ending)] == [0, 0, 1]
    letter = only(endings[-1])
    assert letter.retries == 2
    assert letter.id == f"{letter.task_id}02"
    assert [(one.type, one.message) for one in letter.history] == [("OSError", "[Errno 7] out of order")] * 2
    assert letter.history[0].at <= letter.history[1].at <= letter.failed_at


def test_the_history_is_bounded(app: App) -> None:
    @app.task(max_retries=9)
    def pay(size: int) -> None:
        raise Retry(delay=0, exc=ValueError("x" * size))

    endings = work_off(app, seal(app, pay.s(100_000)))
    assert len(endings) == 10
    letter = only(endings[-1])
    assert len(letter.history) == MAX_HISTORY
    assert all(len(one.message) < MAX_REASON + 100 for one in letter.history)
    assert len(letter.message) < 10_000


def test_what_somebody_waits_for_is_not_parked(app: App) -> None:
    @app.task
    def pay() -> None:
        raise ValueError

    for submission in (seal(app, pay.s(), foreground=True), foreign("pay", b"")):
        ending = run_one(app, submission)
        assert isinstance(ending, Ending)
        assert ending == ending._replace(end=End.EXCEPTION, optional=())


def test_what_did_not_fail_is_not_parked(app: App) -> None:
    @app.task
    def pay() -> int:
        return 1

    for step in (pay.s(), pay.s().set(expires=-5)):
        ending = run_one(app, seal(app, step))
        assert isinstance(ending, Ending)
        assert ending.optional == ()


@pytest.mark.parametrize("verdict", [WorkerLost("It died 3 times."), TimeLimitExceeded()])
def test_what_the_guard_gives_up_is_parked(app: App, verdict: Any) -> None:
    @app.task
    def pay() -> None: ...

    reporter = LocalReporter()
    reporter.verdict = verdict
    letter = only(run_one(app, seal(app, pay.s()), reporter=reporter))
    assert letter.error.type.endswith(type(verdict).__name__)


class _Broken(Middleware):
    async def executing(self, call_next: Next, context: TaskContext) -> Outcome:
        """Breaks."""
        await call_next(context)
        raise LookupError("a middleware's own")


def test_what_a_middleware_breaks_is_parked_once() -> None:
    app = App("shop", servers=NOWHERE, results=None, middleware=[_Broken()])

    @app.task
    def pay() -> None:
        raise ValueError("the task's own")

    assert only(run_one(app, seal(app, pay.s()))).error.type == "LookupError"


def test_what_fails_because_the_next_step_cannot_be_sent_is_parked(app: App) -> None:
    @app.task
    def pay() -> object:
        return object()

    assert "EncodeError" in only(run_one(app, seal(app, pay.s(), pay.s()))).error.type


class _Deaf(SqliteStore):
    def put(self, *args: Any) -> None:
        """Takes nothing."""
        raise OSError("no space left")


def test_a_task_whose_result_cannot_be_stored_is_parked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gtask.runner.STORE_PAUSES", ())
    with App("shop", servers=NOWHERE, results=_Deaf(tmp_path / "results.db")) as app:

        @app.task
        def pay(order: int) -> int:
            return order

        ending = run_one(app, seal(app, pay.s(1)))
        assert isinstance(ending, Ending)
        assert ending.end is End.FAIL
        assert "took nothing" in only(ending).error.message


def test_so_it_is_in_the_async_pool(app: App) -> None:
    @app.task
    async def pay() -> None:
        raise ValueError

    runner = Runner(app, "worker:1", in_loop=True)
    submission = seal(app, pay.s())

    async def main() -> Any:
        return await runner.arun(job_of(submission), LocalReporter())

    assert only(anyio.run(main)).message == submission.workload


def test_bytes_that_cannot_be_read_are_parked_as_they_came(stored: App) -> None:
    @stored.task
    def pay(order: int) -> None: ...

    broken = seal(stored, pay.s(1)).workload[:-3]
    submission = seal(stored, pay.s(1))
    letter = only(run_one(stored, Submission("pay", broken, submission.unique)))
    assert (letter.id, letter.task_id, letter.unique) == (submission.unique,) * 3
    assert (letter.message, letter.refused, letter.stored) == (broken, True, "SqliteStore")


def test_jobs_of_strangers_are_letters_of_their_own(app: App) -> None:
    @app.task(codec="json")
    def pay(order: int) -> None: ...

    letters = [only(run_one(app, foreign("pay", b"{"))) for _ in range(2)]
    assert letters[0].message == letters[1].message == b"{"
    assert letters[0].unique == letters[1].unique == "some-unique"
    assert letters[0].key != letters[1].key


def test_a_letter_that_no_job_server_takes_is_left_out(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    @app.task
    def pay(what: bytes) -> None:
        raise ValueError

    monkeypatch.setattr("gtask.letters.MAX_LETTER", 10_000)
    ending = run_one(app, seal(app, pay.s(os.urandom(20_000))))
    assert isinstance(ending, Ending)
    assert (ending.end, ending.optional) == (End.FAIL, ())


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def pay() -> None:
        raise OSError

    silent = App("shop", servers=NOWHERE, results=None, dead_letters=False)
    speaking = App("shop", servers=NOWHERE, results=None)
    cases: list[tuple[App, dict[str, Any], int]] = [(silent, {}, 0), (silent, {"dead_letters": True}, 1)]
    for app, options, count in (*cases, (speaking, {}, 1)):
        task = app.task(name=f"pay{len(app.tasks)}", **options)(pay)
        ending = run_one(app, seal(app, task.s()))
        assert isinstance(ending, Ending)
        assert len(ending.optional) == count
    off = speaking.task(
        name="off", dead_letters=False, max_retries=1, autoretry_for=(OSError,), default_retry_delay=0, codec="json"
    )(pay)
    endings = work_off(speaking, seal(speaking, off.s()))
    assert all(isinstance(ending, Ending) and ending.optional == () for ending in endings)
    refused = run_one(speaking, foreign("off", b"{"))
    assert isinstance(refused, Ending)
    assert refused.optional == ()
    monkeypatch.setenv("GTASK_DEAD_LETTERS", "false")
    assert not App("shop", results=None).settings.dead_letters
    with pytest.raises(UnknownOption, match="dead_letters"):
        speaking.task(name="wrong", dead_leters=True)(pay)


def test_no_task_may_be_called_like_a_queue_of_letters(app: App) -> None:
    with pytest.raises(Exception, match=r"hold dead letters; choose another"):
        app.task(name="pay.dead")(print)


def test_a_history_that_is_none_is_not_believed(app: App) -> None:
    @app.task(max_retries=1)
    def pay() -> None:
        raise Retry(delay=0)

    id = app.new_id("pay")
    for wrong in ("x", [["a"]], [[1, 2, 3]], [["t" * 300, "m", 1.0]], [["t", "m", "soon"]], {"a": 1}):
        message = Message(id, "pay", headers={"task": "pay", "history": wrong})
        endings = work_off(app, Submission("pay", encode_message(message), id))
        assert len(only(endings[-1]).history) == 1


def test_names_of_gtasks_own_functions() -> None:
    assert dead_function(LATER) == "gtask.later.dead"
    assert dead_function(CALL) == "gtask.call.dead"
    assert dead_function("x" * 195) == "x" * 195 + ".dead"
    long = {dead_function("x" * count) for count in (196, 197, 200)}
    assert len(long) == 3
    assert {len(name) for name in long} == {200}
