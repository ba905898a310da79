"""From a call to a job: the function, the unique, the headers, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gtask import App, Priority
from gtask.codecs import pack
from gtask.errors import ConfigurationError, DecodeError, EncodeError
from gtask.message import Message, decode_message, parse_wire_unique
from gtask.middleware import Middleware
from gtask.publish import AHEAD, CALL, FAR, FAR_AHEAD, LATER, SOON, Later, later_submission, pack_later, unpack_later
from gtask.task import Task
from gtask.types import Submission
from tests.app.helpers import NOWHERE, job_of, message_of, run_one, seal


@pytest.fixture
def task(app: App) -> Task[..., Any]:
    @app.task
    def calculate(a: Any = None, b: Any = None) -> Any:
        return a

    return calculate


def test_a_call_is_a_background_job_of_the_tasks_own_function(app: App, task: Task[..., Any]) -> None:
    submission = seal(app, task.s(7, b=2))
    assert (submission.function, submission.priority, submission.background) == ("calculate", Priority.NORMAL, True)
    assert submission.when is None
    message = message_of(submission)
    assert (message.args, message.kwargs) == ((7,), {"b": 2})
    assert submission.unique == message.id
    assert parse_wire_unique("calculate", submission.unique).id == message.id
    assert message.headers["task"] == "calculate"
    assert message.headers["origin"].endswith(f":{os.getpid()}")
    assert abs(message.headers["sent"] - app.now()) < 60
    assert not {"eta", "expires", "priority", "fg", "chain", "max_retries", "ignore_result"} & message.headers.keys()


def test_each_call_has_an_id_of_its_own(app: App, task: Task[..., Any]) -> None:
    step = task.s(7)
    assert seal(app, step).unique != seal(app, step).unique
    assert seal(app, step.set(task_id="order:7")).unique == "order:7"


def test_priorities_come_from_the_task_and_the_call(app: App, task: Task[..., Any]) -> None:
    low = app.task(priority="low", name="low")(lambda: 1)
    assert seal(app, low.s()).priority is Priority.LOW
    assert message_of(seal(app, low.s())).headers["priority"] == "low"
    assert seal(app, low.s().set(priority="high")).priority is Priority.HIGH
    assert seal(app, task.s().set(priority=Priority.LOW)).priority is Priority.LOW


@pytest.mark.parametrize("option", ["seconds", "timedelta", "eta"])
def test_a_call_with_a_time_waits_as_a_delayed_job(app: App, task: Task[..., Any], option: str) -> None:
    due = app.now() + 90.5
    options: dict[str, Any] = {
        "seconds": {"countdown": 90.5},
        "timedelta": {"countdown": timedelta(seconds=90.5)},
        "eta": {"eta": datetime.fromtimestamp(due, UTC)},
    }[option]
    submission = seal(app, task.s(7).set(priority="high", **options))
    assert (submission.function, submission.priority) == (LATER, Priority.NORMAL)
    later = unpack_later(submission.workload)
    assert (later.function, later.priority) == ("calculate", "high")
    assert abs(later.due - due) < 60
    assert submission.when == int(later.due - AHEAD)
    message = message_of(submission)
    assert message.headers["eta"] == later.due
    assert later.unique == message.id
    assert submission.unique == f"{message.id}00d0"
    assert parse_wire_unique("calculate", submission.unique).later


def test_a_time_that_is_over_delays_nothing(app: App, task: Task[..., Any]) -> None:
    for options in ({"countdown": 0}, {"countdown": -5}, {"eta": datetime(2020, 1, 1, tzinfo=UTC)}):
        submission = seal(app, task.s().set(**options))  # type: ignore[arg-type]
        assert submission.function == "calculate"
        assert "eta" not in message_of(submission).headers


def test_a_slip_of_a_unit_is_refused(app: App, task: Task[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match="more than ten years; countdown is in seconds"):
        seal(app, task.s().set(countdown=1e12))


def test_expires_is_a_moment(app: App, task: Task[..., Any]) -> None:
    soon = app.task(expires=30, name="soon")(lambda: 1)
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    assert 0 < message_of(seal(app, soon.s())).headers["expires"] - app.now() <= 30
    assert "expires" not in message_of(seal(app, soon.s().set(expires=None))).headers
    assert message_of(seal(app, soon.s().set(expires=moment))).headers["expires"] == moment.timestamp()


def test_limits_of_the_call_travel_and_none_is_one(app: App, task: Task[..., Any]) -> None:
    step = task.s().set(max_retries=None, time_limit=timedelta(seconds=5), soft_time_limit=2)  # type: ignore[arg-type]
    headers = message_of(seal(app, step)).headers
    assert headers["max_retries"] is None
    assert (headers["time_limit"], headers["soft_time_limit"]) == (5.0, 2)


def test_the_users_headers_travel(app: App, task: Task[..., Any]) -> None:
    assert message_of(seal(app, task.s().set(headers={"tenant": 5}))).headers["tenant"] == 5


def test_ignore_result_comes_from_app_task_and_call(task: Task[..., Any]) -> None:
    app = App("shop", NOWHERE, ignore_result=True)
    quiet = app.task(name="quiet")(lambda: 1)
    loud = App("shop", NOWHERE).task(name="loud", ignore_result=True)(lambda: 1)
    assert message_of(seal(app, quiet.s())).headers["ignore_result"] is True
    assert "ignore_result" not in message_of(seal(app, quiet.s().set(ignore_result=False))).headers
    assert message_of(seal(loud.app, loud.s())).headers["ignore_result"] is True


def test_the_rest_of_a_chain_travels_with_the_next_step_last(app: App, task: Task[..., Any]) -> None:
    headers = message_of(seal(app, task.s(1), task.s(2), task.si(3))).headers
    assert [plain[1] for plain in headers["chain"]] == [[3], [2]]
    assert [plain[4] for plain in headers["chain"]] == [True, False]


def test_a_foreground_call_has_a_fresh_unique_and_says_so(app: App, task: Task[..., Any]) -> None:
    submission = seal(app, task.s(1).set(priority="high"), foreground=True)
    assert (submission.background, submission.unique, submission.priority) == (False, "", Priority.HIGH)
    assert message_of(submission).headers["fg"] is True


def test_a_foreground_call_is_a_single_task_that_runs_at_once(app: App, task: Task[..., Any]) -> None:
    for step in (
        task.s().set(countdown=5),
        task.s().set(eta=datetime(2030, 1, 1, tzinfo=UTC)),
        task.s().link(task.s()),
        task.s().link_error(task.s()),
        task.s().set(unique="x"),
    ):
        with pytest.raises(ConfigurationError, match=r"call\(\) of calculate cannot have .*Use delay"):
            step.call()
        with pytest.raises(ConfigurationError, match="cannot have"):
            step.set(background=False).delay()


def test_a_raw_task_called_in_the_foreground_gets_the_bytes_alone(app: App) -> None:
    @app.task(codec="raw")
    def raw(data: bytes) -> bytes:
        return data[::-1]

    submission = seal(app, raw.s(b"abc"), foreground=True)
    assert submission.workload == b"abc"
    with pytest.raises(EncodeError, match="one positional argument"):
        seal(app, raw.s(data=b"abc"), foreground=True)
    background = seal(app, raw.s(b"\x85\xa5gtask"))
    assert message_of(background).args == (b"\x85\xa5gtask",)


def test_a_message_that_is_too_large_is_not_sent() -> None:
    app = App("shop", NOWHERE, max_message=1000)
    task = app.task(name="task")(lambda data: data)
    seal(app, task.s(b"x" * 500))
    with pytest.raises(EncodeError, match=r"The message of task has \d+ bytes and max_message allows 1000"):
        task.delay(b"x" * 1000)
    with pytest.raises(EncodeError, match="max_message"):
        task.call(b"x" * 1000)


def test_a_value_that_cannot_be_sent_is_named(app: App, task: Task[..., Any]) -> None:
    with pytest.raises(EncodeError, match=r"args\[0\]\.deep\[1\].*object"):
        task.delay({"deep": [1, object()]})


# --- functions in other languages --------------------------------------------------------------------------------


def test_a_function_elsewhere_without_a_store_is_its_own_job(app: App) -> None:
    send = app.function("send")
    assert seal(app, send.s({"a": 1})) == _like(Submission("send", b'{"a":1}'))
    assert seal(app, send.s(1, 2)).workload == b"[1,2]"
    assert seal(app, send.s(a=1)).workload == b'{"a":1}'
    assert seal(app, send.s(7), foreground=True) == Submission("send", b"7", background=False)
    delayed = seal(app, send.s(7).set(countdown=60))
    assert delayed.function == LATER
    assert unpack_later(delayed.workload)[0::4] == ("send", b"7")


@pytest.mark.parametrize(
    ("delay", "function", "when"),
    [
        (0.0, SOON, None),
        (1.99, SOON, None),
        (2.5, LATER, 1_000_000 - 1),
        (300.0, LATER, 1_000_000 + 297),
        (300.5, FAR, 1_000_000 + 180),
        (10 * 365 * 86400.0, FAR, 1_000_000 + 10 * 365 * 86400 - FAR_AHEAD),
    ],
)
def test_what_is_far_away_does_not_stand_before_what_is_near(delay: float, function: str, when: int | None) -> None:
    later = Later("add", "u", "normal", 1_000_000 + delay, b"x")
    submission = later_submission(later, "d", 1_000_000.0)
    assert (submission.function, submission.unique, submission.when) == (function, "d", when)
    assert unpack_later(submission.workload) == later


@pytest.mark.parametrize("codec", ["raw", "text"])
def test_nothing_at_all_is_not_sent_in_the_background(app: App, codec: str) -> None:
    """gearmand with the libsqlite3 queue would keep it, and never start again."""
    send = app.function("send", codec=codec)
    nothing = b"" if codec == "raw" else ""
    for step in (send.s(nothing), send.s(nothing).set(countdown=60)):
        with pytest.raises(EncodeError, match=r"without a single byte.*Use call\(\)"):
            seal(app, step)
    assert seal(app, send.s(nothing), foreground=True).workload == b""


class _like:
    """Equal to a submission of the same function and workload."""

    def __init__(self, submission: Submission) -> None:
        self.submission = submission

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Submission) and (other.function, other.workload) == (
            self.submission.function,
            self.submission.workload,
        )

    __hash__ = None  # type: ignore[assignment]


def test_where_something_hangs_on_it_gtask_call_makes_the_call(app: App, stored: App, task: Task[..., Any]) -> None:
    kept = stored.function("send", codec="text")
    submission = seal(stored, kept.s("hello"))
    message = decode_message(CALL, submission.workload)
    assert submission.function == CALL
    assert (message.task, message.args, message.headers["foreign"]) == ("send", ("hello",), "text")
    assert seal(stored, kept.s("x").set(ignore_result=True)) == _like(Submission("send", b"x"))
    send = app.function("send")
    assert seal(app, send.s(1), task.s()).function == CALL
    assert seal(app, send.s(1).link(task.s())).function == CALL
    assert seal(app, send.s(1).link_error(task.s())).function == CALL
    assert seal(app, send.s(1).set(headers={"chord": {"id": "x"}})).function == CALL


# --- delayed jobs as they come back ------------------------------------------------------------------------------


def test_a_delayed_job_is_read_back() -> None:
    later = Later("calculate", "u1", "low", 1234.5, b"\x00\xff")
    assert unpack_later(pack_later(later)) == later


@pytest.mark.parametrize(
    "workload",
    [
        b"",
        b"\xc1",
        b"\x95",
        b"x" * 100,
        pack([]),
        pack({"function": "f"}),
        pack(["f", "u", "high", 1.0]),
        pack(["f", "u", "high", 1.0, b"", b""]),
        pack(["", "u", "high", 1.0, b""]),
        pack(["f\0", "u", "high", 1.0, b""]),
        pack(["f", "u\0", "high", 1.0, b""]),
        pack(["f", "", "high", 1.0, b""]),
        pack(["f", "u" * 64, "high", 1.0, b""]),
        pack(["f" * 201, "u", "high", 1.0, b""]),
        pack(["f", "u", "urgent", 1.0, b""]),
        pack(["f", "u", ["high"], 1.0, b""]),
        pack(["f", "u", None, 1.0, b""]),
        pack(["f", "u", "high", "soon", b""]),
        pack(["f", "u", "high", True, b""]),
        pack(["f", "u", "high", float("nan"), b""]),
        pack(["f", "u", "high", float("inf"), b""]),
        pack(["f", "u", "high", 1e300, b""]),
        pack(["f", "u", "high", 1.0, "text"]),
        pack([b"f", "u", "high", 1.0, b""]),
        pack(["f", 5, "high", 1.0, b""]),
    ],
)
def test_hostile_delayed_jobs_are_refused(workload: bytes) -> None:
    with pytest.raises(DecodeError):
        unpack_later(workload)


# --- the publishing hook -----------------------------------------------------------------------------------------


def test_middleware_wraps_the_sending_and_changes_headers() -> None:
    seen: list[str] = []

    class Tenant(Middleware):
        @contextmanager
        def publishing(self, message: Message) -> Iterator[Message]:
            message.headers["tenant"] = 5
            seen.append("in")
            yield message
            seen.append("out")

    class Broken(Middleware):
        @contextmanager
        def publishing(self, message: Message) -> Iterator[Message]:
            if message.args == (0,):
                raise LookupError("no tenant")
            yield message

    app = App("shop", NOWHERE, None, middleware=[Tenant(), Broken()])
    task = app.task(name="task")(lambda n: n)
    assert message_of(seal(app, task.s(1))).headers["tenant"] == 5
    assert seen == ["in", "out"]
    with pytest.raises(LookupError, match="no tenant"):
        task.delay(0)


# --- what follows a run ------------------------------------------------------------------------------------------


def test_a_call_from_a_task_says_where_it_comes_from(app: App, task: Task[..., Any]) -> None:
    sent: list[Submission] = []

    @app.task
    def outer() -> None:
        sent.append(seal(app, task.s(1)))

    first = seal(app, outer.s())
    run_one(app, first)
    headers = message_of(sent[0]).headers
    assert headers["parent"] == headers["root"] == message_of(first).id


def test_the_next_run_of_a_retry_keeps_everything_but_its_unique(app: App) -> None:
    @app.task(max_retries=300, autoretry_for=(ValueError,), default_retry_delay=5)
    def fails() -> None:
        raise ValueError("x")

    first = seal(app, fails.s().set(priority="low", headers={"tenant": 5}))
    run = run_one(app, first)
    (again,) = run.submissions  # type: ignore[union-attr]
    assert again.function == LATER
    later = unpack_later(again.workload)
    assert (later.function, later.priority) == ("fails", "low")
    assert 0 < later.due - app.now() <= 5
    message, before = message_of(again), message_of(first)
    assert message.id == before.id
    assert (message.headers["retries"], message.headers["tenant"]) == (1, 5)
    assert job_of(again).unique == f"{before.id}01"
    assert again.unique == f"{before.id}01d0"
