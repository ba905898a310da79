"""What the fault tests stand on: calls that cannot hang a test, and a worker whose every run leaves a line."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.recording import FILE, Record, make, record_of
from gtask import App
from gtask.testing import Program, wait_until, worker
from gtask.types import Server

ROOT = Path(__file__).resolve().parents[2]

BOUND = 5.0
"""Seconds within which a worker gets jobs again, whatever happened to its connection."""


class Ended(NamedTuple):
    """How a call ended, and after how many seconds."""

    value: Any
    error: BaseException | None
    seconds: float


def ended_within(seconds: float, call: Callable[[], Any]) -> Ended:
    """Makes a call in a thread of its own, and says how it ended; the test fails when it has not within `seconds`."""
    outcome: list[Ended] = []

    def run() -> None:
        began = time.monotonic()
        try:
            outcome.append(Ended(call(), None, time.monotonic() - began))
        except Exception as error:
            outcome.append(Ended(None, error, time.monotonic() - began))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, f"the call hangs: it has not ended within {seconds:g} s"
    return outcome[0]


class Recorded:
    """Numbered tasks on one or more job servers, and the record of their runs."""

    def __init__(self, servers: Sequence[Server], folder: Path, name: str = "") -> None:
        self.app: App = make([str(server) for server in servers], "", request_timeout=2.0)
        self._name = name
        self.record = record_of(self.app)
        """The task itself."""
        self._file = Record(folder / "record")
        self._numbers = 0
        self.id = ""
        """The id of the task that was sent last."""

    def close(self) -> None:
        """Lets go of the connection and the file."""
        self.app.close()
        self._file.close()

    def send(self, seconds: float = 0.0) -> str:
        """Sends a task that takes `seconds`; returns its number. Its result goes nowhere."""
        number = f"{self._name}{self._numbers}"
        self._numbers += 1
        self.id = self.record.apply_async((number, seconds), ignore_result=True).id
        return number

    def runs(self, number: str) -> int:
        """How often this number has run."""
        self._file.read()
        return self._file.runs[number]

    @property
    def repeated(self) -> int:
        """How many runs there were beyond the first of each."""
        self._file.read()
        return self._file.repeated

    def wait_for(self, number: str, timeout: float = BOUND) -> None:
        """Waits until this number has run; raises `TimeoutError`."""
        wait_until(lambda: self.runs(number), timeout, f"the run of task {number}")


def last(seconds: float) -> None:
    """Lets a fault last for so long: that nothing happens meanwhile has no event to wait for."""
    time.sleep(seconds)


@contextmanager
def recorded(servers: Sequence[Server], folder: Path, name: str = "") -> Iterator[Recorded]:
    """Numbered tasks that are sent over these addresses; `name` stands before their numbers."""
    made = Recorded(servers, folder, name)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def recording_worker(
    servers: Sequence[Server],
    folder: Path,
    pool: str = "prefork",
    *options: str,
    concurrency: int = 2,
    env: Mapping[str, str | None] | None = None,
) -> Iterator[Program]:
    """A worker for these tasks."""
    environment = {FILE: str(folder / "record"), **(env or {})}
    urls = [str(server) for server in servers]
    app = "benchmarks.recording:app"
    with worker(app, *options, cwd=ROOT, servers=urls, pool=pool, concurrency=concurrency, env=environment) as program:
        yield program
