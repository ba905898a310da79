"""What a worker decides: when to grab, how much to hold, how to end, whom to serve next."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from gtask.protocol import encode_response
from gtask.protocol.packets import PacketType
from gtask.types import Priority, Server, Submission
from gtask.worker.core import CoreOptions
from gtask.worker.endings import PATIENCE
from gtask.worker.job import Carried, End, Ending
from gtask.worker.link import MAX_BACKOFF, TURN, Lane, Link
from gtask.worker.pulse import HEARTBEAT
from gtask.worker.pulse import PATIENCE as PULSE_PATIENCE
from tests.worker.bench import Bench


def test_a_job_is_grabbed_run_and_completed() -> None:
    bench = Bench()
    bench.connect()
    bench.submit("f", "u1", b"payload")
    job = bench.take()
    assert job is not None
    assert (job.function, job.unique, job.workload) == ("f", "u1", b"payload")
    assert bench.status("f") == (1, 1, 1)
    bench.end(job)
    assert bench.status("f") == (0, 0, 1)
    assert bench.core.idle


def test_an_idle_worker_sleeps_and_is_woken() -> None:
    bench = Bench()
    bench.connect()
    protocol = bench.core.links[0].protocol
    assert protocol is not None
    assert protocol.asleep
    bench.submit("f", "u1")
    bench.settle()
    assert not protocol.asleep
    assert bench.take() is not None


def test_long_tasks_are_not_hoarded() -> None:
    bench = Bench(options=CoreOptions(slots=2))
    bench.connect()
    for number in range(10):
        bench.submit("f", f"u{number}")
    first, second = bench.take(), bench.take()
    assert first is not None
    assert second is not None
    assert bench.take() is None
    bench.end(first, seconds=5.0)
    bench.end(second, seconds=0.0)
    bench.settle()
    assert len(bench.core.backlog) <= 2
    assert bench.status("f")[1] <= 2


def test_short_tasks_are_held_ahead_and_a_long_one_ends_that() -> None:
    bench = Bench()
    bench.connect()
    for number in range(300):
        bench.submit("f", f"u{number}")
    for _ in range(20):
        job = bench.take()
        assert job is not None
        bench.end(job, seconds=0.0005)
    held = len(bench.core.backlog)
    assert 5 < held <= 64
    job = bench.take()
    assert job is not None
    bench.end(job, seconds=3.0)
    while bench.core.backlog:
        job = bench.take()
        assert job is not None
        bench.end(job, seconds=3.0)
        assert len(bench.core.backlog) < held
    assert bench.status("f")[1] <= 1


def test_a_set_prefetch_is_kept() -> None:
    bench = Bench(options=CoreOptions(slots=1, prefetch=3))
    bench.connect()
    for number in range(10):
        bench.submit("f", f"u{number}")
    assert bench.take() is not None
    bench.settle()
    assert len(bench.core.backlog) == 3


def test_results_and_what_follows_are_confirmed_before_the_job_ends() -> None:
    bench = Bench()
    bench.connect()
    bench.submit("f", "u1")
    job = bench.take()
    assert job is not None
    ending = Ending(
        carried=Carried("store", (b"a", b"b")),
        submissions=(Submission("next", b"data", "n1", Priority.HIGH),),
    )
    bench.now += 1
    bench.core.finish(job, ending, bench.now)
    bench.core.pump(bench.now)
    link = bench.core.links[0]
    talker, protocol = bench.talkers[link], link.protocol
    assert protocol is not None
    talker.raw(protocol.data_to_send())
    assert bench.status("store")[0] == 1
    assert bench.status("next")[0] == 0
    assert bench.status("f")[1] == 1
    bench.settle()
    assert bench.status("next")[0] == 1
    assert bench.status("f") == (0, 0, 1)
    stored = bench.targets[0].connect()
    stored.send(PacketType.CAN_DO, b"store")
    assert stored.ask(PacketType.GRAB_JOB_UNIQ)[1][3] == b"ab"


def test_results_of_several_jobs_travel_together() -> None:
    bench = Bench(options=CoreOptions(slots=8))
    bench.connect()
    jobs = []
    for number in range(8):
        bench.submit("f", f"u{number}")
        jobs.append(bench.take())
    for job in jobs:
        assert job is not None
        bench.core.finish(job, Ending(carried=Carried("store", (b"x",))), bench.now)
    bench.settle()
    assert bench.status("store")[0] == 1
    assert bench.status("f") == (0, 0, 1)


def test_a_cut_connection_gives_the_jobs_back_and_is_made_anew() -> None:
    bench = Bench(options=CoreOptions(slots=2, prefetch=2))
    bench.connect()
    for number in range(4):
        bench.submit("f", f"u{number}")
    running = bench.take()
    assert running is not None
    assert len(bench.core.backlog) == 3
    link = bench.core.links[0]
    bench.cut(link)
    assert running.lost
    assert not bench.core.backlog
    assert bench.core.connects(bench.now) == []
    bench.end(running)
    assert bench.core.idle
    bench.now = link.connect_at
    bench.connect()
    seen = set()
    while (job := bench.take()) is not None:
        seen.add(job.unique)
        bench.end(job)
    assert seen == {"u0", "u1", "u2", "u3"}


def test_reconnecting_waits_longer_after_each_failure_up_to_a_bound() -> None:
    bench = Bench()
    link = bench.core.links[0]
    waits = []
    for _ in range(14):
        assert bench.core.connects(bench.now) == [link]
        bench.core.closed(link, bench.now)
        waits.append(link.connect_at - bench.now)
        bench.now = link.connect_at
    assert waits == sorted(waits)
    assert waits[0] < 0.2
    assert waits[-1] <= MAX_BACKOFF


def test_workers_that_lost_the_same_job_server_do_not_come_back_all_at_once() -> None:
    drawn = Random(1)
    links = [Link(Server("127.0.0.1", 4730), drawn.random, Lane(("f",)), HEARTBEAT) for _ in range(100)]
    for link in links:
        link.failures = 20
        link.closed(0.0)
    waits = sorted(link.connect_at for link in links)
    assert waits[0] >= MAX_BACKOFF / 2
    assert waits[-1] <= MAX_BACKOFF
    assert max(later - earlier for earlier, later in pairwise(waits)) < MAX_BACKOFF / 10


def _silence(bench: Bench) -> Link:
    """Lets an ECHO go unanswered until it is time to ask over a second connection."""
    link = bench.core.links[0]
    bench.now += HEARTBEAT
    assert bench.core.deadline(bench.now) <= bench.now
    bench.core.pump(bench.now)
    assert link.protocol is not None
    assert b"gtask" in link.protocol.data_to_send()
    assert bench.core.suspects(bench.now) == []
    bench.now += HEARTBEAT
    assert bench.core.deadline(bench.now) <= bench.now
    assert bench.core.suspects(bench.now) == [link]
    assert bench.core.suspects(bench.now) == []
    assert bench.core.deadline(bench.now) > bench.now
    return link


def test_a_link_is_given_up_when_only_a_second_connection_is_answered() -> None:
    bench = Bench()
    bench.connect()
    link = _silence(bench)
    assert bench.core.condemned(bench.now) == []
    bench.core.probed(link, link.pulse.heard, True, bench.now)
    assert bench.core.condemned(bench.now) == []
    bench.now = bench.core.deadline(bench.now)
    assert bench.core.condemned(bench.now) == [link]
    assert bench.core.suspects(bench.now) == []


def test_a_job_server_that_is_busy_keeps_its_link_and_is_asked_again() -> None:
    bench = Bench()
    bench.connect()
    link = _silence(bench)
    bench.core.probed(link, link.pulse.heard, False, bench.now)
    assert bench.core.condemned(bench.now) == []
    bench.now += HEARTBEAT
    assert bench.core.suspects(bench.now) == [link]
    bench.now += PULSE_PATIENCE
    assert bench.core.condemned(bench.now) == [link]


def test_an_answer_that_comes_after_all_ends_the_suspicion() -> None:
    bench = Bench()
    bench.connect()
    link = _silence(bench)
    since = link.pulse.heard
    bench.core.probed(link, since, True, bench.now)
    assert bench.core.received(link, encode_response(PacketType.ECHO_RES, b"gtask"), bench.now)
    bench.core.probed(link, since, True, bench.now)
    assert bench.core.condemned(bench.now) == []
    assert bench.core.deadline(bench.now) > bench.now


def test_time_in_which_the_process_stood_still_is_not_the_job_servers() -> None:
    bench = Bench()
    bench.connect()
    bench.now += 10 * PULSE_PATIENCE
    assert bench.core.suspects(bench.now) == []
    assert bench.core.condemned(bench.now) == []
    bench.settle()
    bench.now += HEARTBEAT / 2
    assert bench.core.suspects(bench.now) == []


def test_what_was_asked_of_a_silent_job_server_keeps_nobody_from_the_others() -> None:
    bench = Bench(servers=2, options=CoreOptions(slots=1, prefetch=0))
    bench.connect()
    silent, other = bench.core.links
    assert silent.protocol is not None
    silent.protocol.grab()
    assert silent.protocol.data_to_send()  # and it never arrives
    bench.submit("f", "u1", server=1)
    bench.settle()
    assert bench.core.take() is None
    bench.now += HEARTBEAT
    bench.core.pump(bench.now)
    assert silent.protocol.data_to_send()
    bench.settle()
    bench.now += HEARTBEAT
    job = bench.take()
    assert job is not None
    assert job.link is other


def test_a_sleeping_worker_looks_by_itself_now_and_then() -> None:
    bench = Bench(options=CoreOptions(poll_interval=10.0))
    bench.connect()
    link = bench.core.links[0]
    assert link.protocol is not None
    assert bench.now < link.poll_at <= bench.now + 12.5
    assert bench.core.deadline(bench.now) <= link.poll_at
    bench.now = link.poll_at
    bench.core.pump(bench.now)
    assert link.protocol.outstanding == 1
    bench.settle()
    assert link.protocol.asleep
    assert link.poll_at > bench.now


def test_no_function_starves() -> None:
    bench = Bench(functions=("a", "b", "c"), options=CoreOptions(prefetch=0))
    bench.connect()
    for name in "abc":
        for number in range(TURN * 3):
            bench.submit(name, f"{name}{number}")
    first = []
    for _ in range(TURN * 3):
        job = bench.take()
        assert job is not None
        first.append(job.function)
        bench.end(job)
    assert set(first) == {"a", "b", "c"}


def test_each_of_several_servers_is_served() -> None:
    bench = Bench(options=CoreOptions(prefetch=0), servers=3)
    bench.connect()
    for server in range(3):
        for number in range(5):
            bench.submit("f", f"s{server}n{number}", server=server)
    order = []
    while (job := bench.take()) is not None:
        order.append(job.unique[:2])
        bench.end(job)
    assert sorted(order) == ["s0"] * 5 + ["s1"] * 5 + ["s2"] * 5
    assert set(order[:6]) == {"s0", "s1", "s2"}


def test_one_of_several_servers_down_leaves_the_others_working() -> None:
    bench = Bench(servers=2)
    bench.connect()
    bench.cut(bench.core.links[0])
    bench.submit("f", "u1", server=1)
    job = bench.take()
    assert job is not None
    bench.end(job)
    assert bench.status("f", server=1) == (0, 0, 1)


def test_a_stopped_worker_finishes_what_it_holds_and_takes_no_more() -> None:
    bench = Bench(options=CoreOptions(slots=1, prefetch=2))
    bench.connect()
    for number in range(10):
        bench.submit("f", f"u{number}")
    job = bench.take()
    assert job is not None
    bench.core.stopping = True
    ended = 0
    while job is not None:
        bench.end(job)
        ended += 1
        job = bench.take()
    assert ended == 3
    assert bench.core.idle
    assert bench.status("f")[:2] == (7, 0)


def test_a_foreground_retry_waits_without_a_slot() -> None:
    bench = Bench()
    bench.connect()
    bench.submit("f", "u1")
    bench.submit("f", "u2")
    first = bench.take()
    assert first is not None
    assert bench.core.put_off(first, bench.now + 5)
    assert not bench.core.idle
    second = bench.take()
    assert second is not None
    assert second.unique == "u2"
    bench.end(second)
    assert bench.take() is None
    assert bench.core.deadline(bench.now) <= bench.now + 5
    bench.now += 5
    again = bench.take()
    assert again is first
    assert again.attempt == 1
    bench.end(again)
    assert bench.core.idle


def test_too_many_foreground_retries_are_refused() -> None:
    bench = Bench(options=CoreOptions(max_put_off=1))
    bench.connect()
    for number in range(2):
        bench.submit("f", f"u{number}")
        job = bench.take()
        assert job is not None
        assert bench.core.put_off(job, bench.now + 5) is (number == 0)


def test_a_refused_step_is_tried_again_and_then_the_jobs_go_back() -> None:
    bench = Bench()
    bench.connect()
    assert bench.clients[0].line(b"create function store") == b"OK\r\n"
    assert bench.clients[0].line(b"maxqueue store 1") == b"OK\r\n"
    bench.submit("store", "full")
    bench.submit("f", "u1")
    job = bench.take()
    assert job is not None
    bench.end(job, Ending(carried=Carried("store", (b"x",))))
    link = bench.core.links[0]
    assert not bench.core.idle
    until = bench.now + PATIENCE + 10
    while bench.now < until and not bench.core.condemned(bench.now):
        bench.now = max(bench.now + 0.01, min(bench.core.endings.retry_at, until))
        bench.settle()
    assert bench.core.condemned(bench.now) == [link]
    bench.cut(link)
    assert bench.status("f")[:2] == (1, 0)


def test_a_refused_step_goes_on_once_there_is_room() -> None:
    bench = Bench()
    bench.connect()
    bench.clients[0].line(b"create function store")
    bench.clients[0].line(b"maxqueue store 1")
    bench.submit("store", "full")
    bench.submit("f", "u1")
    job = bench.take()
    assert job is not None
    bench.end(job, Ending(carried=Carried("store", (b"x",))))
    bench.clients[0].line(b"maxqueue store")
    bench.now = bench.core.endings.retry_at
    bench.settle()
    assert bench.core.idle
    assert bench.status("f") == (0, 0, 1)
    assert bench.status("store")[0] == 2


def test_failures_and_exceptions_end_jobs() -> None:
    bench = Bench(options=CoreOptions(slots=2))
    bench.connect()
    client = bench.clients[0]
    client.ask(PacketType.OPTION_REQ, b"exceptions")
    client.ask(PacketType.SUBMIT_JOB, b"f", b"one", b"x")
    job = bench.take()
    assert job is not None
    bench.end(job, Ending(End.EXCEPTION, b"why"))
    assert client.receive()[0] is PacketType.WORK_EXCEPTION
    client.ask(PacketType.SUBMIT_JOB, b"f", b"two", b"x")
    job = bench.take()
    assert job is not None
    bench.end(job, Ending(End.FAIL))
    assert client.receive()[0] is PacketType.WORK_FAIL


def test_the_representation_tells_the_truth() -> None:
    bench = Bench()
    assert repr(bench.core) == "<WorkerCore serving, 0 running, 0 waiting, 0 ending>"
    bench.connect()
    bench.submit("f", "u1")
    bench.take()
    assert repr(bench.core) == "<WorkerCore serving, 1 running, 0 waiting, 0 ending>"
    assert "1 jobs held" in repr(bench.core.links[0])
