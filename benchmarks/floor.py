"""The floor: what a job server gives to anybody who writes hand-made packets to a bare socket.

Nothing of gtask is used here. `python -m benchmarks.floor MODE HOST PORT FUNCTION...` is one of three workers, which
keep several grabs under way as gtask's do for short tasks: `work` ends every job with an empty result,
`work-with-results` hands its result over first, as a background job, and `keep-results` takes what is handed over and
answers who waits.
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

GRABS = 128
"""Grabs under way at once, as in gtask's worker."""

UNIQUE = 32
"""Bytes of a unique."""

KEPT = 100_000
"""Results that are kept."""

_header = struct.Struct(">4sII")


def packet(type: int, *args: bytes) -> bytes:
    """One packet to the job server."""
    body = b"\0".join(args)
    return _header.pack(b"\0REQ", type, len(body)) + body


_grab, _sleep = packet(GRAB), packet(PRE_SLEEP)


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

    def round_trips_with_result(self, function: bytes, wait: bytes, count: int) -> float:
        """Background jobs, each waited for by a foreground job of whoever keeps results."""
        wire, started = self.wire, perf_counter()
        for _ in range(count):
            unique = self._unique()
            wire.socket.sendall(packet(SUBMIT_BG, function, unique, b"x"))
            self._until(CREATED, 1)
            wire.socket.sendall(packet(SUBMIT, wait, self._unique(), unique))
            self._until(COMPLETE, 1)
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


class FloorWorker:
    """A worker's side: keeps grabs under way, and gives them up for sleep when the queue is empty."""

    def __init__(self, wire: Wire, functions: list[bytes]) -> None:
        self._wire = wire
        wire.socket.settimeout(None)  # a worker may wait as long as it likes
        self._under_way, self._window = 1, 1
        wire.socket.sendall(b"".join([packet(CAN_DO, function) for function in functions]) + _grab)

    def rounds(self) -> Iterator[tuple[list[bytes], int, list[bytes]]]:
        """Gives the jobs of each round, how many submissions were confirmed, and the list of packets to send."""
        while True:
            jobs: list[bytes] = []
            out: list[bytes] = []
            wanted = confirmed = 0
            for type, body in self._wire.receive():
                if type == ASSIGN:
                    self._under_way -= 1
                    wanted = self._window
                    jobs.append(body)
                elif type == NO_JOB:
                    self._under_way -= 1
                    self._window = 1
                elif type == NOOP:
                    wanted = 1
                elif type == CREATED:
                    confirmed += 1
            yield jobs, confirmed, out
            if wanted > self._under_way:
                out.append(_grab * (wanted - self._under_way))
                self._under_way = wanted
                # One more grab than there are jobs is one more answer in vain: few at first, many in a long queue.
                self._window = min(GRABS, self._window * 2)
            elif not self._under_way:
                out.append(_sleep)
            if out:
                self._wire.socket.sendall(b"".join(out))


def work(host: str, port: int, function: bytes) -> None:
    """Ends every job of a function with an empty result."""
    with Wire(host, port) as wire:
        for jobs, _, out in FloorWorker(wire, [function]).rounds():
            out += [packet(COMPLETE, job.partition(b"\0")[0], b"") for job in jobs]


def work_with_results(host: str, port: int, function: bytes, put: bytes) -> None:
    """Hands the uniques of its jobs over as jobs of `put`, many in one, and ends them when that is confirmed."""
    with Wire(host, port) as wire:
        gathered: list[bytes] = []
        handed_over: list[bytes] = []
        count = 0
        for jobs, confirmed, out in FloorWorker(wire, [function]).rounds():
            gathered += jobs
            if confirmed:
                out += [packet(COMPLETE, job.partition(b"\0")[0], b"") for job in handed_over]
                handed_over = []
            if gathered and not handed_over:
                handed_over, gathered = gathered, []
                uniques = b"".join([job.split(b"\0", 3)[2] for job in handed_over])
                count += 1
                out.append(packet(SUBMIT_BG, put, b"%d-%d" % (os.getpid(), count), uniques))


def keep_results(host: str, port: int, put: bytes, wait: bytes) -> None:
    """Takes what jobs of `put` hand over, in memory, and answers the jobs of `wait`, each of which names one unique."""
    with Wire(host, port) as wire:
        ready: dict[bytes, None] = {}
        waiting: dict[bytes, bytes] = {}
        for jobs, _, out in FloorWorker(wire, [put, wait]).rounds():
            for job in jobs:
                handle, function, _, data = job.split(b"\0", 3)
                if function == wait and data not in ready:
                    waiting[data] = handle
                    continue
                if function == put:
                    for unique in [data[start : start + UNIQUE] for start in range(0, len(data), UNIQUE)]:
                        ready[unique] = None
                        if unique in waiting:
                            out.append(packet(COMPLETE, waiting.pop(unique), b""))
                out.append(packet(COMPLETE, handle, b""))
            while len(ready) > KEPT:
                del ready[next(iter(ready))]


if __name__ == "__main__":
    mode, host, port, *names = sys.argv[1:]
    functions = [name.encode() for name in names]
    try:
        if mode == "work":
            work(host, int(port), functions[0])
        elif mode == "work-with-results":
            work_with_results(host, int(port), functions[0], functions[1])
        else:
            keep_results(host, int(port), functions[0], functions[1])
    except (KeyboardInterrupt, OSError):
        pass
