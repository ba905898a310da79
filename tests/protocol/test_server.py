"""ServerProtocol: each stream whole, byte by byte, and with more behind it, means the same."""

from __future__ import annotations

import struct

import pytest

from gtask.protocol.admin import Command
from gtask.protocol.codec import encode_request
from gtask.protocol.packets import LAYOUT, Packet, PacketType
from gtask.protocol.server import MAX_LINE, Request, ServerProtocol, Violation

T = PacketType
ECHO = encode_request(T.ECHO_REQ, b"after")


def header(type: int, length: int, magic: bytes = b"\0REQ") -> bytes:
    return magic + struct.pack(">II", type, length)


def example(type: PacketType) -> Packet:
    args = tuple(b"data\0more" if name == "data" else name.encode() for name in LAYOUT[type].args)
    return Packet(type, args)


REQUESTS = [example(type) for type, layout in LAYOUT.items() if layout.request]
PACKETS: list[tuple[str, bytes, list[Request]]] = [
    (packet.type.name, encode_request(packet.type, *packet.args), [packet]) for packet in REQUESTS
]

STREAMS: list[tuple[str, bytes, list[Request]]] = [
    *PACKETS,
    ("two packets", ECHO + encode_request(T.GRAB_JOB), [Packet(T.ECHO_REQ, (b"after",)), Packet(T.GRAB_JOB)]),
    ("text", b"status\r\n", [Command("status")]),
    ("text with a bare LF", b"cancel job H:x:1\n", [Command("cancel job", ("H:x:1",))]),
    (
        "mixed",
        b"version\n" + ECHO + b"workers\r\n" + encode_request(T.PRE_SLEEP),
        [Command("version"), Packet(T.ECHO_REQ, (b"after",)), Command("workers"), Packet(T.PRE_SLEEP)],
    ),
    ("a body where none belongs", header(T.GRAB_JOB, 3) + b"abc", [Packet(T.GRAB_JOB)]),
    ("a NUL at the end of a name", header(T.CAN_DO, 2) + b"f\0", [Packet(T.CAN_DO, (b"f",))]),
    ("empty arguments", header(T.SUBMIT_JOB, 2) + b"\0\0", [Packet(T.SUBMIT_JOB, (b"", b"", b""))]),
    ("a body of megabytes", encode_request(T.ECHO_REQ, b"m" * 100_000), [Packet(T.ECHO_REQ, (b"m" * 100_000,))]),
]
IDS = [name for name, _, _ in STREAMS]


@pytest.mark.parametrize(("name", "stream", "expected"), STREAMS, ids=IDS)
def test_whole(name: str, stream: bytes, expected: list[Request]) -> None:
    protocol = ServerProtocol()
    assert protocol.receive_data(stream) == expected
    assert protocol.buffered == 0
    assert protocol.receive_eof() == []


@pytest.mark.parametrize(("name", "stream", "expected"), STREAMS, ids=IDS)
def test_byte_by_byte(name: str, stream: bytes, expected: list[Request]) -> None:
    protocol = ServerProtocol()
    found: list[Request] = []
    for position in range(len(stream)):
        found += protocol.receive_data(stream[position : position + 1])
    assert found == expected
    assert protocol.buffered == 0


@pytest.mark.parametrize(("name", "stream", "expected"), STREAMS, ids=IDS)
def test_with_half_a_packet_behind(name: str, stream: bytes, expected: list[Request]) -> None:
    protocol = ServerProtocol()
    assert protocol.receive_data(stream + ECHO[:-2]) == expected
    assert protocol.buffered == len(ECHO) - 2
    assert protocol.receive_data(ECHO[-2:]) == [Packet(T.ECHO_REQ, (b"after",))]


VIOLATIONS: list[tuple[str, bytes, str, bool]] = [
    ("the magic of answers", header(T.ECHO_REQ, 1, b"\0RES") + b"x", "INVALID_MAGIC", False),
    ("an answer as a request", header(T.JOB_CREATED, 1) + b"x", "INVALID_COMMAND", False),
    ("the unused type 5", header(5, 0), "INVALID_COMMAND", False),
    ("too few arguments", header(T.SUBMIT_JOB, 3) + b"abc", "INVALID_PACKET", False),
    ("too few arguments, ending in NUL", header(T.SUBMIT_JOB, 2) + b"f\0", "INVALID_PACKET", False),
    ("another magic", header(T.ECHO_REQ, 1, b"\0XXX") + b"x", "", True),
    ("type 0", header(0, 0), "INVALID_COMMAND", True),
    ("type 43", header(43, 0), "INVALID_COMMAND", True),
    ("type 2^31", header(2**31, 0), "INVALID_COMMAND", True),
    ("a body over the limit", header(T.ECHO_REQ, 1_000_001), "ARGUMENT_TOO_LARGE", True),
    ("a text line over the limit", b"x" * MAX_LINE, "", True),
    ("control characters", b"\x16\x03\x01\x02\x00\x01\n", "", True),
]


@pytest.mark.parametrize(("name", "stream", "code", "fatal"), VIOLATIONS, ids=[name for name, *_ in VIOLATIONS])
@pytest.mark.parametrize("step", [1, 10_000])
def test_violations(name: str, stream: bytes, code: str, fatal: bool, step: int) -> None:
    protocol = ServerProtocol(max_body=1_000_000)
    stream += ECHO
    found: list[Request] = []
    for position in range(0, len(stream), step):
        found += protocol.receive_data(stream[position : position + step])
    violation, *rest = found
    assert isinstance(violation, Violation)
    assert (violation.code, violation.fatal) == (code, fatal)
    assert violation.reason.endswith(".")
    assert bool(violation.answer()) == bool(code)
    assert rest == ([] if fatal else [Packet(T.ECHO_REQ, (b"after",))])
    if fatal:
        assert protocol.buffered == 0
        assert protocol.receive_data(ECHO) == []


@pytest.mark.parametrize(
    ("type", "body", "added"),
    [
        (T.WORK_COMPLETE, b"H:x:1", b""),
        (T.WORK_DATA, b"H:x:1", b""),
        (T.WORK_WARNING, b"H:x:1", b""),
        (T.WORK_EXCEPTION, b"H:x:1", b""),
        (T.WORK_STATUS, b"H:x:1\x001", b"0"),
    ],
)
def test_what_perl_leaves_away_of_a_report(type: T, body: bytes, added: bytes) -> None:
    found = ServerProtocol().receive_data(header(type, len(body)) + body + ECHO)
    assert found == [Packet(type, (*body.split(b"\0"), added)), Packet(T.ECHO_REQ, (b"after",))]


def test_no_more_than_that_may_be_left_away() -> None:
    (violation,) = ServerProtocol().receive_data(header(T.WORK_STATUS, 5) + b"H:x:1")
    assert isinstance(violation, Violation)
    assert not violation.fatal


def test_what_came_before_a_fatal_violation_counts() -> None:
    found = ServerProtocol().receive_data(ECHO + b"status\n" + header(99, 0) + ECHO)
    assert found[:2] == [Packet(T.ECHO_REQ, (b"after",)), Command("status")]
    assert isinstance(found[2], Violation)
    assert len(found) == 3


def test_an_end_in_the_middle_is_a_violation() -> None:
    protocol = ServerProtocol()
    protocol.receive_data(ECHO[:-1])
    (violation,) = protocol.receive_eof()
    assert isinstance(violation, Violation)
    assert violation.fatal
    assert protocol.receive_eof() == []


def test_a_large_body_in_small_pieces_costs_linear_time() -> None:
    """Sixteen megabytes in pieces of a kilobyte: with a copy for each piece this would move 128 GiB."""
    protocol = ServerProtocol()
    stream = encode_request(T.ECHO_REQ, b"x" * 16 * 1024 * 1024)
    found: list[Request] = []
    for position in range(0, len(stream), 1024):
        found += protocol.receive_data(stream[position : position + 1024])
    assert len(found) == 1


def test_the_error_packet_of_a_violation() -> None:
    violation = Violation("Something is wrong.", "SOME_CODE", "some text")
    assert violation.answer() == b"\0RES" + struct.pack(">II", T.ERROR, 19) + b"SOME_CODE\0some text"
