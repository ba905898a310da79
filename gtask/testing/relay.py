"""What `gtask.testing.faults` is made of: the two sockets of a forwarded connection, and its two directions."""

from __future__ import annotations

import selectors
import socket
from collections import deque
from collections.abc import Collection
from typing import Final, Literal

from gtask.types import Server

Direction = Literal["up", "down", "both"]

MAX_QUEUE: Final = 256 * 1024
"""Bytes of one direction of one connection that are held back; beyond it the sender is made to wait."""


class End:
    """One of the two sockets of a connection."""

    __slots__ = ("ended", "interest", "into", "out", "pair", "socket")

    def __init__(self, pair: Pair, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pair = pair
        self.socket = sock
        self.interest = 0
        self.ended = False
        self.out: Way
        self.into: Way

    def wants(self, stalled: Collection[str], now: float, due: list[float]) -> int:
        """What the socket is to be watched for; adds to `due` when bytes that are late will be due."""
        pair = self.pair
        if pair.connecting:
            return selectors.EVENT_WRITE if self is pair.target else 0
        mask, out, into = 0, self.out, self.into
        if not self.ended and (pair.state != "open" or (out.name not in stalled and out.size < MAX_QUEUE)):
            mask = selectors.EVENT_READ
        if pair.state == "open" and into.queue and into.name not in stalled:
            if into.queue[0][0] <= now:
                mask |= selectors.EVENT_WRITE
            else:
                due.append(into.queue[0][0])
        return mask


class Way:
    """One direction of a connection: what waits to be passed on, and how much more may pass."""

    __slots__ = ("left", "name", "queue", "shut", "sink", "size", "source")

    def __init__(self, name: str, source: End, sink: End, left: int | None) -> None:
        self.name = name
        self.source = source
        self.sink = sink
        self.left = left
        self.queue: deque[tuple[float, memoryview]] = deque()
        self.size = 0
        self.shut = False
        source.out = sink.into = self

    def clear(self) -> None:
        """Drops what waits."""
        self.queue.clear()
        self.size = 0


class Pair:
    """One connection: from whoever connected to here, and from here to the target."""

    __slots__ = ("client", "closing_at", "connecting", "state", "target", "ways")

    def __init__(self, client: socket.socket, target: socket.socket, limits: dict[str, int]) -> None:
        self.client = End(self, client)
        self.target = End(self, target)
        self.ways = (
            Way("up", self.client, self.target, limits.get("up")),
            Way("down", self.target, self.client, limits.get("down")),
        )
        self.state: Literal["open", "vanished", "closing", "closed"] = "open"
        self.connecting = True
        self.closing_at: float | None = None

    def vanish(self) -> None:
        """Lets both ends be gone for each other."""
        self.state = "vanished"
        for way in self.ways:
            way.clear()


def ways(direction: Direction) -> tuple[str, ...]:
    """The names of the directions that are meant."""
    return ("up", "down") if direction == "both" else (direction,)


def listen(host: str, port: int) -> socket.socket:
    """Opens a port that does not make anybody wait."""
    listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setblocking(False)
    return listener


def connect_to(server: Server) -> tuple[socket.socket, int]:
    """Begins to connect; returns the socket and the error number so far, which is 0 or EINPROGRESS when all is well."""
    sock = socket.socket(socket.AF_INET6 if ":" in server.host else socket.AF_INET)
    sock.setblocking(False)
    return sock, sock.connect_ex((server.host, server.port))
