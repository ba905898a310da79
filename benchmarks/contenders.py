"""A contender: an adapter, the workers it asks for and the server between them, each in processes of their own.

Who is not being measured is stopped (SIGSTOP), so that nobody's idle polling costs another anything.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.peers.bodies import STAMPS, TALLY, Tally, read_stamps
from benchmarks.peers.speech import BROKER
from benchmarks.rig import ROOT, Queues
from gtask.results.wire import PUT
from gtask.testing.databases import redis
from gtask.testing.processes import gearmand, job_server
from gtask.testing.programs import Program, wait_until

START: Final = 60.0
"""Seconds an adapter and its workers may take to be there."""

LIMIT: Final = 300.0
"""Seconds one answer of an adapter, or the end of a queue, may take."""

POLL: Final = 0.002
"""Seconds between two looks at a queue that is being emptied; the error of a measured drain."""

IN_MEMORY: Final = ("--save", "", "--appendonly", "no")
"""Redis without persistence."""


class ContenderFailed(Exception):
    """An adapter said what went wrong, fell silent or ended."""


@dataclass(frozen=True)
class Entry:
    """A contender's name in the table, its adapter, and what it is measured on.

    `peer` names its virtual environment, "" is this interpreter's; `server` is ``gearmand``, ``embedded``, ``redis`` or
    "" for none; `only` names its workloads, () are all that the adapter can.
    """

    name: str
    module: str
    server: str
    peer: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    only: tuple[str, ...] = ()


class Contender:
    """One entry with everything running; made by `contender`."""

    def __init__(self, entry: Entry, python: Path, url: str, folder: Path, processes: int) -> None:
        self.entry = entry
        self.processes = processes
        self._python = str(python)
        self._url = url
        self._tally_file, self._stamps_file = folder / "tally", folder / "stamps"
        self._tally = Tally(self._tally_file)
        self._env = {
            **entry.env,
            BROKER: url,
            TALLY: str(self._tally_file),
            STAMPS: str(self._stamps_file),
            "BENCH_PROCESSES": str(processes),
        }
        self._errors = (folder / "adapter.log").open("w+")
        self._adapter: subprocess.Popen[bytes] | None = None
        self._programs: list[Program] = []
        self._served: set[str] = set()
        self._frozen: list[int] = []
        self._queues: Queues | None = None
        self.versions: dict[str, str] = {}
        self.can: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        command = [self._python, "-m", "benchmarks.peers", self.entry.module]
        self._adapter = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **self._env, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        try:
            hello = self.ask("hello", START)
        except BaseException:
            self.__exit__()
            raise
        self.versions = hello["versions"]
        self.can = tuple(name for name in hello["can"] if not self.entry.only or name in self.entry.only)
        return self

    def __exit__(self, *_: object) -> None:
        self.thaw()  # what is stopped does not hear SIGTERM
        for program in self._programs:
            program.stop()
        if self._adapter is not None:
            assert self._adapter.stdin is not None
            assert self._adapter.stdout is not None
            with suppress(OSError):  # it may be gone, with a request that it never read
                self._adapter.stdin.close()
            try:
                self._adapter.wait(10)
            except subprocess.TimeoutExpired:
                self._adapter.kill()
                self._adapter.wait()
            self._adapter.stdout.close()
        if self._queues is not None:
            self._queues.close()
        self._errors.close()

    def keep_results(self, file: Path) -> None:
        """Starts a results service beside the workers, and waits until the job server knows it."""
        command = [sys.executable, "-m", "gtask", "results", "--db", str(file), "--servers", self._url]
        self._programs.append(Program(command, cwd=ROOT).start())
        wait_until(lambda: self._look().look().get(PUT, (0, 0))[1], START, "the results service")

    def ask(self, do: str, limit: float = LIMIT, **arguments: Any) -> dict[str, Any]:
        """Sends the adapter a request and returns its answer; raises `ContenderFailed`."""
        adapter = self._adapter
        assert adapter is not None
        assert adapter.stdin is not None
        assert adapter.stdout is not None
        try:
            adapter.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            adapter.stdin.flush()
            # An answer is one short line, written at once, and nothing is asked before the last one came.
            readable, _, _ = select.select([adapter.stdout], [], [], limit)
            line = adapter.stdout.readline() if readable else None
        except OSError as error:
            raise ContenderFailed(f"{self.entry.name}: {error}. {self._last_words()}") from None
        if line is None:
            adapter.kill()  # a late answer would be taken for the next one's
            raise ContenderFailed(f"{self.entry.name}: no answer to {do!r} after {limit:g} s. {self._last_words()}")
        if not line:
            raise ContenderFailed(f"{self.entry.name}: the adapter ended. {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContenderFailed(f"{self.entry.name}: {do}: {answer['error']}")
        return answer

    def serve(self, queue: str) -> None:
        """Starts the workers of a queue, if they do not run yet, and waits until they answer."""
        if queue in self._served:
            return
        self._served.add(queue)
        for argv in self.ask("workers", queue=queue, processes=self.processes)["argv"]:
            command = argv[1:] if argv[0] == "!" else [self._python, *argv]
            self._programs.append(Program(command, cwd=ROOT, env=dict(self._env)).start())
        try:
            self.ask("ready", START, queue=queue)
        except ContenderFailed as error:
            said = "\n".join(program.tail(15) for program in self._programs)
            raise ContenderFailed(f"{error}\n{said}") from None

    def seconds(self, workload: str, **arguments: Any) -> float:
        """Runs a workload; returns the seconds that the adapter measured."""
        return float(self.ask(workload, **arguments)["seconds"])

    @contextmanager
    def awake(self, queue: str) -> Iterator[None]:
        """The contender's workers run inside the block, and have done one task already."""
        self.thaw()
        try:
            self.serve(queue)
            self.ask("ready", START, queue=queue)
            yield
        finally:
            self.freeze()

    def freeze(self) -> None:
        """Stops all its workers, with everything they have under way."""
        running = {program.pid for program in self._programs if program.running}
        self._frozen = list(members(running))
        for pid in self._frozen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets them go on."""
        for pid in self._frozen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._frozen = []

    def fill_and_drain(self, count: int) -> tuple[float, float]:
        """Fills the queue while nobody works, in bulk, then lets it be emptied; the seconds of both."""
        self.freeze()
        before = self._tally.total()
        filled = self.seconds("bulk", count=count)
        started = time.perf_counter()
        self.thaw()
        self._wait_until_empty(before + count)
        return filled, time.perf_counter() - started

    def fill(self, workload: str, count: int) -> float:
        """Fills the queue while nobody works, in the given way; it is emptied outside the clock."""
        self.freeze()
        before = self._tally.total()
        seconds = self.seconds(workload, count=count)
        self.thaw()
        self._wait_until_empty(before + count)
        return seconds

    def delays(self, workload: str, count: int, **arguments: Any) -> list[float]:
        """Runs a workload of stamps; returns each task's seconds from when it was sent to its beginning."""
        self._stamps_file.touch()
        os.truncate(self._stamps_file, 0)  # the workers go on writing to its end
        self.ask(workload, count=count, **arguments)
        give_up = time.monotonic() + LIMIT
        while len(found := read_stamps(self._stamps_file)) < count:
            if time.monotonic() > give_up:
                raise ContenderFailed(f"{self.entry.name}: {len(found)} of {count} stamps after {LIMIT:g} s.")
            time.sleep(POLL)
        return found

    def _wait_until_empty(self, total: int) -> None:
        """By the job server's own word where there is one, else by what the tasks have counted."""
        give_up = time.monotonic() + LIMIT
        while not self._empty(total):
            if time.monotonic() > give_up:
                raise ContenderFailed(f"{self.entry.name}: the queue is not empty after {LIMIT:g} s.")
            time.sleep(POLL)

    def _empty(self, total: int) -> bool:
        if self.entry.server == "redis":
            return self._tally.total() >= total
        return not self._look().left()

    def _look(self) -> Queues:
        if self._queues is None:
            host, _, port = self._url.rpartition("//")[2].rpartition(":")
            self._queues = Queues(host, int(port))
        return self._queues

    def _last_words(self) -> str:
        self._errors.flush()
        self._errors.seek(0)
        return self._errors.read()[-2000:]


def members(sessions: Container[int]) -> Iterator[int]:
    """The living processes of these sessions."""
    for entry in os.listdir("/proc"):
        with suppress(ValueError, ProcessLookupError):
            if os.getsid(int(entry)) in sessions:
                yield int(entry)


@contextmanager
def broker(kind: str, folder: Path) -> Iterator[str]:
    """Starts what stands between callers and workers; gives its URL."""
    with ExitStack() as stack:
        if kind == "redis":
            yield f"redis://127.0.0.1:{stack.enter_context(redis(*IN_MEMORY)).port}/0"
        elif kind == "gearmand":
            # Otherwise it writes a line for each submission, for the process that measures to read.
            yield stack.enter_context(gearmand("--verbose=ERROR")).url
        elif kind == "embedded":
            yield stack.enter_context(job_server(results=folder / "results.db")).url
        else:
            yield ""


@contextmanager
def contender(entry: Entry, python: Path, processes: int) -> Iterator[Contender]:
    """Starts a contender on a fresh server of its own, its workers stopped; raises `ContenderFailed`."""
    with tempfile.TemporaryDirectory(prefix="gtask-contender-") as name, ExitStack() as stack:
        folder = Path(name)
        url = stack.enter_context(broker(entry.server, folder))
        env = dict(entry.env)
        store = env.get("BENCH_STORE", "gearman://")
        if store == "redis://":
            env["BENCH_STORE"] = stack.enter_context(broker("redis", folder))
        elif store == "sqlite://":
            env["BENCH_STORE"] = f"sqlite:///{folder}/store.db"
        entry = Entry(entry.name, entry.module, entry.server, entry.peer, env, entry.only)
        made = stack.enter_context(Contender(entry, python, url, folder, processes))
        if entry.server == "gearmand" and entry.module.endswith("on_gtask") and store == "gearman://":
            made.keep_results(folder / "results.db")
        if entry.server:
            with made.awake("main"):
                pass
        yield made
