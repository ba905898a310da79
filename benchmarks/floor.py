"""The floor: what a job server gives to anybody who writes hand-made packets to a bare socket.

Nothing of gtask is used here. `python -m benchmarks.floor HOST PORT FUNCTION` is the worker: it ends every job with an
empty result and keeps several grabs under way, as gtask's does for short tasks.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from time import perf_counter

SUBMIT, CREATED, SUBMIT_BG = 7, 8, 18
CAN_DO, PRE_SLEEP, NOOP, GRAB, NO_JOB, ASSIGN, COMPLETE = 1, 4, 6, 30, 10, 31, 13

WINDOW = 1000
"""Submissions under way at once, as in gtask's client."""

GRABS = 64
"""Grabs under way at once, as in gtask's worker."""

_header = struct.Struct(">4sII")


def packet(type: int, *args: bytes) -> bytes:
    """One packet to the job server."""
    body = b"\0".join(args)
    return _header.pack(b"\0REQ", type, len(body)) + body


class Wire:
    """A blocking socket, and what came over it cut into packets."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def receive(self) -> Iterator[tuple[int, bytes]]:
        """Waits for bytes once, and gives the packets that are complete: type and body."""
        came = self.socket.recv(65536)
        if not came:
            raise ConnectionError("The job server closed the connection.")
        data = self._rest + came
        position, end = 0, len(data)
        while end - position >= 12:
            _, type, size = _header.unpack_from(data, position)
            following = position + 12 + size
            if following > end:
                break
            yield type, data[position + 12 : following]
            position = following
        self._rest = data[position:]


class FloorCaller:
    """The caller's side; every method does something `count` times and returns the seconds it took."""

    def __init__(self, host: str, port: int) -> None:
        self.wire = Wire(host, port)
        self._prefix = os.urandom(8).hex().encode()
        self._jobs = 0

    def close(self) -> None:
        """Ends the connection."""
        self.wire.socket.close()

    def round_trips(self, function: bytes, count: int) -> float:
        """Foreground jobs, one after the other."""
        wire, started = self.wire, perf_counter()
        for _ in range(count):
            wire.socket.sendall(packet(SUBMIT, function, self._unique(), b""))
            self._until(COMPLETE, 1)
        return perf_counter() - started

    def one_by_one(self, function: bytes, count: int) -> float:
        """Background jobs, each confirmed before the next."""
        wire, started = self.wire, perf_counter()
        for _ in range(count):
            wire.socket.sendall(packet(SUBMIT_BG, function, self._unique(), b"x"))
            self._until(CREATED, 1)
        return perf_counter() - started

    def in_bulk(self, function: bytes, count: int) -> float:
        """Background jobs, `WINDOW` of them under way at once."""
        wire, started = self.wire, perf_counter()
        for first in range(0, count, WINDOW):
            window = range(min(WINDOW, count - first))
            wire.socket.sendall(b"".join([packet(SUBMIT_BG, function, self._unique(), b"x") for _ in window]))
            self._until(CREATED, len(window))
        return perf_counter() - started

    def _unique(self) -> bytes:
        self._jobs += 1
        return b"%s%016x" % (self._prefix, self._jobs)

    def _until(self, wanted: int, count: int) -> None:
        while count:
            for type, body in self.wire.receive():
                if type == wanted:
                    count -= 1
                elif type != CREATED:
                    raise RuntimeError(f"A packet of type {type} came: {body!r}")


def work(host: str, port: int, function: bytes) -> None:
    """Serves a function until the connection ends."""
    with Wire(host, port) as wire:
        grab, sleep = packet(GRAB), packet(PRE_SLEEP)
        wire.socket.sendall(packet(CAN_DO, function) + grab)
        under_way, window = 1, 1
        while True:
            out = []
            wanted = 0
            for type, body in wire.receive():
                if type == ASSIGN:
                    under_way -= 1
                    wanted = window
                    out.append(packet(COMPLETE, body.partition(b"\0")[0], b""))
                elif type == NO_JOB:
                    under_way -= 1
                    window = 1
                elif type == NOOP:
                    wanted = 1
            if wanted > under_way:
                out.append(grab * (wanted - under_way))
                under_way = wanted
                # One more grab than there are jobs is one more answer in vain: few at first, many in a long queue.
                window = min(GRABS, window * 2)
            elif not under_way:
                out.append(sleep)
            if out:
                wire.socket.sendall(b"".join(out))


if __name__ == "__main__":
    try:
        work(sys.argv[1], int(sys.argv[2]), sys.argv[3].encode())
    except (KeyboardInterrupt, OSError):
        pass
