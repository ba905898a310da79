"""Jobs of mixed priority and delay are queued, the job server is killed and started again, and all of them run.

Under the right names, not before their times, and in the right order: protocol reference, section 20. With
``GTASK_QUEUE_JOBS=10000`` the figures are for real.
"""

from __future__ import annotations

import random
import signal
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from gtask import App
from gtask.publish import DELAYED
from gtask.testing.databases import TABLE
from gtask.testing.processes import JobServerProgram, worker
from gtask.testing.programs import Program, wait_until
from gtask.types import Priority
from tests.queues.app import NAMES, make
from tests.queues.conftest import JOBS, LIMIT, ROOT, report, serving

RANK: Final = {Priority.HIGH: 0, Priority.NORMAL: 1, Priority.LOW: 2}

FORGETFUL: Final = ("postgres",)
"""Queues that forget priorities and times when they are replayed."""

SOON, LATE = 1.0, 3.0
"""Seconds of the two kinds of delay: one is over when the server has been started again, the other is not."""


@dataclass(frozen=True)
class Sent:
    """A job: its function, priority, delay, and the time before which it must not run (0: none)."""

    function: str
    priority: Priority
    countdown: float
    due: float


@dataclass(frozen=True)
class Ran:
    """A run of a job: its number in the order of submission, its function as the worker knew it, and when."""

    number: int
    function: str
    at: float


def send_all(app: App, path: Path) -> list[Sent]:
    """Queues the jobs of this test: half of them for at once, a quarter for soon and a quarter for later."""
    chance = random.Random(4730)
    delays = sorted(chance.choices((0.0, SOON, LATE), (2, 1, 1), k=JOBS))
    sent = []
    for number, delay in enumerate(delays):
        function, priority = chance.choice(NAMES), chance.choice(list(Priority))
        countdown = delay and delay + chance.random()
        due = time.time() + countdown if countdown else 0.0
        app.tasks[function].apply_async((str(path), number), priority=priority, countdown=countdown or None)
        sent.append(Sent(function, priority, countdown, due))
    return sent


def runs(path: Path) -> list[Ran]:
    """The runs so far, in their order."""
    if not path.exists():
        return []
    rows = (line.split() for line in path.read_text().splitlines())
    return [Ran(int(number), function, float(at)) for function, number, at in rows]


def waiting(server: JobServerProgram, function: str) -> int:
    """How many jobs of a function the server has."""
    # With 10000 jobs on libsqlite3, which syncs each, the answer stands behind many others.
    rows = (line.split("\t") for line in server.admin("status", LIMIT))
    return sum(int(row[1]) for row in rows if row[0] == function)


def delayed(server: JobServerProgram) -> int:
    """How many jobs wait for their time, or are about to be moved."""
    return sum(waiting(server, name) for name in DELAYED)


def staff(server: JobServerProgram, slots: int = 1) -> AbstractContextManager[Program]:
    """A worker, as a context manager."""
    return worker(
        "tests.queues.app:app", "--loglevel=error", cwd=ROOT, servers=server.url, concurrency=slots, ready=None
    )


@pytest.mark.parametrize("queue", ["embedded", "mysql", "libsqlite3", "postgres"])
def test_all_run_after_a_kill(queue: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    serve, path = serving(queue, request, tmp_path), tmp_path / "runs"
    started = time.monotonic()
    with serve() as server:
        with make(server.url) as app:
            app.tasks["gate"].apply_async((str(tmp_path),), priority="high")
            sent = send_all(app, path)
        queued, killed = time.monotonic(), time.time()
        server.restart(signal.SIGKILL, LIMIT)
        restarted = time.monotonic()
        assert delayed(server) == sum(1 for job in sent if job.due)
        with staff(server):
            finish(server, sent, path, tmp_path)
            ran = runs(path)
            wait_until(lambda: not any(waiting(server, name) for name in NAMES), LIMIT, "the end of the last job")
    ended = time.monotonic()

    assert sorted(run.number for run in ran) == list(range(JOBS)), "each is run once"
    assert [(run.number, run.function) for run in ran if run.function != sent[run.number].function] == []
    assert [run.number for run in ran if run.at < sent[run.number].due] == []
    later = [job for job in sent if job.due > killed]
    assert later, "some were still to wait when the server was killed"
    if queue not in FORGETFUL:
        in_order(sent, ran)
    lateness = sorted(run.at - sent[run.number].due for run in ran if sent[run.number].countdown > LATE)
    report(
        f"{queue}: {JOBS} jobs queued in {queued - started:.1f} s, killed and replayed in {restarted - queued:.1f} s, "
        f"run in {ended - restarted:.1f} s; {len(later)} were due after the kill; the late ones ran "
        f"{lateness[len(lateness) // 2]:.2f} s (median), {lateness[-1]:.2f} s (most) after their time"
    )


def finish(server: JobServerProgram, sent: list[Sent], path: Path, folder: Path) -> None:
    """Lets the worker run them all; its one slot is held until what was due soon is in its queue again."""
    wait_until(lambda: (folder / "gate.started").exists(), LIMIT, "the task that holds the slot")
    late = sum(1 for job in sent if job.countdown >= LATE)
    wait_until(lambda: delayed(server) <= late, LIMIT, "the moving of delayed jobs")
    (folder / "gate.go").touch()
    wait_until(lambda: len(runs(path)) >= JOBS, LIMIT, f"the run of {JOBS} jobs")


def in_order(sent: list[Sent], ran: list[Ran]) -> None:
    """What could run when the slot became free ran by priority, and within one in the order of submission."""
    for function in NAMES:
        own = [run.number for run in ran if run.function == function and sent[run.number].countdown < LATE]
        ranks = [RANK[sent[number].priority] for number in own]
        assert ranks == sorted(ranks), function
        at_once = [number for number in own if not sent[number].countdown]
        assert at_once == sorted(at_once, key=lambda number: (RANK[sent[number].priority], number)), function


def test_the_table_is_that_of_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert TABLE.strip().replace("gearman_queue", "gearman.gearman_queue") in text
