"""What a peer may take of the job server: places, time, functions, memory, turns. Reaching for more costs it dearly."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Iterator

import pytest

from gtask.client import Client
from gtask.errors import QueueFull
from gtask.protocol.admin import Command
from gtask.protocol.codec import encode_request
from gtask.protocol.packets import Packet
from gtask.protocol.packets import PacketType as T
from gtask.server import JobServer
from gtask.server.crowd import LINES, place_of
from gtask.server.engine import Engine
from gtask.server.jobs import JOB_SIZE, Peer
from gtask.server.state import Settings
from gtask.server.submit import MAX_CALLERS
from gtask.testing.programs import wait_until
from gtask.types import Submission
from tests.conformance.targets import Closed, SocketTalker, SocketTarget

PATIENCE = 20.0
"""Seconds after which a test gives up on what must happen."""


@contextlib.contextmanager
def talking(server: JobServer, count: int = 1) -> Iterator[list[SocketTalker]]:
    target = SocketTarget(server.port, PATIENCE)
    try:
        yield [target.connect() for _ in range(count)]
    finally:
        target.end()


@pytest.fixture(autouse=True)
def warnings_are_kept(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.WARNING, "gtask.server"):
        yield


def logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Waits until the log says so."""
    wait_until(lambda: text in caplog.text, PATIENCE, f"the line {text!r}")


# --- places --------------------------------------------------------------------------------------------------


def test_connections_from_one_address_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """One too many is turned away; the place of one that has left is free again."""
    with JobServer(port=0, max_connections_per_peer=3) as server, talking(server, 3) as peers:
        for peer in peers:
            peer.collect()
        with talking(server) as (late,):
            assert late.ended() == []
        logged(caplog, "127.0.0.1 was turned away: 3 connections from one address is the limit.")
        peers[0].close()
        wait_until(lambda: len(peers[1].listing(b"workers")) == 2, PATIENCE, "the end of one")
        with talking(server) as (late,):
            assert late.ask(T.ECHO_REQ, b"x") == (T.ECHO_RES, (b"x",))


def test_this_machine_is_counted_only_if_one_says_so() -> None:
    with JobServer(port=0, max_connections=8) as server, talking(server, 8) as peers:
        for peer in peers:
            assert peer.collect() == []


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("127.0.0.1", None),
        ("127.8.8.8", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_what_counts_as_one_address(address: str, place: str | None) -> None:
    """Whoever has one address of IPv6 has 2^64 of them."""
    assert place_of(address) == place


# --- time ----------------------------------------------------------------------------------------------------


def test_who_holds_nothing_and_says_nothing_is_sent_away() -> None:
    """A worker, a caller who waits and one who holds a job may be silent for ever."""
    with JobServer(port=0, idle_timeout=0.4) as server, talking(server, 3) as (idle, worker, caller):
        worker.send(T.CAN_DO, b"f")
        worker.collect()
        (handle,) = caller.ask(T.SUBMIT_JOB, b"f", b"", b"x")[1]
        assert worker.ask(T.GRAB_JOB)[0] == T.JOB_ASSIGN
        worker.send(T.CANT_DO, b"f")
        worker.collect()
        assert idle.ended() == []
        with talking(server) as (other,):
            assert other.ended() == []
        worker.send(T.WORK_COMPLETE, handle, b"done")
        assert caller.receive() == (T.WORK_COMPLETE, (handle, b"done"))
        assert caller.ended() == []
        assert worker.ended() == []


def test_who_says_something_now_and_then_stays() -> None:
    with JobServer(port=0, idle_timeout=0.4) as server, talking(server, 2) as (busy, idle):
        until = time.monotonic() + PATIENCE
        idle.socket.settimeout(0.02)
        while True:
            assert busy.ask(T.ECHO_REQ, b"x") == (T.ECHO_RES, (b"x",))
            try:
                assert idle.socket.recv(1) == b""
                break
            except TimeoutError:
                assert time.monotonic() < until


@pytest.mark.parametrize("begun", [b"\0", b"\0REQ\0\0", b"\0REQ\0\0\0\x10\0\0\x10\0half", b"versio"], ids=range(4))
def test_a_request_that_is_not_finished_ends(begun: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """With or without a function of its own; nobody else waits for it."""
    with JobServer(port=0, stall_timeout=0.5) as server, talking(server, 2) as (slow, other):
        slow.send(T.CAN_DO, b"f")
        slow.raw(begun)
        assert other.ask(T.ECHO_REQ, b"x") == (T.ECHO_RES, (b"x",))
        assert slow.ended() == []
        logged(caplog, f"It left a request unfinished for 0.5 s, after {len(begun)} bytes of it.")
        assert other.ask(T.ECHO_REQ, b"x") == (T.ECHO_RES, (b"x",))


def test_a_request_that_trickles_ends_too(caplog: pytest.LogCaptureFixture) -> None:
    with JobServer(port=0, stall_timeout=0.5) as server, talking(server) as (slow,):
        slow.raw(encode_request(T.ECHO_REQ, b"x" * 100_000)[:100])
        slow.socket.settimeout(0.02)
        until = time.monotonic() + PATIENCE
        while True:
            try:
                slow.socket.sendall(b"x")
                assert slow.socket.recv(1) == b""
                break
            except TimeoutError:
                assert time.monotonic() < until
            except ConnectionError:
                break
        logged(caplog, "It left a request unfinished for 0.5 s")


def test_a_slow_request_that_grows_is_waited_for() -> None:
    """4 KiB at a time for several times the timeout: more than 1 KiB a second is no attack."""
    data = b"x" * 256 * 1024
    packet = encode_request(T.ECHO_REQ, data)
    with JobServer(port=0, stall_timeout=0.2) as server, talking(server, 2) as (slow, idle):
        started = time.monotonic()
        for position in range(0, len(packet), 4096):
            slow.raw(packet[position : position + 4096])
            idle.socket.settimeout(0.015)
            with contextlib.suppress(TimeoutError):
                idle.socket.recv(1)
        assert time.monotonic() - started > 0.6
        assert slow.receive() == (T.ECHO_RES, (data,))


# --- functions -----------------------------------------------------------------------------------------------


def test_a_connection_offers_so_many_functions(caplog: pytest.LogCaptureFixture) -> None:
    with JobServer(port=0, max_abilities=10) as server, talking(server, 2) as (w, other):
        for number in range(10):
            w.send(T.CAN_DO, b"f%d" % number)
        w.send(T.CAN_DO, b"f3")  # known already
        assert w.collect() == []
        w.raw(b"".join(encode_request(T.CAN_DO, b"g%d" % number) for number in range(1000)))
        assert w.ended() == []
        logged(caplog, "It offers more than 10 functions, which is the limit for one connection.")
        assert not any(line.startswith(b"g") for line in other.listing(b"status"))
    assert len(caplog.records) == 1


def test_there_are_so_many_functions(caplog: pytest.LogCaptureFixture) -> None:
    """What is in use stays, and what is not makes room; the rest is refused."""
    with JobServer(port=0, max_functions=10) as server, talking(server, 3) as (c, w, late):
        for number in range(9):
            assert c.ask(T.SUBMIT_JOB_BG, b"f%d" % number, b"", b"x")[0] == T.JOB_CREATED
        w.send(T.CAN_DO, b"g")
        w.collect()
        refused = (T.ERROR, (b"QUEUE_ERROR", b"There are as many functions as there may be (--max-functions)"))
        assert c.ask(T.SUBMIT_JOB_BG, b"h", b"", b"x") == refused
        assert c.ask(T.SUBMIT_JOB_BG, b"f1", b"", b"x")[0] == T.JOB_CREATED
        assert c.line(b"create function h").startswith(b"ERR QUEUE_ERROR")
        assert c.line(b"maxqueue h 1").startswith(b"ERR QUEUE_ERROR")
        late.send(T.CAN_DO, b"h")
        assert late.ended() == []
        logged(caplog, "It offers another function, and there are as many as there may be")
        w.close()
        deadline = time.monotonic() + PATIENCE
        while c.ask(T.SUBMIT_JOB_BG, b"h", b"", b"x") == refused:  # looked for at most once a second
            assert time.monotonic() < deadline


# --- jobs ----------------------------------------------------------------------------------------------------


def test_jobs_take_so_much_memory() -> None:
    """Then QUEUE_ERROR, which the client knows as a full queue; what ends makes room."""
    with JobServer(port=0, max_memory=10 * (JOB_SIZE + 1000)) as server, talking(server) as (w,):
        with Client(server.url) as client:
            for _ in range(10):
                client.submit(Submission("f", b"x" * 1000))
            with pytest.raises(QueueFull, match="jobs take all the memory they may"):
                client.submit(Submission("f", b"x" * 1000))
            w.send(T.CAN_DO, b"f")
            handle = w.ask(T.GRAB_JOB)[1][0]
            w.send(T.WORK_COMPLETE, handle, b"")
            w.collect()
            client.submit(Submission("f", b"x" * 1000))


def test_who_runs_a_job_may_submit_what_follows_from_it() -> None:
    """Or results could not be handed over, and a full queue would never get empty; up to a quarter more."""
    with JobServer(port=0, max_memory=8 * JOB_SIZE + 800) as server, talking(server, 2) as (c, w):
        w.send(T.CAN_DO, b"f")
        for _ in range(8):
            assert c.ask(T.SUBMIT_JOB_BG, b"f", b"", b"x" * 100)[0] == T.JOB_CREATED
        assert c.ask(T.SUBMIT_JOB_BG, b"f", b"", b"x" * 100)[0] == T.ERROR
        assert w.ask(T.SUBMIT_JOB_BG, b"f", b"", b"x" * 100)[0] == T.ERROR
        assert w.ask(T.GRAB_JOB)[0] == T.JOB_ASSIGN
        assert w.ask(T.SUBMIT_JOB_BG, b"results", b"", b"x" * 100)[0] == T.JOB_CREATED
        assert w.ask(T.SUBMIT_JOB_BG, b"results", b"", b"x" * 100)[0] == T.JOB_CREATED
        assert w.ask(T.SUBMIT_JOB_BG, b"results", b"", b"x" * 3000)[0] == T.ERROR


def test_one_job_has_so_many_callers() -> None:
    with JobServer(port=0) as server, talking(server, 2) as (c, w):
        c.raw(encode_request(T.SUBMIT_JOB, b"f", b"same", b"x") * (MAX_CALLERS + 10))
        answers = [c.receive() for _ in range(MAX_CALLERS + 10)]
        assert [type for type, _ in answers] == [T.JOB_CREATED] * MAX_CALLERS + [T.ERROR] * 10
        assert w.ask(T.ECHO_REQ, b"x")[0] == T.ECHO_RES


def test_all_memory_is_given_back() -> None:
    """However a job ends: the count that `max_memory` is held against is exact."""
    engine, caller, worker = Engine(Settings()), Peer(), Peer()
    for peer in (caller, worker):
        engine.connected(peer, 0.0)
    engine.handle(worker, Packet(T.CAN_DO, (b"f",)), 0.0)
    for number in range(20):
        kind = (T.SUBMIT_JOB, T.SUBMIT_JOB_BG)[number % 2]
        engine.handle(caller, Packet(kind, (b"f", b"u%d" % number, b"x" * number)), 0.0)
    engine.handle(caller, Packet(T.SUBMIT_JOB_EPOCH, (b"f", b"later", b"99999999999", b"x")), 0.0)
    assert engine.held == 21 * JOB_SIZE + sum(range(20)) + 1
    ends = (T.WORK_COMPLETE, T.WORK_FAIL, T.WORK_EXCEPTION)
    for number in range(12):
        engine.handle(worker, Packet(T.GRAB_JOB), 0.0)
        handle = next(iter(worker.running))
        args = (handle,) if ends[number % 3] is T.WORK_FAIL else (handle, b"data")
        engine.handle(worker, Packet(ends[number % 3], args), 0.0)
    engine.handle(worker, Packet(T.GRAB_JOB), 0.0)
    engine.disconnected(worker, 0.0)
    engine.disconnected(caller, 0.0)
    left = list(engine.jobs())
    assert engine.held == sum(JOB_SIZE + len(job.data) for job in left)
    assert len(left) == 5
    for job in left:
        engine.handle(caller, Command("cancel job", (job.handle.decode(),)), 0.0)
    assert engine.held == 0


# --- turns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_", [b"show jobs\r\n", b"status\n", b"workers\n", encode_request(T.GET_STATUS_UNIQUE, b"nobody")]
)
def test_whoever_asks_for_much_is_answered_in_turns(request_: bytes) -> None:
    """64 KiB of a few bytes each, all at once, and each worth a long list: the others are served in between."""
    with JobServer(port=0) as server, talking(server, 3) as (greedy, c, other):
        c.raw(b"".join(encode_request(T.SUBMIT_JOB_BG, b"f%d" % number, b"", b"") for number in range(3000)))
        for _ in range(3000):
            c.receive()
        greedy.raw(request_ * (65536 // len(request_)))
        for _ in range(20):
            started = time.monotonic()
            assert other.ask(T.ECHO_REQ, b"x") == (T.ECHO_RES, (b"x",))
            assert time.monotonic() - started < 5.0  # without turns it is a minute or more
        # All is answered in the end, to one who reads.
        if request_.startswith(b"\0"):
            for _ in range(65536 // len(request_)):
                assert greedy.receive()[0] == T.STATUS_RES_UNIQUE


def test_a_flood_of_complaints_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    """A peer must not fill the disk with lines about itself."""
    with JobServer(port=0) as server:
        for _ in range(LINES + 50):
            with talking(server) as (bad,), contextlib.suppress(Closed, OSError):
                bad.raw(b"\x16\x03\x01")
                bad.ended()
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(encode_request(T.ECHO_REQ, b"x"))
            sock.settimeout(PATIENCE)
            assert sock.recv(100)
    assert len(caplog.records) == LINES
