"""The processes that a measurement needs on one job server, and how a queue is filled and emptied under the clock."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from benchmarks.app import NAMESPACES, Tasks, make
from benchmarks.floor import FloorCaller
from gtask.client import Client
from gtask.results.wire import PUT
from gtask.testing.processes import JobServerProgram, gearmand, job_server, worker
from gtask.testing.programs import Program, wait_until

ROOT = Path(__file__).resolve().parents[1]

FLOOR = {"floor.one": 1, "floor.two": 2}
"""The functions of the floor, and how many processes serve each, as they do the `NAMESPACES`."""

FLOOR_WITH_RESULTS = {"floor.results.one": 1, "floor.results.two": 2}
FLOOR_PUT, FLOOR_WAIT = "floor.put", "floor.wait"

POLL = 0.004
"""Seconds between two looks at a queue that is being emptied; the error of a measured drain."""

PATIENCE = 120.0
"""Seconds a queue may take to become empty before the measurement is given up."""

SERVERS = ("gearmand", "embedded")


class Queues:
    """The lengths of the queues, over one connection of the text protocol that stays open."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), 30)
        self._answers = self._socket.makefile("rb")

    def close(self) -> None:
        """Ends the connection."""
        self._answers.close()
        self._socket.close()

    def look(self) -> dict[str, tuple[int, int]]:
        """For each function how many jobs are queued or running, and how many connections serve it."""
        self._socket.sendall(b"status\n")
        found: dict[str, tuple[int, int]] = {}
        while (line := self._answers.readline()) not in (b".\n", b""):
            name, total, _, workers = line.decode().split("\t")
            found[name] = int(total), int(workers)
        return found

    def left(self) -> dict[str, int]:
        """The jobs that are queued or running, of each function that has any.

        Without those by which a gtask worker waits for news at the results service: they stay as long as it does.
        """
        found = {name: total for name, (total, _) in self.look().items() if total}
        return {name: total for name, total in found.items() if not name.startswith("gtask.") or name == PUT}

    def wait_until_empty(self) -> None:
        """Waits until no job of any function is left."""
        give_up = time.monotonic() + PATIENCE
        while left := self.left():
            if time.monotonic() > give_up:
                raise TimeoutError(f"After {PATIENCE:g} s there are still jobs: {left}.")
            time.sleep(POLL)


class Rig:
    """One job server with everything on it: workers of the floor and of gtask, callers of both, a results service.

    `tasks` and the floor's functions come in two, served by one process and by two. The workers of the second can be
    stopped, so that a queue is filled without anybody's help, and then is emptied from a known moment on.
    """

    def __init__(self, kind: str, server: JobServerProgram, programs: dict[str, list[Program]]) -> None:
        self.kind = kind
        self.server = server
        self._programs = programs
        self.queues = Queues(server.host, server.port)
        self.floor = FloorCaller(server.host, server.port)
        self.client = Client(server.url)
        self.tasks: dict[str, Tasks] = {name: make(server.url, name) for name in NAMESPACES}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for tasks in self.tasks.values():
            tasks.app.close()
        self.client.close()
        self.floor.close()
        self.queues.close()

    def wait_until_served(self) -> None:
        """Waits until every worker has offered its functions."""
        one, two = NAMESPACES
        due = {f"{one}quiet": 1, f"{two}quiet": 2, PUT: 1, FLOOR_PUT: 1, **FLOOR, **FLOOR_WITH_RESULTS}

        def served() -> bool:
            found = self.queues.look()
            return all(found.get(name, (0, 0))[1] >= count for name, count in due.items())

        wait_until(served, 60, f"all workers on {self.server.url}")

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """Stops the processes that serve a namespace or a floor's function, with everything they have; then goes on."""
        pids = [(program, pid) for program in self._programs[name] for pid in program.children() or [program.pid]]
        for program, pid in pids:
            program.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for program, pid in pids:
                program.kill(pid, signal.SIGCONT)


@contextmanager
def rig(kind: str, folder: Path) -> Iterator[Rig]:
    """Starts everything on a fresh job server: `kind` is one of `SERVERS`, `folder` takes the file with results."""
    with ExitStack() as stack:
        results = folder / f"{kind}.db"
        if kind == "gearmand":
            # Otherwise it writes a line for each submission, for the process that measures to read.
            server = stack.enter_context(gearmand("--verbose=ERROR"))
            service = [sys.executable, "-m", "gtask", "results", "--db", str(results), "--servers", server.url]
            stack.enter_context(Program(service, cwd=ROOT))
        else:
            server = stack.enter_context(job_server(results=results))
        programs: dict[str, list[Program]] = {}
        for count, namespace in enumerate(NAMESPACES, 1):
            program = worker(
                "benchmarks.app:app",
                *("--loglevel", "warning"),  # a line for each task would be measured with it, also its reader's
                cwd=ROOT,
                servers=server.url,
                concurrency=count,
                env={"GTASK_NAMESPACE": namespace},
                ready=None,
            )
            programs[namespace] = [stack.enter_context(program)]

        def floor(mode: str, *functions: str) -> Program:
            address = (server.host, str(server.port))
            program = Program([sys.executable, "-m", "benchmarks.floor", mode, *address, *functions], cwd=ROOT)
            return stack.enter_context(program)

        for function, count in FLOOR.items():
            programs[function] = [floor("work", function) for _ in range(count)]
        for function, count in FLOOR_WITH_RESULTS.items():
            programs[function] = [floor("work-with-results", function, FLOOR_PUT) for _ in range(count)]
        floor("keep-results", FLOOR_PUT, FLOOR_WAIT)
        made = stack.enter_context(Rig(kind, server, programs))
        made.wait_until_served()
        yield made
