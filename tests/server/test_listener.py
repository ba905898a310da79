"""JobServer as a process's neighbour: addresses, stopping, hostile peers, full tables, slow readers."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from gtask.errors import ConfigurationError
from gtask.protocol.codec import encode_request
from gtask.protocol.packets import PacketType as T
from gtask.server import JobServer
from gtask.testing.programs import port_is_open
from gtask.types import parse_server
from tests.conformance.targets import Closed, SocketTalker, SocketTarget

FINDS_OUT = 20.0
"""Seconds after which a test gives up on what must happen."""


@pytest.fixture
def server() -> Iterator[JobServer]:
    with JobServer(port=0) as server:
        yield server


@contextlib.contextmanager
def talking(server: JobServer, count: int = 1) -> Iterator[list[SocketTalker]]:
    target = SocketTarget(server.port, patience=FINDS_OUT)
    try:
        yield [target.connect() for _ in range(count)]
    finally:
        target.end()


def eventually(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Waits until the log says so."""
    deadline = time.monotonic() + FINDS_OUT
    while text not in caplog.text:
        assert time.monotonic() < deadline, caplog.text
        threading.Event().wait(0.01)


# --- life ----------------------------------------------------------------------------------------------------


def test_a_free_port_is_taken_and_told(server: JobServer) -> None:
    assert server.port > 0
    assert server.url == f"gearman://127.0.0.1:{server.port}"
    assert parse_server(server.url).port == server.port
    with talking(server) as (c,):
        assert c.line(b"version").startswith(b"OK gtask")


def test_it_listens_on_loopback_unless_told_otherwise() -> None:
    assert JobServer().host == "127.0.0.1"


def test_an_address_in_use_is_a_sentence(server: JobServer) -> None:
    with pytest.raises(ConfigurationError, match=f"cannot listen at 127.0.0.1:{server.port}"):
        JobServer(port=server.port).start()


def test_no_address_is_a_sentence() -> None:
    with pytest.raises(ConfigurationError, match="no address"):
        JobServer("no.such.host.invalid", 0).start()


def test_it_is_started_once(server: JobServer) -> None:
    with pytest.raises(ConfigurationError, match="started already"):
        server.start()


def test_stopping_before_serving_ends_at_once() -> None:
    server = JobServer(port=0)
    server.start()
    server.stop()
    server.serve_forever()
    server.stop()


def test_stopping_closes_the_connections() -> None:
    with JobServer(port=0) as server, talking(server) as (c,):
        assert c.ask(T.ECHO_REQ, b"x")[0] == T.ECHO_RES
        server.stop()
        assert c.ended() == []


def test_a_graceful_stop_waits_for_what_runs() -> None:
    with JobServer(port=0) as server, talking(server, 2) as (c, w):
        w.send(T.CAN_DO, b"f")
        handle = c.ask(T.SUBMIT_JOB, b"f", b"", b"1")[1][0]
        c.ask(T.SUBMIT_JOB, b"f", b"", b"2")
        w.ask(T.GRAB_JOB)
        server.stop(graceful=FINDS_OUT)
        deadline = time.monotonic() + FINDS_OUT
        while port_is_open(server.host, server.port):
            assert time.monotonic() < deadline
        assert w.ask(T.GRAB_JOB) == (T.NO_JOB, ())
        w.send(T.WORK_COMPLETE, handle, b"done")
        assert c.receive() == (T.WORK_COMPLETE, (handle, b"done"))
        assert c.ended() == []


def test_a_graceful_stop_does_not_wait_for_ever() -> None:
    with JobServer(port=0) as server, talking(server, 2) as (c, w):
        w.send(T.CAN_DO, b"f")
        c.ask(T.SUBMIT_JOB, b"f", b"", b"1")
        w.ask(T.GRAB_JOB)
        server.stop(graceful=0.1)
        assert c.ended() == []


def test_a_signal_handler_may_stop_it() -> None:
    program = (
        "import signal\nfrom gtask.server import JobServer\nserver = JobServer(port=0)\n"
        "signal.signal(signal.SIGTERM, lambda *_: server.stop())\nserver.start()\n"
        "print(server.port, flush=True)\nserver.serve_forever()\nprint('ended')\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with contextlib.closing(socket.create_connection(("127.0.0.1", port))):
            process.send_signal(signal.SIGTERM)
            assert process.stdout.read() == b"ended\n"
            assert process.wait(FINDS_OUT) == 0


# --- many and much -------------------------------------------------------------------------------------------


def test_a_large_payload_goes_through_while_others_are_served(server: JobServer) -> None:
    data = bytes(range(256)) * 128 * 1024  # 32 MiB
    with talking(server, 3) as (c, w, other):
        w.send(T.CAN_DO, b"f")
        sending = threading.Thread(target=c.send, args=(T.SUBMIT_JOB, b"f", b"", data))
        sending.start()
        for _ in range(100):
            assert other.ask(T.ECHO_REQ, b"x") == (T.ECHO_RES, (b"x",))
        sending.join()
        assert c.receive()[0] == T.JOB_CREATED
        type, (handle, _, found) = w.ask(T.GRAB_JOB)
        assert type == T.JOB_ASSIGN
        assert found == data
        sending = threading.Thread(target=w.send, args=(T.WORK_COMPLETE, handle, data))
        sending.start()
        assert c.receive() == (T.WORK_COMPLETE, (handle, data))
        sending.join()


def test_a_flood_from_one_does_not_stop_the_others(server: JobServer) -> None:
    packet = encode_request(T.SUBMIT_JOB_BG, b"f", b"", b"x")
    with talking(server, 2) as (flood, other):
        sending = threading.Thread(target=flood.raw, args=(packet * 20_000,))
        sending.start()
        for _ in range(50):
            assert other.ask(T.ECHO_REQ, b"x") == (T.ECHO_RES, (b"x",))
        for _ in range(20_000):
            assert flood.receive()[0] == T.JOB_CREATED
        sending.join()


def test_many_connections_at_once(server: JobServer) -> None:
    with talking(server, 200) as talkers:
        for n, talker in enumerate(talkers):
            talker.send(T.ECHO_REQ, b"%d" % n)
        for n, talker in enumerate(talkers):
            assert talker.receive() == (T.ECHO_RES, (b"%d" % n,))


def test_more_connections_than_allowed_are_turned_away(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "gtask.server"), JobServer(port=0, max_connections=2) as server:
        with talking(server, 3) as talkers:
            for talker in talkers[:2]:
                assert talker.ask(T.ECHO_REQ, b"x")[0] == T.ECHO_RES
            with pytest.raises(Closed):
                talkers[2].receive()
    assert "turned away" in caplog.text


def test_running_out_of_descriptors_is_survived_without_spinning() -> None:
    program = (
        "import resource, sys, threading, time\nfrom gtask.server import JobServer\n"
        "server = JobServer(port=0)\nserver.start()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
        "print(server.port, flush=True)\n"
        "threading.Thread(target=lambda: (sys.stdin.readline(), print(time.process_time(), flush=True)) and None,"
        " daemon=True).start()\n"
        "server.serve_forever()\n"
    )
    command = [sys.executable, "-c", program]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            port = int(process.stdout.readline())
            crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
            assert b"Too many open files" in process.stderr.readline()
            for sock in crowd[:40]:
                sock.close()
            crowd[-1].settimeout(FINDS_OUT)
            crowd[-1].sendall(encode_request(T.ECHO_REQ, b"served"))
            assert crowd[-1].recv(100).endswith(b"served")
            for sock in crowd[40:]:
                sock.close()
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert float(process.stdout.readline()) < 5.0
        finally:
            process.kill()


def test_a_peer_that_does_not_read_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "gtask.server"), JobServer(port=0, max_output=4 * 1024 * 1024) as server:
        with talking(server, 2) as (c, w):
            w.send(T.CAN_DO, b"f")
            handle = c.ask(T.SUBMIT_JOB, b"f", b"", b"")[1][0]
            w.ask(T.GRAB_JOB)
            for _ in range(64):
                w.send(T.WORK_DATA, handle, b"x" * 512 * 1024)
                if "does not read" in caplog.text:
                    break
            assert w.collect() == []
            eventually(caplog, "does not read its answers and was closed")
            w.send(T.WORK_COMPLETE, handle, b"")
            assert w.collect() == []


def test_a_peer_that_only_asks_is_not_read_from_until_it_reads(server: JobServer) -> None:
    """Its answers would take 64 MiB; the server holds a fraction, and nothing is lost."""
    echo = encode_request(T.ECHO_REQ, b"x" * 65536)
    with talking(server, 2) as (c, other):
        sending = threading.Thread(target=c.raw, args=(echo * 1024,))
        sending.start()
        for _ in range(100):
            assert other.ask(T.ECHO_REQ, b"y") == (T.ECHO_RES, (b"y",))
        for _ in range(1024):
            assert c.receive()[0] == T.ECHO_RES
        sending.join()


# --- hostile bytes -------------------------------------------------------------------------------------------

GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)) + b"\n",  # the start of TLS
    b"\0XXX" + bytes(100),
    b"\0REQ" + b"\xff" * 8,
    b"\0REQ\0\0\0\x63\0\0\0\0",
    b"\0REQ\0\0\0\x10\xff\xff\xff\xff" + b"x" * 200_000,
    b"x" * 100_000,
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_ends_one_connection_with_one_line(
    server: JobServer, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "gtask.server"), talking(server, 2) as (c, other):
        with contextlib.suppress(OSError):
            c.raw(garbage)
        packets = c.ended()
        assert all(type == T.ERROR for type, _ in packets)
        assert other.ask(T.ECHO_REQ, b"alive") == (T.ECHO_RES, (b"alive",))
        eventually(caplog, "The connection was closed.")
    (record,) = caplog.records
    assert record.exc_info is None
    assert record.getMessage().startswith("127.0.0.1: ")


def test_a_packet_over_the_limit_is_answered_before_the_end() -> None:
    with JobServer(port=0, max_body=1000) as server, talking(server) as (c,):
        with contextlib.suppress(OSError):
            c.raw(encode_request(T.ECHO_REQ, b"x" * 5_000_000))
        ((type, (code, text)),) = c.ended()
        assert (type, code) == (T.ERROR, b"ARGUMENT_TOO_LARGE")
        assert b"1000 bytes is the limit" in text


def test_http_is_told_that_this_is_not_http(server: JobServer) -> None:
    with talking(server) as (c,):
        c.raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert c.until(b"\n") == b"ERR UNKNOWN_COMMAND Unknown+server+commandGET\r\n"


def test_a_peer_that_resets_is_forgotten(server: JobServer) -> None:
    with talking(server, 2) as (c, w):
        w.send(T.CAN_DO, b"f")
        handle = c.ask(T.SUBMIT_JOB_BG, b"f", b"", b"x")[1][0]
        w.ask(T.GRAB_JOB)
        w.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        w.close()
        deadline = time.monotonic() + FINDS_OUT
        while c.ask(T.GET_STATUS, handle)[1][2] != b"0":
            assert time.monotonic() < deadline
