"""One peer of a job server, without its socket: bytes in, requests out. Protocol reference, sections 1 to 4."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from gtask.protocol.admin import Command, parse_command
from gtask.protocol.codec import MAX_BODY, encode_response
from gtask.protocol.packets import HEADER_SIZE, LAYOUT, REQUEST_MAGIC, RESPONSE_MAGIC, Packet, PacketType

MAX_LINE: Final = 8192
"""Bytes a line of the text protocol may have (protocol reference, section 3)."""


@dataclass(frozen=True, slots=True)
class Violation:
    """What a peer sent against the protocol.

    `reason` is a sentence for the log. `code` and `text` go back in an ERROR packet; without a code nothing is sent.
    A `fatal` one ends the connection, because nothing after it can be understood.
    """

    reason: str
    code: str = ""
    text: str = ""
    fatal: bool = True

    def answer(self) -> bytes:
        """The ERROR packet for the peer, or nothing."""
        if not self.code:
            return b""
        return encode_response(PacketType.ERROR, self.code.encode(), self.text.encode(errors="replace"))


Request = Packet | Command | Violation

_SPLITS: Final = {int(type): len(layout.args) - 1 for type, layout in LAYOUT.items() if layout.request}
_TYPES: Final = {int(type): type for type in PacketType}
_PLAIN: Final = {int(type) for type, layout in LAYOUT.items() if layout.request and layout.args and not layout.data}
_BARE: Final = {number: Packet(_TYPES[number]) for number, splits in _SPLITS.items() if splits < 0}
_NEW: Final = tuple.__new__
_unpack: Final = Struct(">4sII").unpack_from
_CONTROL: Final = bytes(byte for byte in range(32) if byte != 9) + b"\x7f"
_TLS: Final = 0x16
"""How everything begins that is sent in TLS's handshake; no text command does."""

_UNUSED: Final = 5
"""The one number below 43 that no packet has; gearmand refuses it and keeps the connection."""

# What a report of a worker may leave away: Perl's Gearman::Worker sends a result that Perl takes for false ("" and "0")
# as a handle alone, and a status without its second number.
_MAY_LACK: Final = {
    int(PacketType.WORK_DATA): b"",
    int(PacketType.WORK_WARNING): b"",
    int(PacketType.WORK_COMPLETE): b"",
    int(PacketType.WORK_EXCEPTION): b"",
    int(PacketType.WORK_STATUS): b"0",
}


class ServerProtocol:
    """Cuts what one peer of a job server sends into requests, in linear time and bounded memory.

    Binary packets and text lines may be mixed: the first byte of each tells them apart (protocol reference,
    section 1). `max_body` is the most bytes a packet's body may have. After a fatal violation nothing more is read.
    """

    __slots__ = ("_broken", "_buffer", "_needed", "max_body")

    def __init__(self, max_body: int = MAX_BODY) -> None:
        self.max_body = max_body
        self._buffer = bytearray()
        self._needed = 0
        self._broken = False

    @property
    def buffered(self) -> int:
        """Bytes of an incomplete request held back."""
        return len(self._buffer)

    def receive_data(self, data: bytes) -> list[Request]:
        """Takes bytes as they came and returns the requests they complete, in order."""
        if self._broken:
            return []
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < self._needed:
                # Half a packet: nothing is cut, and nothing is copied, until its end is there.
                return []
            data = bytes(buffer)
            buffer.clear()
        self._needed = 0
        requests: list[Request] = []
        position = self._cut(data, requests)
        if self._broken:
            buffer.clear()
        elif position < len(data):
            buffer += data[position:] if position else data
        return requests

    def receive_eof(self) -> list[Request]:
        """Tells that the peer sends no more: a violation when it left in the middle of a request, else nothing."""
        if self._broken or not self._buffer:
            return []
        self._broken = True
        return [Violation(f"The peer closed in the middle of a request, after {len(self._buffer)} bytes of it.")]

    def _cut(self, data: bytes, requests: list[Request]) -> int:
        """Adds the complete requests of `data` and returns where the incomplete rest starts."""
        position, end = 0, len(data)
        max_body = self.max_body
        while position < end:
            if data[position]:
                position = self._line(data, position, requests)
                if self._broken or self._needed:
                    return position
                continue
            body = position + HEADER_SIZE
            if body > end:
                self._needed = HEADER_SIZE
                return position
            magic, number, length = _unpack(data, position)
            splits = _SPLITS.get(number)
            if splits is None or magic != REQUEST_MAGIC or length > max_body:
                violation = self._judge(magic, number, length)
                if violation.fatal:
                    self._broken = True
                    requests.append(violation)
                    return end
            else:
                violation = None
            following = body + length
            if following > end:
                self._needed = HEADER_SIZE + length
                return position
            position = following
            if violation is not None:
                requests.append(violation)
            elif splits < 0:  # type: ignore[operator]  # None has led to a violation
                requests.append(_BARE[number])
            else:
                args = data[body:following].split(b"\0", splits)  # type: ignore[arg-type]  # as above
                if number in _PLAIN and args[-1][-1:] == b"\0":
                    args[-1] = args[-1][:-1]
                if len(args) == splits and number in _MAY_LACK:
                    args.append(_MAY_LACK[number])
                if len(args) == splits + 1:  # type: ignore[operator]  # as above
                    requests.append(_NEW(Packet, (_TYPES[number], tuple(args))))
                else:
                    requests.append(_too_few(_TYPES[number], len(args)))
        return position

    def _line(self, data: bytes, position: int, requests: list[Request]) -> int:
        """Adds the text command that starts at `position` and returns where the next request starts."""
        if data[position] == _TLS:
            # It would wait for an answer, and this end for the end of a line.
            self._break(requests, "It speaks TLS (gearmans://), and this port speaks plain text alone.")
            return len(data)
        stop = data.find(b"\n", position, position + MAX_LINE)
        if stop < 0:
            if len(data) - position >= MAX_LINE:
                self._break(requests, f"A text line may have {MAX_LINE} bytes; this one is longer.")
                return len(data)
            self._needed = 1
            return position
        line = data[position:stop].removesuffix(b"\r")
        if line.translate(None, _CONTROL) != line:
            self._break(requests, f"This is neither a Gearman packet nor a text command: {line[:40]!r}.")
            return len(data)
        requests.append(parse_command(line))
        return stop + 1

    def _break(self, requests: list[Request], reason: str) -> None:
        self._broken = True
        requests.append(Violation(reason))

    def _judge(self, magic: bytes, number: int, length: int) -> Violation:
        if magic not in (REQUEST_MAGIC, RESPONSE_MAGIC):
            return Violation(f"A packet starts with {REQUEST_MAGIC!r} here; {magic!r} came.")
        if number not in _TYPES and number != _UNUSED:
            text = f"There is no packet of type {number}"
            return Violation(f"{text}.", "INVALID_COMMAND", text)
        name = _TYPES[number].name if number in _TYPES else f"packet of type {number}"
        if length > self.max_body:
            text = f"A {name} of {length} bytes was announced; {self.max_body} bytes is the limit here"
            return Violation(f"{text}.", "ARGUMENT_TOO_LARGE", text)
        if magic == RESPONSE_MAGIC:
            return Violation(
                f"A {name} came with the magic of answers.", "INVALID_MAGIC", "Request magic expected", False
            )
        return Violation(f"A {name} is no request.", "INVALID_COMMAND", "Command not expected", False)


def _too_few(type: PacketType, count: int) -> Violation:
    names = LAYOUT[type].args
    text = f"{type.name} has {len(names)} arguments ({', '.join(names)}); {count} came"
    return Violation(f"{text}.", "INVALID_PACKET", text, False)
