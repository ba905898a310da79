"""The App of the tests of streams and progress. What the tasks do is written to a file, a line for each event."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import anyio
import anyio.lowlevel

from gtask import App, Retry, TaskContext


@dataclass
class Row:
    """An item with a type of its own."""

    number: int
    name: str


def make(servers: str | None = None) -> App:
    """The App, on some job servers."""
    app = App("streams", servers, os.environ.get("STREAMS_RESULTS", "gearman://"))

    @app.task
    def rows(count: int) -> Iterator[Row]:
        for number in range(count):
            yield Row(number, f"row {number}")

    @app.task
    async def arows(count: int) -> AsyncIterator[int]:
        for number in range(count):
            if number % 100 == 0:
                await anyio.lowlevel.checkpoint()
            yield number

    @app.task
    def noted(path: str, count: int, fail_at: int = -1) -> Iterator[int]:
        """Notes each item that it is asked for, and its end."""
        note(path, f"begun {os.getpid()}")
        try:
            for number in range(count):
                if number == fail_at:
                    raise ValueError(f"no item {number}")
                note(path, str(number))
                yield number
        finally:
            note(path, "closed")

    @app.task
    async def anoted(path: str, count: int) -> AsyncIterator[int]:
        note(path, f"begun {os.getpid()}")
        try:
            for number in range(count):
                note(path, str(number))
                yield number
        finally:
            note(path, "closed")

    @app.task
    def awaiting(path: str, after: int, count: int) -> Iterator[int]:
        """Yields some, and the others when a file is there; its first run notes its process."""
        note(path, f"begun {os.getpid()}")
        yield from range(after)
        while not os.path.exists(f"{path}.go"):
            time.sleep(0.01)
        yield from range(after, count)

    @app.task
    def blobs(path: str, size: int, count: int) -> Iterator[bytes]:
        note(path, f"begun {os.getpid()}")
        for _ in range(count):
            note(path, "item")
            yield bytes(size)

    @app.task(bind=True, max_retries=2, default_retry_delay=0.01)
    def again(ctx: TaskContext, late: bool) -> Iterator[int]:
        if late:
            yield -1
        if ctx.retries < 2:
            raise Retry
        yield ctx.retries

    @app.task(bind=True)
    def chatty(ctx: TaskContext) -> Iterator[int]:
        ctx.progress(1, 2)
        yield 1
        ctx.warn("careful")
        ctx.send_data(b"aside")
        yield 2
        ctx.progress(2, 2)

    @app.task
    def slow() -> Iterator[int]:
        yield 1
        time.sleep(60)
        yield 2

    @app.task
    def unsendable() -> Iterator[object]:
        yield 1
        yield object()

    @app.task(bind=True)
    def steps(ctx: TaskContext, path: str, kill: bool = False) -> str:
        """Says how far it is, and waits for a file."""
        note(path, f"begun {os.getpid()}")
        for number in range(1, 51):
            ctx.progress(number, 100, f"step {number}")
        while not os.path.exists(f"{path}.go"):
            time.sleep(0.01)
        return "done"

    @app.task
    def plain() -> list[int]:
        return [1]

    return app


def note(path: str, line: str) -> None:
    """Adds a line to a file, in one write."""
    with open(path, "a") as file:
        file.write(f"{line}\n")


app = make()
