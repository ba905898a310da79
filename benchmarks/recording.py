"""A task that leaves a mark: each run is one line in a file, so that what ran, and how often, outlives every process.

The lines are written with O_APPEND in one system call each, so processes that are killed leave whole lines or none.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

from gtask import App
from gtask.task import Task

FILE = "GTASK_RECORD"
"""The variable that names the file."""


def make(servers: str | list[str] | None = None, namespace: str | None = None, **settings: float) -> App:
    """Makes the app with the one task `record`; a worker leaves everything to ``GTASK_*`` variables."""
    if namespace is None:
        made = App("recording", servers)
    else:
        made = App("recording", servers, namespace=namespace, **settings)  # type: ignore[arg-type]

    @made.task
    def record(number: str, seconds: float = 0.0) -> str:
        """Writes the number down after `seconds` of work, and returns it."""
        if seconds:
            time.sleep(seconds)
        file = os.open(os.environ[FILE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, f"{number}\n".encode())
        finally:
            os.close(file)
        return number

    return made


def record_of(made: App) -> Task[[str, float], str]:
    """The task `record` of such an app."""
    found = made.tasks[f"{made.settings.namespace}record"]
    assert isinstance(found, Task)
    return found


class Record:
    """Reads the file as it grows: how often each number was written down."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open("rb")
        self._rest = b""
        self.runs: Counter[str] = Counter()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def read(self) -> list[str]:
        """Takes what is new; returns the numbers in it."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        numbers = [line.decode() for line in lines]
        self.runs.update(numbers)
        return numbers

    @property
    def repeated(self) -> int:
        """How many runs there were beyond the first of each number."""
        return self.runs.total() - len(self.runs)


app = make()
