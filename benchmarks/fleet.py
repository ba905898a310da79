"""Job servers behind fault proxies, workers of every pool, a results service, and a steady flow over all of it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import recording
from benchmarks.recording import FILE, Record
from gtask import App
from gtask.errors import GtaskError
from gtask.testing import FaultProxy, JobServerProgram, Program, find_program, gearmand, job_server, wait_until, worker

ROOT = Path(__file__).resolve().parents[1]

POOLS = {"prefork": "p.", "thread": "t.", "async": "a."}
"""The namespace that each pool's worker serves alone, so that each of them is seen to get jobs."""

PATIENCE = 1.0
"""Seconds a job server may take for an answer or a connection in this run: `request_timeout`, `connect_timeout`."""

CALL_TIMEOUT = 2.0
"""Seconds that `call` and `get` wait; a call that takes `SLACK` longer counts as hung."""

SLACK = 2.0

PAUSE = 0.15
"""Seconds between two tasks of one stream."""


@dataclass
class Flow:
    """A thread that goes on calling `send` with numbers of its own, and notes which were accepted."""

    name: str
    send: Callable[[str], str | None]
    bound: float
    accepted: dict[str, str | None] = field(default_factory=dict)
    """The numbers that were accepted, each with its task's id."""
    numbered: int = 0
    refused: int = 0
    hung: list[str] = field(default_factory=list)
    done: int = -1
    """The highest number that was seen to have run."""

    def run(self, stop: threading.Event) -> None:
        """Sends until it is told to stop."""
        while not stop.wait(PAUSE):
            number = f"{self.name}/{self.numbered}"
            self.numbered += 1
            began = time.monotonic()
            try:
                self.accepted[number] = self.send(number)
            except (GtaskError, OSError):
                self.refused += 1
            took = time.monotonic() - began
            if took > self.bound + SLACK:
                self.hung.append(f"{number} took {took:.1f} s")


class Fleet:
    """Everything that runs. `flows` are a stream for each job server and pool, and two callers who wait for answers."""

    def __init__(
        self,
        servers: list[JobServerProgram],
        inner: list[FaultProxy],
        outer: list[FaultProxy],
        workers: dict[str, Program],
        results: Program,
        folder: Path,
    ) -> None:
        self.servers = servers
        self.inner = inner
        """In front of each job server, for workers and the results service."""
        self.outer = outer
        """In front of each job server, for those who send."""
        self.workers = workers
        self.results = results
        self.folder = folder
        self.record = Record(folder / "record")
        self.apps: list[App] = []
        self.flows: list[Flow] = []
        self.last: list[str] = []
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Starts the flow, and waits until every stream runs."""
        for index, proxy in enumerate(self.outer):
            for pool, namespace in POOLS.items():
                send = self._sender([proxy.url], namespace)
                self.flows.append(Flow(f"{pool}@{index}", send, 2 * PATIENCE))
        everywhere = [proxy.url for proxy in self.outer]
        self.flows.append(Flow("get", self._getter(everywhere, POOLS["prefork"]), PATIENCE * 2 + CALL_TIMEOUT))
        self.flows.append(Flow("call", self._caller(everywhere, POOLS["thread"]), CALL_TIMEOUT))
        for flow in self.flows:
            thread = threading.Thread(target=flow.run, args=(self._stop,), name=flow.name, daemon=True)
            thread.start()
            self._threads.append(thread)
        self.wait_for_flow(self.marks(), 30.0)

    def _app(self, servers: list[str], namespace: str) -> App:
        app = recording.make(servers, namespace, request_timeout=PATIENCE, connect_timeout=PATIENCE)
        self.apps.append(app)
        return app

    def _sender(self, servers: list[str], namespace: str) -> Callable[[str], str]:
        task = recording.record_of(self._app(servers, namespace))
        return lambda number: task.delay(number, 0.0).id

    def _getter(self, servers: list[str], namespace: str) -> Callable[[str], str]:
        task = recording.record_of(self._app(servers, namespace))

        def send(number: str) -> str:
            result = task.delay(number, 0.0)
            try:
                result.get(timeout=CALL_TIMEOUT)
            except (GtaskError, OSError):
                pass  # it was accepted, and that is what is counted
            return result.id

        return send

    def _caller(self, servers: list[str], namespace: str) -> Callable[[str], None]:
        task = recording.record_of(self._app(servers, namespace))

        def send(number: str) -> None:
            task.options(timeout=CALL_TIMEOUT).call(number, 0.0)

        return send

    # --- what has run ----------------------------------------------------------------------------------------

    def marks(self, streams: Callable[[Flow], bool] = lambda flow: True) -> dict[str, int]:
        """The next numbers of the streams that are to be seen running; what is being sent just now does not count."""
        return {flow.name: flow.numbered for flow in self.flows if streams(flow)}

    def look(self) -> None:
        """Takes in what has run."""
        by_name = {flow.name: flow for flow in self.flows}
        for number in self.record.read():
            name, _, count = number.partition("/")
            flow = by_name[name]
            flow.done = max(flow.done, int(count))

    def wait_for_flow(self, marks: dict[str, int], timeout: float) -> list[str]:
        """Waits until a task after its mark has run in each stream; returns the streams in which none did in time.

        `last` names the streams that took longest.
        """
        waiting = dict(marks)
        deadline = time.monotonic() + timeout
        while True:
            self.look()
            done = {flow.name: flow.done for flow in self.flows}
            waiting = {name: mark for name, mark in waiting.items() if done[name] < mark}
            self.last = list(waiting) or self.last
            if not waiting or time.monotonic() > deadline:
                return list(waiting)
            time.sleep(0.01)

    def stop_flow(self) -> list[str]:
        """Ends the flow; returns the names of the streams whose call does not come back."""
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * CALL_TIMEOUT)
        return [thread.name for thread in self._threads if thread.is_alive()]

    def accepted(self) -> dict[str, str | None]:
        """All numbers that were accepted, each with its task's id, or None for a call that was answered directly."""
        return {number: id for flow in self.flows for number, id in flow.accepted.items()}

    def settle(self, timeout: float = 60.0) -> set[str]:
        """Waits until everything that was accepted has run; returns what did not within `timeout` seconds."""
        accepted = self.accepted().keys()
        deadline = time.monotonic() + timeout
        while True:
            self.look()
            missing = accepted - self.record.runs.keys()
            if not missing or time.monotonic() > deadline:
                return set(missing)
            time.sleep(0.05)

    def close(self) -> None:
        """Lets go of the callers' connections and of the file."""
        for app in self.apps:
            app.close()
        self.record.close()


def end_on_sigterm() -> None:
    """Has SIGTERM end this process as an error does, so that nothing that it has started is left behind."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def kill_all(program: Program) -> None:
    """Kills a program and its children at once, as a host that loses power does."""
    for pid in [*program.children(), program.pid]:
        try:
            program.kill(pid, signal.SIGKILL)
        except (ValueError, ProcessLookupError):
            pass
    program.wait()


def server(kind: str, folder: Path, index: int, stack: ExitStack) -> JobServerProgram:
    """Starts a job server whose queue survives it."""
    db = folder / f"queue{index}.db"
    if kind == "gearmand":
        return stack.enter_context(gearmand("-q", "libsqlite3", "--libsqlite3-db", str(db)))
    return stack.enter_context(job_server(db=db))


def results_service(servers: list[str], folder: Path) -> Program:
    """A results service, not started yet."""
    command = [sys.executable, "-m", "gtask", "results", "--db", str(folder / "results.db")]
    return Program([*command, "--servers", ",".join(servers)], cwd=ROOT, env={"PYTHONUNBUFFERED": "1"})


@contextmanager
def fleet(kind: str, folder: Path, servers: int = 3) -> Iterator[Fleet]:
    """Runs everything on `servers` fresh job servers of a kind: ``embedded`` or ``gearmand``."""
    if kind == "gearmand" and find_program("gearmand") is None:
        raise FileNotFoundError("gearmand is not installed; on Debian: apt-get install gearman-job-server")
    with ExitStack() as stack:
        running = [server(kind, folder, index, stack) for index in range(servers)]
        inner = [stack.enter_context(FaultProxy(each.server)) for each in running]
        outer = [stack.enter_context(FaultProxy(each.server)) for each in running]
        urls = [proxy.url for proxy in inner]
        results = stack.enter_context(results_service(urls, folder))
        workers: dict[str, Program] = {}
        for pool, namespace in POOLS.items():
            env = {"GTASK_NAMESPACE": namespace, FILE: str(folder / "record")}
            options = ("--loglevel", "warning")
            workers[pool] = stack.enter_context(
                worker("benchmarks.recording:app", *options, cwd=ROOT, servers=urls, pool=pool, env=env, ready=None)
            )
        made = Fleet(running, inner, outer, workers, results, folder)
        stack.callback(made.close)
        wait_until(lambda: _served(running), 60.0, f"all workers on {kind}")
        made.start()
        stack.callback(made.stop_flow)
        yield made


def _served(servers: list[JobServerProgram]) -> bool:
    due = {*(f"{namespace}record" for namespace in POOLS.values()), "gtask.results.put"}
    for each in servers:
        rows = (line.split("\t") for line in each.admin("status"))
        if not due <= {row[0] for row in rows if row[3] != "0"}:
            return False
    return True


def is_alive(pid: int) -> bool:
    """Whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
