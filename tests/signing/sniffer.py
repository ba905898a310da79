"""A relay that writes down the packets which pass through it, and finds in them what is not signed."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple, Self

from gtask.protocol.codec import Decoder
from gtask.protocol.packets import REQUEST_MAGIC, RESPONSE_MAGIC, Packet, PacketType
from gtask.signing import is_signed
from gtask.types import Server

SUBMITS = {kind for kind in PacketType if kind.name.startswith("SUBMIT_JOB") or kind is PacketType.SUBMIT_REDUCE_JOB}
ASSIGNS = {kind for kind in PacketType if kind.name.startswith("JOB_ASSIGN")}
ENDS = {PacketType.WORK_COMPLETE, PacketType.WORK_EXCEPTION, PacketType.WORK_DATA, PacketType.WORK_WARNING}


class Payload(NamedTuple):
    """A workload or an answer that was seen: the packet's name, the function where the packet says it, the bytes."""

    packet: str
    function: str
    data: bytes


class Sniffer:
    """Relays TCP connections to a job server, and keeps every packet of them; use it as a context manager."""

    def __init__(self, target: Server) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._selector = selectors.DefaultSelector()
        self._stop, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="sniffer")
        self._lock = threading.Lock()
        self._packets: list[Packet] = []
        self._broken: list[Exception] = []
        self._ends: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"gearman://127.0.0.1:{self._listener.getsockname()[1]}"

    def packets(self) -> list[Packet]:
        """All packets so far, both ways."""
        with self._lock:
            assert not self._broken
            return list(self._packets)

    def payloads(self) -> list[Payload]:
        """The payloads of all packets so far, those that are empty left out."""
        return [payload for payload in map(_payload, self.packets()) if payload is not None and payload.data]

    def unsigned(self, other: Iterable[str] = ()) -> list[Payload]:
        """The payloads that are not signed, but for those of functions in `other` languages."""
        return [one for one in self.payloads() if not is_signed(one.data) and one.function not in other]

    def __enter__(self) -> Self:
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._stop, selectors.EVENT_READ, None)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.close()
        self._thread.join(30)
        self._selector.close()
        for end in (*self._ends, self._listener, self._stop):
            end.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                key.data()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection((self._target.host, self._target.port), 10)
        except OSError:
            client.close()
            return
        pair = (client, server)
        for source, sink, magic in ((client, server, REQUEST_MAGIC), (server, client, RESPONSE_MAGIC)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._ends.add(source)
            self._selector.register(source, selectors.EVENT_READ, self._pump(pair, source, sink, Decoder(magic)))

    def _pump(
        self, pair: tuple[socket.socket, socket.socket], source: socket.socket, sink: socket.socket, decoder: Decoder
    ) -> Callable[[], None]:
        text = False

        def pump() -> None:
            nonlocal text
            try:
                data = source.recv(1 << 20)
                sink.sendall(data)
            except OSError:
                data = b""
            if not data:
                for end in pair:
                    with suppress(KeyError, ValueError):
                        self._selector.unregister(end)
                    self._ends.discard(end)
                    end.close()
                return
            # The admin protocol is text, on connections of its own.
            text = text or (data[:1] != b"\0" and not decoder.buffered)
            if text:
                return
            with self._lock:
                self._packets += decoder.feed(data)
                if decoder.error is not None:
                    self._broken.append(decoder.error)

        return pump


def _payload(packet: Packet) -> Payload | None:
    if packet.type in SUBMITS or packet.type in ASSIGNS:
        function = packet.args[1] if packet.type in ASSIGNS else packet.args[0]
        return Payload(packet.type.name, function.decode(), packet.args[-1])
    if packet.type in ENDS:
        return Payload(packet.type.name, "", packet.args[-1])
    return None
