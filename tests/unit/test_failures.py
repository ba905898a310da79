"""Exceptions that travel: described where they are raised, rebuilt where they are wanted. Design, section 6."""

from __future__ import annotations

import sys
from decimal import Decimal
from typing import Any

import pytest

from gtask import errors
from gtask.errors import QueueFull, TaskExpired, TaskFailed, TimeLimitExceeded
from gtask.failures import MAX_TRACEBACK, cut, error_info, rebuild, type_name
from gtask.message import Form, decode_failure, encode_failure
from gtask.states import ErrorInfo
from tests.unit.samples import Opaque


class AppError(Exception):
    """A user's base class."""


class PaymentRefused(AppError):
    """A user's error with attributes of its own."""

    def __init__(self, amount: Decimal, reason: str) -> None:
        super().__init__(amount, reason)
        self.amount = amount
        self.reason = reason


class Rewritten(AppError):
    """Makes something else of its arguments."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the code was {code}")


class Unprintable(Exception):
    """Cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def raised(exception: BaseException) -> BaseException:
    """The exception, with a traceback."""
    try:
        raise exception
    except BaseException as error:
        return error


def sent(exception: BaseException, *allowed: type[BaseException]) -> Exception:
    """The exception as a caller gets it, over the wire."""
    return rebuild(decode_failure(encode_failure(Form.ENVELOPE, error_info(raised(exception)))), allowed)


class TestDescribed:
    """`error_info` says what happened, in bounded text, and never raises."""

    def test_what_it_says(self) -> None:
        info = error_info(raised(ValueError("no order", 7)))
        assert (info.type, info.message, info.args) == ("ValueError", "('no order', 7)", ("no order", 7))
        assert info.traceback is not None
        assert info.traceback.startswith("Traceback (most recent call last):\n")
        assert info.traceback.endswith("ValueError: ('no order', 7)\n")
        assert "in raised\n    raise exception" in info.traceback

    def test_a_users_class_has_its_module(self) -> None:
        assert error_info(AppError()).type == "tests.unit.test_failures.AppError" == type_name(AppError)

    def test_notes_and_causes_are_in_the_text(self) -> None:
        error = ValueError("outer")
        error.add_note("while paying")
        try:
            raise error from KeyError("inner")
        except ValueError as caught:
            text = error_info(caught).traceback or ""
        assert "KeyError: 'inner'" in text
        assert "direct cause" in text
        assert text.endswith("ValueError: outer\nwhile paying\n")

    def test_arguments_that_do_not_travel_are_left_out(self) -> None:
        assert error_info(ValueError(Opaque())).args is None
        assert error_info(ValueError("x" * 100_000)).args is None

    def test_long_text_is_cut(self) -> None:
        info = error_info(raised(ValueError("x" * 1_000_000)))
        assert len(info.message) < MAX_TRACEBACK + 100
        assert len(info.traceback or "") < MAX_TRACEBACK + 100
        assert len(error_info(raised(ValueError("x" * 1000)), 100).traceback or "") < 200

    def test_the_end_is_what_is_kept_most_of(self) -> None:
        assert cut("a" * 50 + "b" * 50, 30) == "a" * 10 + "\n... 70 characters left out ...\n" + "b" * 20
        assert cut("short", 30) == "short"

    def test_endless_recursion_is_bounded(self) -> None:
        def again() -> None:
            again()

        try:
            again()
        except RecursionError as error:
            info = error_info(error)
        assert info.type == "RecursionError"
        assert len(info.traceback or "") < MAX_TRACEBACK

    def test_an_exception_without_readable_text(self) -> None:
        info = error_info(raised(Unprintable()))
        assert info.message == "<Unprintable without readable text>"
        assert "Unprintable" in (info.traceback or "")
        assert isinstance(sent(Unprintable()), TaskFailed)

    def test_surrogates_do_not_stop_it(self) -> None:
        info = error_info(raised(ValueError("\ud800")))
        assert info.message == "\\ud800"
        info.message.encode()
        (info.traceback or "").encode()

    def test_frames_of_gtask_before_the_tasks_own_are_left_out(self) -> None:
        scope: dict[str, Any] = {"__name__": "gtask.runner"}
        exec("def run(task):\n    task()\n", scope)

        def task() -> None:
            raise ValueError("mine")

        with pytest.raises(ValueError, match="mine") as caught:
            scope["run"](task)
        error = caught.value
        assert error.__traceback__ is not None
        error.__traceback__ = error.__traceback__.tb_next  # this test's frame; a worker has none before gtask's
        text = error_info(error).traceback or ""
        assert "in run" not in text
        assert "in task" in text

    def test_a_group_of_exceptions(self) -> None:
        info = error_info(raised(ExceptionGroup("several", [ValueError("one"), TypeError("two")])))
        assert (info.type, info.args) == ("ExceptionGroup", None)
        assert "ValueError: one" in (info.traceback or "")


class TestRebuilt:
    """`rebuild` gives the caller the exception, from a fixed list of classes and those of `throws`."""

    @pytest.mark.parametrize(
        "exception",
        [
            ValueError("bad"),
            ValueError(),
            KeyError("k"),
            ZeroDivisionError("division by zero"),
            FileNotFoundError(2, "No such file or directory", "/nowhere"),
            OSError("just text"),
            TimeoutError("late"),
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
            LookupError(1, Decimal("2.5"), (3,)),
            TaskExpired(),
            TimeLimitExceeded("after 5 s"),
            errors.JobFailed(),
        ],
    )
    def test_pythons_and_gtasks_own(self, exception: Exception) -> None:
        found = sent(exception)
        assert type(found) is type(exception)
        assert found.args[:2] == exception.args[:2]
        assert str(found) == str(exception)
        assert isinstance(found.__cause__, TaskFailed)
        assert "Traceback" in (found.__cause__.traceback or "")

    def test_an_os_error_keeps_its_file(self) -> None:
        found = sent(FileNotFoundError(2, "No such file or directory", "/nowhere"))
        assert isinstance(found, FileNotFoundError)
        assert (found.errno, found.filename) == (2, "/nowhere")

    @pytest.mark.parametrize("allowed", [PaymentRefused, AppError, Exception])
    def test_a_class_in_throws_or_below_one(self, allowed: type[Exception]) -> None:
        found = sent(PaymentRefused(Decimal("9.99"), "limit"), KeyError, allowed)
        assert isinstance(found, PaymentRefused)
        assert (found.amount, found.reason) == (Decimal("9.99"), "limit")

    @pytest.mark.parametrize(
        "exception",
        [
            PaymentRefused(Decimal("9.99"), "limit"),
            SystemExit(3),
            KeyboardInterrupt(),
            GeneratorExit(),
            StopIteration(5),
            StopAsyncIteration(),
            ExceptionGroup("several", [ValueError("one")]),
            BaseExceptionGroup("several", [KeyboardInterrupt()]),
            KeyError(Opaque()),
            QueueFull("queue_full", "too many"),
        ],
    )
    def test_everything_else_is_task_failed(self, exception: BaseException) -> None:
        found = sent(exception)
        assert type(found) is TaskFailed
        assert found.type == type_name(type(exception))
        assert found.message == str(exception)
        assert found.traceback is not None
        assert found.__cause__ is None

    def test_a_class_that_does_not_come_out_as_it_was(self) -> None:
        found = sent(Rewritten(5), AppError)
        assert type(found) is TaskFailed
        assert found.message == "the code was 5"

    def test_arguments_that_a_class_refuses(self) -> None:
        info = ErrorInfo(type_name(PaymentRefused), "m", ("one",))
        assert type(rebuild(info, [AppError])) is TaskFailed
        assert type(rebuild(ErrorInfo("UnicodeDecodeError", "m", ("one",)))) is TaskFailed

    def test_throws_never_ends_a_process(self) -> None:
        found = sent(SystemExit(3), SystemExit, BaseException, StopIteration)
        assert type(found) is TaskFailed

    @pytest.mark.parametrize(
        "name", ["os.system", "subprocess.CalledProcessError", "builtins.ValueError", "open", "", "eval"]
    )
    def test_nothing_is_looked_up_by_name(self, name: str) -> None:
        before = set(sys.modules)
        assert type(rebuild(ErrorInfo(name, "m", ("x",)))) is TaskFailed
        assert set(sys.modules) == before

    def test_a_foreign_workers_line(self) -> None:
        found = rebuild(decode_failure(b"ValueError: no such order"))
        assert type(found) is ValueError
        assert str(found) == "no such order"
        assert str(rebuild(decode_failure(b"Perl died at line 5"))) == "Perl died at line 5"

    def test_a_failure_of_a_failure(self) -> None:
        found = sent(TaskFailed("other.Error", "inner", "the remote text"))
        assert type(found) is TaskFailed
        assert str(found) == "gtask.errors.TaskFailed: other.Error: inner"
