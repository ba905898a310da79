"""One non-blocking connection to a job server; the faces only add how to wait for it.

Everything the operating system may raise leaves here as one of gtask's errors, in a sentence that names the server.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
from typing import Final

from gtask.errors import ConnectFailed, ConnectionLost
from gtask.transport.keepalive import keep_alive
from gtask.transport.tls import TLS
from gtask.types import Server

RECV_SIZE: Final = 64 * 1024
"""Bytes asked for at once; more would make each small answer pay for a large allocation."""

_TLS_RECV: Final = 256 * 1024
_TLS_SEND: Final = 4 * 1024 * 1024
_AGAIN: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Connection:
    """A connection to one job server that never waits: what cannot be done now is not done.

    It is made by `gtask.transport.blocking.connect` or `gtask.transport.aio.connect`. With TLS it must not be used
    by two threads at once; waiting for it in one while another uses it is fine.
    """

    __slots__ = ("_fileno", "_socket", "_tls", "server")

    def __init__(self, sock: socket.socket, server: Server) -> None:
        self._socket = sock
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._fileno = sock.fileno()
        self.server = server

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.server} {'closed' if self.closed else 'open'}>"

    def fileno(self) -> int:
        """The descriptor to wait for, -1 when closed."""
        return self._fileno

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._fileno < 0

    def send_some(self, data: bytes | memoryview) -> int:
        """Sends what fits into the socket's buffer now; returns the number of bytes taken, 0 when it is full.

        Raises `ConnectionLost` when the connection has ended.
        """
        if self._tls:
            return self._send_tls(data)
        try:
            return self._socket.send(data)
        except _AGAIN:
            return 0
        except OSError as error:
            raise self.lost(error) from error

    def _send_tls(self, data: bytes | memoryview) -> int:
        view = memoryview(data)[:_TLS_SEND]
        sent = 0
        try:
            while sent < len(view):  # one call takes no more than a record of 16 KiB
                sent += self._socket.send(view[sent:])
        except _AGAIN:
            pass
        except OSError as error:
            if not sent:  # else the next call finds out
                why = self._farewell() or error
                raise self.lost(why) from why
        return sent

    def _farewell(self) -> ssl.SSLError | None:
        """What the other side said before it closed the connection: a certificate it missed, for instance."""
        try:
            while self._socket.recv(RECV_SIZE):
                pass
        except ssl.SSLError as error:
            return error if "ALERT" in (error.reason or "") else None
        except OSError:
            pass
        return None

    def recv_some(self, size: int = RECV_SIZE) -> bytes | None:
        """Returns what has come, None when nothing has, and b"" when the other side has closed the connection.

        At most `size` bytes (256 KiB or so with TLS, whose decrypted bytes would be invisible to whoever waits for
        the descriptor, so none is left behind). Raises `ConnectionLost` when the connection was cut.
        """
        if self._tls:
            return self._recv_tls()
        try:
            return self._socket.recv(size)
        except _AGAIN:
            return None
        except OSError as error:
            raise self.lost(error) from error

    def _recv_tls(self) -> bytes | None:
        sock = self._socket
        assert isinstance(sock, ssl.SSLSocket)
        pieces: list[bytes] = []
        total = 0
        try:
            while total < _TLS_RECV or sock.pending():
                piece = sock.recv(RECV_SIZE)
                if not piece:
                    break
                pieces.append(piece)
                total += len(piece)
        except _AGAIN:
            if not pieces:
                return None
        except OSError as error:
            if not pieces:  # what came before the end is delivered first; the end is found again
                raise self.lost(error) from error
        return b"".join(pieces)

    @property
    def certificate_end(self) -> float | None:
        """The Unix time at which the other side's certificate ends, None without TLS."""
        sock = self._socket
        found = sock.getpeercert() if isinstance(sock, ssl.SSLSocket) else None
        return ssl.cert_time_to_seconds(str(found["notAfter"])) if found and "notAfter" in found else None

    def shutdown(self) -> None:
        """Ends the connection without freeing the descriptor, so that whoever waits for it wakes up."""
        if not self.closed:
            with contextlib.suppress(OSError):
                # Not SSLSocket.shutdown: it would take TLS off, and the next send would go out as plain text.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Frees the descriptor, at once and without a word to the other side; may be called again."""
        self._fileno = -1
        self._socket.close()

    def lost(self, error: OSError | None = None) -> ConnectionLost:
        """Makes the error for the end of this connection, with the system's reason if there is one."""
        reason = explain(error) if error is not None else "it closed the connection"
        return ConnectionLost(f"The connection to {self.server} was cut: {reason}.")


class HandshakeTimeout(TimeoutError):
    """The other side was connected, and did not finish its part of the TLS handshake in time."""


def explain(error: BaseException) -> str:
    """Says in a few words why a socket operation failed."""
    if isinstance(error, HandshakeTimeout):
        return f"it did not answer the TLS handshake in time; {_NO_TLS}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_certificate(error)
    if isinstance(error, ssl.SSLEOFError):
        return f"it closed the connection in the middle of TLS; {_NO_TLS}"
    if isinstance(error, ssl.SSLError):
        return _explain_tls(error)
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return (os.strerror(error.errno) if error.errno in errno.errorcode else str(error)).lower()
    return str(error.args[-1] if error.args else error).lower()


_NO_TLS: Final = "does it speak TLS at this port? gtask does not fall back to plain text"

_WRONG_NAME: Final = (62, 64)
_UNKNOWN_AUTHORITY: Final = (2, 18, 19, 20, 21)
"""OpenSSL's numbers (X509_V_ERR_...): wrong host name or address; self-signed, or the issuer is not to be found."""


def _explain_certificate(error: ssl.SSLCertVerificationError) -> str:
    why = (error.verify_message or "no reason given").rstrip(".")
    if error.verify_code in _WRONG_NAME:
        remedy = "write the address with the name in the certificate, or TLS(server_hostname=...)"
    elif error.verify_code in _UNKNOWN_AUTHORITY:
        remedy = "name the authority that signed it: TLS(cafile=...), --tls-ca or $GTASK_TLS_CAFILE"
    else:
        remedy = "it needs another one"
    return f"its certificate is not accepted ({why}); {remedy}"


def is_refusal(error: BaseException | None) -> bool:
    """Whether the other side ended TLS because of this side's certificate: it would do so again."""
    if not isinstance(error, ssl.SSLError):
        return False
    reason = (error.reason or "").replace("_", " ").lower()
    return "alert" in reason and any(word in reason for word in ("certificate", "unknown ca", "access denied"))


def _explain_tls(error: ssl.SSLError) -> str:
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if "wrong version" in reason or "record layer" in reason:
        return f"it answered in plain text; {_NO_TLS}"
    if "certificate required" in reason:
        return "it asks for a client certificate; name one: TLS(certfile=...), --tls-cert or $GTASK_TLS_CERTFILE"
    if is_refusal(error):
        return f"it does not accept the client certificate ({reason.partition('alert ')[2]}); name another one"
    if "alert handshake failure" in reason:
        return "it refuses the TLS handshake; does it ask for a client certificate, TLS(certfile=...)?"
    return f"TLS failed ({reason})"


def connect_failed(server: Server, error: BaseException) -> ConnectFailed:
    """Makes the error for a server that could not be reached."""
    if isinstance(error, socket.gaierror):
        why = f"its name cannot be resolved ({(error.strerror or str(error)).lower()})"
    else:
        why = explain(error)
    failed = ConnectFailed(f"{server} could not be reached: {why}.")
    failed.__cause__ = error
    return failed


def open_socket(family: int) -> socket.socket:
    """Makes the non-blocking TCP socket for one address: no delay for small packets, and keep-alive within 90 s."""
    sock = socket.socket(family, socket.SOCK_STREAM | getattr(socket, "SOCK_CLOEXEC", 0))
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def connect_result(sock: socket.socket) -> None:
    """Raises the `OSError` with which a non-blocking connect has ended, if it failed."""
    if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(code, os.strerror(code))


def start_tls(sock: socket.socket, server: Server, tls: TLS | None) -> ssl.SSLSocket:
    """Wraps a connected socket; the handshake is still to be done with `do_handshake`."""
    settings = tls or TLS()
    return settings.context().wrap_socket(
        sock, server_hostname=settings.server_hostname or server.host, do_handshake_on_connect=False
    )
