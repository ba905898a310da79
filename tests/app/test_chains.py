"""Chains and links: what follows a run."""

from __future__ import annotations

from typing import Any

import pytest

from gtask import App
from gtask.message import Message, encode_message
from gtask.types import Submission
from gtask.worker.job import End, Ending
from tests.app.helpers import (
    NOWHERE,
    ending_of,
    message_of,
    outcome,
    run_one,
    seal,
    unparked,
    work_off,
)


def test_a_chain_hands_each_result_on(stored: App) -> None:
    add = stored.task(name="add")(lambda a, b=0: a + b)
    submission = seal(stored, add.s(1, 2), add.s(10), add.si(5).set(priority="high"), add.s(1).set(task_id="last"))
    endings = work_off(stored, submission)
    assert [len(ending.submissions) for ending in endings] == [1, 1, 1, 0]  # type: ignore[union-attr]
    assert endings[1].submissions[0].priority == "high"  # type: ignore[union-attr]
    assert stored.AsyncResult("last").get(timeout=0) == 6
    first = outcome(stored, submission)
    (child,) = first.children
    assert stored.AsyncResult(child).get(timeout=0) == 13
    second = stored.AsyncResult(child).info
    assert second is not None
    assert second.parent == message_of(submission).id


def test_a_delayed_step_waits_from_when_its_turn_comes(stored: App) -> None:
    add = stored.task(name="add")(lambda a, b=0: a + b)
    ending = ending_of(stored, seal(stored, add.s(1), add.s(2).set(countdown=60)))
    (following,) = ending.submissions
    assert following.function == "gtask.later"
    assert 0 < message_of(following).headers["eta"] - stored.now() <= 60


def test_a_worker_of_another_app_moves_a_chain_on_as_its_caller_would(stored: App) -> None:
    """What the task's own options say travels with the step; what the call says is worth more."""
    caller = App("caller", NOWHERE, results=None)
    first = caller.signature("first")
    second = caller.task(name="second", priority="high", expires=60, ignore_result=True)(lambda value: value)
    php = caller.function("php", max_retries=9)
    stored.task(name="first")(lambda: 1)
    (following,) = ending_of(stored, seal(caller, first, second.s())).submissions
    headers = message_of(following).headers
    assert following.priority == "high"
    assert 0 < headers["expires"] - stored.now() <= 60
    assert headers["ignore_result"]
    (following,) = ending_of(
        stored, seal(caller, first, second.s().set(priority="low", ignore_result=False))
    ).submissions
    assert following.priority == "low"
    assert "ignore_result" not in message_of(following).headers
    (following,) = ending_of(stored, seal(caller, first, php.s())).submissions
    assert (following.function, message_of(following).headers["max_retries"]) == ("gtask.call", 9)


def test_a_failure_in_a_chain_fails_all_that_comes_behind(stored: App) -> None:
    @stored.task
    def fails(n: int) -> None:
        raise ValueError("second")

    add = stored.task(name="add")(lambda a, b=0: a + b)
    ids = ["first", "second", "third", "last"]
    steps = [add.s(1), fails.s(), add.s(1).set(ignore_result=True), add.s(1)]
    work_off(stored, seal(stored, *(step.set(task_id=one) for step, one in zip(steps, ids, strict=True))))
    assert stored.AsyncResult("first").get(timeout=0) == 1
    for task_id in ("second", "last"):
        with pytest.raises(ValueError, match="second"):
            stored.AsyncResult(task_id).get(timeout=0)
    assert not stored.AsyncResult("third").ready()
    info = stored.AsyncResult("last").info
    assert info is not None
    assert info.parent == "second"


def test_links_follow_a_success_and_errors_a_failure(stored: App) -> None:
    heard: list[Any] = []
    task = stored.task(name="task")(lambda n: 1 // n)
    good = stored.task(name="good")(lambda value, *more: heard.append(("good", value, *more)))
    bad = stored.task(name="bad")(lambda what, *more: heard.append(("bad", what["type"], what["task"], *more)))
    step = task.s(1).link(good.s("x")).link_error(bad.s("y"))
    submission = seal(stored, step)
    work_off(stored, submission)
    assert heard == [("good", 1, "x")]
    assert len(outcome(stored, submission).children) == 1
    heard.clear()
    work_off(stored, seal(stored, task.s(0).link(good.s("x")).link_error(bad.s("y"))))
    assert heard == [("bad", "ZeroDivisionError", "task", "y")]


def test_a_next_step_that_cannot_be_made_fails_the_chain(stored: App) -> None:
    task = stored.task(name="task")(lambda n: n)
    submission = seal(stored, task.s(1), task.s().set(task_id="last"))
    message = message_of(submission)
    message.headers["chain"][0][3]["countdown"] = 1e13
    broken = Submission("task", encode_message(message), submission.unique)
    assert unparked(run_one(stored, broken)) == Ending(End.FAIL)
    for task_id in (message.id, "last"):
        with pytest.raises(Exception, match="more than ten years"):
            stored.AsyncResult(task_id).get(timeout=0)


@pytest.mark.parametrize("header", ["chain", "link", "link_error"])
def test_hostile_steps_fail_the_job_and_nothing_else(stored: App, header: str) -> None:
    @stored.task
    def task(fail: bool) -> None:
        if fail:
            raise ValueError

    message = Message("x" * 32, "task", (header == "link_error",), {}, {"task": "task", header: [["a"]]})
    assert unparked(run_one(stored, Submission("task", encode_message(message), "x" * 32))) == Ending(End.FAIL)
    assert stored.AsyncResult("x" * 32).failed()


@pytest.mark.parametrize(
    "chord",
    [
        5,
        {"id": "c"},
        {"id": "c" * 300, "index": 0, "size": 1},
        {"id": "c", "index": 7, "size": 1},
        {"id": "c", "index": -1, "size": 1},
        {"id": "c", "index": 0, "size": 10**9},
        {"id": "c", "index": 0, "size": 1, "body": [["a"]]},
    ],
)
@pytest.mark.parametrize("fails", [False, True])
def test_a_hostile_chord_fails_the_job_and_nothing_else(chord: Any, fails: bool) -> None:
    app = App("shop", NOWHERE)  # whose results travel with jobs

    @app.task
    def task() -> None:
        if fails:
            raise ValueError

    if isinstance(chord, dict) and len(chord) == 3:
        chord["body"] = [task.s().data("b" * 32).to_list()]
    message = Message("x" * 32, "task", (), {}, {"task": "task", "chord": chord})
    ending = ending_of(app, Submission("task", encode_message(message), "x" * 32))
    assert (ending.end, ending.submissions) == (End.FAIL, ())
    assert ending.carried is not None
    assert len(ending.carried.items) == 1
