"""TLS of the job server: who is let in, who is not, and that nobody's handshake keeps others waiting."""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
import sqlite3
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gtask.errors import ConfigurationError
from gtask.protocol.codec import encode_request
from gtask.protocol.packets import PacketType as T
from gtask.server import JobServer, ServerTLS
from gtask.testing.programs import Output, wait_until
from gtask.testing.requirements import require
from tests.conformance.targets import Closed, SocketTalker, SocketTarget
from tests.pki import Certificates

PATIENCE = 20.0
"""Seconds after which a test gives up on what must happen."""


@pytest.fixture
def server(certificates: Certificates) -> Iterator[JobServer]:
    with JobServer(port=0, tls=certificates.for_server()) as server:
        yield server


@contextlib.contextmanager
def talking(server: JobServer, context: ssl.SSLContext, count: int = 1) -> Iterator[list[SocketTalker]]:
    target = SocketTarget(server.port, PATIENCE, context)
    try:
        yield [target.connect() for _ in range(count)]
    finally:
        target.end()


@contextlib.contextmanager
def plain(server: JobServer) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock:
        yield sock


def logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Waits until the log says so."""
    wait_until(lambda: text in caplog.text, PATIENCE, f"the line {text!r}")


# --- who is let in -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_the_whole_port_speaks_tls(server: JobServer, certificates: Certificates, version: ssl.TLSVersion) -> None:
    """Packets and text commands alike."""
    assert server.url == f"gearmans://127.0.0.1:{server.port}"
    context = ssl.create_default_context(cafile=certificates.ca)
    context.minimum_version = context.maximum_version = version
    with talking(server, context, 2) as (c, w):
        assert c.line(b"version").startswith(b"OK gtask")
        w.send(T.CAN_DO, b"f")
        handle = c.ask(T.SUBMIT_JOB, b"f", b"", b"data")[1][0]
        assert w.ask(T.GRAB_JOB) == (T.JOB_ASSIGN, (handle, b"f", b"data"))
        w.send(T.WORK_COMPLETE, handle, b"done")
        assert c.receive() == (T.WORK_COMPLETE, (handle, b"done"))


def test_old_versions_are_refused(
    server: JobServer, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.create_default_context(cafile=certificates.ca)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with caplog.at_level(logging.WARNING, "gtask.server"), plain(server) as sock:
        with pytest.raises(ssl.SSLError, match="version"):
            context.wrap_socket(sock, server_hostname="127.0.0.1")
        logged(caplog, "TLS failed (unsupported protocol)")


@pytest.mark.parametrize(
    "data", [encode_request(T.ECHO_REQ, b"x"), b"version\n", b"GET / HTTP/1.1\r\n\r\n", b"\0"], ids=range(4)
)
def test_plain_text_ends_one_connection_with_one_line(
    server: JobServer, certificates: Certificates, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "gtask.server"), talking(server, certificates.context()) as (other,):
        with plain(server) as sock:
            sock.sendall(data)
            assert sock.recv(100) == b""
        logged(caplog, "The connection was closed.")
        assert other.ask(T.ECHO_REQ, b"alive") == (T.ECHO_RES, (b"alive",))
    assert [record.getMessage() for record in caplog.records] == [
        "127.0.0.1: It speaks plain text, and this port speaks TLS alone (gearmans://). The connection was closed."
    ]


def test_tls_at_a_plain_port_is_told_at_once(certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "gtask.server"), JobServer(port=0) as server, plain(server) as sock:
        with pytest.raises(OSError, match=r"EOF|reset"):
            certificates.context().wrap_socket(sock, server_hostname="127.0.0.1")
        logged(caplog, "It speaks TLS (gearmans://), and this port speaks plain text alone.")


def test_a_peer_without_the_right_certificate_is_sent_away(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "gtask.server"):
        with JobServer(port=0, tls=certificates.for_server(ask=True)) as server:
            with talking(server, certificates.context(certificates.client)) as (c,):
                assert c.line(b"version").startswith(b"OK gtask")
                for shown, why in (
                    (None, "It showed no certificate, and this port asks for one (--tls-client-ca)."),
                    (certificates.stranger, "Its certificate is not accepted (unable to get local issuer"),
                    (certificates.expired, "Its certificate is not accepted (certificate has expired)"),
                ):
                    # TLS 1.3 tells a client of it only after the handshake.
                    with pytest.raises((OSError, Closed)), talking(server, certificates.context(shown)) as (bad,):
                        bad.line(b"version")
                    logged(caplog, why)
                assert c.line(b"version").startswith(b"OK gtask")
    assert len(caplog.records) == 3


def test_a_peer_that_does_not_accept_the_certificate_says_so(
    server: JobServer, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "gtask.server"), plain(server) as sock:
        with pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context(cafile=certificates.other).wrap_socket(sock, server_hostname="127.0.0.1")
        logged(caplog, "It does not accept the certificate of this server (unknown ca).")


def test_a_peer_that_leaves_in_the_handshake_is_nothing_to_speak_of(
    server: JobServer, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """A monitor that looks whether the port is open must not fill the log."""
    with caplog.at_level(logging.INFO, "gtask.server"), talking(server, certificates.context()) as (c,):
        with plain(server):
            pass
        with plain(server) as sock:
            sock.sendall(b"\x16\x03\x01")
        assert c.ask(T.ECHO_REQ, b"x")[0] == T.ECHO_RES
        wait_until(lambda: len(c.listing(b"workers")) == 1, PATIENCE, "the end of both")
    assert caplog.records == []


# --- handshakes ----------------------------------------------------------------------------------------------


def hello() -> bytes:
    """How a client begins."""
    out = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="127.0.0.1")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


def test_a_stalled_handshake_blocks_nobody_and_ends(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """gearmand spins for as long as such a connection lasts, and serves nobody else on that thread (defect 29)."""
    begun = hello()
    with contextlib.ExitStack() as stack:
        stack.enter_context(caplog.at_level(logging.WARNING, "gtask.server"))
        server = stack.enter_context(JobServer(port=0, tls=certificates.for_server(), stall_timeout=2.0))
        silent = [stack.enter_context(plain(server)) for _ in range(20)]
        halfway = [stack.enter_context(plain(server)) for _ in range(20)]
        for sock in halfway:
            sock.sendall(begun[:100])
        waiting = [stack.enter_context(plain(server)) for _ in range(20)]
        for sock in waiting:
            sock.sendall(begun)
        for _ in range(5):
            (c,) = stack.enter_context(talking(server, certificates.context()))
            assert c.ask(T.ECHO_REQ, b"x") == (T.ECHO_RES, (b"x",))
        assert "The TLS handshake took" not in caplog.text
        for sock in [*silent, *halfway]:
            assert sock.recv(1) == b""
        for sock in waiting:
            while sock.recv(65536):
                pass
        assert c.ask(T.ECHO_REQ, b"x") == (T.ECHO_RES, (b"x",))
        wait_until(lambda: len(caplog.records) == 60, PATIENCE, "a line for each")
    assert {record.getMessage() for record in caplog.records} == {
        "127.0.0.1: The TLS handshake took more than 2 s. The connection was closed."
    }


def test_a_handshake_that_trickles_ends_too(certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    """Its time runs from the start, whatever comes."""
    with caplog.at_level(logging.WARNING, "gtask.server"):
        with JobServer(port=0, tls=certificates.for_server(), stall_timeout=1.0) as server, plain(server) as sock:
            sock.settimeout(0.05)
            begun, ended = hello(), False
            for position in range(len(begun)):
                with contextlib.suppress(OSError):
                    sock.sendall(begun[position : position + 1])
                try:
                    ended = not sock.recv(100)
                except TimeoutError:
                    continue
                except ConnectionError:
                    ended = True
                if ended:
                    break
            assert ended
            logged(caplog, "The TLS handshake took more than 1 s.")


class Slicer:
    """A socket that sends and takes single bytes."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="127.0.0.1")

    def push(self) -> None:
        for byte in self.outgoing.read():
            self.sock.sendall(bytes([byte]))

    def handshake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
                self.push()
                return
            except ssl.SSLWantReadError:
                self.push()
                self.incoming.write(self.sock.recv(1))

    def echo(self, data: bytes) -> bytes:
        self.tls.write(encode_request(T.ECHO_REQ, data))
        self.push()
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLWantReadError:
                self.incoming.write(self.sock.recv(1))


def test_bytes_may_come_one_by_one(server: JobServer, certificates: Certificates) -> None:
    with plain(server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        slicer = Slicer(sock, certificates.context())
        slicer.handshake()
        assert slicer.echo(b"slowly").endswith(b"slowly")


# --- bytes ---------------------------------------------------------------------------------------------------


def test_a_large_payload_goes_through_while_others_are_served(server: JobServer, certificates: Certificates) -> None:
    data = bytes(range(256)) * 64 * 1024  # 16 MiB
    with talking(server, certificates.context(), 3) as (c, w, other):
        w.send(T.CAN_DO, b"f")
        sending = threading.Thread(target=c.send, args=(T.SUBMIT_JOB, b"f", b"", data))
        sending.start()
        for _ in range(100):
            assert other.ask(T.ECHO_REQ, b"x") == (T.ECHO_RES, (b"x",))
        sending.join()
        assert c.receive()[0] == T.JOB_CREATED
        type, (handle, _, found) = w.ask(T.GRAB_JOB)
        assert (type, found) == (T.JOB_ASSIGN, data)
        sending = threading.Thread(target=w.send, args=(T.WORK_COMPLETE, handle, data))
        sending.start()
        assert c.receive() == (T.WORK_COMPLETE, (handle, data))
        sending.join()


def test_a_burst_is_committed_together_and_answered_together(certificates: Certificates, tmp_path: Path) -> None:
    """JOB_CREATED comes when the row is there, and a thousand of them in a few records rather than a thousand."""
    db = tmp_path / "queue.db"
    with JobServer(port=0, db=db, tls=certificates.for_server()) as server, plain(server) as sock:
        slicer = Slicer(sock, certificates.context())
        slicer.handshake()
        slicer.tls.write(b"".join(encode_request(T.SUBMIT_JOB_BG, b"f", b"u%d" % n, b"x") for n in range(1000)))
        sock.sendall(slicer.outgoing.read())
        answers, records = b"", 0
        while answers.count(b"\0RES") < 1000:
            try:
                answers += slicer.tls.read(65536)
                records += 1
            except ssl.SSLWantReadError:
                slicer.incoming.write(sock.recv(65536))
        assert records < 100
        with contextlib.closing(sqlite3.connect(db)) as database:
            assert database.execute("SELECT count(*) FROM gearman_queue").fetchone() == (1000,)


def test_what_is_sent_before_a_farewell_is_done(server: JobServer, certificates: Certificates) -> None:
    """A submission and TLS's close_notify in one go: the job is there, and the connection ends."""
    with plain(server) as sock, talking(server, certificates.context()) as (c,):
        slicer = Slicer(sock, certificates.context())
        slicer.handshake()
        slicer.tls.write(encode_request(T.SUBMIT_JOB_BG, b"f", b"last", b"x"))
        with contextlib.suppress(ssl.SSLError):
            slicer.tls.unwrap()
        sock.sendall(slicer.outgoing.read())
        while data := sock.recv(65536):
            slicer.incoming.write(data)
        assert b"\0RES\0\0\0\x08" in slicer.tls.read(65536)
        assert [line.split(b"\t")[:2] for line in c.listing(b"status")] == [[b"f", b"1"]]


def test_the_server_says_farewell(certificates: Certificates) -> None:
    """After a violation, and at its end: a peer can tell that from a cut."""
    with JobServer(port=0, tls=certificates.for_server()) as server:
        with plain(server) as sock, plain(server) as other:
            bad = certificates.context().wrap_socket(sock, server_hostname="127.0.0.1", suppress_ragged_eofs=False)
            good = certificates.context().wrap_socket(other, server_hostname="127.0.0.1", suppress_ragged_eofs=False)
            with contextlib.closing(bad), contextlib.closing(good):
                bad.sendall(encode_request(T.ECHO_REQ, b"x") + b"\0XXX" + bytes(100))
                assert bad.recv(100).endswith(b"x")
                assert bad.recv(100) == b""
                good.sendall(encode_request(T.ECHO_REQ, b"x"))
                assert good.recv(100).endswith(b"x")
                server.stop()
                assert good.recv(100) == b""


def test_a_peer_that_does_not_read_is_closed(certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "gtask.server"):
        with JobServer(port=0, max_output=4 * 1024 * 1024, tls=certificates.for_server()) as server:
            with talking(server, certificates.context(), 2) as (c, w):
                w.send(T.CAN_DO, b"f")
                handle = c.ask(T.SUBMIT_JOB, b"f", b"", b"")[1][0]
                w.ask(T.GRAB_JOB)
                for _ in range(64):
                    w.send(T.WORK_DATA, handle, b"x" * 512 * 1024)
                    if "does not read" in caplog.text:
                        break
                assert w.collect() == []
                logged(caplog, "does not read its answers and was closed")


def test_a_peer_that_only_asks_is_not_read_from_until_it_reads(server: JobServer, certificates: Certificates) -> None:
    echo = encode_request(T.ECHO_REQ, b"x" * 65536)
    with talking(server, certificates.context(), 1) as (other,), plain(server) as sock:
        slicer = Slicer(sock, certificates.context())
        slicer.handshake()
        for _ in range(512):  # 32 MiB, as records, sent by a thread while nobody reads
            slicer.tls.write(echo)
        sending = threading.Thread(target=sock.sendall, args=(slicer.outgoing.read(),))
        sending.start()
        for _ in range(100):
            assert other.ask(T.ECHO_REQ, b"y") == (T.ECHO_RES, (b"y",))
        missing = 512 * len(echo)
        while missing:
            try:
                missing -= len(slicer.tls.read(65536))
            except ssl.SSLWantReadError:
                slicer.incoming.write(sock.recv(65536))
        sending.join()


@contextlib.contextmanager
def s_client(server: JobServer, certificates: Certificates, *options: str) -> Iterator[tuple[Output, socket.socket]]:
    """`openssl s_client`, which does by one letter what Python cannot; what is typed goes through a socket."""
    path = require("openssl", package="openssl")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [path, "s_client", "-connect", f"127.0.0.1:{server.port}", "-CAfile", certificates.ca, *options]
        with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            assert process.stdout is not None
            output = Output(process.stdout)
            try:
                assert output.wait_for("Verify return code: 0", PATIENCE), output.lines()
                yield output, ours
            finally:
                process.kill()
                output.close()


def test_new_keys_are_made_when_a_peer_asks_for_them(server: JobServer, certificates: Certificates) -> None:
    """TLS 1.3's KeyUpdate, with a request for the same in return."""
    with s_client(server, certificates, "-tls1_3") as (output, typed):
        for _ in range(3):
            seen = output.position
            typed.sendall(b"K\n")
            assert output.wait_for("KEYUPDATE", PATIENCE, seen)
            typed.sendall(b"version\n")
            assert output.wait_for("OK gtask", PATIENCE, seen), output.lines()


def test_renegotiation_is_refused(server: JobServer, certificates: Certificates) -> None:
    """It costs the server much and a peer little; the connection ends, the server does not."""
    with s_client(server, certificates, "-tls1_2") as (output, typed):
        typed.sendall(b"version\n")
        assert output.wait_for("OK gtask", PATIENCE), output.lines()
        typed.sendall(b"R\n")
        assert output.wait_for("no renegotiation", PATIENCE), output.lines()
    with talking(server, certificates.context()) as (c,):
        assert c.ask(T.ECHO_REQ, b"x")[0] == T.ECHO_RES


# --- setting it up -------------------------------------------------------------------------------------------


def test_files_that_are_no_good_are_a_sentence(certificates: Certificates, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    for tls in (
        ServerTLS(tmp_path / "missing.pem"),
        ServerTLS(empty),
        ServerTLS(certificates.ca),  # no key in it
        ServerTLS(certificates.server, certificates.client),  # another one's key
        ServerTLS(certificates.server, client_cafile=empty),
    ):
        with pytest.raises(ConfigurationError, match=r"TLS cannot be set up with .*\.pem.*Name readable PEM files"):
            JobServer(port=0, tls=tls).start()
    with pytest.raises(ConfigurationError, match="--tls-cert"):
        JobServer(port=0, tls=ServerTLS("")).start()


def test_an_encrypted_key_is_a_sentence_and_no_question(certificates: Certificates, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as s

    text = Path(certificates.server).read_bytes()
    key = s.load_pem_private_key(text, None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"x"))
        + text[text.index(b"-----BEGIN CERTIFICATE") :]
    )
    with pytest.raises(ConfigurationError, match=r"The key in .*locked\.pem is encrypted"):
        JobServer(port=0, tls=ServerTLS(locked)).start()


def test_a_renewed_certificate_is_shown_to_new_connections(certificates: Certificates, tmp_path: Path) -> None:
    """What was there stays connected, and a file that is no good changes nothing."""
    file = tmp_path / "server.pem"
    shutil.copy(certificates.server, file)
    with JobServer(port=0, tls=ServerTLS(file)) as server:
        with talking(server, certificates.context()) as (old,):
            first = shown(old)
            shutil.copy(certificates.renewed, file)
            server.renew_tls()
            with talking(server, certificates.context()) as (new,):
                assert shown(new) != first
            file.write_text("nonsense")
            with pytest.raises(ConfigurationError):
                server.renew_tls()
            with talking(server, certificates.context()) as (new,):
                assert new.ask(T.ECHO_REQ, b"x")[0] == T.ECHO_RES
            assert old.ask(T.ECHO_REQ, b"x")[0] == T.ECHO_RES


def shown(talker: SocketTalker) -> bytes | None:
    sock = talker.socket
    assert isinstance(sock, ssl.SSLSocket)
    return sock.getpeercert(binary_form=True)


# --- the way in from inside ----------------------------------------------------------------------------------


def test_from_inside_no_certificate_is_needed(certificates: Certificates) -> None:
    with JobServer(port=0, tls=certificates.for_server(ask=True), max_connections=1) as server:
        with talking(server, certificates.context(certificates.client)) as (c,):
            c.collect()
            with server.connect() as inside:
                inside.settimeout(PATIENCE)
                inside.sendall(encode_request(T.ECHO_REQ, b"within"))
                assert inside.recv(100).endswith(b"within")
                assert len(c.listing(b"workers")) == 2
    with pytest.raises(ConnectionRefusedError):
        server.connect()
    with pytest.raises(ConnectionRefusedError):
        JobServer(port=0).connect()
