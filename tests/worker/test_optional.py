"""What is optional at the end of a job is submitted with the rest, and let go where the job server refuses it."""

from __future__ import annotations

import logging

import pytest

from gtask.protocol import encode_request, encode_response
from gtask.protocol.packets import PacketType
from gtask.types import Submission
from gtask.worker.endings import OPTIONAL_PATIENCE, PATIENCE
from gtask.worker.job import Carried, End, Ending
from tests.worker.bench import Bench

LETTER = Submission("f.dead", b"letter", "l1")
NEXT = Submission("next", b"data", "n1")
ECHO = encode_request(PacketType.ECHO_REQ, b"gtask")
REFUSED = encode_response(PacketType.ERROR, b"QUEUE_ERROR", b"QUEUE_ERROR")


def started(full: str = "") -> Bench:
    """A bench with a job that runs; the queue named `full` takes nothing."""
    bench = Bench()
    bench.connect()
    if full:
        bench.clients[0].line(f"create function {full}".encode())
        bench.clients[0].line(f"maxqueue {full} 1".encode())
        bench.submit(full, "full")
    bench.submit("f", "u1")
    return bench


def finish(bench: Bench, ending: Ending) -> None:
    job = bench.take()
    assert job is not None
    bench.end(job, ending)


@pytest.mark.parametrize("carried", [None, Carried("store", (b"a",))])
@pytest.mark.parametrize("submissions", [(), (NEXT,)])
def test_it_is_submitted_with_the_rest(carried: Carried | None, submissions: tuple[Submission, ...]) -> None:
    bench = started()
    finish(bench, Ending(End.FAIL, b"", carried, submissions, (LETTER,)))
    assert bench.status("f.dead")[0] == 1
    assert bench.status("next")[0] == len(submissions)
    assert bench.status("f") == (0, 0, 1)
    assert bench.core.idle


def test_the_job_does_not_end_before_it_is_confirmed() -> None:
    bench = started()
    job = bench.take()
    assert job is not None
    bench.core.finish(job, Ending(End.FAIL, optional=(LETTER,)), bench.now)
    bench.core.pump(bench.now)
    protocol = bench.core.links[0].protocol
    assert protocol is not None
    bench.talkers[bench.core.links[0]].raw(protocol.data_to_send())
    assert bench.status("f.dead")[0] == 1
    assert bench.status("f")[1] == 1
    bench.settle()
    assert bench.status("f") == (0, 0, 1)


@pytest.mark.parametrize("submissions", [(), (NEXT,)])
def test_a_full_queue_lets_it_go_at_once(submissions: tuple[Submission, ...], caplog: pytest.LogCaptureFixture) -> None:
    bench = started("f.dead")
    with caplog.at_level(logging.ERROR):
        finish(bench, Ending(End.FAIL, b"", None, submissions, (LETTER,)))
    assert bench.status("f.dead")[0] == 1
    assert bench.status("next")[0] == len(submissions)
    assert bench.status("f") == (0, 0, 1)
    assert "refused f.dead for f[u1], which ends without it" in caplog.text


def test_a_full_queue_of_the_next_step_keeps_the_job_all_the_same() -> None:
    bench = started("next")
    finish(bench, Ending(End.COMPLETE, b"", None, (NEXT,), (LETTER,)))
    assert bench.status("f.dead")[0] == 1
    assert bench.status("f")[1] == 1
    assert not bench.core.idle


def test_a_database_that_is_away_is_waited_for_a_while() -> None:
    assert OPTIONAL_PATIENCE < PATIENCE
    bench = started()
    job = bench.take()
    assert job is not None
    (link,) = bench.core.links
    protocol = link.protocol
    assert protocol is not None
    bench.core.finish(job, Ending(End.FAIL, optional=(LETTER,)), bench.now)
    since, refusals = bench.now, 0
    while bench.core.endings.open:
        bench.core.pump(bench.now)
        sent = protocol.data_to_send()
        if b"f.dead" in sent:
            assert bench.core.received(link, REFUSED, bench.now)
            refusals += 1
        if ECHO in sent:
            assert bench.core.received(link, encode_response(PacketType.ECHO_RES, b"gtask"), bench.now)
        bench.now += 0.05
        assert bench.now - since < PATIENCE
    assert refusals > 2
    assert bench.now - since >= OPTIONAL_PATIENCE
    assert bench.core.condemned(bench.now) == []
    bench.settle()
    assert bench.status("f") == (0, 0, 1)


def test_a_database_that_comes_back_takes_it() -> None:
    bench = started()
    job = bench.take()
    assert job is not None
    (link,) = bench.core.links
    protocol = link.protocol
    assert protocol is not None
    bench.core.finish(job, Ending(End.FAIL, optional=(LETTER,)), bench.now)
    bench.core.pump(bench.now)
    assert b"f.dead" in protocol.data_to_send()
    assert bench.core.received(link, REFUSED, bench.now)
    assert not bench.core.idle
    bench.now = bench.core.endings.retry_at
    bench.settle()
    assert bench.status("f.dead")[0] == 1
    assert bench.status("f") == (0, 0, 1)


def test_one_that_cannot_be_sent_at_all_is_let_go() -> None:
    bench = started()
    finish(bench, Ending(End.FAIL, b"", None, (NEXT,), (Submission("f.dead", b"x", "u" * 64),)))
    assert bench.status("next")[0] == 1
    assert bench.status("f") == (0, 0, 1)


# --- what is submitted instead ---------------------------------------------------------------------------------------


def test_what_is_refused_for_a_while_is_submitted_otherwise() -> None:
    """A delayed job that finds the queue of its task full waits again, and holds up nobody."""
    bench = started("next")
    made: list[Submission] = []

    def instead() -> Submission:
        made.append(Submission("later", b"again", "a1"))
        return made[0]

    finish(bench, Ending(submissions=(NEXT,), instead=instead))
    bench.now += OPTIONAL_PATIENCE / 2
    bench.settle()
    assert (made, bench.status("f")[1]) == ([], 1)
    bench.now += OPTIONAL_PATIENCE
    bench.settle()
    assert len(made) == 1
    assert bench.status("later")[0] == 1
    assert bench.status("next")[0] == 1
    assert bench.status("f") == (0, 0, 1)
    assert bench.core.idle


def test_it_is_not_needed_where_there_is_room() -> None:
    bench = started()
    finish(bench, Ending(submissions=(NEXT,), instead=lambda: LETTER))
    assert (bench.status("next")[0], bench.status("f.dead")[0]) == (1, 0)
    assert bench.core.idle
