"""Bytes to packets and back; no socket, no conversation. Protocol reference, sections 1 to 3."""

from __future__ import annotations

from struct import Struct
from typing import Final

from gtask.errors import LocalProtocolError, RemoteProtocolError
from gtask.protocol.packets import (
    HEADER_SIZE,
    LAYOUT,
    REQUEST_MAGIC,
    RESPONSE_MAGIC,
    Packet,
    PacketType,
)

MAX_BODY: Final = 64 * 1024 * 1024
"""Bytes a packet's body may have unless the caller says otherwise."""

MAX_NAME: Final = 8000
"""Bytes of the arguments before the data, together: beyond it gearmand cuts connections (section 3)."""

_HEADER: Final = Struct(">4sII")


def encode_request(type: PacketType, *args: bytes) -> bytes:
    """Encodes one packet for the job server.

    Raises `LocalProtocolError` when the packet does not travel in this direction, has another number of arguments,
    or holds a NUL where none may be.
    """
    return _encode(REQUEST_MAGIC, type, args, LAYOUT[type].request)


def encode_response(type: PacketType, *args: bytes) -> bytes:
    """Encodes one packet from the job server; raises as `encode_request` does."""
    return _encode(RESPONSE_MAGIC, type, args, LAYOUT[type].response)


def _encode(magic: bytes, type: PacketType, args: tuple[bytes, ...], allowed: bool) -> bytes:
    layout = LAYOUT[type]
    if not allowed:
        raise LocalProtocolError(f"{type.name} does not travel in this direction.")
    if len(args) != len(layout.args):
        raise LocalProtocolError(
            f"{type.name} has {len(layout.args)} arguments ({', '.join(layout.args) or 'none'}), not {len(args)}."
        )
    for value in args if type in _PLAIN else args[:-1]:
        if b"\0" in value:
            name = layout.args[args.index(value)]
            raise LocalProtocolError(f"The {name} of {type.name} holds a NUL byte, which ends an argument.")
    body = b"\0".join(args)
    if len(body) > 0xFFFFFFFF:
        raise LocalProtocolError(f"A packet holds 4 GiB at most; this {type.name} has {len(body)} bytes.")
    return _HEADER.pack(magic, type, len(body)) + body


class Decoder:
    """Cuts a stream of bytes into packets, in linear time and bounded memory.

    One magic is expected in all headers: that of responses for a client or a worker, that of requests for a job
    server (which also reads text lines; see `gtask.protocol.server`). After an error the decoder takes no more:
    what was complete before is still returned, and `error` says what came then.
    """

    __slots__ = ("_buffer", "_magic", "error", "max_body")

    def __init__(self, magic: bytes = RESPONSE_MAGIC, max_body: int = MAX_BODY) -> None:
        self._magic = magic
        self._buffer = bytearray()
        self.max_body = max_body
        self.error: RemoteProtocolError | None = None

    @property
    def buffered(self) -> int:
        """Bytes of an incomplete packet held back."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Packet]:
        """Takes bytes as they came and returns the packets they complete, in order."""
        if self.error is not None:
            return []
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < HEADER_SIZE:
                return []
            if len(buffer) < HEADER_SIZE + _length(buffer):
                # Half a packet: nothing is cut, and nothing is copied, until its end is there.
                self._check(bytes(buffer[:HEADER_SIZE]))
                return []
            data = bytes(buffer)
            buffer.clear()
        packets: list[Packet] = []
        position, end = 0, len(data)
        while end - position >= HEADER_SIZE:
            magic, number, length = _HEADER.unpack_from(data, position)
            if magic != self._magic or length > self.max_body or number not in _KNOWN:
                self._check(data[position : position + HEADER_SIZE])
                return packets
            body = position + HEADER_SIZE
            following = body + length
            if following > end:
                break
            try:
                packets.append(parse_body(_KNOWN[number], data[body:following]))
            except RemoteProtocolError as error:
                self.error = error
                return packets
            position = following
        if position < end:
            buffer += data[position:] if position else data
        return packets

    def _check(self, header: bytes) -> None:
        self.error = check_header(header, self._magic, self.max_body)
        if self.error is not None:
            self._buffer.clear()


def _length(buffer: bytearray) -> int:
    return int.from_bytes(buffer[8:12], "big")


_KNOWN: Final = {int(type): type for type in PacketType}
_SPLITS: Final = {type: len(layout.args) - 1 for type, layout in LAYOUT.items()}
_PLAIN: Final = {type for type, layout in LAYOUT.items() if not layout.data}


def check_header(header: bytes, magic: bytes, max_body: int) -> RemoteProtocolError | None:
    """Says what is wrong with a header of 12 bytes, or None when nothing is."""
    found, number, length = _HEADER.unpack(header)
    if found != magic:
        return RemoteProtocolError(
            f"A packet starts with {magic!r} here; {found!r} came. Is the other side a Gearman peer?"
        )
    if number not in _KNOWN:
        return RemoteProtocolError(f"There is no packet of type {number}.")
    if length > max_body:
        return RemoteProtocolError(
            f"A {_KNOWN[number].name} of {length} bytes was announced; {max_body} bytes is the limit here."
        )
    return None


def parse_header(header: bytes | bytearray | memoryview) -> tuple[bytes, int, int]:
    """Takes 12 bytes apart: magic, type, length of the body in bytes."""
    return _HEADER.unpack(header)


def parse_body(type: PacketType, body: bytes) -> Packet:
    """Takes a body apart by `LAYOUT`; raises `RemoteProtocolError` when it has too few arguments.

    A NUL at the very end of a last argument that is no data is removed: gearmand sends one with a WORK_FAIL that
    was an exception (section 15).
    """
    splits = _SPLITS[type]
    if splits < 0:
        return Packet(type)
    args = body.split(b"\0", splits)
    if len(args) != splits + 1:
        raise RemoteProtocolError(
            f"A {type.name} has {splits + 1} arguments ({', '.join(LAYOUT[type].args)}); {len(args)} came."
        )
    if type in _PLAIN and args[-1].endswith(b"\0"):
        args[-1] = args[-1][:-1]
    return Packet(type, tuple(args))
