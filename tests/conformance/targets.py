"""The three job servers that every script runs against: the engine in memory, JobServer over TCP, gearmand.

A script sees only a `Target` and its `Talker`s. Nothing here sleeps: `receive` waits for the next bytes, and in memory,
where nothing comes by itself, lets the clock jump to the engine's next deadline instead.
"""

from __future__ import annotations

import itertools
import socket
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from gtask.protocol.codec import encode_request
from gtask.protocol.packets import HEADER_SIZE, LAYOUT, PacketType
from gtask.protocol.server import ServerProtocol
from gtask.server.effects import Close, Effect, Forget, Persist, Send
from gtask.server.engine import Engine
from gtask.server.jobs import Peer
from gtask.server.state import Settings

Received = tuple[PacketType, tuple[bytes, ...]]
_tokens = itertools.count()


class Nothing(AssertionError):
    """Nothing came in time."""


class Closed(AssertionError):
    """The server closed the connection."""


class Talker(ABC):
    """One connection to a target, and what came over it."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    @abstractmethod
    def raw(self, data: bytes) -> None:
        """Sends bytes."""

    @abstractmethod
    def fill(self) -> None:
        """Waits for more bytes; raises `Nothing` or `Closed`."""

    @abstractmethod
    def close(self) -> None:
        """Closes this end."""

    @abstractmethod
    def half_close(self) -> None:
        """Closes the direction to the server."""

    def send(self, type: PacketType, *args: bytes) -> None:
        """Sends one request."""
        self.raw(encode_request(type, *args))

    def ask(self, type: PacketType, *args: bytes) -> Received:
        """Sends one request and returns the next packet."""
        self.send(type, *args)
        return self.receive()

    def receive(self) -> Received:
        """The next packet, its arguments exactly as they came."""
        while (packet := self._packet()) is None:
            self.fill()
        return packet

    def line(self, command: bytes, end: bytes = b"\r\n") -> bytes:
        """Sends a text command and returns the one line that comes back."""
        self.raw(command + end)
        return self.until(b"\n")

    def listing(self, command: bytes) -> list[bytes]:
        """Sends a text command and returns the lines before the dot."""
        self.raw(command + b"\r\n")
        lines = []
        while (line := self.until(b"\n")) != b".\n":
            lines.append(line.removesuffix(b"\n"))
        return lines

    def until(self, end: bytes) -> bytes:
        """The next bytes up to and with `end`."""
        while end not in self.buffer:
            self.fill()
        length = self.buffer.index(end) + len(end)
        found = bytes(self.buffer[:length])
        del self.buffer[:length]
        return found

    def collect(self) -> list[Received]:
        """All packets that the server has sent by now, found by a round trip of ECHO."""
        token = b"barrier-%d" % next(_tokens)
        self.send(PacketType.ECHO_REQ, token)
        packets: list[Received] = []
        while (packet := self.receive()) != (PacketType.ECHO_RES, (token,)):
            packets.append(packet)
        return packets

    def ended(self) -> list[Received]:
        """Whatever comes until the server closes."""
        packets: list[Received] = []
        try:
            while True:
                packets.append(self.receive())
        except Closed:
            return packets

    def _packet(self) -> Received | None:
        buffer = self.buffer
        if len(buffer) < HEADER_SIZE:
            return None
        assert buffer[:4] == b"\0RES", bytes(buffer[:40])
        type, length = PacketType(int.from_bytes(buffer[4:8], "big")), int.from_bytes(buffer[8:12], "big")
        if len(buffer) < HEADER_SIZE + length:
            return None
        body = bytes(buffer[HEADER_SIZE : HEADER_SIZE + length])
        del buffer[: HEADER_SIZE + length]
        names = LAYOUT[type].args
        return type, tuple(body.split(b"\0", len(names) - 1)) if names else ()


class Target(Protocol):
    """A job server to run a script against. `patience` is how many seconds it waits for what should come."""

    patience: float

    def connect(self) -> Talker:
        """A new connection."""
        ...

    def unix_time(self) -> float:
        """The server's wall clock."""
        ...

    def close(self, talker: Talker, half: bool = False) -> None:
        """Closes a connection, or its direction to the server, and waits until the server has noticed."""
        ...

    def end(self) -> None:
        """Closes all connections."""
        ...


# --- in memory -----------------------------------------------------------------------------------------------


class MemoryTalker(Talker):
    """A connection to the engine in this process."""

    def __init__(self, target: MemoryTarget) -> None:
        super().__init__()
        self.target = target
        self.protocol = ServerProtocol()
        self.peer = Peer(target.count(), "127.0.0.1")
        self.closed = False

    def raw(self, data: bytes) -> None:
        engine, now = self.target.engine, self.target.now
        if not self.closed:
            self.target.perform(engine.handle_all(self.peer, self.protocol.receive_data(data), now))

    def fill(self) -> None:
        if self.closed:
            raise Closed
        self.target.advance()

    def close(self) -> None:
        self.target.disconnect(self)

    def half_close(self) -> None:
        self.close()


class MemoryTarget:
    """The engine, its clock and its store as a dictionary."""

    patience = 0.0

    def __init__(self, settings: Settings) -> None:
        self.engine = Engine(settings)
        self.now = 1_800_000_000.0
        self.stored: dict[bytes, bytes] = {}
        self._talkers: dict[Peer, MemoryTalker] = {}
        self._count = itertools.count(10)
        self.count: Callable[[], int] = lambda: next(self._count)

    def connect(self) -> MemoryTalker:
        talker = MemoryTalker(self)
        self._talkers[talker.peer] = talker
        self.perform(self.engine.connected(talker.peer, self.now))
        return talker

    def perform(self, effects: list[Effect]) -> None:
        """Does what the engine wants done."""
        for effect in effects:
            match effect:
                case Send(peer, data, job):
                    assert job is None or job.handle in self.stored, "an answer leaves before its job is stored"
                    if peer in self._talkers:
                        self._talkers[peer].buffer += data
                case Persist(job):
                    self.stored[job.handle] = job.data
                case Forget(job):
                    self.stored.pop(job.handle, None)
                case Close(peer):
                    self.disconnect(self._talkers[peer])

    def advance(self) -> None:
        """Lets time pass until something happens."""
        deadline = self.engine.next_deadline()
        if deadline is None:
            raise Nothing
        self.now = max(self.now, deadline)
        self.perform(self.engine.tick(self.now))

    def disconnect(self, talker: MemoryTalker) -> None:
        """Ends one connection."""
        talker.closed = True
        if self._talkers.pop(talker.peer, None) is not None:
            self.perform(self.engine.disconnected(talker.peer, self.now))

    def unix_time(self) -> float:
        return self.now

    def close(self, talker: Talker, half: bool = False) -> None:
        talker.half_close() if half else talker.close()

    def end(self) -> None:
        for talker in list(self._talkers.values()):
            talker.close()


# --- over TCP ------------------------------------------------------------------------------------------------


class SocketTalker(Talker):
    """A connection over TCP."""

    def __init__(self, port: int, target: SocketTarget) -> None:
        super().__init__()
        self.target = target
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if target.context is not None:
            self.socket = target.context.wrap_socket(self.socket, server_hostname="127.0.0.1")

    def raw(self, data: bytes) -> None:
        self.socket.settimeout(10)
        self.socket.sendall(data)

    def fill(self) -> None:
        self.socket.settimeout(self.target.patience)
        try:
            data = self.socket.recv(256 * 1024)
        except TimeoutError:
            raise Nothing from None
        except ConnectionError:
            raise Closed from None
        if not data:
            raise Closed
        self.buffer += data

    def close(self) -> None:
        self.socket.close()

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)


class SocketTarget:
    """A job server at a TCP port; other scripts may have used it before. With a `context` it is spoken to in TLS."""

    def __init__(self, port: int, patience: float = 10.0, context: ssl.SSLContext | None = None) -> None:
        self.port = port
        self.context = context
        self.patience = patience
        self._talkers: list[SocketTalker] = []

    def connect(self) -> SocketTalker:
        talker = SocketTalker(self.port, self)
        self._talkers.append(talker)
        return talker

    def unix_time(self) -> float:
        return time.time()

    def close(self, talker: Talker, half: bool = False) -> None:
        """The server no longer lists the connection when it has noticed; its client id tells which one it is."""
        name = b"closing-%d" % next(_tokens)
        talker.send(PacketType.SET_CLIENT_ID, name)
        talker.collect()
        watcher = self.connect()
        assert any(name in line for line in watcher.listing(b"workers"))
        talker.half_close() if half else talker.close()
        deadline = time.monotonic() + 10
        while any(name in line for line in watcher.listing(b"workers")):
            assert time.monotonic() < deadline, "the server does not notice that a connection was closed"

    def end(self) -> None:
        for talker in self._talkers:
            talker.close()
