"""Lanes that are looked through now and then rather than woken: delayed jobs wait there, and each grab is costly."""

from __future__ import annotations

from gtask.worker.core import CoreOptions
from gtask.worker.link import Lane
from tests.worker.bench import Bench


def bench_of(*lanes: Lane, slots: int = 100) -> Bench:
    bench = Bench(options=CoreOptions(slots=slots, prefetch=0, poll_interval=15.0), lanes=lanes)
    bench.connect()
    return bench


def test_it_is_not_woken_and_looks_at_its_time() -> None:
    bench = bench_of(Lane(("f",)), Lane(("later",), look=1.0))
    woken, looking = bench.core.links
    assert woken.protocol is not None
    assert looking.protocol is not None
    assert woken.protocol.asleep
    assert (looking.protocol.asleep, looking.resting) == (False, True)
    bench.submit("later", "u1")
    bench.settle()
    assert bench.take() is None
    assert bench.now + 0.75 <= looking.poll_at <= bench.now + 1.25
    assert bench.core.deadline(bench.now) <= looking.poll_at
    bench.now = looking.poll_at
    job = bench.take()
    assert job is not None
    assert job.unique == "u1"
    bench.end(job)
    assert looking.resting


def test_a_look_goes_on_while_there_is_something_with_many_grabs_under_way_but_not_too_many() -> None:
    bench = bench_of(Lane(("later",), look=1.0, window=4))
    (link,) = bench.core.links
    for number in range(50):
        bench.submit("later", f"u{number}")
    bench.now = link.poll_at
    bench.core.pump(bench.now)
    most, taken = 0, 0
    while not link.resting:
        bench.settle()
        while (job := bench.core.take()) is not None:
            taken += 1
            bench.end(job)
            assert link.protocol is not None
            most = max(most, link.window)
    assert taken == 50
    assert most <= 4


def test_what_is_full_is_looked_through_again_later_and_does_not_spin() -> None:
    bench = bench_of(Lane(("later",), 2, look=1.0))
    (link,) = bench.core.links
    for number in range(3):
        bench.submit("later", f"u{number}")
    bench.now = link.poll_at
    jobs = [bench.take(), bench.take()]
    assert None not in jobs
    assert bench.take() is None
    for _ in range(3):
        bench.now = bench.core.deadline(bench.now) + 0.001
        bench.settle()
        assert bench.core.deadline(bench.now) > bench.now
        assert bench.take() is None
    assert jobs[0] is not None
    bench.end(jobs[0])
    bench.now = max(bench.now, link.poll_at)
    third = bench.take()
    assert third is not None
    assert third.unique == "u2"


def test_nothing_is_asked_for_while_whoever_holds_the_jobs_has_no_room() -> None:
    bench = bench_of(Lane(("f",)), Lane(("later",), look=1.0))
    bench.core.full = True
    bench.submit("f", "u1")
    bench.submit("later", "u2")
    bench.now += 2.0
    bench.settle()
    assert bench.take() is None
    bench.core.full = False
    bench.now += 2.0
    assert {job.unique for job in (bench.take(), bench.take()) if job is not None} == {"u1", "u2"}


def test_a_new_connection_looks_at_once() -> None:
    bench = bench_of(Lane(("later",), look=30.0))
    (link,) = bench.core.links
    bench.submit("later", "u1")
    assert bench.take() is None
    bench.cut(link)
    bench.now = link.connect_at
    bench.connect()
    assert bench.take() is not None
