"""The App of the tests of queues: tasks that write down which of them ran with what, and when."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Final

from gtask import App, Retry, TaskContext

NAMES: Final = ("note", "NOTE", "note.v2:a_b", "n" * 200)
"""Functions that a queue may mistake for one another, or cut."""

GATE: Final = 120.0
"""Seconds after which a task that waits for its test gives up."""


def write(path: str, *words: object) -> None:
    """Adds a line to a file, in one write whoever else writes to it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, f"{' '.join(map(str, words))}\n".encode())
    finally:
        os.close(descriptor)


def _noting(app: App, name: str) -> None:
    @app.task(name=name, ignore_result=True)
    def note(path: str, number: int) -> None:
        write(path, name, number, time.time())


def make(servers: Any = None, results: Any = None) -> App:
    """The App on some job servers."""
    app = App("queues", servers=servers, results=results)
    for name in NAMES:
        _noting(app, name)

    @app.task(ignore_result=True)
    def gate(folder: str) -> None:
        write(f"{folder}/gate.started", os.getpid())
        deadline = time.monotonic() + GATE
        while not Path(folder, "gate.go").exists():
            if time.monotonic() > deadline:
                raise TimeoutError("the gate was not opened")
            time.sleep(0.01)

    @app.task
    def size(data: bytes) -> int:
        return len(data)

    @app.task(codec="json")
    def shout(text: str) -> str:
        return text.upper()

    @app.task(bind=True, max_retries=3)
    def again(ctx: TaskContext, delay: float = 0.5) -> str:
        if ctx.retries == 0:
            raise Retry(delay)
        return "done"

    return app


app = make(os.environ.get("GTASK_SERVERS"), os.environ.get("QUEUES_RESULTS"))
