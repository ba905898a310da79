"""The calls of both clients, against both job servers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from gtask.client import Client
from gtask.errors import (
    ConnectFailed,
    JobException,
    JobFailed,
    LocalProtocolError,
    QueueFull,
    RequestTimeout,
    ResultTimeout,
)
from gtask.protocol.events import WorkData, WorkStatus, WorkWarning
from gtask.testing.embedded import EmbeddedServer
from gtask.testing.processes import JobServerProgram
from gtask.types import JobStatus, Priority, Submission
from tests.client.helpers import HANDLERS, PATIENCE, Faces, TestWorker, closed_port, gated, wait_until

AnyServer = EmbeddedServer | JobServerProgram


@pytest.fixture
def worker(any_server: AnyServer) -> Iterator[TestWorker]:
    """A worker for everything in `HANDLERS`."""
    with TestWorker(any_server.server, HANDLERS) as worker:
        yield worker


@pytest.fixture
def client(connect: Faces, any_server: AnyServer) -> Client:
    """A client of the server."""
    return connect(any_server.url)


def job(function: str = "nobody", workload: bytes = b"") -> Submission:
    """A foreground job."""
    return Submission(function, workload, background=False)


# --- background ----------------------------------------------------------------------------------------------


def test_a_background_job_is_there_once_it_is_submitted(client: Client, any_server: AnyServer) -> None:
    """The answer names server, handle and unique; the server lists the job."""
    submitted = client.submit(Submission("nobody", b"data", "u1"))

    assert submitted.server == any_server.server
    assert submitted.unique == "u1"
    assert any_server.admin("show jobs")[0].split("\t")[0] == submitted.handle
    assert any_server.admin("show unique jobs") == ["u1"]


def test_a_job_without_a_unique_gets_a_fresh_one(client: Client) -> None:
    """32 hexadecimal digits, the function hashed into the last 8."""
    one, other = client.submit(Submission("nobody", b"")), client.submit(Submission("nobody", b""))

    assert len(one.unique) == len(other.unique) == 32
    assert int(one.unique, 16) != int(other.unique, 16)
    assert one.unique[24:] == other.unique[24:]
    assert one.handle != other.handle


def test_priorities_reach_the_server(client: Client, any_server: AnyServer) -> None:
    """One job in each queue, and one for later among the normal ones."""
    for priority in Priority:
        client.submit(Submission("nobody", b"", priority=priority))
    client.submit(Submission("nobody", b"", when=int(time.time()) + 3600))

    assert any_server.admin("prioritystatus") == ["nobody\t1\t2\t1\t0"]


def test_a_full_queue_refuses(client: Client, any_server: AnyServer) -> None:
    """With an error of its own, and the connection goes on."""
    any_server.admin("create function nobody")
    any_server.admin("maxqueue nobody 1")
    client.submit(Submission("nobody", b""))

    with pytest.raises(QueueFull, match="Job queue is full"):
        client.submit(Submission("nobody", b""))

    assert client.echo(b"still there") == b"still there"


def test_many_jobs_are_submitted_together(client: Client, any_server: AnyServer) -> None:
    """10,000 of them, results in their order."""
    submitted = client.submit_many(Submission("nobody", b"x", f"u{number}") for number in range(10_000))

    assert [result.unique for result in submitted if not isinstance(result, Exception)] == [
        f"u{number}" for number in range(10_000)
    ]
    assert any_server.admin("status") == ["nobody\t10000\t0\t0"]


def test_of_many_jobs_each_is_refused_for_itself(client: Client, any_server: AnyServer) -> None:
    """The error stands in the place of the result."""
    any_server.admin("create function nobody")
    any_server.admin("maxqueue nobody 2")

    results = client.submit_many([Submission(name, b"") for name in ("nobody", "other", "nobody", "nobody", "other")])

    assert [isinstance(result, QueueFull) for result in results] == [False, False, False, True, False]


def test_many_large_jobs_pass_in_bounded_windows(client: Client, any_server: AnyServer) -> None:
    """40 MiB, more than any socket holds at once."""
    submitted = client.submit_many(Submission("nobody", bytes(1024 * 1024)) for _ in range(40))

    assert not any(isinstance(result, Exception) for result in submitted)
    assert any_server.admin("status") == ["nobody\t40\t0\t0"]


def test_no_jobs_at_all_are_no_work(client: Client) -> None:
    """Not even a connection."""
    assert client.submit_many([]) == []
    assert client.statuses([]) == []
    assert client.call_many([]) == []
    assert repr(client) == "<Client 1 server, 0 connected, 0 jobs open>"


def test_a_foreground_job_is_not_submitted_and_forgotten(client: Client) -> None:
    """Nobody would get its answer, so `submit` refuses it."""
    with pytest.raises(LocalProtocolError, match=r"use call\(\) or open\(\)"):
        client.submit(job())
    with pytest.raises(LocalProtocolError, match=r"use call\(\) or open\(\)"):
        client.submit_many([job()])
    with pytest.raises(LocalProtocolError, match="runs in the background"):
        client.call(Submission("nobody", b"", when=1))


def test_what_cannot_be_sent_is_refused_before_it_is_sent(client: Client, any_server: AnyServer) -> None:
    """And the connection is as good as before."""
    client.echo()

    with pytest.raises(LocalProtocolError, match="63 bytes at most"):
        client.submit(Submission("nobody", b"", "u" * 64))

    assert client.echo(b"fine") == b"fine"
    assert any_server.admin("status") == []


# --- foreground ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("worker")
def test_a_call_returns_the_result(client: Client) -> None:
    """Any bytes, and none at all."""
    assert client.call(job("reverse", b"\0abc"), timeout=PATIENCE) == b"cba\0"
    assert client.call(job("reverse", b"")) == b""
    assert client.call(job("reverse", bytes(3_000_000))) == bytes(3_000_000)


@pytest.mark.usefixtures("worker")
def test_a_call_reports_what_the_job_sends(client: Client) -> None:
    """In order, to the callback."""
    events: list[object] = []

    assert client.call(job("chatty"), PATIENCE, events.append) == b"done"

    assert [event[1:] for event in events if isinstance(event, WorkData | WorkWarning | WorkStatus)] == [
        (b"1", b"2"),
        (b"part 1",),
        (b"careful",),
        (b"part 2",),
    ]
    assert [type(event) for event in events] == [WorkStatus, WorkData, WorkWarning, WorkData]
    assert client.call(job("chatty"), PATIENCE) == b"done"


@pytest.mark.usefixtures("worker")
def test_a_job_that_fails_raises(client: Client) -> None:
    """With its exception's bytes, if it sent an exception: the client has asked for them."""
    with pytest.raises(JobFailed):
        client.call(job("failing"), PATIENCE)
    with pytest.raises(JobException) as caught:
        client.call(job("raising", b"x\xff"), PATIENCE)

    assert caught.value.data == b"Boom: x\xff"
    assert client.call(job("reverse", b"ab")) == b"ba"


@pytest.mark.usefixtures("worker")
def test_several_jobs_run_side_by_side(client: Client) -> None:
    """Over one connection; each gets its own answer, in whatever order it is asked for."""
    jobs = [client.open(job("reverse", b"ab%d" % number)) for number in range(20)]
    assert repr(client) == "<Client 1 server, 1 connected, 20 jobs open>"

    assert [running.result(PATIENCE) for running in reversed(jobs)] == [
        (b"ab%d" % number)[::-1] for number in reversed(range(20))
    ]
    assert repr(client) == "<Client 1 server, 1 connected, 0 jobs open>"


@pytest.mark.usefixtures("worker")
def test_many_calls_are_made_together(client: Client) -> None:
    """Results in their order, an error in the place of its result."""
    calls = [job("reverse", b"%d" % number) for number in range(1500)]
    calls[7] = job("failing")
    calls[8] = job("raising")

    results = client.call_many(calls, timeout=PATIENCE)

    assert isinstance(results[7], JobFailed)
    assert isinstance(results[8], JobException)
    assert [result for index, result in enumerate(results) if index not in (7, 8)] == [
        (b"%d" % number)[::-1] for number in range(1500) if number not in (7, 8)
    ]


@pytest.mark.usefixtures("worker")
def test_the_events_of_a_job_are_read_by_iterating_over_it(client: Client) -> None:
    """And its result afterwards, again and again."""
    with client.open(job("chatty")) as running:
        assert [type(event) for event in running] == [WorkStatus, WorkData, WorkWarning, WorkData]
        assert running.result() == running.result() == b"done"
        assert running.handle
        assert list(running) == []


def test_a_job_that_nobody_runs_is_waited_for_in_vain(client: Client) -> None:
    """Its result may be asked for again; the connection stays in use, for others and for what comes late."""
    with client.open(job(), timeout=PATIENCE) as running:
        with pytest.raises(ResultTimeout):
            running.result(0.05)
        assert client.echo(b"fine") == b"fine"
        with pytest.raises(ResultTimeout):
            running.result(0.05)
    with pytest.raises(ResultTimeout):
        client.call(job(), timeout=0.05)

    assert repr(client) == "<Client 1 server, 1 connected, 0 jobs open>"


def test_the_late_answer_of_a_job_that_was_given_up_is_swallowed(client: Client, any_server: AnyServer) -> None:
    """It is nobody's answer, and least of all the next one's."""
    gate = threading.Event()
    with TestWorker(any_server.server, {"gated": gated(gate), "reverse": HANDLERS["reverse"]}):
        with pytest.raises(ResultTimeout):
            client.call(job("gated"), timeout=0.1)
        running = client.open(job("reverse", b"ab"))
        gate.set()

        assert running.result(PATIENCE) == b"ba"
    assert repr(client) == "<Client 1 server, 1 connected, 0 jobs open>"


# --- questions -----------------------------------------------------------------------------------------------


def test_the_status_of_a_job_is_known_by_its_unique(client: Client, any_server: AnyServer) -> None:
    """Queued, then running; never known, then no longer."""
    gate, started = threading.Event(), threading.Event()
    client.submit(Submission("gated", b"", "u1"))
    assert client.status("u1") == JobStatus(known=True)
    assert client.status("u2") == JobStatus()

    with TestWorker(any_server.server, {"gated": gated(gate, started)}):
        assert started.wait(PATIENCE)
        assert client.status("u1", timeout=PATIENCE) == JobStatus(known=True, running=True)
        gate.set()
        wait_until(lambda: client.status("u1") == JobStatus())


def test_many_statuses_are_asked_for_together(client: Client) -> None:
    """In windows, answers in their order."""
    client.submit_many(Submission("nobody", b"", f"u{number}") for number in range(0, 3000, 3))

    statuses = client.statuses([f"u{number}" for number in range(3000)])

    assert [status.known for status in statuses] == [number % 3 == 0 for number in range(3000)]


def test_an_echo_is_a_sign_of_life(client: Client, any_server: AnyServer) -> None:
    """From the preferred server, or from one by name."""
    assert client.echo() == b"gtask"
    assert client.echo(b"\0\1", server=any_server.server) == b"\0\1"
    with pytest.raises(LocalProtocolError, match="none of this client's servers"):
        client.echo(server=closed_port())


# --- when nothing works --------------------------------------------------------------------------------------


def test_servers_that_refuse_are_named_at_once(connect: Faces) -> None:
    """With their reasons, and what to do; long before any timeout."""
    servers = [closed_port(), closed_port()]
    client = connect(servers, connect_timeout=1000, request_timeout=1000)
    calls = (
        lambda: client.submit(Submission("f", b"")),
        lambda: client.submit_many([Submission("f", b"")]),
        lambda: client.call(job()),
        lambda: client.call_many([job()]),
        lambda: client.open(job()),
        lambda: client.status("u"),
        client.echo,
    )
    for call in calls:
        with pytest.raises(ConnectFailed) as caught:
            call()
        for server in servers:
            assert f"{server} could not be reached: connection refused." in str(caught.value)
        assert "`gtask server` starts one" in str(caught.value)


def test_a_closed_client_makes_no_more_calls(client: Client) -> None:
    """It says so."""
    client.echo()
    client.close()
    client.close()

    assert repr(client) == "<Client 1 server, closed>"
    with pytest.raises(LocalProtocolError, match="client is closed"):
        client.submit(Submission("f", b""))


def test_a_timeout_of_nothing_is_over_at_once(client: Client) -> None:
    """Whatever the call, and without harm to the client."""
    with contextlib.suppress(ConnectFailed, RequestTimeout):  # an answer may be quicker than the look at the clock
        client.submit(Submission("f", b""), timeout=0)
    client.echo()
    with pytest.raises((RequestTimeout, ResultTimeout)):
        client.call(job(), timeout=0)
    assert client.echo(b"fine") == b"fine"
