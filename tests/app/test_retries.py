"""Retries: in the background, in the foreground, and how often."""

from __future__ import annotations

from typing import Any

import pytest

from gtask import App, MaxRetriesExceeded, Retry, TaskContext
from gtask.answers import decode_answer
from gtask.runner import PutOff
from gtask.states import State
from gtask.worker.job import Ending
from tests.app.helpers import (
    ending_of,
    foreign,
    message_of,
    outcome,
    run_one,
    seal,
    work_off,
)


def test_autoretry_runs_again_until_it_succeeds(stored: App) -> None:
    runs: list[int] = []

    @stored.task(bind=True, autoretry_for=(OSError,), default_retry_delay=1)
    def flaky(ctx: TaskContext) -> int:
        runs.append(ctx.retries)
        if ctx.retries < 2:
            raise ConnectionError("not yet")
        return ctx.retries

    submission = seal(stored, flaky.s())
    assert run_one(stored, submission) != Ending()
    assert outcome(stored, submission).state is State.RETRY
    runs.clear()
    work_off(stored, submission)
    assert runs == [0, 1, 2]
    assert stored.AsyncResult(message_of(submission).id).get(timeout=0) == 2
    assert outcome(stored, submission).retries == 2


def test_a_retry_that_is_one_too_many_is_the_reason_itself(stored: App) -> None:
    @stored.task(bind=True, max_retries=1)
    def asks(ctx: TaskContext) -> None:
        try:
            raise OSError("disk")
        except OSError as error:
            ctx.retry(error, delay=0.5)

    @stored.task(max_retries=0)
    def bare() -> None:
        raise Retry

    submission = seal(stored, asks.s())
    assert len(work_off(stored, submission)) == 2
    with pytest.raises(OSError, match="disk"):
        stored.AsyncResult(message_of(submission).id).get(timeout=0)
    submission = seal(stored, bare.s())
    assert len(work_off(stored, submission)) == 1
    with pytest.raises(MaxRetriesExceeded, match="retries are used up"):
        stored.AsyncResult(message_of(submission).id).get(timeout=0)


@pytest.mark.parametrize(("limit", "runs"), [(0, 1), (1, 2), (4, 5)])
def test_the_call_says_how_often(stored: App, limit: int, runs: int) -> None:
    @stored.task(autoretry_for=(OSError,), max_retries=2, default_retry_delay=0)
    def fails() -> None:
        raise OSError

    assert len(work_off(stored, seal(stored, fails.s().set(max_retries=limit)))) == runs
    assert len(work_off(stored, seal(stored, fails.s()))) == 3


def test_what_is_not_to_be_retried_is_not(stored: App) -> None:
    @stored.task(autoretry_for=(OSError,), dont_autoretry_for=(FileNotFoundError,))
    def fails(missing: bool) -> None:
        raise FileNotFoundError if missing else ValueError

    for missing in (True, False):
        assert len(work_off(stored, seal(stored, fails.s(missing)))) == 1


def test_a_foreground_retry_is_put_off_and_counted(app: App) -> None:
    @app.task(bind=True, autoretry_for=(OSError,), default_retry_delay=7, max_retries=2)
    def flaky(ctx: TaskContext) -> int:
        if ctx.retries < 2:
            raise OSError("not yet")
        return ctx.retries

    submission = seal(app, flaky.s(), foreground=True)
    for attempt in (0, 1):
        put_off = run_one(app, submission, attempt)
        assert isinstance(put_off, PutOff)
        assert put_off.delay == 7
    assert decode_answer(ending_of(app, submission, 2).data) == 2
    put_off = run_one(app, foreign("flaky", b""))
    assert isinstance(put_off, PutOff)


def test_a_retry_keeps_the_chain_and_the_links(stored: App) -> None:
    runs: list[Any] = []

    @stored.task(bind=True, autoretry_for=(OSError,), default_retry_delay=0)
    def flaky(ctx: TaskContext, n: int) -> int:
        if ctx.retries < 1:
            raise OSError("not yet")
        return n

    note = stored.task(name="note")(lambda value, where: runs.append((where, value)))
    work_off(stored, seal(stored, flaky.s(5).link(note.s("link")), note.s("chain")))
    assert sorted(runs) == [("chain", 5), ("link", 5)]
