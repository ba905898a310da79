# Whatever the workload of a job, an answer or a failure is: a value or `DecodeError` (for arguments that do not fit
# their annotations `TypeError`), and nothing else. A message that was read can be written, or `EncodeError` says why
# not, and is then read as the same. It takes no time and no memory out of proportion: the runner's limits hold.
"""Fuzzes the message codec: what a worker makes of jobs, and a caller of answers."""
# ruff: noqa: PT017

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from gtask.answers import FOREIGN, Form, decode_answer, decode_failure, encode_answer, encode_failure, encode_foreign
from gtask.arguments import Arguments
from gtask.codecs import from_json, pack, to_json, unpack
from gtask.errors import DecodeError, EncodeError
from gtask.failures import error_info, rebuild
from gtask.letters import Letter, decode_letter, encode_letter, read_history
from gtask.message import (
    Message,
    SignatureData,
    decode_message,
    encode_message,
    new_task_id,
    parse_wire_unique,
    wire_unique,
)
from gtask.publish import Later, pack_later, unpack_later
from gtask.results.records import outcome_to_record, record_to_outcome
from gtask.states import ErrorInfo, Outcome, Record, State
from tests.fuzz.supply import Supply
from tests.fuzz.values import table, value, write

ID = new_task_id("calculate", bytes(12))
UNIQUES = (ID, wire_unique(ID, 3, later=True), "", "order-7", "\udcff", "x" * 63, " ")


class Colour(Enum):
    RED = "red"
    BLUE = 2


@dataclass
class Line:
    name: str
    price: Decimal
    when: datetime | None = None
    parts: list[Line] = field(default_factory=list)


def calculate(
    line: Line,
    colours: set[Colour] = frozenset(),  # type: ignore[assignment]
    table: dict[UUID, tuple[int, ...]] | None = None,
    *rest: date | timedelta,
    raw: bytes = b"",
    **more: float,
) -> None:
    """A task with most kinds of annotations."""


ARGUMENTS = Arguments(calculate, "calculate")
ANNOTATIONS: tuple[Any, ...] = (
    Any,
    int,
    Line,
    list[Line],
    dict[str, Decimal],
    Colour | None,
    datetime,
    tuple[int, str],
)


def fuzz(data: bytes) -> None:
    """One workload, as everything that it may be."""
    supply = Supply(data)
    kind = supply.number(11)
    if kind > 7:
        built(supply, kind)
    elif kind < 3:
        job(supply)
    elif kind == 3:
        answer(supply)
    elif kind == 4:
        failure(supply.rest())
    elif kind == 5:
        stored(supply)
    elif kind == 6:
        parked(supply.rest())
    else:
        plain(supply.rest())


HEADERS = (
    *("task", "retries", "runs", "history", "replayed", "max_retries", "eta", "expires", "root", "chord"),
    *("chain", "link", "time_limit", "ignore_result", "fg", "trace", "sent", "priority", "foreign", "own"),
)
RECORD = ("task", "retries", "started", "finished", "worker", "parent", "delay", "children", "error", "result")
LETTER = (
    *("id", "task", "task_id", "function", "unique", "message", "error", "failed_at", "worker", "priority"),
    *("retries", "history", "stored", "refused"),
)


SETS = (b"\xc7\x00\x02", b"\xc7\x00\x03")
"""How a set and a frozenset begin: extensions 2 and 3, without content."""


def built(supply: Supply, kind: int) -> None:
    """The same from well-formed msgpack, of which any part may be anything."""
    if kind == 8:
        envelope: dict[Any, Any] = {"gtask": supply.choice((1, 1, 1, 2, True, None))}
        envelope["id"] = supply.choice((ID, ID, "", None, 7))
        envelope["args"] = [value(supply) for _ in range(supply.number(3))] if supply.number(3) else value(supply)
        envelope["kwargs"] = table(supply, ("line", "colours", "raw", "more", "table"))
        envelope["headers"] = table(supply, HEADERS) if supply.number(5) else value(supply)
        job(Supply(bytes([supply.number(4), supply.number(6)]) + write(envelope)))
    elif kind == 9:
        error = [value(supply, 1) for _ in range(4)]
        failure(write({"gtask": 1, "error": error if supply.number(3) else value(supply)}))
        answer(Supply(bytes([0, supply.number(6)]) + write(value(supply))))
    elif kind == 10:
        stored(Supply(bytes([supply.number(7)]) + write({"gtask": 1, **table(supply, RECORD)})))
        stored(Supply(bytes([0]) + write([value(supply, 1) for _ in range(5)])))
    else:
        parked(write({"letter": 1, **table(supply, LETTER)}))
        plain(write(value(supply)))


def job(supply: Supply) -> None:
    """The workload of a job of a task."""
    codec = supply.choice(("auto", "json", "text", "raw", "msgpack"))
    unique = supply.choice(UNIQUES)
    parse_wire_unique("calculate", unique)
    try:
        message = decode_message("calculate", supply.rest(), codec, unique)
    except DecodeError:
        return
    assert message.task == "calculate"
    assert len(message.id) <= 63
    fitted(message)
    for step in message.headers.get("chain") or ():
        try:
            assert SignatureData.from_list(SignatureData.from_list(step).to_list())
        except DecodeError:
            pass
    read_history(message.headers.get("history"))
    try:
        written = encode_message(message)
    except EncodeError:
        return
    again = encode_message(decode_message("calculate", written, "auto", unique))
    # Bytes, and not values: nan is not equal to itself. The elements of a set have no order.
    assert again == written or (any(mark in written for mark in SETS) and sorted(again) == sorted(written))


def fitted(message: Message) -> None:
    """Arguments that fit their annotations, or an error that says which does not."""
    try:
        args, kwargs = ARGUMENTS.fit(message.args, message.kwargs)
    except TypeError as error:
        assert "calculate" in str(error)
        return
    assert isinstance(args[0], Line)
    assert isinstance(kwargs, dict)


def answer(supply: Supply) -> None:
    """What came back from a call."""
    form, annotation = supply.choice(tuple(Form)), supply.choice(ANNOTATIONS)
    try:
        found = decode_answer(supply.rest(), form, annotation)
        encode_answer(form, found)
    except (DecodeError, EncodeError):
        pass


def failure(data: bytes) -> None:
    """What came back from a call that failed."""
    try:
        info = decode_failure(data)
    except DecodeError:
        return
    error = rebuild(info, (LookupError,))
    assert isinstance(error, Exception)
    assert isinstance(str(error), str)
    for form in Form:
        assert decode_failure(encode_failure(form, info)) is not None
    error_info(error)


def stored(supply: Supply) -> None:
    """A record of a result store, and a delayed job."""
    state = supply.choice(tuple(State))
    data = supply.rest()
    try:
        outcome = record_to_outcome(Record(ID, state, data), Line)
        outcome_to_record(outcome)
    except (DecodeError, EncodeError):
        pass
    try:
        later = unpack_later(data)
    except DecodeError:
        return
    assert unpack_later(pack_later(later)) == later


def parked(data: bytes) -> None:
    """A dead letter."""
    try:
        letter = decode_letter(data)
    except DecodeError:
        return
    try:
        written = encode_letter(letter)
    except EncodeError:
        return
    assert encode_letter(decode_letter(written)) == written


def plain(data: bytes) -> None:
    """The codecs below it."""
    for read in (unpack, from_json):
        try:
            found = read(data)
        except DecodeError:
            continue
        for encode in (pack, to_json):
            try:
                encode(found)
            except EncodeError:
                pass
        for codec in FOREIGN:
            try:
                encode_foreign((found,), {}, codec)
            except EncodeError:
                pass


def seeds() -> list[bytes]:
    """Inputs to begin with."""
    step = SignatureData("send", (1,), {"to": "a"}, {"priority": "high"}, True, ID, None).to_list()
    now = datetime(2024, 7, 1, 12, 0, tzinfo=UTC)
    values: list[Any] = [
        (1, "two"),
        {3, 4},
        frozenset("ab"),
        2**70,
        Decimal("12.50"),
        UUID(int=7),
        now,
        date(2024, 7, 1),
        time(12, 0),
        timedelta(days=1),
        b"bytes",
        [[[]]],
        {"name": "a", "price": "1.5", "when": now, "parts": [{"name": "b", "price": 2}]},
    ]
    headers = {
        "task": "calculate",
        "retries": 1,
        "eta": 1.0,
        "chain": [step],
        "chord": {"id": "c", "index": 0, "size": 2, "body": [step]},
        "history": [["ValueError", "no", 1.0]],
        "trace": {"traceparent": "00-0-0-01"},
    }
    messages = [Message(ID, "calculate", (value,), {"raw": b"x"}, headers) for value in values]
    info = ErrorInfo("ValueError", "no", ("no",), "Traceback ...")
    letter = Letter(ID, "calculate", ID, "calculate", ID, encode_message(messages[0]), info, 1.0)
    outcome = Outcome(ID, State.SUCCESS, values[-1], error=info, children=("a",))
    return [
        *(b"\0\0\0" + encode_message(message) for message in messages),
        b"\0\0\0" + to_json({"gtask": 1, "args": [7], "headers": {"max_retries": 0}}),
        b"\0\1\0[1, 2, {}]",
        b"\0\2\3text",
        b"\0\4\0" + pack({"a": 1}),
        *(b"\3\0\2" + pack(value) for value in values),
        b"\4" + encode_failure(Form.ENVELOPE, info),
        b"\4KeyError: 'a'",
        b"\5\5" + outcome_to_record(outcome).body,
        b"\5\0" + pack_later(Later("calculate", ID, "normal", 1.0, b"x")),
        b"\6" + encode_letter(letter),
        *(b"\7" + pack(value) for value in values),
        b'\7{"a": [1.5e300, null, "\\ud800"]}',
        *(bytes([kind]) + bytes((7 * place + kind) % 251 for place in range(200)) for kind in range(8, 12)),
    ]
