"""Tasks over lists: one job runs a task once for each item (`Task.map`, `Task.starmap`). Design, section 2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from gtask.context import TaskContext
from gtask.errors import BadArguments
from gtask.task import Task

Call = tuple[tuple[Any, ...], dict[str, Any]]


def over_list(context: TaskContext, task: Task[..., Any]) -> tuple[Task[..., Any], tuple[Any, ...], dict[str, Any]]:
    """A task whose body runs `task` for each item of the list that the message brings, and its arguments: none.

    Raises `BadArguments` that names the item which does not fit.
    """
    calls = _calls(context, task)
    made: Task[..., Any] = object.__new__(type(task))
    made.__dict__.update(task.__dict__)
    made.bind = False
    made.func = partial(_over_async if task.is_async else _over_plain, context, task.func, calls)
    return made, (), {}


def _calls(context: TaskContext, task: Task[..., Any]) -> list[Call]:
    over, args = context.message.headers["over"], context.args
    name = f"{task.name}.{over}()"
    if task.streams:
        raise BadArguments(f"{name}: a task that streams has no single result; use a group.")
    if len(args) != 1 or not isinstance(args[0], list | tuple):
        got = f"{args[0]!r:.80}" if len(args) == 1 else f"{len(args)} arguments: {args!r:.80}"
        raise BadArguments(f"{name} takes one list, and got {got}.")
    calls: list[Call] = []
    for index, item in enumerate(args[0]):
        if over == "starmap" and not isinstance(item, list | tuple):
            raise BadArguments(f"Item {index} of {name} is {item!r:.80}; it is a list of positional arguments.")
        try:
            given, named = task.arguments.fit(tuple(item) if over == "starmap" else (item,), dict(context.kwargs))
        except TypeError as error:
            raise BadArguments(f"Item {index} of {name}: {error}") from error
        calls.append(((context, *given) if task.bind else given, named))
    return calls


def _over_plain(context: TaskContext, function: Callable[..., Any], calls: list[Call]) -> list[Any]:
    results = []
    for index, (args, kwargs) in enumerate(calls):
        with _named(context, index):
            results.append(function(*args, **kwargs))
    return results


async def _over_async(context: TaskContext, function: Callable[..., Any], calls: list[Call]) -> list[Any]:
    results = []
    for index, (args, kwargs) in enumerate(calls):
        with _named(context, index):
            results.append(await function(*args, **kwargs))
    return results


@contextmanager
def _named(context: TaskContext, index: int) -> Iterator[None]:
    """Has an error say for which item it was raised, in its traceback."""
    try:
        yield
    except Exception as error:
        error.add_note(f"Raised for item {index} of {context.message.task}.{context.message.headers['over']}().")
        raise
