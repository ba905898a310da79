"""Connections for threads: connecting, sending, receiving, waiting, and how each of it fails."""

from __future__ import annotations

import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from gtask.errors import ConfigurationError, ConnectFailed, ConnectionLost, RequestTimeout
from gtask.transport import TLS
from gtask.transport.blocking import Connection, connect
from gtask.types import Server
from tests.client.helpers import black_hole, closed_port
from tests.pki import Certificates
from tests.transport.helpers import PATIENCE, Listener, answer_once, hear, holding


def soon(seconds: float = PATIENCE) -> float:
    """A deadline."""
    return time.monotonic() + seconds


def receive_all(connection: Connection, size: int) -> bytes:
    """Receives `size` bytes the way a selectors loop does: until there are none, then wait."""
    data = b""
    while len(data) < size:
        piece = connection.recv_some()
        if piece is None:
            assert connection.wait_readable(soon())
            continue
        assert piece
        data += piece
    return data


def reset(sock: socket.socket) -> None:
    """Reads something and ends the connection the hard way."""
    sock.recv(10)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# --- connecting ----------------------------------------------------------------------------------------------


def test_bytes_there_and_back() -> None:
    """Also more than fits into any buffer at once."""
    data = bytes(range(256)) * 20_000
    with Listener() as listener:
        connection = connect(listener.server, PATIENCE)
        assert repr(connection) == f"<Connection {listener.server} open>"
        sender = threading.Thread(target=connection.send, args=[data, soon()])
        sender.start()
        assert receive_all(connection, len(data)) == data
        sender.join(PATIENCE)
        connection.close()
        connection.close()

    assert repr(connection) == f"<Connection {listener.server} closed>"
    assert connection.fileno() == -1


def test_small_packets_are_not_held_back_and_dead_peers_are_noticed() -> None:
    """TCP_NODELAY, and keep-alive after 30 s with 6 probes 10 s apart, where the platform has them."""
    with Listener() as listener:
        connection = connect(listener.server, PATIENCE)
        try:
            options = socket.socket(fileno=socket.dup(connection.fileno()))
        finally:
            connection.close()
    with options:
        assert options.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert options.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
            if hasattr(socket, name):
                assert options.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value
        assert not options.get_inheritable()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_a_server_on_ipv6() -> None:
    """Its address is written in brackets."""
    try:
        listener = Listener(host="::1")
    except OSError:
        pytest.skip("no IPv6 loopback here")
    with listener:
        connection = connect(listener.server, PATIENCE)
        connection.send(b"hello", soon())
        assert connection.recv(soon()) == b"hello"
        connection.close()
        assert str(connection.server) == f"gearman://[::1]:{listener.port}"


def test_all_addresses_of_a_name_are_tried() -> None:
    """Where localhost has two, only one of which listens."""
    with Listener() as listener:
        connection = connect(Server("localhost", listener.port), PATIENCE)
        connection.close()


def test_a_refused_connection() -> None:
    """An error of gtask's that is an `OSError` too, and names the server."""
    server = closed_port()

    with pytest.raises(ConnectFailed, match=rf"^{server} could not be reached: connection refused\.$") as caught:
        connect(server, PATIENCE)

    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


def test_a_connection_that_is_never_answered() -> None:
    """Ends with the timeout."""
    with black_hole() as server:
        with pytest.raises(ConnectFailed, match="it did not answer in time"):
            connect(server, 0.2)
        with pytest.raises(ConnectFailed, match="it did not answer in time"):
            connect(server, 0)


@pytest.mark.parametrize("host", ["x" * 64 + ".example", "a..b"])
def test_a_name_that_cannot_be_one(host: str) -> None:
    """Refused before anybody is asked."""
    with pytest.raises(ConnectFailed, match="could not be reached"):
        connect(Server(host, 4730), PATIENCE)


# --- sending and receiving -----------------------------------------------------------------------------------


def test_nothing_to_receive_is_no_end() -> None:
    """None: try again; the end: no bytes, again and again."""
    with Listener(answer_once) as listener:
        connection = connect(listener.server, PATIENCE)
        assert connection.recv_some() is None
        assert not connection.wait_readable(soon(0.01))
        with pytest.raises(RequestTimeout, match="did not answer in time"):
            connection.recv(soon(0.01))
        connection.send(b"last")
        assert connection.recv(soon()) == b"last"
        assert connection.recv(soon()) == b""
        assert connection.recv_some() == b""
        connection.close()


def test_a_peer_that_takes_nothing() -> None:
    """What fits into the buffers is sent, then nothing is, until the deadline."""
    with holding() as (listener, _):
        connection = connect(listener.server, PATIENCE)
        with pytest.raises(RequestTimeout, match="took no more bytes in time"):
            connection.send(bytes(100_000_000), soon(0.2))
        while connection.send_some(b"more"):
            pass
        assert not connection.wait_writable(soon(0.01))
        connection.close()


def test_a_connection_that_is_cut() -> None:
    """Reset by the peer: receiving says so, then sending."""
    with Listener(reset) as listener:
        connection = connect(listener.server, PATIENCE)
        connection.send(b"x")
        with pytest.raises(ConnectionLost, match=f"connection to {listener.server} was cut: connection reset by peer"):
            connection.recv(soon())
        with pytest.raises(ConnectionLost, match="was cut: broken pipe"):
            connection.send(b"x")
        connection.close()


def test_a_connection_ended_by_this_side_wakes_whoever_waits() -> None:
    """`shutdown` from another thread; the descriptor stays until `close`."""
    with Listener() as listener:
        connection = connect(listener.server, PATIENCE)
        woken: list[bool] = []
        waiter = threading.Thread(target=lambda: woken.append(connection.wait_readable(soon())))
        waiter.start()
        connection.shutdown()
        waiter.join(PATIENCE)
        assert woken == [True]
        assert connection.recv_some() == b""
        connection.close()
        connection.shutdown()


# --- TLS -----------------------------------------------------------------------------------------------------


@pytest.fixture
def trusting(certificates: Certificates) -> TLS:
    """Trusts the test's own authority."""
    return TLS(cafile=certificates.ca)


def test_bytes_there_and_back_through_tls(certificates: Certificates, trusting: TLS) -> None:
    """Nothing decrypted is left where a selectors loop cannot see it."""
    data = bytes(range(256)) * 8_000
    with Listener(context=certificates.for_server().context()) as listener:
        connection = connect(listener.server, PATIENCE, trusting)
        sender = threading.Thread(target=connection.send, args=[data[:50_000], soon()])
        sender.start()
        sender.join(PATIENCE)
        assert receive_all(connection, 50_000) == data[:50_000]
        for start in range(0, len(data), 100_000):
            connection.send(data[start : start + 100_000], soon())
            assert receive_all(connection, len(data[start : start + 100_000])) == data[start : start + 100_000]
        connection.close()


def test_the_end_of_a_tls_connection(certificates: Certificates, trusting: TLS) -> None:
    """No bytes, however rudely it ended."""
    with Listener(answer_once, certificates.for_server().context()) as listener:
        connection = connect(listener.server, PATIENCE, trusting)
        assert connection.recv_some() is None
        connection.send(b"last")
        assert connection.recv(soon()) == b"last"
        assert connection.recv(soon()) == b""
        connection.close()


def test_shutting_down_never_takes_tls_off(certificates: Certificates, trusting: TLS) -> None:
    """What is sent afterwards fails; it does not go out as plain text."""
    with Listener(context=certificates.for_server().context()) as listener:
        connection = connect(listener.server, PATIENCE, trusting)
        connection.shutdown()
        with pytest.raises(ConnectionLost):
            connection.send(b"secret", soon())
        connection.close()


def test_a_certificate_of_an_unknown_authority_is_not_accepted(certificates: Certificates) -> None:
    """Not by the system's authorities, which is the default, nor by another one."""
    with Listener(context=certificates.for_server().context()) as listener:
        for tls in (None, TLS(), TLS(cafile=certificates.other)):
            with pytest.raises(ConnectFailed, match="its certificate is not accepted"):
                connect(listener.server, PATIENCE, tls)


def test_a_certificate_for_another_name_is_not_accepted(certificates: Certificates, trusting: TLS) -> None:
    """The address's host counts, or the name that is expected instead."""
    with Listener(context=certificates.for_server(certificates.elsewhere).context()) as listener:
        connect(listener.server, PATIENCE, TLS(certificates.ca, server_hostname="jobs.example")).close()
        for tls in (trusting, TLS(certificates.ca, server_hostname="evil.example")):
            with pytest.raises(ConnectFailed, match=r"is not accepted \(.*(evil\.example|127\.0\.0\.1)"):
                connect(listener.server, PATIENCE, tls)


def test_a_server_that_asks_for_a_certificate(certificates: Certificates, trusting: TLS) -> None:
    """It is shown the one that was configured; without one the connection fails."""
    with Listener(context=certificates.for_server(ask=True).context()) as listener:
        connection = connect(listener.server, PATIENCE, TLS(certificates.ca, certificates.client))
        connection.send(b"hello", soon())
        assert connection.recv(soon()) == b"hello"
        connection.close()

        # TLS 1.3 tells a client of it only after the handshake.
        with pytest.raises((ConnectFailed, ConnectionLost), match=r"certificate|connection reset|closed"):
            say_hello(listener.server, trusting)


def say_hello(server: Server, tls: TLS) -> None:
    """Connects, and waits for an answer."""
    connection = connect(server, PATIENCE, tls)
    try:
        connection.send(b"hello", soon())
        if not connection.recv(soon()):
            raise connection.lost()
    finally:
        connection.close()


def test_a_server_without_tls_is_told_nothing(trusting: TLS) -> None:
    """No fall-back to plain text: it sees a handshake, and the caller an error that asks about the port."""
    seen: list[bytes] = []

    def talk(sock: socket.socket) -> None:
        seen.append(sock.recv(1000))
        sock.sendall(b"ERR UNKNOWN_COMMAND Unknown+server+command\r\n")

    with Listener(talk) as listener:
        with pytest.raises(ConnectFailed, match=r"does it speak TLS at this port\?"):
            connect(Server("127.0.0.1", listener.port, tls=True), PATIENCE, trusting)

    assert seen[0][:2] == b"\x16\x03"


def test_a_handshake_that_never_ends(trusting: TLS) -> None:
    """Ends with the timeout; one that is cut off says what to check."""
    with holding() as (listener, _), pytest.raises(ConnectFailed, match="it did not answer"):
        connect(Server("127.0.0.1", listener.port, tls=True), 0.2, trusting)
    with Listener(hear) as listener:
        with pytest.raises(ConnectFailed, match=r"speak TLS at this port\?|reset by peer"):
            connect(Server("127.0.0.1", listener.port, tls=True), PATIENCE, trusting)


def test_files_that_cannot_be_used_are_named(tmp_path: Path, certificates: Certificates) -> None:
    """Before anything is sent."""
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    with Listener(context=certificates.for_server().context()) as listener:
        for tls in (TLS(str(tmp_path / "missing.pem")), TLS(str(nonsense)), TLS(None, certificates.ca)):
            with pytest.raises(ConfigurationError, match=r"TLS cannot be set up with .*\.pem.*readable PEM files"):
                connect(listener.server, PATIENCE, tls)
