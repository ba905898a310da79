"""Middleware: one feature, one file. Four hooks, each with the colour it really has. Design, section 8.

* `publishing` wraps the sending of a message, in the caller's thread or task. A context manager has no colour, so
  one class serves the blocking and the async callers.
* `executing` is an async onion around a run: it may await in an async pool, and it decides what the outcome is.
* `running` wraps the body of the task itself, in the thread that runs it: for what is bound to a thread.
* `refused` hears of a job that never becomes a run: nobody can read it, or its signature is wrong.

The first of an App's middleware is the outermost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from gtask.context import TaskContext
from gtask.message import Message
from gtask.states import Outcome

Next = Callable[[TaskContext], Awaitable[Outcome]]
"""The rest of the onion, down to the task's own body."""


class Middleware:
    """Does nothing in each of the four hooks; a middleware overrides those it needs.

    `options` names the task options it brings along: `@app.task` then takes them, and leaves them in
    `task.extra_options`.
    """

    options: frozenset[str] = frozenset()

    def publishing(self, message: Message) -> AbstractContextManager[Message]:
        """Wraps the sending of a message; what it yields is sent. Change `message.headers` here."""
        return _same(message)

    async def executing(self, call_next: Next, context: TaskContext) -> Outcome:
        """Wraps a run: call `await call_next(context)` once at most, and return the outcome.

        What the task raises comes through here as an exception until `Retries` makes an outcome of it. In the pools
        prefork, thread and solo it may await only what an asyncio loop can run.
        """
        return await call_next(context)

    def running(self, context: TaskContext) -> AbstractContextManager[None]:
        """Wraps the task's body, in the same thread."""
        return _nothing()

    def refused(self, function: str, error: Exception) -> None:
        """Hears of a job that is not run, since it cannot be decoded or its signature is wrong."""


@contextmanager
def _same(message: Message) -> Iterator[Message]:
    yield message


@contextmanager
def _nothing() -> Iterator[None]:
    yield


class Stack:
    """An App's middleware, sorted by what each overrides, so that an unused hook costs nothing."""

    def __init__(self, middleware: Sequence[Middleware]) -> None:
        self.all = tuple(middleware)
        self.publishing = [m for m in self.all if type(m).publishing is not Middleware.publishing]
        self.executing = [m for m in self.all if type(m).executing is not Middleware.executing]
        self.running = [m for m in self.all if type(m).running is not Middleware.running]
        self.refused = [m for m in self.all if type(m).refused is not Middleware.refused]

    def onion(self, body: Next) -> Next:
        """Wraps `body` in every `executing` hook, the first outermost."""
        for middleware in reversed(self.executing):
            body = partial(middleware.executing, body)
        return body
