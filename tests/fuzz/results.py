# Whatever a job of the results service carries: `decode_items` raises nothing, and gives items that can be written
# again, together with sentences; `decode_ask` and `decode_answer` give a value or `DecodeError`. A chord is completed,
# or fails. Nothing has more items than bytes.
"""Fuzzes what travels between workers, callers and the results service."""
# ruff: noqa: PT017

from __future__ import annotations

from typing import Any

from gtask.codecs import pack
from gtask.errors import DecodeError
from gtask.message import CANVAS, Message, encode_message
from gtask.results.base import Mark, Marks
from gtask.results.checks import MAX_TTL
from gtask.results.joins import Body, Join, complete
from gtask.results.keyed import KINDS, Acquire, Claim, Count, Release, Take, Unclaim
from gtask.results.records import outcome_to_record, record_to_outcome
from gtask.results.wire import (
    MAX_IDS,
    Answer,
    Ask,
    AskMarks,
    JoinItem,
    RevokeItem,
    decode_answer,
    decode_ask,
    decode_items,
    encode_answer,
    encode_ask,
    encode_item,
    encode_join,
    encode_marks,
    encode_refusal,
    encode_revoke,
    encode_value,
)
from gtask.signing import Keyring
from gtask.states import Outcome, Record, State
from gtask.types import Submission
from tests.fuzz.supply import Supply
from tests.fuzz.values import table, value, write

KEYED = (
    Claim("key", "id", 5.0),
    Unclaim("key", "id"),
    Acquire("key", "holder", 2, 5.0),
    Release("key", "holder"),
    Take("key", 0.5, 3),
    Count("key", 5.0),
)
KEYS = Keyring({"k1": "a secret of many bytes"})


def fuzz(data: bytes) -> None:
    """One workload, as each of the three things that it may be."""
    kind, data = data[:1], data[1:]
    if kind == b"\x01":
        built(Supply(data))
    elif kind < b"\x60":
        items(data)
    elif kind < b"\xb0":
        ask(data)
    else:
        answer(data)


def built(supply: Supply) -> None:
    """The same from well-formed msgpack, of which any part may be anything."""
    text = ("a", "b" * 32, "", "total", "normal", "x" * 300, "SUCCESS", "FAILURE")
    plain = [supply.choice(text), supply.choice(text), write({"gtask": 1, **table(supply, RECORD)})]
    message = write({"gtask": 1, "id": "c", "args": value(supply), "headers": table(supply, ("chain", "task"))})
    body = ["c", "total", "c", "normal", message, supply.number(1) == 1]
    place = supply.number(11)
    if place < 6:
        body[place] = value(supply, 1)
    joined: list[Any] = ["g", supply.number(1), 1 + supply.number(1), plain, body]
    if place > 8:
        joined[supply.number(4)] = value(supply)
    ttl = supply.choice((1.0, 60, float("inf"), float("nan"), -1, True, None))
    items(
        write([*plain, ttl])
        + write({"join": joined, "ttl": ttl})
        + write({"revoke": plain, "ttl": ttl})
        + write(value(supply))
    )
    ask(write(table(supply, ("ids", "timeout", "mode", "revoked"))))
    ask(write({supply.choice(tuple(KINDS)): value(supply, 1), "timeout": value(supply)}))
    answer(write(table(supply, ("records", "more", "id", "value", "marks", "cursor", "error"))))
    answer(write({"records": [plain], "more": value(supply, 1)}))


RECORD = ("task", "retries", "started", "worker", "parent", "children", "error", "result")


def items(data: bytes) -> None:
    """A `PUT` job."""
    found, complaints = decode_items(data)
    assert len(found) <= len(data)
    assert len(complaints) <= 12
    for item in found:
        assert 0 <= item.ttl <= MAX_TTL
        if isinstance(item, JoinItem):
            assert decode_items(encode_join(item.join, item.ttl)) == ([item], [])
            join(item.join)
        elif isinstance(item, RevokeItem):
            assert decode_items(encode_revoke(*item)) == ([item], [])
            record(item.record)
        else:
            assert decode_items(encode_item(item.record, item.ttl)) == ([item], [])
            record(item.record)


def record(found: Record) -> None:
    """What a reader makes of a record."""
    try:
        outcome = record_to_outcome(found)
    except DecodeError:
        return
    assert outcome.id == found.id
    assert outcome.state is found.state


def join(found: Join) -> None:
    """A chord that this member completes, with keys and without."""
    if found.body is None:
        assert found.position
        return
    for keys in (None, KEYS):
        body = found.body
        if keys is not None:
            body = body._replace(workload=keys.sign(body.function, body.workload, 0.0))
        after = complete(body, [found.record], keys)
        if isinstance(after, Submission):
            assert after.function in (body.function, CANVAS)
            assert found.record.state is State.SUCCESS or after.function == CANVAS
        else:
            assert all(isinstance(one, Record) for one in after)


def ask(data: bytes) -> None:
    """A `WAIT` job."""
    try:
        found = decode_ask(data)
    except DecodeError as error:
        assert encode_refusal(str(error))
        return
    assert not isinstance(found, Ask) or len(found.ids) <= MAX_IDS
    assert decode_ask(encode_ask(found)) == found


def answer(data: bytes) -> None:
    """The answer to a `WAIT` job."""
    try:
        found = decode_answer(data)
    except DecodeError:
        return
    if isinstance(found, str):
        return
    assert isinstance(found, Answer)
    if found.marks is not None:
        assert decode_answer(encode_marks(found.marks)) == found
    elif not found.id and not found.value:
        assert decode_answer(encode_answer(found.records, found.more)) == found
    for one in found.records:
        record(one)


def seeds() -> list[bytes]:
    """Inputs to begin with."""
    done = outcome_to_record(Outcome("a" * 32, State.SUCCESS, {"sum": 3}, children=("b" * 32,)))
    failed = outcome_to_record(Outcome("a" * 32, State.FAILURE))
    message = Message("c" * 32, "total", (1,), {}, {"chain": [["send", [], {}, {}, False, "d" * 32, None]]})
    body = Body("c" * 32, "total", "c" * 32, "normal", encode_message(message))
    put = [
        encode_item(done, 60.0),
        encode_join(Join("g", 0, 1, done, body), 60.0),
        encode_revoke(failed, True, 60.0),
        encode_join(Join("g", 0, 1, failed, body._replace(immutable=True)), 60.0),
        encode_join(Join("g", 1, 2, done, None), 60.0),
    ]
    return [
        *(b"\0" + one for one in put),
        b"\0" + b"".join(put),
        b"\x60" + encode_ask(Ask(("a", "b"), 5.0)),
        b"\x60" + encode_ask(AskMarks("era:7", 5.0)),
        *(b"\x60" + encode_ask(one) for one in KEYED),
        b"\xff" + encode_answer([done, failed], True),
        b"\xff" + encode_value("a"),
        b"\xff" + encode_value(2.5),
        b"\xff" + encode_marks(Marks([Mark("a"), Mark("b", True)], "era:2")),
        b"\xff" + encode_refusal("no"),
        b"\0" + pack([1, 2, 3, 4]),
        *(b"\1" + bytes((7 * place + kind) % 251 for place in range(200)) for kind in range(6)),
    ]
