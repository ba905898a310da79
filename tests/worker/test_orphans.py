"""Results of jobs whose connection ended before they did."""

from __future__ import annotations

import pytest

from gtask.protocol.packets import PacketType
from gtask.types import Submission
from gtask.worker import orphans
from gtask.worker.core import CoreOptions
from gtask.worker.job import Carried, Ending, Job
from gtask.worker.orphans import PATIENCE
from tests.worker.bench import Bench

NEXT = Submission("next", b"data", "n1")


def running(bench: Bench, unique: str = "u1") -> Job:
    """A job that runs."""
    bench.submit("f", unique)
    job = bench.take()
    assert job is not None
    return job


def stored(bench: Bench, server: int = 0) -> list[bytes]:
    """What was handed over."""
    peer = bench.targets[server].connect()
    peer.send(PacketType.CAN_DO, b"store")
    found = []
    while (answer := peer.ask(PacketType.GRAB_JOB_UNIQ))[0] is not PacketType.NO_JOB:
        found.append(answer[1][3])
        peer.send(PacketType.WORK_COMPLETE, answer[1][0], b"")
    return found


def reconnect(bench: Bench) -> None:
    bench.now = max(link.connect_at for link in bench.core.links)
    bench.connect()


def ending(item: bytes = b"x", final: bool = True) -> Ending:
    return Ending(carried=Carried("store", (item,), final), submissions=(NEXT,))


def test_a_job_that_ends_after_its_connection_hands_its_result_over(caplog: pytest.LogCaptureFixture) -> None:
    """What follows from it is left to the job that is run again."""
    bench = Bench()
    bench.connect()
    job = running(bench)
    bench.cut(bench.core.links[0])
    bench.end(job, ending())
    assert not bench.core.idle, "a worker that is stopped now stays until it is rid of it"
    assert "its result is handed over all the same" in caplog.text
    assert "if it keeps its queue" in caplog.text
    reconnect(bench)
    assert stored(bench) == [b"x"]
    assert bench.status("next")[0] == 0
    again = bench.take()
    assert again is not None
    bench.end(again, ending())
    assert bench.status("next")[0] == 1
    assert bench.core.idle


@pytest.mark.parametrize("sent", [False, True])
def test_a_result_that_was_not_confirmed_is_handed_over_again(sent: bool) -> None:
    bench = Bench()
    bench.connect()
    job = running(bench)
    link = bench.core.links[0]
    bench.core.finish(job, ending(), bench.now)
    if sent:
        bench.core.pump(bench.now)
        assert link.protocol is not None
        assert b"store" in link.protocol.data_to_send()
    bench.cut(link)
    assert bench.status("f")[:2] == (1, 0)
    reconnect(bench)
    assert stored(bench) == [b"x"]


def test_a_result_that_was_confirmed_is_not_handed_over_again() -> None:
    bench = Bench()
    bench.connect()
    job = running(bench)
    link = bench.core.links[0]
    bench.core.finish(job, ending(), bench.now)
    bench.core.pump(bench.now)
    assert link.protocol is not None
    bench.talkers[link].raw(link.protocol.data_to_send())
    received, bench.talkers[link].buffer = bytes(bench.talkers[link].buffer), bytearray()
    assert bench.core.received(link, received, bench.now)
    bench.cut(link)
    assert not bench.core.endings.orphans
    assert stored(bench) == [b"x"]


def test_any_other_job_server_takes_it() -> None:
    bench = Bench(servers=2)
    bench.connect()
    job = running(bench)
    bench.cut(bench.core.links[0])
    bench.end(job, ending())
    assert stored(bench, server=1) == [b"x"]
    assert bench.core.idle


def test_a_cut_in_the_middle_is_no_end_of_it() -> None:
    bench = Bench(options=CoreOptions(slots=3), servers=2)
    bench.connect()
    jobs = [running(bench, f"u{number}") for number in range(3)]
    first, second = bench.core.links
    bench.cut(first)
    for number, job in enumerate(jobs):
        bench.core.finish(job, ending(b"%d" % number), bench.now)
    bench.core.pump(bench.now)
    assert second.protocol is not None
    assert b"012" in second.protocol.data_to_send(), "they travel together"
    bench.cut(second)
    assert len(bench.core.endings.orphans) == 3
    reconnect(bench)
    assert stored(bench) + stored(bench, server=1) == [b"012"]


def test_the_news_of_a_retry_is_not_handed_over() -> None:
    """It would be a promise that nobody keeps, where the queue was in memory."""
    bench = Bench()
    bench.connect()
    job = running(bench)
    bench.cut(bench.core.links[0])
    bench.end(job, ending(final=False))
    assert bench.core.idle
    reconnect(bench)
    assert stored(bench) == []


def test_patience_has_an_end(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.connect()
    job = running(bench)
    bench.cut(bench.core.links[0])
    bench.end(job, ending())
    bench.core.links[0].connect_at = bench.now + 10 * PATIENCE
    assert bench.now < bench.core.deadline(bench.now) <= bench.now + PATIENCE
    bench.now += PATIENCE
    bench.core.pump(bench.now)
    assert bench.core.idle
    assert "The results of 1 jobs are lost" in caplog.text


def test_so_has_room(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(orphans, "MAX_BYTES", 3)
    bench = Bench(options=CoreOptions(slots=3))
    bench.connect()
    jobs = [running(bench, f"u{number}") for number in range(3)]
    bench.cut(bench.core.links[0])
    for job in jobs:
        bench.end(job, ending(b"xy"))
    assert len(bench.core.endings.orphans) == 1
    assert caplog.text.count("too many wait for a job server") == 2
    reconnect(bench)
    assert stored(bench) == [b"xy"]
    assert bench.core.endings.orphans._size == 0


def test_what_is_refused_for_now_is_tried_again() -> None:
    bench = Bench()
    bench.connect()
    job = running(bench)
    bench.cut(bench.core.links[0])
    bench.clients[0].line(b"create function store")
    bench.clients[0].line(b"maxqueue store 1")
    bench.submit("store", "full")
    bench.end(job, ending())
    reconnect(bench)
    assert len(bench.core.endings.orphans) == 1
    assert bench.now < bench.core.deadline(bench.now)
    bench.clients[0].line(b"maxqueue store")
    bench.now = bench.core.deadline(bench.now) + 1
    bench.settle()
    assert stored(bench) == [b"x", b"x"]


def test_what_is_refused_for_good_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.connect()
    job = running(bench)
    bench.cut(bench.core.links[0])
    bench.end(job, Ending(carried=Carried("s" * 600, (b"x",))))
    reconnect(bench)
    assert not bench.core.endings.orphans
    assert "whose connection had ended are lost" in caplog.text
