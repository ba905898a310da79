"""`python -m benchmarks.kills`: random kills while thousands of jobs are worked off, and how many were completed."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.fleet import ROOT, end_on_sigterm, kill_all, results_service, server
from benchmarks.recording import FILE, Record, make, record_of
from gtask.errors import GtaskError
from gtask.message import new_task_id
from gtask.results.sqlite import SqliteStore
from gtask.states import State
from gtask.testing import JobServerProgram, Program, wait_until, worker

SERVERS = ("embedded", "gearmand")

WORK = 0.004
"""Seconds that each job takes."""

PATIENCE = 60.0
"""Seconds without a single job being completed after which the run is given up."""

VICTIMS = {"process": 60, "worker": 15, "supervisor": 10, "server": 10, "results": 5}
"""What is killed, and how often of a hundred times."""


@dataclass
class Outcome:
    """What became of the jobs."""

    server: str
    jobs: int
    kills: Counter[str] = field(default_factory=Counter)
    run: int = 0
    stored: int = 0
    repeated: int = 0
    resent: int = 0
    took: float = 0.0

    @property
    def good(self) -> bool:
        """Whether every job has run and its result is there."""
        return self.run == self.jobs == self.stored


class _Sender(threading.Thread):
    """Sends numbered tasks; one that is refused to it is sent again under the same id."""

    def __init__(self, url: str, jobs: int) -> None:
        super().__init__(name="sender", daemon=True)
        self.ids = [new_task_id("record", os.urandom(12)) for _ in range(jobs)]
        self.sent = 0
        self.resent = 0
        self._app = make(url, "")

    def run(self) -> None:
        """Sends all of them."""
        task = record_of(self._app)
        for number, id in enumerate(self.ids):
            while True:
                try:
                    task.apply_async((str(number), WORK), task_id=id)
                    break
                except (GtaskError, OSError):
                    self.resent += 1
                    time.sleep(0.05)
            self.sent += 1
        self._app.close()


def kills(kind: str, jobs: int, count: int, seed: int, folder: Path, quiet: bool = False) -> Outcome:
    """Lets `count` kills befall `jobs` jobs on one job server of a kind, spread evenly over their completion."""
    outcome = Outcome(kind, jobs)
    chance = random.Random(seed)
    began = time.monotonic()
    with ExitStack() as stack:
        queue = server(kind, folder, 0, stack)
        results = stack.enter_context(results_service([queue.url], folder))
        env = {FILE: str(folder / "record")}
        options = ("--loglevel", "warning")
        work = stack.enter_context(
            worker(
                "benchmarks.recording:app", *options, cwd=ROOT, servers=queue.url, concurrency=3, env=env, ready=None
            )
        )
        record = Record(folder / "record")
        stack.callback(record.close)
        sender = _Sender(queue.url, jobs)
        sender.start()
        for number in range(1, count + 1):
            _wait_for(record, number * jobs // (count + 1))
            victim = chance.choices(list(VICTIMS), weights=list(VICTIMS.values()))[0]
            outcome.kills[victim] += 1
            _kill(victim, chance, queue, work, results)
            if not quiet:
                print(f"{kind} {number:4} {victim} killed after {len(record.runs)} of {sender.sent} jobs", flush=True)
        _wait_for(record, jobs)
        sender.join(PATIENCE)
        outcome.stored = _stored(folder, sender.ids)
        record.read()
        outcome.run, outcome.repeated, outcome.resent = len(record.runs), record.repeated, sender.resent
    outcome.took = time.monotonic() - began
    return outcome


def _wait_for(record: Record, runs: int) -> None:
    """Waits until so many jobs have run, or no further one does."""
    progress, since = -1, time.monotonic()
    while len(record.runs) < runs:
        record.read()
        if len(record.runs) > progress:
            progress, since = len(record.runs), time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            return
        time.sleep(0.005)


def _kill(victim: str, chance: random.Random, queue: JobServerProgram, work: Program, results: Program) -> None:
    if victim == "process":
        wait_until(work.children, what="a process to kill")
        try:
            work.kill(chance.choice(work.children()))
        except (ValueError, IndexError, ProcessLookupError):
            pass  # it ended by itself just now
    elif victim == "worker":
        kill_all(work)
        work.start()
    elif victim == "supervisor":
        work.kill()
        work.wait()
        work.start()
    elif victim == "server":
        queue.restart(signal.SIGKILL)
    else:
        kill_all(results)
        results.start()


def _stored(folder: Path, ids: list[str]) -> int:
    """How many results say success, after all of them had their time to arrive."""
    store = SqliteStore(folder / "results.db")
    deadline = time.monotonic() + PATIENCE
    while len(found := store.ready(ids)) < len(ids) and time.monotonic() < deadline:
        time.sleep(0.1)
    store.close()
    return sum(entry.state is State.SUCCESS for entry in found.values())


def report(outcome: Outcome) -> str:
    """The figures in words."""
    victims = ", ".join(f"{count} {name}" for name, count in outcome.kills.most_common())
    return (
        f"{outcome.server}: {outcome.jobs} jobs, {outcome.kills.total()} kills ({victims}) in {outcome.took:.0f} s\n"
        f"  completed {outcome.run}, with a stored result {outcome.stored}, run more than once {outcome.repeated}, "
        f"sent again after an error {outcome.resent}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the options, runs and prints; 1 when a job was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("--server", choices=[*SERVERS, "both"], default="both", help="the job server  [both]")
    parser.add_argument("--jobs", type=int, default=10_000, help="how many jobs, on each job server  [10000]")
    parser.add_argument("--kills", type=int, default=100, help="how many kills  [100]")
    parser.add_argument(
        "--seed", type=int, default=None, help="what the random choices start from  [another each time]"
    )
    parser.add_argument("--quiet", action="store_true", help="only print the figures at the end")
    given = parser.parse_args(argv)
    end_on_sigterm()
    seed = given.seed if given.seed is not None else random.randrange(1 << 32)
    good = True
    for kind in SERVERS if given.server == "both" else [given.server]:
        print(f"{kind}: {given.kills} kills over {given.jobs} jobs, --seed {seed}", flush=True)
        with tempfile.TemporaryDirectory(prefix="gtask-kills-") as folder:
            outcome = kills(kind, given.jobs, given.kills, seed, Path(folder), given.quiet)
        print(report(outcome), flush=True)
        good = good and outcome.good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
