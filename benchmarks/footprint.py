"""`python -m benchmarks.footprint`: what gtask takes while nothing happens, and what the embedded server takes of much.

Idle processes are measured by what the kernel has counted: private memory (smaps_rollup), time on a processor, and how
often they gave it up of their own will, which is how often they were woken.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from benchmarks.fleet import end_on_sigterm
from benchmarks.floor import COMPLETE, FloorCaller, FloorWorker, Wire, packet
from benchmarks.memory import resident
from benchmarks.rig import ROOT, Queues
from benchmarks.tables import align
from gtask.testing import job_server, wait_until, worker

MEBIBYTE: Final = 2**20
FUNCTION: Final = b"footprint"
SAMPLE: Final = 5000
"""Jobs that are taken in, and as many given out, at each length of the queue."""

ECHO, ECHO_ANSWER = 16, 17


@dataclass
class Found:
    """The figures: what was measured, how much it was, and what is asked for where something is."""

    lines: list[tuple[str, float, str, str]] = field(default_factory=list)

    def add(self, what: str, figure: float, unit: str, asked: str = "") -> None:
        """Takes a figure and says it at once."""
        self.lines.append((what, figure, unit, asked))
        print(f"{what}: {figure:,.3g} {unit}", file=sys.stderr, flush=True)

    def table(self) -> str:
        """All of them, as a table."""
        rows = [[what, f"{figure:,.3g} {unit}", asked] for what, figure, unit, asked in self.lines]
        return align([["what", "measured", "asked for"], *rows], 1)


class Usage(NamedTuple):
    """What the kernel has counted for some processes: seconds on a processor, and waits of their own will."""

    seconds: float
    waits: int

    @classmethod
    def of(cls, pids: Sequence[int]) -> Usage:
        """The sum over all threads of these processes."""
        seconds, waits = 0.0, 0
        for pid in pids:
            for task in Path(f"/proc/{pid}/task").iterdir():
                seconds += int((task / "schedstat").read_text().split()[0]) / 1e9
                found = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", (task / "status").read_text(), re.MULTILINE)
                waits += int(found[1]) if found else 0
        return cls(seconds, waits)

    def since(self, before: Usage) -> Usage:
        """What was used after that."""
        return Usage(self.seconds - before.seconds, self.waits - before.waits)


def private(pid: int) -> int:
    """The bytes of a process that it shares with nobody."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * sum(int(kib) for kib in re.findall(r"^Private_(?:Clean|Dirty):\s*(\d+) kB", text, re.MULTILINE))


def idle_worker(found: Found, folder: Path, processes: int, seconds: float) -> None:
    """A worker of so many processes that has done one job and then does nothing."""
    with ExitStack() as stack:
        server = stack.enter_context(job_server(results=folder / "results.db"))
        began = time.perf_counter()
        work = stack.enter_context(worker("benchmarks.app:app", cwd=ROOT, servers=server.url, concurrency=processes))
        found.add("worker: start until it takes jobs", time.perf_counter() - began, "s")
        queues = Queues(server.host, server.port)
        stack.callback(queues.close)
        wait_until(lambda: queues.look().get("quiet", (0, 0))[1] == processes, 60, "all processes")
        wait_until(lambda: len(work.children()) == processes + 1, 60, "all children")
        children, housekeeper = work.children()[:processes], work.children()[processes]
        time.sleep(min(seconds, 3.0))  # what is done once after the start is no idling
        roles = {"a child": children, "its housekeeper": [housekeeper], "its supervisor": [work.pid]}
        before = {role: Usage.of(pids) for role, pids in roles.items()}
        time.sleep(seconds)
        used = {role: Usage.of(pids).since(before[role]) for role, pids in roles.items()}
        who = f"idle worker -c {processes}"
        for role, pids in roles.items():
            asked = "< 12 MiB" if pids is children else ""
            size = median(private(pid) for pid in pids) / MEBIBYTE
            found.add(f"{who}: private memory of {role}", size, "MiB", asked)
        busy = 100 * sum(usage.seconds for usage in used.values()) / seconds
        found.add(f"{who}: of one CPU, all processes, {seconds:g} s", busy, "%", "< 0.5 %")
        for role, pids in roles.items():
            share = 100 * used[role].seconds / seconds / len(pids)
            found.add(f"{who}: of one CPU, {role}", share, "%")
            found.add(f"{who}: {role} woken", used[role].waits / seconds / len(pids), "/s")


def command_line(found: Found, rounds: int) -> None:
    """How long the command line takes to say what it can."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "gtask", "--help"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - began)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    found.add("gtask --help", 1000 * median(times), "ms")
    found.add("python -c pass, for comparison", 1000 * (time.perf_counter() - began), "ms")


def long_queue(found: Found, jobs: int) -> None:
    """The embedded server with a queue in memory that grows tenfold again and again."""
    with job_server() as server:
        caller = FloorCaller(server.host, server.port)
        empty, length = resident(server.pid), 0
        for wanted in _lengths(jobs):
            caller.in_bulk(FUNCTION, wanted - length)
            length = wanted
            before = Usage.of([server.pid])
            caller.in_bulk(FUNCTION, SAMPLE)
            between = Usage.of([server.pid])
            _take(server.host, server.port, SAMPLE)
            after = Usage.of([server.pid])
            taken = 1e6 * (between.seconds - before.seconds) / SAMPLE
            given = 1e6 * (after.seconds - between.seconds) / SAMPLE
            found.add(f"embedded server, {wanted:,} jobs queued: CPU to take one in", taken, "µs", "flat")
            found.add(f"embedded server, {wanted:,} jobs queued: CPU to give one out, and its end", given, "µs", "flat")
        found.add(
            f"embedded server, {length:,} jobs queued: memory for each", (resident(server.pid) - empty) / length, "B"
        )
        caller.close()


def _lengths(jobs: int) -> Iterator[int]:
    length = 1000
    while length < jobs:
        yield length
        length *= 10
    yield jobs


def _take(host: str, port: int, count: int) -> None:
    """Grabs and ends so many jobs."""
    with Wire(host, port) as wire:
        done = 0
        for jobs, _, out in FloorWorker(wire, [FUNCTION]).rounds():
            out += [packet(COMPLETE, job.partition(b"\0")[0], b"") for job in jobs]
            done += len(jobs)
            if done >= count:
                wire.socket.sendall(b"".join(out))
                return


def killed_server(found: Found, folder: Path, jobs: int) -> None:
    """The embedded server with a queue on disk: SIGKILL, and the time until it answers with all jobs again."""
    with job_server(db=folder / "queue.db") as server:
        caller = FloorCaller(server.host, server.port)
        seconds = caller.in_bulk(FUNCTION, jobs)
        caller.close()
        found.add(f"embedded server, {jobs:,} jobs on disk: taken in", jobs / seconds, "/s")
        began = time.perf_counter()
        server.restart(9, timeout=600)
        found.add(f"embedded server, {jobs:,} jobs on disk: start after SIGKILL", time.perf_counter() - began, "s")
        queues = Queues(server.host, server.port)
        queued, _ = queues.look()[FUNCTION.decode()]
        queues.close()
        if queued != jobs:
            raise RuntimeError(f"Of {jobs} jobs {queued} came back.")
        found.add(
            f"embedded server, {jobs:,} jobs on disk: memory after that, for each", resident(server.pid) / jobs, "B"
        )


def many_connections(found: Found, count: int) -> None:
    """The embedded server with so many open connections, each of which has been answered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 200
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    with job_server() as server, ExitStack() as stack:
        empty = resident(server.pid)
        began = time.perf_counter()
        sockets = []
        for number in range(count):
            one = stack.enter_context(socket.create_connection((server.host, server.port), 30))
            sockets.append(one)
            _echo(one, b"%d" % number)
        seconds = time.perf_counter() - began
        found.add(f"embedded server, {count:,} connections: opened and answered, one by one", count / seconds, "/s")
        found.add(
            f"embedded server, {count:,} connections: memory for each", (resident(server.pid) - empty) / count, "B"
        )
        times = []
        for one in sockets[:: max(1, count // 500)]:
            began = time.perf_counter()
            _echo(one, b"again")
            times.append(time.perf_counter() - began)
        found.add(f"embedded server, {count:,} connections: an answer, median", 1e6 * median(times), "µs")


def _echo(one: socket.socket, data: bytes) -> None:
    one.sendall(packet(ECHO, data))
    answer = one.recv(100)
    if answer[4:8] != ECHO_ANSWER.to_bytes(4, "big") or answer[12:] != data:
        raise RuntimeError(f"The server answered {answer!r} to an echo of {data!r}.")


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprint", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only show that everything works; the figures say nothing")
    parser.add_argument("--processes", type=int, default=8, help="of the idle worker  [8]")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long it is watched  [30]")
    parser.add_argument("--jobs", type=int, default=1_000_000, help="in the embedded server's queue  [1000000]")
    parser.add_argument("--connections", type=int, default=5000, help="to the embedded server  [5000]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    given = parser.parse_args(argv)
    if given.quick:
        given.processes, given.seconds, given.jobs, given.connections = 2, 0.5, 3000, 50
    end_on_sigterm()
    found = Found()
    with tempfile.TemporaryDirectory(prefix="gtask-footprint-") as name:
        folder = Path(name)
        command_line(found, 1 if given.quick else 5)
        idle_worker(found, folder, given.processes, given.seconds)
        many_connections(found, given.connections)
        long_queue(found, given.jobs)
        killed_server(found, folder, given.jobs)
    print(found.table())
    if given.json:
        given.json.write_text(json.dumps(found.lines, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
