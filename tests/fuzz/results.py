# Whatever a job of the results service carries: `decode_items` raises nothing, and gives items that can be written
# again, together with sentences; `decode_ask` and `decode_answer` give a value or `DecodeError`. A chord is completed,
# or refused with a `SerializationError` that the store makes a failure of. Nothing has more items than bytes.
"""Fuzzes what travels between workers, callers and the results service."""
# ruff: noqa: PT017

from __future__ import annotations

from typing import Any

from gtask.codecs import pack
from gtask.errors import DecodeError, SerializationError
from gtask.message import Message, encode_message
from gtask.results.joins import Body, Join, complete
from gtask.results.records import outcome_to_record, record_to_outcome
from gtask.results.wire import (
    MAX_IDS,
    MAX_TTL,
    Answer,
    Ask,
    Claim,
    JoinItem,
    decode_answer,
    decode_ask,
    decode_items,
    encode_answer,
    encode_ask,
    encode_claim,
    encode_claimed,
    encode_item,
    encode_join,
    encode_refusal,
)
from gtask.signing import Keyring
from gtask.states import Outcome, Record, State
from gtask.types import Submission
from tests.fuzz.supply import Supply
from tests.fuzz.values import table, value, write

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
    items(write([*plain, ttl]) + write({"join": joined, "ttl": ttl}) + write(value(supply)))
    ask(write(table(supply, ("ids", "timeout", "mode", "claim"))))
    answer(write(table(supply, ("records", "more", "id", "error"))))
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
    for keys in (None, KEYS):
        body = found.body
        if keys is not None:
            body = body._replace(workload=keys.sign(body.function, body.workload, 0.0))
        try:
            after = complete(body, [found.record], keys)
        except SerializationError:
            continue
        if isinstance(after, Submission):
            assert found.record.state is State.SUCCESS
            assert after.function == body.function
        else:
            assert all(isinstance(one, Record) for one in after)


def ask(data: bytes) -> None:
    """A `WAIT` job."""
    try:
        found = decode_ask(data)
    except DecodeError as error:
        assert encode_refusal(str(error))
        return
    if isinstance(found, Claim):
        assert decode_ask(encode_claim(found)) == found
    else:
        assert len(found.ids) <= MAX_IDS
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
    if not found.id:
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
        encode_join(Join("g", 0, 1, failed, body._replace(immutable=True)), 60.0),
    ]
    return [
        *(b"\0" + one for one in put),
        b"\0" + b"".join(put),
        b"\x60" + encode_ask(Ask(("a", "b"), 5.0)),
        b"\x60" + encode_claim(Claim("key", "id", 5.0)),
        b"\xff" + encode_answer([done, failed], True),
        b"\xff" + encode_claimed("a"),
        b"\xff" + encode_refusal("no"),
        b"\0" + pack([1, 2, 3, 4]),
        *(b"\1" + bytes((7 * place + kind) % 251 for place in range(200)) for kind in range(6)),
    ]
