"""The tasks of `test_back_pressure.py` and `test_unique.py`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from gtask import App, Retry, TaskContext
from tests.e2e.tasks import note, pass_gate


def make(servers: Any = None) -> App:
    """The App on some job servers."""
    app = App("queues", servers=servers)

    @app.task
    def small(n: int = 0) -> int:
        return n

    @app.task
    def narrow(n: int) -> int:
        return n + 1

    @app.task(bind=True, max_retries=1)
    def again(ctx: TaskContext, file: str) -> int:
        note(file, ctx.retries)
        if not ctx.retries:
            raise Retry(delay=0)
        return ctx.retries

    @app.task(unique=lambda folder, name: name)
    def once(folder: str, name: str) -> int:
        return pass_gate(folder, name)

    @app.task(unique=True, unique_until="start")
    def latest(folder: str, name: str) -> int:
        return pass_gate(folder, name)

    @app.task(unique=True)
    def quick(folder: str, name: str, extra: int = 0) -> int:
        note(f"{folder}/{name}", os.getpid())
        return os.getpid()

    @app.task(unique="broken", ignore_result=True)
    def broken(file: str) -> None:
        note(file, "run")
        raise ValueError("broken")

    @app.task(bind=True, unique="retried", max_retries=1)
    def retried(ctx: TaskContext, folder: str) -> int:
        note(f"{folder}/retried", ctx.retries)
        if not ctx.retries:
            raise Retry(delay=0.2 if Path(folder, "soon").exists() else 30)
        return ctx.retries

    @app.task(unique=True)
    def deadly(file: str) -> str:
        if Path(file).exists() and "enough" in Path(file).read_text():
            return "alive"
        note(file, "run")
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    return app


app = make()
