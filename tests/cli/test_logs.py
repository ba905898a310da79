"""Log lines: for people, and one JSON object each for programs."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from gtask.cli.logs import HumanFormatter, JsonFormatter, set_up


def record(message: str, *args: object, level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("gtask.task", level, "x.py", 1, message, args, None)
    made.created, made.msecs = 1795558201.123, 123.0
    vars(made).update(fields)
    return made


def with_exception(message: str) -> logging.LogRecord:
    try:
        raise ValueError("no")
    except ValueError:
        return logging.LogRecord("x", logging.ERROR, "x.py", 1, message, (), sys.exc_info())


def test_a_line_for_people() -> None:
    line = HumanFormatter().format(record("Task %s succeeded", "calculate"))
    date, clock, rest = line.split(" ", 2)
    assert len(date) == 10
    assert clock.endswith(".123")
    assert rest == "INFO  Task calculate succeeded"


@pytest.mark.parametrize(
    ("level", "word"),
    [(logging.DEBUG, "DEBUG"), (logging.WARNING, "WARN "), (logging.ERROR, "ERROR"), (logging.CRITICAL, "FATAL")],
)
def test_levels_are_five_letters(level: int, word: str) -> None:
    assert f".123 {word} x" in HumanFormatter().format(record("x", level=level))


def test_colour_is_for_what_matters() -> None:
    assert "\x1b[31mERROR\x1b[0m" in HumanFormatter(colour=True).format(record("x", level=logging.ERROR))
    assert "\x1b" not in HumanFormatter(colour=True).format(record("x"))


def test_a_traceback_is_below_its_line() -> None:
    lines = HumanFormatter().format(with_exception("It broke.")).splitlines()
    assert lines[0].endswith("ERROR It broke.")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: no"


def test_a_line_for_programs() -> None:
    fields: dict[str, Any] = {
        "task": "calculate",
        "task_id": "ab",
        "state": "SUCCESS",
        "runtime": 0.012,
        "retries": 0,
        "other": 1,
    }
    line = JsonFormatter().format(record("Task %s", "x", **fields))
    assert json.loads(line) == {
        "time": "2026-11-24T22:10:01.123Z",
        "level": "INFO",
        "logger": "gtask.task",
        "message": "Task x",
        "task": "calculate",
        "task_id": "ab",
        "state": "SUCCESS",
        "runtime": 0.012,
        "retries": 0,
    }


def test_a_line_for_programs_is_one_line_whatever_it_holds() -> None:
    found = with_exception("a\nb \udcff")
    line = JsonFormatter().format(found)
    assert "\n" not in line
    assert orjson.loads(line)["message"] == "a\nb \\udcff"
    assert orjson.loads(line)["exception"].endswith("ValueError: no")
    assert "object" in JsonFormatter().format(record("x", task=object()))


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.mark.parametrize("as_json", [False, True])
def test_everybody_s_lines_go_to_stderr(as_json: bool, root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    set_up("warning", as_json)
    logging.getLogger("the.user").warning("careful")
    logging.getLogger("the.user").info("never mind")
    (line,) = stream.getvalue().splitlines()
    assert (json.loads(line)["message"] if as_json else line[-7:]) == "careful"
