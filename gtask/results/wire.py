"""What travels between callers, workers and the results service: items, asks and answers. Design, section 4.

Two functions on the job server. The workload of a `PUT` job (background) is one msgpack item after another, each
``[id, state, body, ttl]``; for a member of a chord ``{"join": [chord, position, size, record, body], "ttl"}``, where
the body is that of the chord, or nil if the position is not 0; for a task that is revoked ``{"revoke": record,
"terminate", "ttl"}``. So the items of many tasks are joined by joining their bytes. The workload of a `WAIT` job
(foreground) is a map: ``{"ids", "timeout", "mode"}``, ``{"revoked": cursor, "timeout"}``, or a question about a key
(`gtask.results.keyed`). It is answered with ``{"records", "more"}``, ``{"marks", "cursor"}``, ``{"id"}`` (a claim),
``{"value"}`` or ``{"error"}``. Everything that comes from the wire is checked here before anything is built from it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgpack

from gtask.errors import DecodeError, EncodeError
from gtask.results.base import Mark, Marks
from gtask.results.checks import MAX_ID, MAX_TTL, STATES, bounded_ttl, check_record, is_id
from gtask.results.joins import Body, Join
from gtask.results.keyed import Keyed, Value, keyed_from_plain, keyed_to_plain
from gtask.states import Record
from gtask.types import MAX_FUNCTION, MAX_UNIQUE, Priority

PUT: Final = "gtask.results.put"
WAIT: Final = "gtask.results.wait"

MAX_IDS: Final = 10_000
"""Ids one ask may name; a caller with more asks several times."""

MAX_MEMBERS: Final = 100_000
"""Members a chord may have."""

MAX_HOLD: Final = 60.0
"""Seconds the service holds one ask at most; the caller asks again."""

MAX_ANSWER: Final = 16 * 1024 * 1024
"""Bytes of bodies one answer holds, unless a single one is larger; `more` then says that there are others."""

MAX_COMPLAINTS: Final = 10
"""Bad items of one job that are described; the others are only counted."""

MODES: Final = frozenset({"wait", "get", "forget"})


class Item(NamedTuple):
    """A record to keep, and for how many seconds."""

    record: Record
    ttl: float


class JoinItem(NamedTuple):
    """A member of a chord to count, and for how many seconds to keep it."""

    join: Join
    ttl: float


class RevokeItem(NamedTuple):
    """A task to mark as revoked, with its record, and for how many seconds to keep both."""

    record: Record
    terminate: bool
    ttl: float


PutItem = Item | JoinItem | RevokeItem


class Ask(NamedTuple):
    """What a caller wants to know: of which ids, in which way, and how long the service may hold the question."""

    ids: tuple[str, ...]
    timeout: float = 0.0
    mode: str = "wait"


class AskMarks(NamedTuple):
    """A worker's question for the marks behind a cursor, and how long the service may hold it."""

    cursor: str
    timeout: float = 0.0


class Answer(NamedTuple):
    """The records for an ask; `more` says that some were left out for their size, and are to be asked for again.

    The answer to a claim is the `id` of the task that may run, that to another question about a key a `value`; and
    that to a question for marks is `marks`.
    """

    records: list[Record]
    more: bool = False
    id: str = ""
    value: float = 0.0
    marks: Marks | None = None


def check_join(join: Join, ttl: float) -> None:
    """Refuses a member of a chord that cannot be counted, with `EncodeError`."""
    check_record(join.record, ttl)
    try:
        _join(_plain_join(join))
    except DecodeError as error:
        raise EncodeError(f"A member of the chord {join.group!r:.80} cannot be handed in: {error}.") from error


def encode_item(record: Record, ttl: float) -> bytes:
    """One item of a `PUT` job; raises `EncodeError` when the record cannot be kept."""
    check_record(record, ttl)
    return _pack([*_plain(record), min(float(ttl), MAX_TTL)])


def encode_join(join: Join, ttl: float) -> bytes:
    """One item of a `PUT` job for a member of a chord; raises `EncodeError` when it cannot be counted."""
    check_join(join, ttl)
    return _pack({"join": _plain_join(join), "ttl": min(float(ttl), MAX_TTL)})


def encode_revoke(record: Record, terminate: bool, ttl: float) -> bytes:
    """One item of a `PUT` job for a task that is revoked; raises `EncodeError` when its record cannot be kept."""
    check_record(record, ttl)
    return _pack({"revoke": _plain(record), "terminate": bool(terminate), "ttl": min(float(ttl), MAX_TTL)})


def decode_items(workload: bytes) -> tuple[list[PutItem], list[str]]:
    """The items of a `PUT` job, and a sentence for each that is none.

    An item that is well-formed msgpack and no record is left out alone. After bytes that are no msgpack nothing more
    can be found, so what comes behind them is lost with them.
    """
    items: list[PutItem] = []
    complaints: list[str] = []
    bad = 0
    unpacker = msgpack.Unpacker(
        max_buffer_size=max(1, len(workload)), unicode_errors="surrogateescape", strict_map_key=False
    )
    unpacker.feed(workload)
    position = 0
    while position < len(workload):
        try:
            value = unpacker.unpack()
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            why = str(error) or type(error).__name__
            complaints.append(f"{len(workload) - position} bytes from byte {position} on are no msgpack: {why:.100}")
            break
        try:
            items.append(_item(value))
        except DecodeError as error:
            bad += 1
            if bad <= MAX_COMPLAINTS:
                complaints.append(f"the item at byte {position} is no record: {error}")
        position = unpacker.tell()
    if bad > MAX_COMPLAINTS:
        complaints.append(f"and {bad - MAX_COMPLAINTS} more")
    return items, complaints


def _item(value: Any) -> PutItem:
    if isinstance(value, dict) and "revoke" in value:
        if not isinstance(terminate := value.get("terminate", False), bool):
            raise DecodeError(f"its `terminate` is {terminate!r:.40}")
        return RevokeItem(_record(value["revoke"]), terminate, bounded_ttl(value.get("ttl")))
    if isinstance(value, dict) and "join" in value:
        return JoinItem(_join(value["join"]), bounded_ttl(value.get("ttl")))
    if not isinstance(value, list) or len(value) != 4:
        raise DecodeError("it is not a list of four: id, state, body, ttl")
    *record, ttl = value
    return Item(_record(record), bounded_ttl(ttl))


def _join(value: Any) -> Join:
    if not isinstance(value, list) or len(value) != 5:
        raise DecodeError("a join is a list of five: chord, position, size, record, body")
    chord, position, size, record, body = value
    if not is_id(chord):
        raise DecodeError(f"its chord is {chord!r:.80}")
    if not (type(position) is int and type(size) is int and 0 <= position < size <= MAX_MEMBERS):
        raise DecodeError(f"it is member {position!r:.20} of {size!r:.20}")
    if body is None and position > 0:
        return Join(chord, position, size, _record(record), None)
    return Join(chord, position, size, _record(record), _body(body))


def _body(value: Any) -> Body:
    if not isinstance(value, list) or len(value) != 6:
        raise DecodeError("the body of a chord, which its first member brings, is a list of six")
    id, function, unique, priority, workload, immutable = value
    if not is_id(id) or not _is_name(function, MAX_FUNCTION) or not _is_name(unique, MAX_UNIQUE):
        raise DecodeError("the body of the chord has names that a job server cannot take")
    if priority not in tuple(Priority) or not isinstance(workload, bytes) or not isinstance(immutable, bool):
        raise DecodeError("the body of the chord is none")
    return Body(id, function, unique, priority, workload, immutable)


def _is_name(name: Any, most: int) -> bool:
    return is_id(name) and name.isprintable() and " " not in name and len(name.encode()) <= most


def _record(value: Any) -> Record:
    if not isinstance(value, list) or len(value) != 3:
        raise DecodeError("a record is a list of three: id, state, body")
    id, state, body = value
    if not is_id(id):
        raise DecodeError(f"its id is {id!r:.80}")
    if not isinstance(state, str) or state not in STATES:
        raise DecodeError(f"its state is {state!r:.40}")
    if not isinstance(body, bytes):
        raise DecodeError(f"its body is {type(body).__name__}, not bytes")
    return Record(id, STATES[state], body)


def encode_ask(ask: Ask | AskMarks | Keyed) -> bytes:
    """The workload of a `WAIT` job."""
    if isinstance(ask, Ask):
        return _pack({"ids": list(ask.ids), "timeout": ask.timeout, "mode": ask.mode})
    if isinstance(ask, AskMarks):
        return _pack({"revoked": ask.cursor, "timeout": ask.timeout})
    return _pack(keyed_to_plain(ask))


def decode_ask(workload: bytes) -> Ask | AskMarks | Keyed:
    """Reads the workload of a `WAIT` job; raises `DecodeError` with a sentence that goes back to the caller."""
    value = _unpack(workload, "An ask for results")
    keyed = keyed_from_plain(value)
    if keyed is not None:
        return keyed
    if "revoked" in value:
        cursor = value["revoked"]
        if not isinstance(cursor, str) or len(cursor) > MAX_ID:
            raise DecodeError("An ask for marks names its cursor as a text.")
        return AskMarks(cursor, _hold(value.get("timeout", 0.0)))
    ids, mode = value.get("ids"), value.get("mode", "wait")
    if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
        raise DecodeError("An ask for results names its `ids` as a list of texts.")
    if len(ids) > MAX_IDS:
        raise DecodeError(f"An ask for results names {MAX_IDS} ids at most, not {len(ids)}; ask several times.")
    if not isinstance(mode, str) or mode not in MODES:
        raise DecodeError(f"The `mode` of an ask for results is one of {', '.join(sorted(MODES))}.")
    return Ask(tuple(dict.fromkeys(ids)), _hold(value.get("timeout", 0.0)), mode)


def _hold(timeout: Any) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or math.isnan(timeout):
        raise DecodeError("The `timeout` of an ask for results is a number of seconds.")
    return min(max(0.0, float(timeout)), MAX_HOLD)


def encode_answer(records: Iterable[Record], more: bool = False) -> bytes:
    """The answer to a `WAIT` job."""
    return _pack({"records": list(map(_plain, records)), "more": more})


def encode_value(value: Value) -> bytes:
    """The answer to a question about a key."""
    return _pack({"id" if isinstance(value, str) else "value": value})


def encode_marks(marks: Marks) -> bytes:
    """The answer to a question for marks."""
    return _pack({"marks": [[mark.id, mark.terminate] for mark in marks.marks], "cursor": marks.cursor})


def encode_refusal(why: str) -> bytes:
    """The answer to a `WAIT` job that cannot be served: a sentence."""
    return _pack({"error": why})


def decode_answer(data: bytes) -> Answer | str:
    """Reads the answer to a `WAIT` job: the records, or the sentence of a refusal. Raises `DecodeError`."""
    value = _unpack(data, "The answer of the results service")
    error = value.get("error")
    if isinstance(error, str):
        return error
    if isinstance(id := value.get("id"), str):
        return Answer([], id=id)
    if "value" in value:
        number = value["value"]
        if isinstance(number, bool) or not isinstance(number, int | float) or math.isnan(number):
            raise DecodeError(f"The results service answers with {number!r:.40} instead of a number.")
        return Answer([], value=number)
    if "marks" in value:
        return Answer([], marks=_marks(value["marks"], value.get("cursor")))
    records = value.get("records")
    if not isinstance(records, list):
        raise DecodeError("The answer of the results service has no `records`.")
    return Answer([_record(record) for record in records], bool(value.get("more")))


def _marks(marks: Any, cursor: Any) -> Marks:
    if not isinstance(marks, list) or not isinstance(cursor, str) or len(cursor) > MAX_ID:
        raise DecodeError("The results service's answer about revoked tasks is none.")
    for mark in marks:
        if not isinstance(mark, list) or len(mark) != 2 or not is_id(mark[0]) or not isinstance(mark[1], bool):
            raise DecodeError(f"The results service names {mark!r:.80} as a revoked task.")
    return Marks([Mark(id, terminate) for id, terminate in marks], cursor)


def cut_answer(records: Collection[Record]) -> tuple[list[Record], bool]:
    """The first records that fit into one answer, and whether others were left out."""
    taken: list[Record] = []
    size = 0
    for record in records:
        size += len(record.body) + len(record.id) + 32
        if taken and size > MAX_ANSWER:
            return taken, True
        taken.append(record)
    return taken, False


def cut_items(items: Sequence[bytes], most: int, size: int) -> Iterable[bytes]:
    """Joins items into workloads of `most` items and `size` bytes at most, unless a single one is larger."""
    gathered: list[bytes] = []
    length = 0
    for item in items:
        if gathered and (len(gathered) >= most or length + len(item) > size):
            yield b"".join(gathered)
            gathered, length = [], 0
        gathered.append(item)
        length += len(item)
    if gathered:
        yield b"".join(gathered)


def _plain(record: Record) -> list[Any]:
    return [record.id, str(record.state), record.body]


def _plain_join(join: Join) -> list[Any]:
    body = None if join.body is None else list(join.body)
    return [join.group, join.position, join.size, _plain(join.record), body]


def _pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def _unpack(data: bytes, what: str) -> dict[Any, Any]:
    try:
        value = msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise DecodeError(f"{what} is no msgpack: {str(error) or type(error).__name__:.100}.") from error
    if not isinstance(value, dict):
        raise DecodeError(f"{what} is a msgpack map, not {type(value).__name__}.")
    return value
