"""The codec, byte by byte: the expected bytes are written out here, from the protocol reference, section 2."""

from __future__ import annotations

import tracemalloc

import pytest

from gtask.errors import LocalProtocolError, RemoteProtocolError
from gtask.protocol.codec import Decoder, check_header, encode_request, encode_response, parse_body, parse_header
from gtask.protocol.packets import LAYOUT, REQUEST_MAGIC, RESPONSE_MAGIC, Packet, PacketType

# Number, arguments, body; "REQ" travels to the job server, "RES" from it, "REQ RES" both ways.
PACKETS: list[tuple[int, str, str, tuple[bytes, ...], bytes]] = [
    (1, "CAN_DO", "REQ", (b"reverse",), b"reverse"),
    (2, "CANT_DO", "REQ", (b"reverse",), b"reverse"),
    (3, "RESET_ABILITIES", "REQ", (), b""),
    (4, "PRE_SLEEP", "REQ", (), b""),
    (6, "NOOP", "RES", (), b""),
    (7, "SUBMIT_JOB", "REQ", (b"reverse", b"u1", b"a\0b\0"), b"reverse\0u1\0a\0b\0"),
    (8, "JOB_CREATED", "RES", (b"H:lap:1",), b"H:lap:1"),
    (9, "GRAB_JOB", "REQ", (), b""),
    (10, "NO_JOB", "RES", (), b""),
    (11, "JOB_ASSIGN", "RES", (b"H:lap:1", b"reverse", b"\0data"), b"H:lap:1\0reverse\0\0data"),
    (12, "WORK_STATUS", "REQ RES", (b"H:lap:1", b"7", b"100"), b"H:lap:1\0007\000100"),
    (13, "WORK_COMPLETE", "REQ RES", (b"H:lap:1", b"tset"), b"H:lap:1\0tset"),
    (14, "WORK_FAIL", "REQ RES", (b"H:lap:1",), b"H:lap:1"),
    (15, "GET_STATUS", "REQ", (b"H:lap:1",), b"H:lap:1"),
    (16, "ECHO_REQ", "REQ", (b"\0\1\2",), b"\0\1\2"),
    (17, "ECHO_RES", "RES", (b"\0\1\2",), b"\0\1\2"),
    (18, "SUBMIT_JOB_BG", "REQ", (b"reverse", b"u1", b"test"), b"reverse\0u1\0test"),
    (19, "ERROR", "RES", (b"QUEUE_ERROR", b"Job queue is full"), b"QUEUE_ERROR\0Job queue is full"),
    (20, "STATUS_RES", "RES", (b"H:lap:1", b"1", b"1", b"7", b"100"), b"H:lap:1\0001\0001\0007\000100"),
    (21, "SUBMIT_JOB_HIGH", "REQ", (b"reverse", b"", b""), b"reverse\0\0"),
    (22, "SET_CLIENT_ID", "REQ", (b"worker-1",), b"worker-1"),
    (23, "CAN_DO_TIMEOUT", "REQ", (b"reverse", b"3000"), b"reverse\0003000"),
    (24, "ALL_YOURS", "REQ", (), b""),
    (25, "WORK_EXCEPTION", "REQ RES", (b"H:lap:1", b"Boom\0"), b"H:lap:1\0Boom\0"),
    (26, "OPTION_REQ", "REQ", (b"exceptions",), b"exceptions"),
    (27, "OPTION_RES", "RES", (b"exceptions",), b"exceptions"),
    (28, "WORK_DATA", "REQ RES", (b"H:lap:1", b"part"), b"H:lap:1\0part"),
    (29, "WORK_WARNING", "REQ RES", (b"H:lap:1", b"careful"), b"H:lap:1\0careful"),
    (30, "GRAB_JOB_UNIQ", "REQ", (), b""),
    (31, "JOB_ASSIGN_UNIQ", "RES", (b"H:lap:1", b"reverse", b"u1", b"x"), b"H:lap:1\0reverse\0u1\0x"),
    (32, "SUBMIT_JOB_HIGH_BG", "REQ", (b"reverse", b"u1", b"x"), b"reverse\0u1\0x"),
    (33, "SUBMIT_JOB_LOW", "REQ", (b"reverse", b"u1", b"x"), b"reverse\0u1\0x"),
    (34, "SUBMIT_JOB_LOW_BG", "REQ", (b"reverse", b"u1", b"x"), b"reverse\0u1\0x"),
    (
        35,
        "SUBMIT_JOB_SCHED",
        "REQ",
        (b"reverse", b"u1", b"0", b"12", b"*", b"*", b"1", b"x"),
        b"reverse\0u1\0000\00012\0*\0*\0001\0x",
    ),
    (36, "SUBMIT_JOB_EPOCH", "REQ", (b"reverse", b"u1", b"1795474414", b"x"), b"reverse\0u1\0001795474414\0x"),
    (37, "SUBMIT_REDUCE_JOB", "REQ", (b"map", b"u1", b"sum", b"", b"x"), b"map\0u1\0sum\0\0x"),
    (38, "SUBMIT_REDUCE_JOB_BACKGROUND", "REQ", (b"map", b"u1", b"sum", b"", b"x"), b"map\0u1\0sum\0\0x"),
    (39, "GRAB_JOB_ALL", "REQ", (), b""),
    (40, "JOB_ASSIGN_ALL", "RES", (b"H:lap:1", b"map", b"u1", b"sum", b"x"), b"H:lap:1\0map\0u1\0sum\0x"),
    (41, "GET_STATUS_UNIQUE", "REQ", (b"u1",), b"u1"),
    (
        42,
        "STATUS_RES_UNIQUE",
        "RES",
        (b"u1", b"1", b"0", b"0", b"0", b"2"),
        b"u1\0001\0000\0000\0000\0002",
    ),
]


def wire(direction: str, number: int, body: bytes) -> bytes:
    """One packet as it travels: magic, number, length, body."""
    return b"\0" + direction.encode() + bytes([0, 0, 0, number]) + len(body).to_bytes(4, "big") + body


CASES = [
    pytest.param(direction, Packet(PacketType(number), args), wire(direction, number, body), id=f"{name}-{direction}")
    for number, name, directions, args, body in PACKETS
    for direction in directions.split()
]
MAGIC = {"REQ": REQUEST_MAGIC, "RES": RESPONSE_MAGIC}
ENCODE = {"REQ": encode_request, "RES": encode_response}


def test_every_packet_of_the_layout_is_written_out_here() -> None:
    """The table above has each packet of `LAYOUT`, under its name and in its directions."""
    assert {number: (name, directions) for number, name, directions, _, _ in PACKETS} == {
        type.value: (type.name, " ".join(["REQ"] * layout.request + ["RES"] * layout.response))
        for type, layout in LAYOUT.items()
    }


@pytest.mark.parametrize(("direction", "packet", "expected"), CASES)
def test_a_packet_becomes_its_bytes(direction: str, packet: Packet, expected: bytes) -> None:
    """Header and body, to the byte."""
    assert ENCODE[direction](packet.type, *packet.args) == expected


@pytest.mark.parametrize(("direction", "packet", "data"), CASES)
def test_bytes_become_the_packet(direction: str, packet: Packet, data: bytes) -> None:
    """The whole packet at once."""
    decoder = Decoder(MAGIC[direction])

    assert decoder.feed(data) == [packet]
    assert decoder.error is None
    assert decoder.buffered == 0


@pytest.mark.parametrize(("direction", "packet", "data"), CASES)
def test_one_byte_at_a_time(direction: str, packet: Packet, data: bytes) -> None:
    """Nothing before the last byte, and the packet with it."""
    decoder = Decoder(MAGIC[direction])

    assert [decoder.feed(bytes([byte])) for byte in data[:-1]] == [[]] * (len(data) - 1)
    assert decoder.buffered == len(data) - 1
    assert decoder.feed(data[-1:]) == [packet]
    assert decoder.buffered == 0


@pytest.mark.parametrize(("direction", "packet", "data"), CASES)
def test_what_follows_a_packet_is_kept_for_the_next(direction: str, packet: Packet, data: bytes) -> None:
    """A packet and a half, then the other half and one more."""
    decoder = Decoder(MAGIC[direction])
    half = len(data) // 2

    assert decoder.feed(data + data[:half]) == [packet]
    assert decoder.buffered == half
    assert decoder.feed(data[half:] + data) == [packet, packet]
    assert decoder.buffered == 0


@pytest.mark.parametrize(("direction", "packet", "data"), CASES)
def test_a_packet_under_the_wrong_magic_ends_the_stream(direction: str, packet: Packet, data: bytes) -> None:
    """What was complete before is still returned; afterwards nothing is."""
    other = "RES" if direction == "REQ" else "REQ"
    decoder = Decoder(MAGIC[direction])

    assert decoder.feed(data + wire(other, packet.type, b"") + data) == [packet]
    assert isinstance(decoder.error, RemoteProtocolError)
    assert decoder.feed(data) == []
    assert decoder.buffered == 0


@pytest.mark.parametrize("number", [0, 5, 43, 99, 2**31, 2**32 - 1])
def test_a_number_that_no_packet_has_is_an_error(number: int) -> None:
    """Also the one that ends gearmand (protocol reference, section 1)."""
    decoder = Decoder()

    assert decoder.feed(RESPONSE_MAGIC + number.to_bytes(4, "big") + bytes(4)) == []
    assert "no packet of type" in str(decoder.error)


@pytest.mark.parametrize("chunk", [1, 12, 4096])
def test_a_length_beyond_the_limit_is_refused_before_its_body_comes(chunk: int) -> None:
    """Nobody is made to hold 4 GiB by a header of 12 bytes, however it arrives."""
    header = RESPONSE_MAGIC + (17).to_bytes(4, "big") + b"\xff\xff\xff\xff"
    decoder = Decoder(max_body=1000)

    for start in range(0, len(header), chunk):
        assert decoder.feed(header[start : start + chunk]) == []

    assert "4294967295 bytes was announced; 1000 bytes is the limit" in str(decoder.error)


def test_a_body_of_exactly_the_limit_is_taken() -> None:
    """The limit itself is allowed."""
    decoder = Decoder(max_body=4)

    assert decoder.feed(wire("RES", 17, b"1234")) == [Packet(PacketType.ECHO_RES, (b"1234",))]
    assert decoder.feed(wire("RES", 17, b"12345")) == []
    assert decoder.error is not None


def test_too_few_arguments_are_an_error() -> None:
    """A SUBMIT_JOB that lacks its NULs: gearmand would take the next packet for the rest."""
    decoder = Decoder(REQUEST_MAGIC)

    assert decoder.feed(wire("REQ", 7, b"reverse\0u1")) == []
    assert "has 3 arguments (function, unique, data); 2 came" in str(decoder.error)


def test_a_body_on_a_packet_that_has_none_is_swallowed() -> None:
    """As gearmand does (protocol reference, section 1)."""
    assert Decoder().feed(wire("RES", 10, b"surplus")) == [Packet(PacketType.NO_JOB)]


def test_the_nul_behind_the_handle_of_a_converted_exception_is_removed() -> None:
    """gearmand sends WORK_FAIL so, when the client did not ask for exceptions (section 15)."""
    assert parse_body(PacketType.WORK_FAIL, b"H:lap:1\0").args == (b"H:lap:1",)
    assert parse_body(PacketType.WORK_COMPLETE, b"H:lap:1\0data\0").args == (b"H:lap:1", b"data\0")


@pytest.mark.parametrize(
    ("encode", "type", "args", "why"),
    [
        (encode_request, PacketType.NOOP, (), "does not travel in this direction"),
        (encode_response, PacketType.CAN_DO, (b"f",), "does not travel in this direction"),
        (encode_request, PacketType.CAN_DO, (), r"has 1 arguments \(function\), not 0"),
        (encode_request, PacketType.GRAB_JOB, (b"x",), r"has 0 arguments \(none\), not 1"),
        (encode_request, PacketType.CAN_DO, (b"f\0",), "function of CAN_DO holds a NUL"),
        (encode_request, PacketType.SUBMIT_JOB, (b"f", b"u\0", b""), "unique of SUBMIT_JOB holds a NUL"),
        (encode_response, PacketType.ERROR, (b"CODE", b"text\0"), "text of ERROR holds a NUL"),
    ],
)
def test_what_the_protocol_does_not_allow_is_not_encoded(
    encode: object, type: PacketType, args: tuple[bytes, ...], why: str
) -> None:
    """A mistake of this side is told to this side."""
    assert callable(encode)
    with pytest.raises(LocalProtocolError, match=why):
        encode(type, *args)


def test_a_header_is_taken_apart_and_checked() -> None:
    """The parts that a job server's reader uses on their own."""
    header = wire("REQ", 7, bytes(300))[:12]

    assert parse_header(header) == (REQUEST_MAGIC, 7, 300)
    assert check_header(header, REQUEST_MAGIC, 300) is None
    assert "announced" in str(check_header(header, REQUEST_MAGIC, 299))
    assert "starts with" in str(check_header(header, RESPONSE_MAGIC, 300))


def test_a_large_packet_in_small_pieces_costs_linear_work_and_little_memory() -> None:
    """8 MiB in pieces of 512 bytes: quadratic copying would move 64 GiB, and take minutes."""
    size = 8 * 1024 * 1024
    data = wire("RES", 17, bytes(size))
    decoder = Decoder()

    tracemalloc.start()
    try:
        pieces = [packet for start in range(0, len(data), 512) for packet in decoder.feed(data[start : start + 512])]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert [len(packet.args[0]) for packet in pieces] == [size]
    assert peak < 4.5 * size


def test_a_broken_stream_leaves_no_bytes_behind() -> None:
    """What was held back is let go with the error."""
    decoder = Decoder()
    good = wire("RES", 17, bytes(1000))
    decoder.feed(good[:500])
    decoder.feed(good[500:] + b"GARBAGE GARBAGE")

    assert decoder.error is not None
    assert decoder.buffered == 0
