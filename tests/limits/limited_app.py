"""The tasks of `test_lanes.py`: limited ones, which note when they ran."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from gtask import App


def note(file: str, line: str) -> None:
    """Adds a line to a file, in one piece."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def run(file: str, seconds: float) -> None:
    """Notes the beginning and the end of a run, each with the process and the time."""
    note(file, f"{os.getpid()} begin {time.monotonic()}")
    time.sleep(seconds)
    note(file, f"{os.getpid()} end {time.monotonic()}")


def make(servers: Any = None) -> App:
    """The App on some job servers."""
    app = App("limited", servers=servers)

    @app.task(rate_limit="50/s")
    def often(file: str) -> None:
        run(file, 0)

    @app.task(rate_limit="50/s", limit_scope="cluster")
    def often_in_all(file: str) -> None:
        run(file, 0)

    @app.task(max_concurrency=2)
    def two(file: str, seconds: float) -> None:
        run(file, seconds)

    @app.task(max_concurrency=2, limit_scope="cluster")
    def two_in_all(file: str, seconds: float) -> None:
        run(file, seconds)

    @app.task
    def free(file: str, seconds: float) -> None:
        run(file, seconds)

    @app.task(max_concurrency=1, limit_scope="cluster")
    def until(file: str, gate: str) -> int:
        note(file, f"{os.getpid()} begin {time.monotonic()}")
        while not Path(gate).exists():
            time.sleep(0.01)
        return os.getpid()

    return app


app = make()
