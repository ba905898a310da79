"""The App of the end to end tests: what they call, in a worker's processes and in their own."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio

from gtask import App, Retry, TaskContext, current_task
from gtask.task import BaseTask

GATE = 60.0
"""Seconds after which a task that waits for its test gives up."""


@dataclass
class Order:
    """An argument with a type."""

    id: int
    amount: Decimal


def note(path: str, text: object) -> None:
    """Adds a line to a file, in one write whoever else writes to it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, f"{text}\n".encode())
    finally:
        os.close(descriptor)


def lines(path: Path) -> list[str]:
    """The lines of a file that tasks write to."""
    return path.read_text().splitlines() if path.exists() else []


def pass_gate(folder: str, name: str) -> int:
    """Says in `folder` that this process is at work, and goes on when the test lets it; returns the process id."""
    note(f"{folder}/{name}.started", os.getpid())
    deadline = time.monotonic() + GATE
    while not os.path.exists(f"{folder}/{name}.go"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name} was not let go on")
        time.sleep(0.01)
    note(f"{folder}/{name}.passed", os.getpid())
    return os.getpid()


def make(servers: Any = None, results: Any = "gearman://", **settings: Any) -> App:
    """The App on some job servers."""
    app = App("e2e", servers=servers, results=results, **settings)
    _simple(app)
    _long(app)
    _broken(app)
    for name in ("first", "second", "third"):
        app.task(name=name, ignore_result=True)(note)
    return app


def _simple(app: App) -> None:
    @app.task
    def add(a: int, b: int = 0) -> int:
        return a + b

    @app.task
    def total(values: list[int]) -> int:
        return sum(values)

    @app.task
    def double(order: Order) -> Order:
        return Order(order.id, order.amount * 2)

    @app.task(name="note")
    def noted(path: str, text: str) -> str:
        note(path, text)
        return text

    @app.task(ignore_result=True)
    def count(path: str, number: int) -> None:
        note(path, number)

    @app.task
    def pid() -> int:
        return os.getpid()

    @app.task
    async def who(n: int) -> list[Any]:
        context = current_task()
        assert context is not None
        return [n, context.task.name, threading.current_thread() is threading.main_thread()]


def _long(app: App) -> None:
    @app.task
    def gated(folder: str, name: str) -> int:
        return pass_gate(folder, name)

    @app.task(bind=True, max_retries=3)
    def retried(ctx: TaskContext, path: str, delay: float, times: int) -> int:
        note(path, time.time())
        if ctx.retries < times:
            raise Retry(delay)
        return ctx.retries

    @app.task
    def stamped(path: str, name: str) -> float:
        now = time.time()
        note(path, f"{name} {now}")
        return now

    @app.task
    def slow(path: str, number: int, seconds: float) -> int:
        note(path, f"start {number}")
        time.sleep(seconds)
        note(path, f"end {number}")
        return number

    @app.task
    async def slowly(path: str, number: int, seconds: float) -> int:
        note(path, f"start {number}")
        await anyio.sleep(seconds)
        note(path, f"end {number}")
        return number

    @app.task
    def parent(n: int) -> int:
        inner: BaseTask[..., int] = app.tasks["add"]
        return inner.call(n, 1) + inner.delay(n, 1).get(timeout=GATE, disable_sync_subtasks=False)


def _broken(app: App) -> None:
    @app.task
    def fails(what: str) -> None:
        raise ValueError(what)

    @app.task
    def fails_deep(what: str) -> None:
        try:
            raise ValueError(what)
        except ValueError as error:
            failure = LookupError("no such order")
            failure.add_note("looked in the archive")
            raise failure from error

    @app.task
    def dies(path: str) -> None:
        note(path, os.getpid())
        os._exit(7)

    @app.task
    def unsendable() -> Any:
        return {"deep": [object()]}

    @app.task
    def large(size: int) -> bytes:
        return b"x" * size


app = make()
