"""A TCP proxy that does to a connection what networks do: cuts, stalls, silence, delays, broken bytes.

```python
with gearmand() as server, FaultProxy(server.server) as proxy:
    app = App("demo", servers=proxy.url)
    proxy.half_open()        # the other side is gone, and nobody says so
    ...
    proxy.heal()             # everything works again; connections whose other side was gone are reset
```

Everything may be called live, from any thread, and holds when the call returns. A fault holds for the connections that
are there and for new ones until `heal`; `cut` and `half_open` are done to those that are there. `up` is the way from
whoever connected to the target, `down` the way back.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Final, Self

from gtask.testing.relay import Direction, End, Pair, Way, connect_to, listen, ways
from gtask.types import Server, parse_servers

LINGER: Final = 1.0
"""Seconds a connection that was ended with FIN is kept for both sides to close it too."""

_CHUNK: Final = 64 * 1024
_RESET: Final = struct.pack("ii", 1, 0)
_READ: Final = selectors.EVENT_READ
_WRITE: Final = selectors.EVENT_WRITE


class FaultProxy:
    """Forwards TCP connections to `target`, unharmed until it is told otherwise. Use it as a context manager.

    `target` is a `Server` or an address as `App(servers=...)` takes it; it need not be up. It listens on `host`;
    `port` 0 takes a free one. It runs in a thread of its own.
    """

    def __init__(self, target: Server | str, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.target = parse_servers(target)[0]
        self.host = host
        self._listener: socket.socket | None = listen(host, port)
        self.port = int(self._listener.getsockname()[1])
        self.accepted = 0
        """How many connections there were so far."""
        self.sent: dict[str, int] = {"up": 0, "down": 0}
        """Bytes forwarded so far, each way."""
        self._stalled: set[str] = set()
        self._split = 0
        self._delay = 0.0
        self._limits: dict[str, tuple[int, bool]] = {}
        self._corrupt: dict[str, tuple[int, int]] = {}
        self._black_hole = False
        self._pairs: set[Pair] = set()
        self._closed = False
        self._change = threading.Condition(threading.RLock())
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)
        self._selector.register(self._wake_reader, _READ)
        self._selector.register(self._listener, _READ)
        self._thread = threading.Thread(target=self._serve, name="gtask-fault-proxy", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<FaultProxy {self.server} to {self.target}, {self.connections} connections>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- where it is, and what goes over it ------------------------------------------------------------------

    @property
    def server(self) -> Server:
        """Its own address."""
        return Server(self.host, self.port)

    @property
    def url(self) -> str:
        """Its own address as `App(servers=...)` and ``$GTASK_SERVERS`` take it."""
        return str(self.server)

    @property
    def connections(self) -> int:
        """How many connections work now: those that were cut or lost their other side do not count."""
        with self._change:
            return sum(pair.state == "open" for pair in self._pairs)

    def wait_for_connections(self, accepted: int, timeout: float = 30.0) -> None:
        """Waits until `accepted` connections were made in all; raises `TimeoutError` after `timeout` seconds."""
        with self._change:
            if not self._change.wait_for(lambda: self.accepted >= accepted, timeout):
                raise TimeoutError(f"{self!r} saw {self.accepted} of {accepted} connections within {timeout:g} s.")

    def close(self) -> None:
        """Ends every connection and the proxy itself."""
        with self._change:
            if self._closed:
                return
            self._closed = True
            for pair in list(self._pairs):
                self._drop(pair)
            self._close_listener()
        self._wake()
        self._thread.join(10)
        self._selector.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    # --- faults ----------------------------------------------------------------------------------------------

    def cut(self, reset: bool = False) -> int:
        """Ends the connections that are there, on both sides; returns how many. New ones are made as usual.

        By FIN, as a program does that closes; with `reset` by RST, as a system does whose program was killed.
        """
        with self._change:
            pairs = [pair for pair in self._pairs if pair.state == "open"]
            for pair in pairs:
                self._end(pair, reset)
        self._wake()
        return len(pairs)

    def half_open(self, new: bool = False) -> int:
        """Lets both ends of the connections that are there vanish for each other; returns how many.

        What is sent is taken and lost, nothing comes, and no FIN or RST says so. With `new` also those that are made
        from now on, until `heal`. Connections that are half-open stay so until `heal`, which resets them, as TCP
        keep-alive does in the end.
        """
        with self._change:
            self._black_hole = new
            pairs = [pair for pair in self._pairs if pair.state == "open"]
            for pair in pairs:
                pair.vanish()
        self._wake()
        return len(pairs)

    def stall(self, direction: Direction = "both") -> None:
        """Stops forwarding: bytes pile up, first here, then with their senders. After `heal` they arrive."""
        with self._change:
            self._stalled = set(ways(direction))
        self._wake()

    def split(self, size: int = 1) -> None:
        """Forwards `size` bytes at a time, each as a segment of its own."""
        with self._change:
            self._split = size
        self._wake()

    def delay(self, seconds: float) -> None:
        """Lets bytes arrive `seconds` late, each way."""
        with self._change:
            self._delay = seconds
        self._wake()

    def corrupt(self, count: int = 1, direction: Direction = "both", offset: int = 0) -> None:
        """Inverts one byte in each of the next `count` pieces that arrive: the one at `offset` of the piece."""
        with self._change:
            self._corrupt = dict.fromkeys(ways(direction), (count, offset))

    def limit(self, count: int, direction: Direction = "up", reset: bool = False) -> None:
        """Cuts each connection after `count` more bytes, which still arrive: in the middle of a packet, for instance.

        Connections that are made later are cut after as many, until `heal`.
        """
        with self._change:
            self._limits = dict.fromkeys(ways(direction), (count, reset))
            for pair in self._pairs:
                for way in pair.ways:
                    way.left = count if way.name in self._limits else None
        self._wake()

    def refuse(self) -> None:
        """Refuses new connections, as a port does behind which nobody listens; those that are there go on."""
        with self._change:
            self._close_listener()
        self._wake()

    def heal(self) -> None:
        """Ends all faults: bytes that were held back arrive, and half-open connections are reset."""
        with self._change:
            self._stalled.clear()
            self._corrupt.clear()
            self._limits.clear()
            self._split, self._delay, self._black_hole = 0, 0.0, False
            for pair in list(self._pairs):
                for way in pair.ways:
                    way.left = None
                if pair.state == "vanished":
                    self._drop(pair, reset=True)
            if self._listener is None and not self._closed:
                self._listener = listen(self.host, self.port)
                self._selector.register(self._listener, _READ)
        self._wake()

    # --- one round -------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            with self._change:
                if self._closed:
                    return
                timeout = self._watch_all()
            events = self._selector.select(timeout)
            with self._change:
                if self._closed:
                    return
                for key, mask in events:
                    if key.data is not None:
                        self._ready(key.data, mask)
                    elif key.fileobj is self._listener:
                        self._accept()
                    else:
                        with contextlib.suppress(BlockingIOError):
                            os.read(self._wake_reader, 4096)

    def _watch_all(self) -> float | None:
        """Says to the selector what each socket waits for now; returns when something else is due, in seconds."""
        now = time.monotonic()
        due: list[float] = []
        for pair in list(self._pairs):
            if pair.closing_at is not None:
                if pair.closing_at <= now:
                    self._drop(pair)
                    continue
                due.append(pair.closing_at)
            for end in (pair.client, pair.target):
                interest = end.wants(self._stalled, now, due)
                if interest != end.interest:
                    if not end.interest:
                        self._selector.register(end.socket, interest, end)
                    elif interest:
                        self._selector.modify(end.socket, interest, end)
                    else:
                        self._selector.unregister(end.socket)
                    end.interest = interest
        return max(0.0, min(due) - now) if due else None

    def _ready(self, end: End, mask: int) -> None:
        pair = end.pair
        if pair not in self._pairs:
            return  # ended earlier in this round
        try:
            if pair.connecting:
                if code := end.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(code, os.strerror(code))
                pair.connecting = False
                return
            if mask & _WRITE and pair.state == "open":
                self._write(end.into)
            if mask & _READ and pair in self._pairs and not end.ended:
                self._read(end)
        except BlockingIOError:
            pass
        except OSError:
            if pair.state == "vanished":
                self._forget(end)
            elif pair in self._pairs:
                self._drop(pair, reset=True)

    def _read(self, end: End) -> None:
        data = end.socket.recv(_CHUNK)
        pair, way = end.pair, end.out
        if not data:
            end.ended = True
            if pair.state == "vanished":
                self._forget(end)
            elif pair.state == "closing":
                if pair.client.ended and pair.target.ended:
                    self._drop(pair)
            elif not way.queue:
                self._shut(way)
        elif pair.state == "open":
            if way.left is not None:
                data = data[: way.left]
                way.left -= len(data)
            count, offset = self._corrupt.get(way.name, (0, 0))
            if count:
                place = min(offset, len(data) - 1)
                data = data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]
                self._corrupt[way.name] = (count - 1, offset)
            way.queue.append((time.monotonic() + self._delay, memoryview(data)))
            way.size += len(data)

    def _write(self, way: Way) -> None:
        due, data = way.queue[0]
        sent = way.sink.socket.send(data[: self._split] if self._split else data)
        self.sent[way.name] += sent
        way.size -= sent
        if sent < len(data):
            way.queue[0] = (due, data[sent:])
        else:
            way.queue.popleft()
        if not way.queue:
            if way.left == 0:
                self._end(way.sink.pair, self._limits.get(way.name, (0, False))[1])
            elif way.source.ended:
                self._shut(way)

    # --- connections -----------------------------------------------------------------------------------------

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        target, code = connect_to(self.target)
        pair = Pair(client, target, {name: limit[0] for name, limit in self._limits.items()})
        self._pairs.add(pair)
        self.accepted += 1
        if code not in (0, errno.EINPROGRESS):
            self._drop(pair, reset=True)
        elif self._black_hole:
            pair.connecting = False
            pair.vanish()
        self._change.notify_all()

    def _shut(self, way: Way) -> None:
        """Passes the end of one direction on; the other one may go on."""
        if way.source.out.shut:
            return
        way.shut = True
        with contextlib.suppress(OSError):
            way.sink.socket.shutdown(socket.SHUT_WR)
        if all(other.shut for other in way.sink.pair.ways):
            self._drop(way.sink.pair)

    def _end(self, pair: Pair, reset: bool) -> None:
        if reset:
            self._drop(pair, reset=True)
            return
        pair.state = "closing"
        pair.closing_at = time.monotonic() + LINGER
        for end in (pair.client, pair.target):
            end.into.clear()
            with contextlib.suppress(OSError):
                end.socket.shutdown(socket.SHUT_WR)
        self._change.notify_all()

    def _forget(self, end: End) -> None:
        """One end of a half-open connection was closed by its owner; the other one hears nothing of it."""
        end.ended = True
        if end.interest:
            self._selector.unregister(end.socket)
            end.interest = 0
        end.socket.close()
        if end.pair.client.ended and end.pair.target.ended:
            self._drop(end.pair)

    def _drop(self, pair: Pair, reset: bool = False) -> None:
        self._pairs.discard(pair)
        pair.state = "closed"
        for end in (pair.client, pair.target):
            if end.interest:
                self._selector.unregister(end.socket)
                end.interest = 0
            if end.socket.fileno() >= 0:
                if reset:
                    end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.socket.close()
        self._change.notify_all()

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _wake(self) -> None:
        if self._thread.is_alive():
            with contextlib.suppress(BlockingIOError):  # a wake-up is there already
                os.write(self._wake_writer, b"\0")
