"""What travels between callers, workers and the results service: items, asks and answers. Design, section 4.

Two functions on the job server. The workload of a `PUT` job (background) is one msgpack item after another, each
``[id, state, body, ttl]``, so that the items of many tasks are joined by joining their bytes. The workload of a
`WAIT` job (foreground) is a map ``{"ids", "timeout", "mode"}``; it is answered with ``{"records", "more"}`` or
``{"error"}``. Everything that comes from the wire is checked here before anything is built from it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgpack

from gtask.errors import DecodeError, EncodeError
from gtask.states import Record, State

PUT: Final = "gtask.results.put"
WAIT: Final = "gtask.results.wait"

MAX_ID: Final = 255
"""Characters a task id may have."""

MAX_IDS: Final = 10_000
"""Ids one ask may name; a caller with more asks several times."""

MAX_TTL: Final = 10 * 365 * 86400.0
"""Seconds a record is kept at most, however long it asks for."""

MAX_HOLD: Final = 60.0
"""Seconds the service holds one ask at most; the caller asks again."""

MAX_ANSWER: Final = 16 * 1024 * 1024
"""Bytes of bodies one answer holds, unless a single one is larger; `more` then says that there are others."""

MAX_COMPLAINTS: Final = 10
"""Bad items of one job that are described; the others are only counted."""

MODES: Final = frozenset({"wait", "get", "forget"})

_STATES: Final = {state.value: state for state in State}


class Item(NamedTuple):
    """A record to keep, and for how many seconds."""

    record: Record
    ttl: float


class Ask(NamedTuple):
    """What a caller wants to know: of which ids, in which way, and how long the service may hold the question."""

    ids: tuple[str, ...]
    timeout: float = 0.0
    mode: str = "wait"


class Answer(NamedTuple):
    """The records for an ask; `more` says that some were left out for their size, and are to be asked for again."""

    records: list[Record]
    more: bool = False


def check_record(record: Record, ttl: float) -> None:
    """Refuses what no store could keep, with `EncodeError`: an id that is too long, a body that is no bytes."""
    if not is_id(record.id):
        raise EncodeError(f"A task id is a text of 1 to {MAX_ID} characters; {record.id!r:.80} is not.")
    if record.state not in _STATES:
        raise EncodeError(f"{record.state!r:.80} is no state of a task.")
    if not isinstance(record.body, bytes):
        raise EncodeError(f"The body of a record is bytes; that of {record.id} is {type(record.body).__name__}.")
    if not isinstance(ttl, int | float) or math.isnan(ttl):
        raise EncodeError(f"A record is kept for a number of seconds; {ttl!r:.80} is none.")


def is_id(id: object) -> bool:
    """Whether it is a text that is short enough, and that has an encoding (no lone surrogates)."""
    if not isinstance(id, str) or not 0 < len(id) <= MAX_ID:
        return False
    return id.isascii() or not any("\ud800" <= character <= "\udfff" for character in id)


def encode_item(record: Record, ttl: float) -> bytes:
    """One item of a `PUT` job; raises `EncodeError` when the record cannot be kept."""
    check_record(record, ttl)
    packed: bytes = msgpack.packb([record.id, str(record.state), record.body, min(float(ttl), MAX_TTL)])
    return packed


def decode_items(workload: bytes) -> tuple[list[Item], list[str]]:
    """The items of a `PUT` job, and a sentence for each that is none.

    An item that is well-formed msgpack and no record is left out alone. After bytes that are no msgpack nothing more
    can be found, so what comes behind them is lost with them.
    """
    items: list[Item] = []
    complaints: list[str] = []
    bad = 0
    unpacker = msgpack.Unpacker(max_buffer_size=max(1, len(workload)), unicode_errors="surrogateescape")
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


def _item(value: Any) -> Item:
    if not isinstance(value, list) or len(value) != 4:
        raise DecodeError("it is not a list of four: id, state, body, ttl")
    *record, ttl = value
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or math.isnan(ttl):
        raise DecodeError(f"its ttl is {ttl!r:.40}")
    return Item(_record(record), max(0.0, min(float(ttl), MAX_TTL)))


def _record(value: Any) -> Record:
    if not isinstance(value, list) or len(value) != 3:
        raise DecodeError("a record is a list of three: id, state, body")
    id, state, body = value
    if not is_id(id):
        raise DecodeError(f"its id is {id!r:.80}")
    if not isinstance(state, str) or state not in _STATES:
        raise DecodeError(f"its state is {state!r:.40}")
    if not isinstance(body, bytes):
        raise DecodeError(f"its body is {type(body).__name__}, not bytes")
    return Record(id, _STATES[state], body)


def encode_ask(ask: Ask) -> bytes:
    """The workload of a `WAIT` job."""
    packed: bytes = msgpack.packb({"ids": list(ask.ids), "timeout": ask.timeout, "mode": ask.mode})
    return packed


def decode_ask(workload: bytes) -> Ask:
    """Reads the workload of a `WAIT` job; raises `DecodeError` with a sentence that goes back to the caller."""
    value = _unpack(workload, "An ask for results")
    ids, timeout, mode = value.get("ids"), value.get("timeout", 0.0), value.get("mode", "wait")
    if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
        raise DecodeError("An ask for results names its `ids` as a list of texts.")
    if len(ids) > MAX_IDS:
        raise DecodeError(f"An ask for results names {MAX_IDS} ids at most, not {len(ids)}; ask several times.")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or math.isnan(timeout):
        raise DecodeError("The `timeout` of an ask for results is a number of seconds.")
    if not isinstance(mode, str) or mode not in MODES:
        raise DecodeError(f"The `mode` of an ask for results is one of {', '.join(sorted(MODES))}.")
    return Ask(tuple(dict.fromkeys(ids)), min(max(0.0, float(timeout)), MAX_HOLD), mode)


def encode_answer(records: Iterable[Record], more: bool = False) -> bytes:
    """The answer to a `WAIT` job."""
    listed = [[record.id, str(record.state), record.body] for record in records]
    packed: bytes = msgpack.packb({"records": listed, "more": more})
    return packed


def encode_refusal(why: str) -> bytes:
    """The answer to a `WAIT` job that cannot be served: a sentence."""
    packed: bytes = msgpack.packb({"error": why})
    return packed


def decode_answer(data: bytes) -> Answer | str:
    """Reads the answer to a `WAIT` job: the records, or the sentence of a refusal. Raises `DecodeError`."""
    value = _unpack(data, "The answer of the results service")
    error = value.get("error")
    if isinstance(error, str):
        return error
    records = value.get("records")
    if not isinstance(records, list):
        raise DecodeError("The answer of the results service has no `records`.")
    return Answer([_record(record) for record in records], bool(value.get("more")))


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


def _unpack(data: bytes, what: str) -> dict[Any, Any]:
    try:
        value = msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise DecodeError(f"{what} is no msgpack: {str(error) or type(error).__name__:.100}.") from error
    if not isinstance(value, dict):
        raise DecodeError(f"{what} is a msgpack map, not {type(value).__name__}.")
    return value
