# Whatever a peer sends: `ServerProtocol` raises nothing and gives packets whose arguments are complete, commands, and
# violations whose answers are ERROR packets. A fatal violation is the last thing it says. It holds back one packet or
# one line at most, and how the bytes are cut changes nothing. A packet that can be written again is read as the same.
"""Fuzzes what a job server reads from one peer."""

from __future__ import annotations

from struct import pack

from gtask.errors import LocalProtocolError
from gtask.protocol.admin import Command
from gtask.protocol.codec import Decoder, encode_request
from gtask.protocol.packets import HEADER_SIZE, LAYOUT, REQUEST_MAGIC, RESPONSE_MAGIC, Packet, PacketType
from gtask.protocol.server import MAX_LINE, Request, ServerProtocol, Violation
from tests.fuzz.supply import Supply

MAX_BODY = 200
WORDS = (b"status", b"show jobs", b"maxqueue f 1", b"cancel job H:a:1", b"create function f", b"version", b"\xff", b"")


def fuzz(data: bytes) -> None:
    """One peer, from its first byte to its end."""
    supply = Supply(data)
    stream = b"".join(part(supply) for _ in range(supply.number(10)))
    pieces = supply.cut(stream)
    stream += (raw := supply.rest())
    expected = read([stream])
    found = read([*pieces, *(raw[at : at + 1] for at in range(len(raw)))])
    assert found == expected
    for place, request in enumerate(expected):
        check(request, place == len(expected) - 1)


def read(pieces: list[bytes]) -> list[Request]:
    """All requests of a stream, that of its end included."""
    protocol = ServerProtocol(MAX_BODY)
    found: list[Request] = []
    for piece in pieces:
        found += protocol.receive_data(piece)
        assert protocol.buffered <= max(HEADER_SIZE + MAX_BODY, MAX_LINE)
    return [*found, *protocol.receive_eof()]


def check(request: Request, last: bool) -> None:
    """What a request has to be."""
    if isinstance(request, Packet):
        layout = LAYOUT[request.type]
        assert layout.request
        assert len(request.args) == len(layout.args)
        try:
            written = encode_request(request.type, *request.args)
        except LocalProtocolError:
            # A name that ends the packet may hold a NUL, which nobody could write.
            return
        assert read([written]) == [request]
    elif isinstance(request, Command):
        assert request.name or request.answer.endswith(b"\n")  # type: ignore[attr-defined]  # a Refusal
    else:
        assert isinstance(request, Violation)
        assert request.reason
        assert last or not request.fatal
        if answer := request.answer():
            decoder = Decoder(RESPONSE_MAGIC)
            (packet,) = decoder.feed(answer)
            assert packet.type is PacketType.ERROR
            assert not decoder.buffered


def part(supply: Supply) -> bytes:
    """A packet, mostly a good one, or a line of text."""
    if supply.number(4) == 0:
        return supply.choice(WORDS) + supply.choice((b"\n", b"\r\n", b" x\n", b"x" * MAX_LINE, b"\0\n"))
    number = supply.choice((*(type for type, layout in LAYOUT.items() if layout.request), supply.number(50)))
    names = LAYOUT[PacketType(number)].args if number in LAYOUT else ()
    count = max(0, len(names) + supply.choice((0, 0, 0, -1, 1)))
    body = b"\0".join(supply.choice((b"f", b"u", b"", b"1", b"\xff", b"x" * 600)) for _ in range(count))
    body += supply.choice((b"", b"", b"\0", b"\0\0"))
    length = supply.choice((len(body), len(body), len(body), len(body) + 1, 1 << 31, 0))
    magic = supply.choice((REQUEST_MAGIC, REQUEST_MAGIC, REQUEST_MAGIC, RESPONSE_MAGIC, b"\0REX", b"\x16\x03\x01\0"))
    return magic + pack(">II", number, length) + body


def seeds() -> list[bytes]:
    """Inputs to begin with."""
    packets = [
        encode_request(PacketType.SUBMIT_JOB_BG, b"f", b"u", b"data"),
        encode_request(PacketType.CAN_DO, b"f"),
        encode_request(PacketType.GRAB_JOB_UNIQ),
        encode_request(PacketType.WORK_COMPLETE, b"H:a:1", b"done"),
        b"status\r\n",
        b"show unique jobs\n",
    ]
    return [*(b"\0\0" + packet for packet in packets), b"\0\0" + b"".join(packets), bytes(range(60)) * 2]
