"""A worker's conversation against canned bytes: who may grab, sleep, wake and report, and when."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gtask.errors import LocalProtocolError
from gtask.protocol.codec import encode_response
from gtask.protocol.events import (
    Answered,
    JobAssigned,
    JobCreated,
    Lost,
    NoJob,
    Noop,
    Refused,
    WorkRefused,
)
from gtask.protocol.packets import PacketType as T
from gtask.protocol.worker import WorkerProtocol
from gtask.types import Submission

ASSIGN = encode_response(T.JOB_ASSIGN_UNIQ, b"H:lap:1", b"f", b"u1", b"work\0load")
NO_JOB = encode_response(T.NO_JOB)
NOOP = encode_response(T.NOOP)
GRAB = b"\0REQ\0\0\0\x1e\0\0\0\0"
PRE_SLEEP = b"\0REQ\0\0\0\x04\0\0\0\0"


def at_work() -> WorkerProtocol:
    """A worker that offers `f` and holds one job of it."""
    protocol = WorkerProtocol()
    protocol.can_do("f")
    protocol.grab()
    protocol.receive_data(ASSIGN)
    protocol.data_to_send()
    return protocol


def test_a_worker_introduces_itself() -> None:
    """Its name without blanks, its functions once each."""
    protocol = WorkerProtocol()
    protocol.set_client_id("host 1 pid 7")
    protocol.can_do("f")
    protocol.can_do("g")
    protocol.can_do("f")

    assert protocol.data_to_send() == (
        b"\0REQ\0\0\0\x16\0\0\0\x0chost_1_pid_7\0REQ\0\0\0\x01\0\0\0\x01f\0REQ\0\0\0\x01\0\0\0\x01g"
    )
    assert protocol.functions == ["f", "g"]
    assert repr(protocol) == "<WorkerProtocol 0 grabs, 2 functions, 0 jobs held>"


def test_each_grab_has_one_answer() -> None:
    """Three grabs: a job of each form of the answer; then none."""
    protocol = WorkerProtocol()
    protocol.grab(3)
    assert protocol.data_to_send() == GRAB * 3

    assert protocol.receive_data(
        ASSIGN
        + encode_response(T.JOB_ASSIGN, b"H:lap:2", b"g", b"")
        + encode_response(T.JOB_ASSIGN_ALL, b"H:lap:3", b"m", b"u3", b"sum", b"x")
    ) == [
        JobAssigned(b"H:lap:1", "f", "u1", b"work\0load"),
        JobAssigned(b"H:lap:2", "g", "", b""),
        JobAssigned(b"H:lap:3", "m", "u3", b"x", "sum"),
    ]
    assert protocol.outstanding == 0
    assert protocol.held == {b"H:lap:1": "f", b"H:lap:2": "g", b"H:lap:3": "m"}

    protocol.grab()
    assert protocol.receive_data(NO_JOB) == [NoJob()]


def test_a_worker_for_reducers_asks_for_them() -> None:
    """GRAB_JOB_ALL (protocol reference, section 2)."""
    protocol = WorkerProtocol(reducers=True)
    protocol.grab()

    assert protocol.data_to_send() == b"\0REQ\0\0\0\x27\0\0\0\0"


def test_names_that_are_no_utf8_come_back_as_they_were() -> None:
    """As surrogates, which encode to the same bytes."""
    protocol = WorkerProtocol()
    protocol.grab()

    [job] = protocol.receive_data(encode_response(T.JOB_ASSIGN_UNIQ, b"H", b"\xff", b"\xfe", b""))

    assert isinstance(job, JobAssigned)
    assert job.function.encode(errors="surrogateescape") == b"\xff"
    assert job.unique.encode(errors="surrogateescape") == b"\xfe"


@pytest.mark.parametrize("answer", [ASSIGN, NO_JOB], ids=["JOB_ASSIGN_UNIQ", "NO_JOB"])
def test_an_answer_without_a_grab_ends_the_conversation(answer: bytes) -> None:
    """It would be counted as the answer to the next one."""
    protocol = WorkerProtocol()

    assert protocol.receive_data(answer) == []
    assert "nothing had been grabbed" in str(protocol.error)
    assert protocol.held == {}


# --- sleeping ------------------------------------------------------------------------------------------------


def test_sleep_and_wake() -> None:
    """NO_JOB, PRE_SLEEP once, NOOP; then a grab is due before the next sleep (protocol reference, section 7)."""
    protocol = WorkerProtocol()
    protocol.grab()
    protocol.receive_data(NO_JOB)
    protocol.data_to_send()

    protocol.pre_sleep()
    protocol.pre_sleep()
    assert protocol.data_to_send() == PRE_SLEEP
    assert protocol.asleep
    assert repr(protocol) == "<WorkerProtocol asleep, 0 functions, 0 jobs held>"

    assert protocol.receive_data(NOOP) == [Noop()]
    assert protocol.must_grab
    assert not protocol.asleep
    with pytest.raises(LocalProtocolError, match="grabs until it is told NO_JOB"):
        protocol.pre_sleep()

    protocol.grab()
    protocol.receive_data(NO_JOB)
    protocol.pre_sleep()
    assert protocol.asleep


def test_a_sleeper_may_look_by_itself() -> None:
    """The safety poll: a grab ends the sleep, and a NOOP that crosses it says nothing new."""
    protocol = WorkerProtocol()
    protocol.pre_sleep()
    protocol.grab()

    assert not protocol.asleep
    assert protocol.receive_data(NOOP + NO_JOB) == [NoJob()]
    assert not protocol.must_grab
    protocol.grab()
    with pytest.raises(LocalProtocolError):
        protocol.pre_sleep()


def test_a_function_offered_late_must_be_looked_for() -> None:
    """CAN_DO wakes nobody, not even for jobs that wait (protocol reference, section 7)."""
    protocol = WorkerProtocol()
    protocol.pre_sleep()
    protocol.can_do("f")

    assert protocol.must_grab


# --- jobs ----------------------------------------------------------------------------------------------------


def test_everything_a_worker_may_say_of_a_job() -> None:
    """Data, warning and status while it runs, then its end."""
    protocol = at_work()
    protocol.send_data(b"H:lap:1", b"part")
    protocol.send_warning(b"H:lap:1", b"careful")
    protocol.send_status(b"H:lap:1", 7, 100)
    protocol.complete(b"H:lap:1", b"done\0")

    assert protocol.data_to_send() == (
        b"\0REQ\0\0\0\x1c\0\0\0\x0cH:lap:1\0part"
        b"\0REQ\0\0\0\x1d\0\0\0\x0fH:lap:1\0careful"
        b"\0REQ\0\0\0\x0c\0\0\0\x0dH:lap:1\x007\x00100"
        b"\0REQ\0\0\0\x0d\0\0\0\x0dH:lap:1\0done\0"
    )
    assert protocol.held == {}


@pytest.mark.parametrize("end", ["complete", "fail", "exception"])
def test_a_job_ends_once(end: str) -> None:
    """A second end would be answered JOB_NOT_FOUND; it is refused here, as is a report about nothing."""
    protocol = at_work()
    ends: dict[str, Callable[[], None]] = {
        "complete": lambda: protocol.complete(b"H:lap:1", b""),
        "fail": lambda: protocol.fail(b"H:lap:1"),
        "exception": lambda: protocol.exception(b"H:lap:1", b"Boom"),
    }

    ends[end]()

    ends["report"] = lambda: protocol.send_status(b"H:lap:1", 1, 2)
    for again in ends.values():
        with pytest.raises(LocalProtocolError, match="H:lap:1 is not held"):
            again()


def test_what_runs_is_not_given_back_by_mistake() -> None:
    """CANT_DO requeues running jobs, so it waits until nothing is held or on its way (section 9)."""
    protocol = at_work()
    with pytest.raises(LocalProtocolError, match="held or being grabbed"):
        protocol.cant_do("f")
    with pytest.raises(LocalProtocolError, match="held or being grabbed"):
        protocol.prefer("f")

    protocol.complete(b"H:lap:1", b"")
    protocol.grab()
    with pytest.raises(LocalProtocolError, match="held or being grabbed"):
        protocol.cant_do("f")

    protocol.receive_data(NO_JOB)
    protocol.data_to_send()
    protocol.prefer("f")
    assert protocol.data_to_send() == b"\0REQ\0\0\0\x02\0\0\0\x01f\0REQ\0\0\0\x01\0\0\0\x01f"
    protocol.cant_do("f")
    protocol.cant_do("f")
    assert protocol.data_to_send() == b"\0REQ\0\0\0\x02\0\0\0\x01f"
    assert protocol.functions == []


def test_errors_may_come_at_any_time() -> None:
    """In front of a grab's answer, or for no visible reason: the worker goes on (protocol reference, section 4)."""
    protocol = at_work()
    protocol.grab()

    found = protocol.receive_data(
        encode_response(T.ERROR, b"JOB_NOT_FOUND", b"Job does not exist on server")
        + encode_response(T.ERROR, b"INVALID_COMMAND", b"Command not expected")
        + NO_JOB
    )

    assert [type(event) for event in found] == [WorkRefused, WorkRefused, NoJob]
    assert protocol.error is None


def test_a_worker_submits_on_the_same_connection() -> None:
    """Answers to submissions and to grabs are two orders, and do not disturb each other."""
    protocol = at_work()
    result = protocol.submit(Submission("gtask.results.put", b"r", "u2"))
    protocol.grab()
    next_step = protocol.submit(Submission("send", b"", "u3"))
    echo = protocol.echo(b"alive")

    found = protocol.receive_data(
        encode_response(T.JOB_CREATED, b"H:lap:7")
        + NO_JOB
        + encode_response(T.ERROR, b"QUEUE_ERROR", b"QUEUE_ERROR")
        + encode_response(T.ECHO_RES, b"alive")
    )

    assert found[:2] == [JobCreated(result, b"H:lap:7"), NoJob()]
    assert isinstance(found[2], Refused)
    assert found[2].ticket is next_step
    assert found[3] == Answered(echo, b"alive")


def test_the_end_of_the_connection_lets_go_of_everything() -> None:
    """The job server gives its jobs to others; whoever waits for an answer is told."""
    protocol = at_work()
    echo = protocol.echo(b"")
    protocol.grab(2)

    assert protocol.receive_eof() == [Lost(echo)]
    assert (protocol.held, protocol.outstanding, protocol.asleep) == ({}, 0, False)
    assert repr(protocol) == "<WorkerProtocol closed, 1 functions, 0 jobs held>"
    for act in (protocol.grab, protocol.pre_sleep, lambda: protocol.can_do("g")):
        with pytest.raises(LocalProtocolError, match="has ended"):
            act()
