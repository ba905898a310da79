"""`python -m benchmarks.memory`: how large a worker, a client and the embedded server are after many jobs."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression

from benchmarks.app import Tasks, make
from benchmarks.fleet import ROOT, end_on_sigterm
from gtask import group
from gtask.results.wire import WAIT
from gtask.testing import job_server, wait_until, worker

BATCH = 1000
"""Jobs that are sent before the queue is looked at."""

AHEAD = 5000
"""Jobs that may wait, so that no memory is measured that only holds a queue."""

SAMPLES = 100
"""How often everything is measured."""

WARM_UP = 0.2
"""The part of the jobs before which nothing counts: caches fill, and the allocator takes its share."""

ANSWERED = 20
"""So many of a batch are called and waited for, and as many leave a result that is waited for."""

RESULTS_FOR = 20.0
"""Seconds that results are kept, so that the service has come to forget as many as it learns."""


@dataclass
class Process:
    """One process: its size and its descriptors, sample by sample."""

    pid: int
    jobs: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def measure(self, jobs: int) -> None:
        """Takes a sample, `jobs` after the beginning."""
        self.jobs.append(jobs)
        self.sizes.append(resident(self.pid))
        self.descriptors.append(len(os.listdir(f"/proc/{self.pid}/fd")))

    def later(self) -> tuple[list[int], list[int], list[int]]:
        """The samples after the warm-up."""
        first = next(index for index, jobs in enumerate(self.jobs) if jobs >= WARM_UP * self.jobs[-1])
        return self.jobs[first:], self.sizes[first:], self.descriptors[first:]

    @property
    def slope(self) -> float:
        """Bytes that each further job costs, by linear regression."""
        jobs, sizes, _ = self.later()
        return linear_regression(jobs, sizes).slope

    @property
    def grown(self) -> int:
        """Bytes more at the end than after the warm-up."""
        _, sizes, _ = self.later()
        return sizes[-1] - sizes[0]


def resident(pid: int) -> int:
    """The resident set size of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(jobs: int, folder: Path, quiet: bool = False) -> dict[str, Process]:
    """Sends so many jobs through one embedded server and one worker of two processes; returns what was measured."""
    with ExitStack() as stack:
        server = stack.enter_context(job_server(results=folder / "results.db"))
        env = {"GTASK_RESULT_EXPIRES": str(RESULTS_FOR)}
        work = stack.enter_context(
            worker("benchmarks.app:app", "--loglevel", "warning", cwd=ROOT, servers=server.url, env=env, ready=None)
        )
        tasks = make(server.url)
        stack.callback(tasks.app.close)
        tasks.empty.call()
        wait_until(lambda: len(work.children()) == 3, what="all processes")
        processes = {"client": Process(os.getpid()), "server": Process(server.pid)}
        for child in server.children():
            processes["results service"] = Process(child)
        names = ["worker's process 1", "worker's process 2", "worker's housekeeper"]
        processes |= {name: Process(pid) for name, pid in zip(names, work.children(), strict=True)}
        processes["worker's supervisor"] = Process(work.pid)

        def queued() -> int:
            rows = [line.split("\t") for line in server.admin("status")]
            # A question that a worker keeps open with the results service is no work that is left.
            return sum(int(row[1]) for row in rows if row[0] != WAIT)

        began, sent = time.monotonic(), 0
        every = max(BATCH, jobs // SAMPLES)
        while sent < jobs:
            _send(tasks)
            sent += BATCH
            wait_until(lambda: queued() < AHEAD, 120.0, "a shorter queue")
            if sent % every < BATCH:
                for process in processes.values():
                    process.measure(sent)
                if not quiet:
                    rate = sent / (time.monotonic() - began)
                    print(f"{sent:8} jobs, {rate:.0f}/s: {_sizes(processes)}", flush=True)
        wait_until(lambda: queued() == 0, 120.0, "an empty queue")
    return processes


def _send(tasks: Tasks) -> None:
    """Sends a batch in every way there is."""
    for _ in range(ANSWERED):
        tasks.empty.call()
        tasks.empty.delay().get(timeout=60)
    singly = (BATCH - 2 * ANSWERED) // 4
    for _ in range(singly):
        tasks.quiet.delay()
    group(tasks.quiet.s() for _ in range(BATCH - 2 * ANSWERED - singly)).delay()


def _sizes(processes: dict[str, Process]) -> str:
    return ", ".join(f"{name} {process.sizes[-1] / 2**20:.1f} MiB" for name, process in processes.items())


def report(processes: dict[str, Process]) -> str:
    """The figures as lines."""
    lines = [f"{'process':22} {'first':>10} {'last':>10} {'slope':>16} {'descriptors':>12}"]
    for name, process in processes.items():
        _, sizes, descriptors = process.later()
        first, last = (f"{size / 2**20:.1f} MiB" for size in (sizes[0], sizes[-1]))
        span = f"{min(descriptors)}..{max(descriptors)}"
        lines.append(f"{name:22} {first:>10} {last:>10} {process.slope:>10.3f} B/job {span:>12}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="how many jobs  [1000000]")
    parser.add_argument("--quiet", action="store_true", help="only print the figures at the end")
    given = parser.parse_args(argv)
    end_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="gtask-memory-") as folder:
        processes = measure(given.jobs, Path(folder), given.quiet)
    print(f"{given.jobs} jobs; the figures are those after the first {WARM_UP:.0%} of them")
    print(report(processes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
