# Whatever a job server sends, and whatever is asked of it meanwhile: `receive_data` raises nothing, what is held back
# is never more than one packet, and each request gets exactly one end: an answer, a refusal or `Lost`. What this side
# may not say raises `LocalProtocolError` and nothing else. How the bytes are cut changes nothing.
"""Fuzzes what clients and workers make of a job server: the decoder and both conversations."""

from __future__ import annotations

from collections import Counter
from struct import pack

from gtask.errors import LocalProtocolError
from gtask.protocol import (
    Answered,
    Event,
    JobAssigned,
    JobCreated,
    Lost,
    NoJob,
    Refused,
    WorkComplete,
    WorkerProtocol,
    WorkException,
    WorkFail,
)
from gtask.protocol.client import ClientProtocol
from gtask.protocol.codec import Decoder, encode_response
from gtask.protocol.events import Ticket
from gtask.protocol.packets import HEADER_SIZE, LAYOUT, RESPONSE_MAGIC, Packet, PacketType
from gtask.types import Priority, Submission
from tests.fuzz.supply import Supply

MAX_BODY = 200
HANDLES = (b"H:a:1", b"H:a:2", b"", b"H:\xff")
NAMES = ("f", "g", "", "x" * 513, "\ud800", "a b")
ANSWERS = tuple(type for type, layout in LAYOUT.items() if layout.response)
ARGUMENTS = (*HANDLES, b"f", b"1", b"0", b"\0", b"QUEUE_ERROR", b"JOB_NOT_FOUND", b"Job queue is full", b"9" * 50, b"-")

Client = ClientProtocol | WorkerProtocol


def fuzz(data: bytes) -> None:
    """One connection, from its first byte to its end."""
    supply = Supply(data)
    if supply.number(3) == 0:
        cutting(supply)
    else:
        conversation(supply)


def cutting(supply: Supply) -> None:
    """The same bytes in other pieces give the same packets and the same error."""
    stream = b"".join(answer(supply) for _ in range(supply.number(4))) + supply.piece()
    whole, pieces = Decoder(RESPONSE_MAGIC, MAX_BODY), Decoder(RESPONSE_MAGIC, MAX_BODY)
    expected = whole.feed(stream)
    found: list[Packet] = []
    for piece in supply.cut(stream):
        found += pieces.feed(piece)
        assert pieces.buffered <= HEADER_SIZE + MAX_BODY
    assert found == expected
    assert str(pieces.error) == str(whole.error)


def conversation(supply: Supply) -> None:
    """Requests and answers in any order."""
    worker = supply.number(1) == 1
    protocol: Client = WorkerProtocol(MAX_BODY, supply.number(1) == 1) if worker else ClientProtocol(MAX_BODY)
    asked: list[Ticket] = []
    events: list[Event] = []
    grabbed = 0
    while supply:
        kind = supply.number(2)
        if kind == 0:
            try:
                grabbed += ask(protocol, supply, asked)
            except LocalProtocolError:
                pass
        elif kind == 1:
            events += protocol.receive_data(answer(supply))
        else:
            events += protocol.receive_data(supply.piece())
        assert protocol._decoder.buffered <= HEADER_SIZE + MAX_BODY
        assert (protocol.error is None) or protocol.closed
        sent = protocol.data_to_send()
        assert protocol.data_to_send() == b""
        assert isinstance(sent, bytes)
    events += protocol.receive_eof()
    assert protocol.closed
    assert protocol.receive_data(b"\0RES") == []
    check(asked, events)
    if isinstance(protocol, WorkerProtocol):
        assert sum(isinstance(event, JobAssigned | NoJob) for event in events) <= grabbed
        assert not protocol.held
        assert not protocol.outstanding


def check(asked: list[Ticket], events: list[Event]) -> None:
    """Each request has one end."""
    ends: Counter[int] = Counter()
    created: set[int] = set()
    for event in events:
        if isinstance(event, JobCreated):
            submission = event.ticket.submission
            assert submission is not None
            assert id(event.ticket) not in created
            created.add(id(event.ticket))
            if submission.background or submission.when is not None:
                ends[id(event.ticket)] += 1
        elif isinstance(event, Answered | Refused | Lost | WorkComplete | WorkFail | WorkException):
            ends[id(event.ticket)] += 1
    assert ends == Counter(id(ticket) for ticket in asked)


def ask(protocol: Client, supply: Supply, asked: list[Ticket]) -> int:
    """One request; returns how many jobs were grabbed for."""
    kind = supply.number(5)
    if kind == 0:
        asked.append(protocol.submit(submission(supply)))
    elif kind == 1:
        asked.append(protocol.echo(supply.piece(20)))
    elif kind == 2:
        asked.append(protocol.option())
    elif kind == 3:
        asked.append(protocol.get_status(supply.choice(HANDLES)))
    elif kind == 4 and supply.number(1):
        asked.append(protocol.get_status_unique("u" * supply.number(70)))
    elif isinstance(protocol, WorkerProtocol):
        return work(protocol, supply)
    return 0


def submission(supply: Supply) -> Submission:
    when = supply.choice((None, None, None, 0, 5, -1, 2**70))
    reducer = supply.choice((None, None, None, "r"))
    return Submission(
        supply.choice(NAMES[:4]),
        supply.piece(20),
        "u" * supply.number(70),
        supply.choice(tuple(Priority)),
        supply.number(1) == 1,
        when=when,
        reducer=reducer,
    )


def work(protocol: WorkerProtocol, supply: Supply) -> int:
    """What a worker says besides."""
    kind = supply.number(8)
    handle = supply.choice(tuple(protocol.held) or HANDLES)
    if kind == 0:
        protocol.can_do(supply.choice(NAMES[:2]))
    elif kind == 1:
        protocol.cant_do(supply.choice(NAMES[:2]))
    elif kind == 2:
        count = supply.number(3)
        protocol.grab(count)
        return count
    elif kind == 3:
        protocol.pre_sleep()
    elif kind == 4:
        protocol.complete(handle, supply.piece(20))
    elif kind == 5:
        protocol.fail(handle)
    elif kind == 6:
        protocol.exception(handle, supply.piece(20))
    elif kind == 7:
        protocol.send_status(handle, supply.number(300), supply.number(300))
    else:
        protocol.send_data(handle, supply.piece(20))
    return 0


def answer(supply: Supply) -> bytes:
    """A packet from a job server: mostly one that could be, sometimes with too few or too many arguments."""
    type = supply.choice(ANSWERS)
    wanted = len(LAYOUT[type].args)
    count = supply.choice((wanted, wanted, wanted, wanted - 1, wanted + 1))
    args = [supply.choice(ARGUMENTS) for _ in range(max(0, count))]
    body = b"\0".join(args) + supply.choice((b"", b"", b"\0", b"x" * MAX_BODY))
    return RESPONSE_MAGIC + pack(">II", type, len(body)) + body


def seeds() -> list[bytes]:
    """Inputs to begin with."""
    packets = [
        encode_response(PacketType.JOB_CREATED, b"H:a:1"),
        encode_response(PacketType.WORK_COMPLETE, b"H:a:1", b"done"),
        encode_response(PacketType.NOOP),
        encode_response(PacketType.NO_JOB),
        encode_response(PacketType.JOB_ASSIGN_UNIQ, b"H:a:1", b"f", b"u", b"data"),
        encode_response(PacketType.ERROR, b"QUEUE_ERROR", b"full"),
        encode_response(PacketType.STATUS_RES, b"H:a:1", b"1", b"1", b"1", b"2"),
    ]
    # Each packet as a piece in a client's conversation, and all of them in a worker's.
    pieces = [bytes([2, len(packet)]) + packet for packet in packets]
    asks = b"".join(bytes([0, kind]) for kind in range(6))
    return [
        *(bytes([1, 0]) + asks + piece for piece in pieces),
        bytes([1, 1, 0]) + asks + b"".join(pieces),
        bytes([0, 3, *range(20)]) + b"".join(packets),
    ]
