"""`python -m benchmarks.schedules`: what many delayed jobs cost, and how punctual those are that come due."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.fleet import ROOT, end_on_sigterm, kill_all
from benchmarks.memory import resident
from gtask import App, group
from gtask.client import Client
from gtask.publish import DELAYED
from gtask.testing import JobServerProgram, Program, gearmand, job_server, wait_until, worker
from gtask.testing.databases import mariadb
from gtask.types import Submission

FILE: Final = "GTASK_STAMPS"
"""The variable that names the file to which runs are written."""

SERVERS: Final = ("embedded", "gearmand", "mysql", "libsqlite3")

FAR: Final = 3600.0
"""Seconds that the many have still to wait."""

NEAR: Final = 5.0
"""Seconds until the first of those that come due."""

SHORT: Final = 0.25
"""The delay in seconds whose fraction is to be kept, and how many such jobs are sent."""
SHORTS: Final = 200

CHUNK: Final = 10_000
PATIENCE: Final = 600.0


def make(servers: str | None = None) -> App:
    """Makes the App with the one task `stamp`."""
    made = App("schedules", servers, results=None)

    @made.task(ignore_result=True)
    def stamp(number: int, due: float) -> None:
        """Writes down when it runs."""
        file = os.open(os.environ[FILE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, f"{number} {due!r} {time.time()!r}\n".encode())
        finally:
            os.close(file)

    return made


@dataclass
class Outcome:
    """What was measured: seconds after their time of the `due` jobs and of the `short` ones, and the rest in names."""

    server: str
    waiting: int
    rate: float = 0.0
    due_rate: float = 0.0
    grown: dict[str, int] = field(default_factory=dict)
    due: list[float] = field(default_factory=list)
    short: list[float] = field(default_factory=list)
    echoes: list[float] = field(default_factory=list)
    runs: int = 0
    kept: int | None = None

    @property
    def good(self) -> bool:
        """Whether each ran once, none early, and none of those that wait was lost."""
        complete = self.runs == len(self.due) + len(self.short)
        return complete and min(self.due + self.short) >= 0 and self.kept in (None, self.waiting)


@contextmanager
def serve(kind: str, folder: Path) -> Iterator[JobServerProgram]:
    """A job server: the embedded one with its file, or gearmand with one of its queues (``gearmand``: in memory)."""
    with ExitStack() as stack:
        if kind == "embedded":
            yield stack.enter_context(job_server(db=folder / "queue.db"))
            return
        options: tuple[str, ...] = ()
        if kind == "mysql":
            options = stack.enter_context(mariadb()).queue_options()
        elif kind == "libsqlite3":
            options = ("-q", "libsqlite3", "--libsqlite3-db", str(folder / "queue.db"))
        yield stack.enter_context(gearmand(*options, "--verbose=ERROR"))


def measure(kind: str, waiting: int, due: int, folder: Path, say: Callable[[str], None]) -> Outcome:
    """Has `waiting` jobs wait for an hour, and lets `due` others come due within one second meanwhile."""
    outcome = Outcome(kind, waiting)
    stamps = folder / "stamps"
    with ExitStack() as stack:
        server = stack.enter_context(serve(kind, folder))
        app = stack.enter_context(make(server.url))
        work = stack.enter_context(_worker(server, stamps))
        _run(app, stamps, [(0, 0.0)])
        before = _sizes(work)
        outcome.rate = _send_waiting(app, waiting)
        say(f"{waiting} are waiting")
        with _echoes(server, outcome.echoes):
            outcome.due, outcome.due_rate = _due(app, stamps, due)
            say(f"{due} came due")
            outcome.short = _short(app, stamps)
        after = _sizes(work)
        outcome.grown = {name: after[name] - before[name] for name in before}
        outcome.runs = len(_read(stamps)) - 1
        if kind != "gearmand":
            server.restart(signal.SIGKILL, PATIENCE)
            kill_all(work)
            with _worker(server, stamps):
                _run(app, stamps, [(-1, 0.0)])
                outcome.kept = _delayed(server)
    return outcome


def _worker(server: JobServerProgram, stamps: Path) -> AbstractContextManager[Program]:
    env: dict[str, str | None] = {FILE: str(stamps)}
    return worker(
        "benchmarks.schedules:app", "--loglevel", "warning", cwd=ROOT, servers=server.url, env=env, ready=None
    )


def _sizes(work: Program) -> dict[str, int]:
    wait_until(lambda: len(work.children()) == 3, what="all processes")
    names = ("process 1", "process 2", "housekeeper")
    found = {name: resident(pid) for name, pid in zip(names, work.children(), strict=True)}
    return {"supervisor": resident(work.pid), **found}


def _send_waiting(app: App, count: int) -> float:
    stamp: Any = app.tasks["stamp"]
    began = time.perf_counter()
    for start in range(0, count, CHUNK):
        steps = (stamp.s(number, 0.0) for number in range(start, min(start + CHUNK, count)))
        group(steps).apply_async(countdown=FAR)
    return count / (time.perf_counter() - began)


def _due(app: App, stamps: Path, count: int) -> tuple[list[float], float]:
    first = time.time() + NEAR
    jobs = [(number, first + number / count) for number in range(count)]
    return _run(app, stamps, jobs)


def _short(app: App, stamps: Path) -> list[float]:
    stamp: Any = app.tasks["stamp"]
    numbers = range(10**6, 10**6 + SHORTS)
    for number in numbers:
        # How late it is, as its caller sees it: from the moment before it is sent.
        stamp.apply_async((number, time.time() + SHORT), countdown=SHORT)
        time.sleep(0.005)
    return _wait(stamps, set(numbers))


def _run(app: App, stamps: Path, jobs: Sequence[tuple[int, float]]) -> tuple[list[float], float]:
    stamp: Any = app.tasks["stamp"]
    steps = []
    for number, due in jobs:
        step = stamp.s(number, due)
        steps.append(step.set(eta=datetime.fromtimestamp(due, UTC)) if due else step)
    began = time.perf_counter()
    group(steps).apply_async()
    rate = len(jobs) / (time.perf_counter() - began)
    return _wait(stamps, {number for number, _ in jobs}), rate


def _wait(stamps: Path, numbers: set[int]) -> list[float]:
    """Waits until they have run; returns by how many seconds each was late."""

    def late() -> dict[int, float]:
        return {number: at - due for number, due, at in _read(stamps) if number in numbers}

    wait_until(lambda: len(late()) == len(numbers), PATIENCE, "the run of all of them")
    return sorted(late().values())


def _read(stamps: Path) -> list[tuple[int, float, float]]:
    rows = (line.split() for line in stamps.read_text().splitlines()) if stamps.exists() else iter(())
    return [(int(number), float(due), float(at)) for number, due, at in rows]


def _delayed(server: JobServerProgram) -> int:
    rows = (line.split("\t") for line in server.admin("status", PATIENCE))
    return sum(int(row[1]) for row in rows if row[0] in DELAYED)


@contextmanager
def _echoes(server: JobServerProgram, times: list[float]) -> Iterator[None]:
    """Meanwhile submits a job that nobody serves every 10 ms, and notes how long the job server takes to confirm it."""
    done = threading.Event()

    def run() -> None:
        with Client(server.url) as client:
            while not done.wait(0.01):
                began = time.perf_counter()
                client.submit(Submission("nobody", b"x", os.urandom(8).hex()))
                times.append(time.perf_counter() - began)

    thread = threading.Thread(target=run, name="echoes")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def spread(seconds: list[float]) -> str:
    """Some quantiles in milliseconds."""
    ordered = sorted(seconds)
    at = {"least": 0.0, "median": 0.5, "90 %": 0.9, "99 %": 0.99, "most": 1.0}
    found = {name: ordered[min(len(ordered) - 1, int(part * len(ordered)))] for name, part in at.items()}
    return ", ".join(f"{name} {value * 1000:.1f}" for name, value in found.items()) + " ms"


def report(outcome: Outcome) -> str:
    """The figures in words."""
    grown = ", ".join(f"{name} {size / 2**20:+.2f}" for name, size in outcome.grown.items())
    lines = [
        f"{outcome.server}: {outcome.waiting} jobs that wait an hour, sent at {outcome.rate:.0f}/s",
        f"  the worker's memory meanwhile, in MiB: {grown}; together {sum(outcome.grown.values()) / 2**20:+.2f}",
        f"  {len(outcome.due)} due in one second, sent at {outcome.due_rate:.0f}/s, late by: {spread(outcome.due)}",
        f"  {len(outcome.short)} with a countdown of {SHORT:g} s, late by: {spread(outcome.short)}",
        f"  meanwhile the job server confirmed another's submission within: {spread(outcome.echoes)}",
    ]
    if outcome.kept is not None:
        lines.append(f"  after SIGKILL of the job server and the worker {outcome.kept} wait")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the options, measures and prints; 1 when a job was lost, early, or run twice."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.schedules", description=__doc__)
    parser.add_argument("--server", action="append", choices=SERVERS, help="which job servers and queues  [all]")
    parser.add_argument("--waiting", type=int, default=100_000, help="how many jobs wait  [100000]")
    parser.add_argument("--due", type=int, default=1_000, help="how many come due within one second  [1000]")
    given = parser.parse_args(argv)
    end_on_sigterm()
    good = True
    for kind in given.server or SERVERS:
        with tempfile.TemporaryDirectory(prefix="gtask-schedules-") as folder:
            outcome = measure(kind, given.waiting, given.due, Path(folder), lambda text: print(text, flush=True))
        print(report(outcome), flush=True)
        good = good and outcome.good
    return 0 if good else 1


app = make()

if __name__ == "__main__":
    sys.exit(main())
