"""The App of the tests with every result store; `$STORE_URL` names the store, `$STORE_NOTES` a file to write to."""

from __future__ import annotations

import os
import time

from gtask import App, TaskContext
from tests.e2e.tasks import note

app = App("stores", results=os.environ.get("STORE_URL", "gearman://"))


@app.task
def add(a: int, b: int = 0) -> int:
    return a + b


@app.task
def total(values: list[int]) -> int:
    return sum(values)


@app.task
def fails(what: str) -> None:
    raise ValueError(what)


@app.task
def sleeps(text: str) -> None:
    note(os.environ["STORE_NOTES"], text)
    time.sleep(60)


@app.task
def large(size: int) -> bytes:
    return bytes(range(256)) * (size // 256)


@app.task(bind=True)
def noted(ctx: TaskContext, text: str) -> str:
    note(os.environ["STORE_NOTES"], text)
    return ctx.id
