"""Gates before lanes: what is limited is not asked for, and every leave comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from gtask.cluster import LEASE, Asker, ClusterGate
from gtask.results.sqlite import SqliteStore
from gtask.testing.programs import wait_until
from gtask.worker.core import CoreOptions
from gtask.worker.job import Job
from gtask.worker.limits import LimitTable, Rate, WorkerGate
from gtask.worker.link import Lane
from tests.worker.bench import Bench

LIMIT = 30.0


def gate_of(
    table: LimitTable | None = None, row: int = 0, most: int | None = None, rate: Rate | None = None
) -> WorkerGate:
    """A gate over a table of its own, or as one process of those that share one."""
    return WorkerGate(table or LimitTable(1, 4), 0, row, most, rate, lambda: 0.5)


def bench_of(gate: WorkerGate, slots: int = 4, servers: int = 1) -> Bench:
    """A worker with a limited function beside a free one."""
    lanes = [Lane(("free",)), Lane(("f",), window=1, gate=gate)]
    bench = Bench(options=CoreOptions(slots=slots), servers=servers, lanes=lanes)
    bench.connect()
    return bench


def take_all(bench: Bench) -> list[Job]:
    """Starts what may be started now."""
    jobs: list[Job] = []
    while (job := bench.take()) is not None:
        jobs.append(job)
    return jobs


def test_no_more_jobs_are_taken_than_may_run_and_the_others_stay_in_the_queue() -> None:
    bench = bench_of(gate_of(most=2))
    for number in range(5):
        bench.submit("f", f"u{number}")
    jobs = take_all(bench)
    assert len(jobs) == 2
    assert not bench.core.backlog
    assert bench.status("f") == (5, 2, 1)
    bench.end(jobs[0])
    assert len(take_all(bench)) == 1
    assert bench.status("f")[:2] == (4, 2)


def test_tasks_without_a_limit_run_beside_a_shut_gate() -> None:
    bench = bench_of(gate_of(most=1))
    for name in ("f", "free"):
        for number in range(6):
            bench.submit(name, f"{name}{number}")
    jobs = take_all(bench)
    assert sorted(job.function for job in jobs) == ["f", "free", "free", "free"]
    for job in jobs:
        bench.end(job, seconds=1.0)
    assert "f" in [job.function for job in take_all(bench)]


def test_a_limited_task_is_not_starved_by_short_ones_that_are_held_ahead() -> None:
    bench = bench_of(gate_of(most=1), slots=1)
    for number in range(200):
        bench.submit("free", f"u{number}")
    bench.submit("f", "limited")
    for _ in range(60):
        job = bench.take()
        assert job is not None
        bench.end(job, seconds=0.0005)
        if job.function == "f":
            return
    pytest.fail("the limited task waits behind all others")


def test_a_rate_is_kept_and_what_was_asked_in_vain_costs_nothing() -> None:
    bench = bench_of(gate_of(rate=Rate(10.0, 1)))
    assert bench.core.links[1].protocol is not None
    assert bench.core.links[1].protocol.asleep, "the grab that found nothing has given its token back"
    for number in range(30):
        bench.submit("f", f"u{number}")
    starts = []
    begun = bench.now
    while bench.now < begun + 2.0:
        for job in take_all(bench):
            starts.append(bench.now)
            bench.end(job, seconds=0.0)
        bench.now = min(max(bench.core.deadline(bench.now), bench.now + 0.001), begun + 2.0)
    assert len(starts) == 20
    assert all(later - earlier > 0.0999 for earlier, later in pairwise(starts))


def test_the_processes_of_a_worker_share_a_limit() -> None:
    table = LimitTable(1, 4)
    first, second = (bench_of(gate_of(table, row, most=3)) for row in (0, 1))
    for bench in (first, second):
        for number in range(5):
            bench.submit("f", f"u{number}")
    assert [len(take_all(bench)) for bench in (first, second)] == [3, 0]
    table.clear(0)
    second.now = second.core.deadline(second.now)
    assert len(take_all(second)) == 3, "the first process died, and its places are free"


def test_a_lost_connection_gives_the_places_back() -> None:
    table = LimitTable(1, 1)
    bench = bench_of(gate_of(table, most=3), slots=2, servers=1)
    for number in range(5):
        bench.submit("f", f"u{number}")
    running, put_off = take_all(bench)
    assert bench.core.put_off(put_off, bench.now + 60.0)
    limited = bench.core.links[1]
    bench.settle()
    assert table.all(0) == 3, "one runs, one waits for its next attempt, one has just come"
    bench.cut(limited)
    assert table.all(0) == 1, "the one that runs is running on"
    bench.end(running)
    assert table.all(0) == 0
    assert not limited.entered


def test_a_worker_that_stops_takes_no_more_and_gives_everything_back() -> None:
    table = LimitTable(1, 1)
    bench = bench_of(gate_of(table, most=2))
    for number in range(5):
        bench.submit("f", f"u{number}")
    jobs = take_all(bench)
    bench.core.stopping = True
    for job in jobs:
        bench.end(job)
    assert bench.core.idle
    assert table.all(0) == 0
    assert bench.status("f")[:2] == (3, 0)


def test_a_process_that_holds_the_lock_shuts_the_gate_for_a_moment_and_its_death_opens_it() -> None:
    table = LimitTable(1, 1)
    gate = gate_of(table, most=1, rate=Rate(1.0, 1))
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        with table.locked():
            os.write(writer, b".")
            signal.pause()
        os._exit(0)
    assert os.read(reader, 1) == b"."
    assert not gate.enter(1000.0)
    assert 1000.0 < gate.again(1000.0) < 1000.1
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert gate.enter(1000.0)
    gate.nothing(1000.0)
    assert gate.enter(1000.0), "the token came back"
    assert not gate.enter(1000.5)
    for descriptor in (reader, writer):
        os.close(descriptor)


# --- the cluster ---------------------------------------------------------------------------------------------


class Member:
    """One process of some worker: its gate and the thread that asks the store."""

    def __init__(self, store: SqliteStore, name: str, most: int | None = None, rate: Rate | None = None) -> None:
        self.asker = Asker(store)
        names = [f"{name}:{slot}" for slot in range(4)]
        self.gate = ClusterGate(LimitTable(1, 1), 0, "f", names, most, rate, self.asker)
        self.asker.begin(bool)

    def enters(self, now: float) -> bool:
        """Whether the gate opens, after what has to be asked for that was answered; it never waits itself."""
        while not self.gate.enter(now):
            asked = self.gate.again(now)
            if asked < float("inf"):
                return False
            wait_until(lambda: self.gate._answers, LIMIT, "the store's answer")
        return True


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """A store that counts."""
    made = SqliteStore(tmp_path / "results.db")
    yield made
    made.close()


def test_workers_share_places_in_the_store(store: SqliteStore) -> None:
    first, second = Member(store, "a", most=2), Member(store, "b", most=2)
    assert first.enters(10.0)
    assert first.enters(10.0)
    assert not second.enters(10.0)
    first.gate.ended(10.0)
    first.gate.rest(10.0)
    first.asker.end()
    assert second.enters(1e9)
    assert not second.gate.enter(1e9), "it asks for another place now, and has it given to nobody"
    second.asker.end()
    assert store.acquire("places:f", "c", 1, LEASE), "all places were given back in the end"


def test_a_place_is_used_again_without_a_question(store: SqliteStore) -> None:
    member = Member(store, "a", most=1)
    assert member.enters(10.0)
    for _ in range(3):
        member.gate.ended(10.0)
        assert member.gate.enter(10.0)
    assert not store.acquire("places:f", "b", 1, LEASE)
    member.asker.end()


def test_a_token_of_the_store_that_led_to_no_job_is_kept_for_a_while(store: SqliteStore) -> None:
    member = Member(store, "a", rate=Rate(0.01, 1))
    assert member.enters(10.0)
    member.gate.nothing(10.0)
    assert member.enters(11.0)
    assert not member.enters(12.0)
    member.asker.end()


def test_a_store_that_does_not_answer_keeps_the_gate_shut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    member = Member(SqliteStore(tmp_path / "no" / "such" / "folder.db"), "a", most=1)
    assert not member.enters(10.0)
    assert "no job of it is taken until its result store answers" in caplog.text
    member.asker.end()
