"""Logging of the commands that run on: lines for people, or one JSON object per line with ``--json-logs``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click
import orjson

from gtask.context import current_task

Command = TypeVar("Command", bound=Callable[..., Any])

LEVELS: Final = ("debug", "info", "warning", "error", "critical")

FIELDS: Final = ("task", "task_id", "state", "runtime", "retries")
"""The fields of a log record, besides its message, that a JSON line has where they are known."""

_SHORT: Final = {"WARNING": "WARN", "CRITICAL": "FATAL"}
_COLOURS: Final = {logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m", logging.CRITICAL: "\x1b[1;31m"}


class HumanFormatter(logging.Formatter):
    """`2026-11-24 22:10:01.123 INFO  message`, in local time; with `colour`, warnings and errors stand out."""

    def __init__(self, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Makes the line, and the lines of a traceback below it."""
        when = datetime.fromtimestamp(record.created).strftime("%Y-%m-%d %H:%M:%S")
        level = f"{_SHORT.get(record.levelname, record.levelname):<5}"
        if self._colour and record.levelno in _COLOURS:
            level = f"{_COLOURS[record.levelno]}{level}\x1b[0m"
        message = record.getMessage()
        if not record.name.startswith("gtask.") and hasattr(record, "task_id"):
            message = f"{record.__dict__['task']}[{record.__dict__['task_id']}] {message}"
        return "\n".join([f"{when}.{int(record.msecs):03d} {level} {message}", *_exception(self, record)])


class JsonFormatter(logging.Formatter):
    """One JSON object per record: `time` (UTC), `level`, `logger`, `message`, `FIELDS`, and `exception` if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Makes the line."""
        when = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        line: dict[str, Any] = {
            "time": f"{when}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if trace := _exception(self, record):
            line["exception"] = trace[0]
        # A message may hold what is no UTF-8; a log line is better bent than lost.
        return orjson.dumps(_plain(line), default=repr).decode()


def _plain(line: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
        for key, value in line.items()
    }


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    if record.exc_info and record.exc_info[0] is not None:
        return [formatter.formatException(record.exc_info)]
    return [record.exc_text] if record.exc_text else []


def _name_task(record: logging.LogRecord) -> bool:
    """Adds to a record from within a task which task it is, so that a user's own lines can be told apart."""
    context = current_task()
    if context is not None and not hasattr(record, "task_id"):
        record.task, record.task_id = context.task.name, context.id
    return True


def set_up(level: str, as_json: bool) -> None:
    """Sends all log records from `level` on to stderr, those of the user's own loggers too."""
    handler = logging.StreamHandler()
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    handler.setFormatter(JsonFormatter() if as_json else HumanFormatter(colour))
    handler.addFilter(_name_task)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def log_options(default: str) -> Callable[[Command], Command]:
    """The options ``-l/--loglevel`` and ``--json-logs`` of a command."""

    def add(command: Command) -> Command:
        choice = click.Choice(LEVELS, case_sensitive=False)
        command = click.option("--json-logs", is_flag=True, help="Write each log line as a JSON object.")(command)
        return click.option(
            "-l", "--loglevel", type=choice, default=default, show_default=True, help="The least that is logged."
        )(command)

    return add
