"""Exceptions that travel: from the worker that raised one, to the caller that raises it again. Design, section 6.

An exception is rebuilt from a fixed list of classes and those the task names in `throws`. Nothing is imported
because a message names it.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from textwrap import indent
from traceback import TracebackException
from types import TracebackType
from typing import Any, Final

from gtask import errors
from gtask.codecs import pack
from gtask.codecs.wording import glimpse
from gtask.errors import EncodeError, GtaskError, TaskFailed
from gtask.states import ErrorInfo

MAX_TRACEBACK: Final = 20_000
"""Characters of a traceback that travel, unless the caller says otherwise."""

REMOTE: Final = "Remote traceback, where the task failed:\n"
"""The line in front of a remote traceback in the note of an exception that came from elsewhere."""

_MAX_ARGS: Final = 16 * 1024
_MAX_FRAMES: Final = 200
_MAX_SUBCLASSES: Final = 2000

_NEVER: Final = (StopIteration, StopAsyncIteration)
"""Raised again inside a generator or a coroutine, these would end it instead of failing it."""


def type_name(kind: type[BaseException]) -> str:
    """How a class is named on the wire: ``ValueError`` for a builtin, ``module.Qualname`` otherwise."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _known(kind: type[BaseException]) -> type[BaseException]:
    """The class itself, or that of gtask's tree that a private class of gtask's is one of."""
    if kind.__module__.startswith("gtask.") and issubclass(kind, GtaskError):
        return next(base for base in kind.__mro__ if base.__module__ == errors.__name__)
    return kind


_REBUILT: Final[dict[str, type[Exception]]] = {
    type_name(kind): kind
    for kind in (*vars(builtins).values(), *vars(errors).values())
    if isinstance(kind, type)
    and issubclass(kind, Exception)
    and not issubclass(kind, _NEVER)
    and (kind.__module__ == "builtins" or issubclass(kind, GtaskError))
}
"""The classes that are rebuilt for every task: Python's own and gtask's."""


def error_info(exception: BaseException, limit: int = MAX_TRACEBACK) -> ErrorInfo:
    """Describes an exception so that it can travel.

    The traceback's text has notes and causes in it, leaves out the frames of gtask before the task's own, and is cut in
    the middle to `limit` characters. The arguments are kept only where they can be packed and are small. Never raises.
    """
    return ErrorInfo(
        type_name(_known(type(exception))),
        cut(_message(exception), limit),
        _arguments(exception),
        cut(_clean(_traceback(exception)), limit),
    )


def cut(text: str, limit: int) -> str:
    """Text of about `limit` characters: a third from its start, the rest from its end, which says what happened."""
    if len(text) <= limit:
        return text
    head = limit // 3
    return f"{text[:head]}\n... {len(text) - limit} characters left out ...\n{text[len(text) - (limit - head) :]}"


def _clean(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _message(exception: BaseException) -> str:
    try:
        return _clean(str(exception))
    except Exception:  # a __str__ that raises
        return f"<{type(exception).__name__} without readable text>"


def _arguments(exception: BaseException) -> tuple[Any, ...] | None:
    try:
        args = tuple(exception.args)
        if isinstance(exception, OSError) and len(args) == 2 and exception.filename is not None:
            args = (*args, exception.filename)  # OSError keeps it out of its args
        return args if len(pack(args)) <= _MAX_ARGS else None
    except Exception:  # EncodeError, or a class that made something else of `args`
        return None


def _traceback(exception: BaseException) -> str:
    try:
        found = TracebackException(
            type(exception), exception, _own_frames(exception.__traceback__), limit=-_MAX_FRAMES, compact=True
        )
        return "".join(found.format())
    except Exception as error:
        return f"{type_name(type(exception))}: {_message(exception)}\n(no traceback: {glimpse(error, 200)})\n"


def _own_frames(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of gtask at its start: nothing of it where gtask itself refused to go on."""
    while traceback is not None and str(traceback.tb_frame.f_globals.get("__name__", "")).startswith("gtask."):
        traceback = traceback.tb_next
    return traceback


def rebuild(info: ErrorInfo, allowed: Iterable[type[BaseException]] = ()) -> Exception:
    """The exception to raise for an error that came from elsewhere.

    Rebuilt are Python's own exceptions, gtask's, the classes in `allowed` (a task's `throws`) and their subclasses
    here; the result's ``__cause__`` is a `TaskFailed` with the remote traceback, which it shows as a note. Everything
    else is a `TaskFailed` itself: unknown classes, such as end a process (SystemExit), and those that do not come out
    as they were.
    """
    remote = TaskFailed(info.type, info.message, info.traceback)
    if info.traceback and "\n  File " in info.traceback:
        # A note is shown wherever Python shows an exception: by a crashing program, a logger, a debugger.
        remote.add_note(REMOTE + indent(info.traceback.rstrip(), "  "))
    kind = _REBUILT.get(info.type) or _find(info.type, allowed)
    if kind is None or kind is TaskFailed:
        return remote
    try:
        exception = kind(*(info.args if info.args is not None else (info.message,)))
        # A class may take its arguments and make something else of them.
        if str(exception) != info.message and _clean(str(exception)) != info.message:
            return remote
    except Exception:
        return remote
    exception.__cause__ = remote
    return exception


def _find(name: str, allowed: Iterable[type[BaseException]]) -> type[Exception] | None:
    pending = list(allowed)
    seen: set[type] = set()
    while pending and len(seen) < _MAX_SUBCLASSES:
        kind = pending.pop()
        if kind in seen or not issubclass(kind, Exception) or issubclass(kind, _NEVER):
            continue
        seen.add(kind)
        if type_name(kind) == name:
            return kind
        pending += kind.__subclasses__()
    return None


__all__ = ["MAX_TRACEBACK", "EncodeError", "cut", "error_info", "rebuild", "type_name"]
