"""Tasks of large chords: each part notes that it runs, and some kill their process on the way."""

from __future__ import annotations

import os
import signal
from typing import Any

from gtask import App
from tests.e2e.tasks import note


def make(servers: Any = None, results: Any = None, folder: str = "") -> App:
    """The App; a worker's results and folder are where the environment says."""
    results = results or os.environ.get("CANVAS_RESULTS", "gearman://")
    app = App("large", servers, results, dead_letters=False)
    folder = folder or os.environ.get("LARGE_FOLDER", ".")

    @app.task
    def part(number: int, kills: int, bad: int = -1) -> int:
        note(f"{folder}/parts", number)
        mark = f"{folder}/killed.{kills}.{number}"
        if number % kills == 7 and not os.path.exists(mark):
            note(mark, "x")
            os.kill(os.getpid(), signal.SIGKILL)
        if number == bad:
            raise ValueError(f"part {number} is bad")
        return number

    @app.task
    def body(values: list[int], name: str) -> list[int]:
        note(f"{folder}/{name}", "body")
        return values

    @app.task(ignore_result=True)
    def errback(what: Any) -> None:
        note(f"{folder}/errback", f"{what['task']}: {what['message']}")

    return app


app = make()
