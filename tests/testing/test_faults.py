"""Each fault of the proxy, seen from both ends of plain sockets, so that the tests that lean on it can trust it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from gtask.testing import FaultProxy, free_port, wait_until
from gtask.types import Server

PATIENCE = 10.0
"""Seconds after which a socket of a test gives up."""


@contextmanager
def listener() -> Iterator[socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0))) as made:
        made.settimeout(PATIENCE)
        yield made


@pytest.fixture
def target() -> Iterator[socket.socket]:
    with listener() as made:
        yield made


@pytest.fixture
def proxy(target: socket.socket) -> Iterator[FaultProxy]:
    with FaultProxy(Server(*target.getsockname())) as made:
        yield made


@contextmanager
def connected(proxy: FaultProxy, target: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection through the proxy."""
    with socket.create_connection((proxy.host, proxy.port), PATIENCE) as near:
        far, _ = target.accept()
        with far:
            far.settimeout(PATIENCE)
            yield near, far


def read(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            break
        data += piece
    return data


def silent(sock: socket.socket, seconds: float = 0.2) -> bool:
    """Whether nothing comes for a while, no end of the connection either."""
    sock.settimeout(seconds)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(PATIENCE)
    return False


def test_unharmed_both_ways_and_counted(proxy: FaultProxy, target: socket.socket) -> None:
    data = bytes(range(256)) * 4096
    with connected(proxy, target) as (near, far):
        sender = threading.Thread(target=near.sendall, args=(data,))
        sender.start()
        assert read(far, len(data)) == data
        sender.join(PATIENCE)
        far.sendall(b"answer")
        assert read(near, 6) == b"answer"
        assert (proxy.accepted, proxy.connections) == (1, 1)
        assert proxy.sent == {"up": len(data), "down": 6}


def test_a_side_that_is_done_sending_may_still_receive(proxy: FaultProxy, target: socket.socket) -> None:
    with connected(proxy, target) as (near, far):
        near.sendall(b"question")
        near.shutdown(socket.SHUT_WR)
        assert read(far, 100) == b"question"
        far.sendall(b"answer")
        far.close()
        assert read(near, 100) == b"answer"


def test_cut_ends_both_sides_by_fin_and_new_connections_work(proxy: FaultProxy, target: socket.socket) -> None:
    with connected(proxy, target) as (near, far):
        assert proxy.cut() == 1
        assert near.recv(1) == b""
        assert far.recv(1) == b""
    with connected(proxy, target) as (near, far):
        near.sendall(b"again")
        assert read(far, 5) == b"again"


def test_cut_by_reset(proxy: FaultProxy, target: socket.socket) -> None:
    with connected(proxy, target) as (near, far):
        assert proxy.cut(reset=True) == 1
        for end in (near, far):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
        assert proxy.connections == 0


@pytest.mark.parametrize("direction", ["up", "down", "both"])
def test_stall_holds_bytes_back_until_healed(proxy: FaultProxy, target: socket.socket, direction: str) -> None:
    with connected(proxy, target) as (near, far):
        proxy.stall(direction)  # type: ignore[arg-type]
        near.sendall(b"up")
        far.sendall(b"down")
        if direction in ("up", "both"):
            assert silent(far)
        else:
            assert read(far, 2) == b"up"
        if direction in ("down", "both"):
            assert silent(near)
        else:
            assert read(near, 4) == b"down"
        proxy.heal()
        if direction != "down":
            assert read(far, 2) == b"up"
        if direction != "up":
            assert read(near, 4) == b"down"


def fill(sender: socket.socket) -> None:
    for _ in range(100_000):
        sender.send(bytes(65536))


def drain(receiver: socket.socket) -> None:
    while receiver.recv(100):
        pass


def test_a_stalled_sender_is_made_to_wait(proxy: FaultProxy, target: socket.socket) -> None:
    proxy.stall()
    with connected(proxy, target) as (near, _):
        near.setblocking(False)
        with pytest.raises(BlockingIOError):
            fill(near)


def test_half_open_is_silent_for_both_and_reset_at_the_end(proxy: FaultProxy, target: socket.socket) -> None:
    with connected(proxy, target) as (near, far):
        assert proxy.half_open() == 1
        near.sendall(b"lost")
        far.sendall(b"lost")
        assert silent(near)
        assert silent(far)
        assert proxy.connections == 0
        with connected(proxy, target) as (new_near, new_far):
            new_near.sendall(b"new ones work")
            assert read(new_far, 13) == b"new ones work"
        near.close()
        assert silent(far)
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            far.recv(1)


def test_half_open_for_new_connections_too(proxy: FaultProxy, target: socket.socket) -> None:
    proxy.half_open(new=True)
    with socket.create_connection((proxy.host, proxy.port), PATIENCE) as near:
        near.sendall(b"into the dark")
        assert silent(near)
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            near.recv(1)


def test_split_delivers_every_byte_alone(proxy: FaultProxy, target: socket.socket) -> None:
    proxy.split()
    data = bytes(range(200))
    with connected(proxy, target) as (near, far):
        near.sendall(data)
        assert read(far, len(data)) == data
        wait_until(lambda: proxy.sent["up"] == len(data), what="the count of the last byte")


def test_delay(proxy: FaultProxy, target: socket.socket) -> None:
    proxy.delay(0.3)
    with connected(proxy, target) as (near, far):
        began = time.monotonic()
        near.sendall(b"late")
        near.shutdown(socket.SHUT_WR)
        assert read(far, 100) == b"late"
        assert 0.29 <= time.monotonic() - began < PATIENCE


def test_corrupt_inverts_one_byte_and_then_no_more(proxy: FaultProxy, target: socket.socket) -> None:
    with connected(proxy, target) as (near, far):
        proxy.corrupt(1, "up", offset=1)
        near.sendall(b"abc")
        assert read(far, 3) == bytes([ord("a"), ord("b") ^ 0xFF, ord("c")])
        near.sendall(b"abc")
        assert read(far, 3) == b"abc"


@pytest.mark.parametrize("reset", [False, True])
def test_limit_cuts_in_the_middle(proxy: FaultProxy, target: socket.socket, reset: bool) -> None:
    with connected(proxy, target) as (near, far):
        proxy.limit(5, "up", reset)
        near.sendall(b"1234567890")
        if reset:
            with pytest.raises(ConnectionResetError):
                drain(near)
        else:
            assert read(far, 100) == b"12345"
            assert near.recv(1) == b""
    with connected(proxy, target) as (near, far):
        proxy.heal()
        near.sendall(b"1234567890")
        assert read(far, 10) == b"1234567890"


def test_refuse_turns_new_ones_away_and_keeps_the_old(proxy: FaultProxy, target: socket.socket) -> None:
    with connected(proxy, target) as (near, far):
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((proxy.host, proxy.port), PATIENCE)
        near.sendall(b"still")
        assert read(far, 5) == b"still"
        proxy.heal()
        with connected(proxy, target) as (new_near, new_far):
            new_near.sendall(b"new")
            assert read(new_far, 3) == b"new"


def test_a_target_that_is_away_is_a_reset() -> None:
    def connect_and_read(host: str, port: int) -> bytes:
        with socket.create_connection((host, port), PATIENCE) as near:
            return near.recv(1)

    with FaultProxy(Server("127.0.0.1", free_port())) as proxy:
        # The reset may be there before connecting has looked at its own outcome.
        with pytest.raises(ConnectionResetError):
            connect_and_read(proxy.host, proxy.port)
        proxy.wait_for_connections(1, PATIENCE)


def test_closing_ends_everything_and_may_be_repeated(target: socket.socket) -> None:
    proxy = FaultProxy(Server(*target.getsockname()))
    with connected(proxy, target) as (near, far):
        proxy.close()
        assert near.recv(1) == b""
        assert far.recv(1) == b""
    proxy.close()
    proxy.heal()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((proxy.host, proxy.port), PATIENCE)
    with pytest.raises(TimeoutError, match=r"0 of 1|1 of 2"):
        proxy.wait_for_connections(2, 0.01)
