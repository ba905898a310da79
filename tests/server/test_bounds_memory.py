"""The memory of a `gtask server` process under attack, measured: it stays within what its options say.

The peak of its resident memory is read from /proc; where there is none, nothing is measured.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gtask.protocol.codec import encode_request
from gtask.protocol.packets import PacketType as T
from gtask.testing.processes import JobServerProgram, job_server
from gtask.testing.programs import wait_until
from tests.conformance.targets import SocketTalker, SocketTarget
from tests.pki import Certificates

MIB = 1024 * 1024
PATIENCE = 60.0
MEMORY = 32 * MIB
BODY = 4 * MIB
OPTIONS = (f"--max-memory={MEMORY}", f"--max-body={BODY}", "--stall-timeout=60", "--loglevel=error")
"""All peers together may then hold back 16 MiB: four packets of the largest size."""

BUFFERS = 4 * BODY

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")


def memory(pid: int, what: str = "VmHWM") -> int:
    """A process's resident memory in bytes, by default the most it ever was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == what:
            return int(value.split()[0]) * 1024
    raise AssertionError(what)


@contextlib.contextmanager
def bounded(server: JobServerProgram, most: int) -> Iterator[None]:
    """Fails when the server's memory peaks at more than `most` bytes above where it is now."""
    before = memory(server.pid, "VmRSS")
    yield
    assert talk(server).ask(T.ECHO_REQ, b"alive") == (T.ECHO_RES, (b"alive",))
    grown = memory(server.pid) - before
    assert grown <= most, f"{grown / MIB:.1f} MiB instead of {most / MIB:.1f}"


_targets: list[SocketTarget] = []


def talk(server: JobServerProgram) -> SocketTalker:
    target = SocketTarget(server.port, PATIENCE)
    _targets.append(target)
    return target.connect()


@pytest.fixture(autouse=True)
def connections_are_closed() -> Iterator[None]:
    yield
    while _targets:
        _targets.pop().end()


@pytest.fixture
def server() -> Iterator[JobServerProgram]:
    with job_server(*OPTIONS) as server:
        yield server


@pytest.mark.parametrize("size", [0, 1000, MIB])
def test_jobs_until_no_more_are_taken(server: JobServerProgram, size: int) -> None:
    """Small ones, which are mostly overhead, and large ones."""
    peer = talk(server)
    with bounded(server, MEMORY + BUFFERS):
        taken = 0
        while True:
            count = 1 if size >= MIB else 500
            peer.raw(encode_request(T.SUBMIT_JOB_BG, b"f", b"", b"x" * size) * count)
            created = [peer.receive()[0] for _ in range(count)].count(T.JOB_CREATED)
            taken += created
            if created < count:
                break
        assert taken >= MEMORY // (size + 1000)


def test_packets_that_are_begun_and_not_finished(server: JobServerProgram) -> None:
    """100 peers with 3 MiB each: those who hold most are sent away."""
    begun = encode_request(T.ECHO_REQ, b"x" * BODY)[: 3 * MIB]
    with bounded(server, 3 * BUFFERS):
        for _ in range(100):
            with contextlib.suppress(OSError):
                talk(server).raw(begun)
        watcher = talk(server)
        wait_until(lambda: len(watcher.listing(b"workers")) <= 1 + BUFFERS // (3 * MIB), PATIENCE, "their end")


def test_answers_that_are_not_read(server: JobServerProgram) -> None:
    """24 peers who ask for their own bytes back, and for long lists, and read nothing."""
    jobs = talk(server)
    jobs.raw(encode_request(T.SUBMIT_JOB_BG, b"f", b"", b"") * 10_000)
    for _ in range(10_000):
        jobs.receive()
    ask = encode_request(T.ECHO_REQ, b"x" * 65536) * 16 + b"show jobs\r\n" * 16
    with bounded(server, 4 * BUFFERS):
        for _ in range(24):
            peer = talk(server)
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            threading.Thread(target=push, args=(peer, ask), daemon=True).start()
        for _ in range(20):
            assert jobs.ask(T.ECHO_REQ, b"x") == (T.ECHO_RES, (b"x",))


def push(peer: SocketTalker, data: bytes) -> None:
    """Sends until nothing more is taken."""
    peer.socket.settimeout(1.0)
    with contextlib.suppress(OSError):
        for _ in range(8):
            peer.socket.sendall(data)


def test_a_flood_of_tiny_packets(server: JobServerProgram) -> None:
    """20 peers with half a MiB each of the smallest requests there are; all are answered."""
    kinds = [
        encode_request(T.GRAB_JOB),
        encode_request(T.PRE_SLEEP),
        encode_request(T.ECHO_REQ, b""),
        encode_request(T.GET_STATUS, b"H:x"),
        b"\n",
    ]
    with bounded(server, 3 * BUFFERS):
        threads = [
            threading.Thread(target=push, args=(talk(server), kinds[number % len(kinds)] * (65536 // 12)))
            for number in range(20)
        ]
        for thread in threads:
            thread.start()
        other = talk(server)
        for _ in range(20):
            assert other.ask(T.ECHO_REQ, b"x") == (T.ECHO_RES, (b"x",))
        for thread in threads:
            thread.join()


def test_a_flood_of_garbage(server: JobServerProgram) -> None:
    with bounded(server, BUFFERS):
        for number in range(2000):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock:
                sock.sendall([b"\0XXX" + bytes(1000), b"\xff" * 1000 + b"\n", b"x" * 9000, b"\x16\x03\x01"][number % 4])


def test_a_flood_of_functions(server: JobServerProgram) -> None:
    """100,000 names, offered and submitted to, by peers who come again when they are sent away."""
    with bounded(server, 100 * MIB):
        peer = talk(server)
        for first in range(0, 50_000, 500):
            peer.raw(b"".join(encode_request(T.SUBMIT_JOB_BG, b"a%d" % n, b"", b"") for n in range(first, first + 500)))
            for _ in range(500):
                peer.receive()
        for first in range(0, 50_000, 500):
            offers = b"".join(encode_request(T.CAN_DO, b"b%d" % n) for n in range(first, first + 500))
            with contextlib.suppress(OSError, AssertionError):
                peer = talk(server)
                peer.raw(offers)
        assert len(talk(server).listing(b"status")) <= 20_000


def test_the_same_through_tls(certificates: Certificates) -> None:
    """Unfinished packets, unread answers and unfinished handshakes; OpenSSL's own memory is some 50 KiB for each."""
    options = [*OPTIONS, f"--tls-cert={certificates.server}"]
    with job_server(*options, tls=certificates.for_client()) as server, contextlib.ExitStack() as stack:
        context = certificates.context()

        def connect(wrap: bool = True) -> socket.socket:
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), PATIENCE))
            return stack.enter_context(context.wrap_socket(sock, server_hostname="127.0.0.1")) if wrap else sock

        before = memory(server.pid, "VmRSS")
        for _ in range(200):
            connect(wrap=False).sendall(b"\x16\x03\x01\x01\x00")
        begun = encode_request(T.ECHO_REQ, b"x" * BODY)[: 3 * MIB]
        for _ in range(30):
            with contextlib.suppress(OSError):
                connect().sendall(begun)
        for _ in range(30):
            threading.Thread(target=push_tls, args=(connect(), encode_request(T.ECHO_REQ, b"x" * 65536) * 16)).start()
        one = connect()
        for _ in range(50):
            one.sendall(encode_request(T.ECHO_REQ, b"x"))
            assert one.recv(100)
        grown = memory(server.pid) - before
        assert grown <= 4 * BUFFERS + 260 * 100 * 1024, f"{grown / MIB:.1f} MiB"


def push_tls(sock: socket.socket, data: bytes) -> None:
    sock.settimeout(1.0)
    with contextlib.suppress(OSError, ssl.SSLError):
        for _ in range(8):
            sock.sendall(data)
