"""A worker after each fault is registered again and gets jobs: alive, connected and deaf is what it must never be."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from gtask.testing import FaultProxy, JobServerProgram, gearmand, job_server
from gtask.testing.requirements import require
from tests.faults.helpers import BOUND, ROOT, Recorded, last, recorded, recording_worker

POOLS = ("prefork", "thread", "async")
KINDS = ("gtask", "gearmand")


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobServerProgram]:
    """Each job server as a process, with a queue that survives it."""
    with ExitStack() as stack:
        yield stack.enter_context(start(request.param, tmp_path / "queue.db"))


def start(kind: str, db: Path) -> AbstractContextManager[JobServerProgram]:
    """A job server of a kind whose queue is in this file."""
    if kind == "gearmand":
        require("gearmand", package="gearman-job-server")
        return gearmand("-q", "libsqlite3", "--libsqlite3-db", str(db))
    return job_server(db=db, cwd=ROOT)


def status(server: JobServerProgram) -> list[int]:
    """How many tasks are there, how many run, and how many workers offer to run them."""
    for line in server.admin("status"):
        name, *numbers = line.split("\t")
        if name == "record":
            return [int(number) for number in numbers]
    return [0, 0, 0]


def flows(tasks: Recorded, seconds: float = BOUND) -> float:
    """Waits until a new task has run, at most so many seconds; returns how long it took."""
    began = time.monotonic()
    tasks.wait_for(tasks.send(), seconds)
    return time.monotonic() - began


FAULTS: dict[str, Callable[[FaultProxy], object]] = {
    "cut by FIN": lambda proxy: proxy.cut(),
    "cut by RST": lambda proxy: proxy.cut(reset=True),
    "half-open": lambda proxy: proxy.half_open(),
    "cut in a packet, up": lambda proxy: proxy.limit(10, "up"),
    "cut in a packet, down": lambda proxy: proxy.limit(10, "down"),
    "single bytes": lambda proxy: proxy.split(),
    "late": lambda proxy: proxy.delay(0.05),
}


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_is_never_deaf(server: JobServerProgram, tmp_path: Path, pool: str) -> None:
    with FaultProxy(server.server) as proxy, recorded([server.server], tmp_path) as tasks:
        with recording_worker([proxy.server], tmp_path, pool) as worker:
            flows(tasks, 30.0)
            for name, inflict in FAULTS.items():
                before = proxy.accepted
                inflict(proxy)
                if name.startswith("cut in"):
                    tasks.send()  # something to be cut
                    proxy.wait_for_connections(before + 1)
                    proxy.heal()
                flows(tasks)
                assert status(server)[2] > 0, name
                proxy.heal()
                # What was resting at a vanished connection comes back when that is found out.
                flows(tasks)
            proxy.stall()
            number = tasks.send()
            last(1.0)
            assert not tasks.runs(number)
            proxy.heal()
            tasks.wait_for(number)
            for signum in (signal.SIGTERM, signal.SIGKILL):
                server.restart(signum)
                flows(tasks)
                assert status(server)[2] > 0
            assert worker.running
            worker.terminate()
            assert worker.wait(30.0) == 0


def test_a_server_that_was_away_for_long_is_found_again_at_once(server: JobServerProgram, tmp_path: Path) -> None:
    """However many attempts have failed before: the pause between two of them has a bound."""
    with FaultProxy(server.server) as proxy, recorded([server.server], tmp_path) as tasks:
        with recording_worker([proxy.server], tmp_path):
            flows(tasks, 30.0)
            proxy.refuse()
            proxy.cut(reset=True)
            number = tasks.send()
            last(5.0)
            assert not tasks.runs(number)
            proxy.heal()
            tasks.wait_for(number)


def test_a_job_server_that_is_busy_loses_no_worker_and_no_job_runs_twice(
    server: JobServerProgram, tmp_path: Path
) -> None:
    """A stopped process answers nobody, on no connection: that is not the link's fault."""
    environment = {"GTASK_HEARTBEAT": "0.6"}
    with FaultProxy(server.server) as proxy, recorded([server.server], tmp_path) as tasks:
        with recording_worker([proxy.server], tmp_path, env=environment) as worker:
            flows(tasks, 30.0)
            number = tasks.send(seconds=2.0)
            # The worker's own word: what the job server has handed out may still be on its way when it is stopped.
            worker.wait_for_line(rf"record\[{tasks.id}\] received")
            before = proxy.accepted
            server.kill(signum=signal.SIGSTOP)
            try:
                proxy.wait_for_connections(before + 2)  # it was asked over a second connection, in vain
                tasks.wait_for(number)
            finally:
                server.kill(signum=signal.SIGCONT)
            flows(tasks)
            assert tasks.runs(number) == 1
            assert not any("does not answer" in line for line in worker.lines())


def test_a_task_that_keeps_its_process_busy_costs_it_no_connection(server: JobServerProgram, tmp_path: Path) -> None:
    """A stopped worker hears nothing for many heartbeats; what has come meanwhile is heard before it judges."""
    environment = {"GTASK_HEARTBEAT": "0.1"}
    with FaultProxy(server.server) as proxy, recorded([server.server], tmp_path) as tasks:
        with recording_worker([proxy.server], tmp_path, env=environment) as worker:
            flows(tasks, 30.0)
            for pid in worker.children():
                worker.kill(pid, signal.SIGSTOP)
            last(1.0)
            for pid in worker.children():
                worker.kill(pid, signal.SIGCONT)
            flows(tasks)
            assert not any("does not answer" in line for line in worker.lines())


@pytest.mark.parametrize("pool", POOLS)
def test_broken_bytes_are_named_and_lose_nothing(server: JobServerProgram, tmp_path: Path, pool: str) -> None:
    """The connection ends, with a line in the log that says why; a new one is made, and every job runs."""
    with FaultProxy(server.server) as proxy, recorded([server.server], tmp_path) as tasks:
        with recording_worker([proxy.server], tmp_path, pool) as worker:
            flows(tasks, 30.0)
            # Not on the way up to gearmand: a broken header ends the whole of it (gearmand's defect 30).
            proxy.corrupt(2, "both" if server.kind == "gtask" else "down")
            numbers = [tasks.send() for _ in range(20)]
            for number in numbers:
                tasks.wait_for(number)
            worker.wait_for_line(r"The connection is closed\.|closed the connection|was cut", BOUND)
            flows(tasks)


def test_repeated_runs_are_bounded_by_what_was_held(server: JobServerProgram, tmp_path: Path) -> None:
    """Each cut lets every process run again what it held and what it had just reported: two jobs, without prefetch."""
    processes, cuts = 2, 8
    with FaultProxy(server.server) as proxy, recorded([server.server], tmp_path) as tasks:
        with recording_worker([proxy.server], tmp_path, "prefork", "--prefetch", "0", concurrency=processes):
            flows(tasks, 30.0)
            sent: list[str] = []
            for _ in range(cuts):
                sent += [tasks.send(0.005) for _ in range(20)]
                tasks.wait_for(sent[-10])
                proxy.cut(reset=True)
            for number in sent:
                tasks.wait_for(number, 30.0)
            assert tasks.repeated <= 2 * processes * cuts


def test_one_server_down_one_stalling_one_rejoining(server: JobServerProgram, tmp_path: Path) -> None:
    """A worker with one slot on three job servers: none of them keeps it from the others, and each is back at once."""
    with ExitStack() as stack:
        others = [stack.enter_context(start(server.kind, tmp_path / f"queue{index}.db")) for index in (1, 2)]
        servers = [server, *others]
        proxies = [stack.enter_context(FaultProxy(each.server)) for each in servers]
        first, second, third = (
            stack.enter_context(recorded([each.server], tmp_path, f"{index}-")) for index, each in enumerate(servers)
        )
        stack.enter_context(recording_worker([proxy.server for proxy in proxies], tmp_path, concurrency=1))
        for tasks in (first, second, third):
            flows(tasks, 30.0)
        servers[0].kill()
        servers[0].wait()
        proxies[1].stall()
        flows(third)
        flows(third)
        number = second.send()
        servers[0].start()
        servers[0].wait_until_ready()
        flows(first)
        assert not second.runs(number)
        proxies[1].heal()
        second.wait_for(number)
        for tasks in (first, second, third):
            flows(tasks)
