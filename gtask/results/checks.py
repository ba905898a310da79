"""What every store keeps, and what it refuses: ids, records, times, numbers. Design, section 4.

What a caller hands to a store is refused with `EncodeError`, before anything is sent; what comes from the wire with
`DecodeError`, by the modules that read it.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any, Final

from gtask.errors import ConfigurationError, DecodeError, EncodeError
from gtask.states import Record, State

MAX_ID: Final = 255
"""Characters a task id, or a key, may have."""

MAX_TTL: Final = 10 * 365 * 86400.0
"""Seconds a record is kept at most, however long it asks for."""

_HANDLE: Final = re.compile(r"[!-~]{1,63}")
"""What a task's id can be, those of callers in other languages included: it is part of a wire unique."""

STATES: Final = {state.value: state for state in State}


def is_id(id: object) -> bool:
    """Whether it is a text that is short enough, and that has an encoding (no lone surrogates)."""
    if not isinstance(id, str) or not 0 < len(id) <= MAX_ID:
        return False
    return id.isascii() or not any("\ud800" <= character <= "\udfff" for character in id)


def check_handle(id: object) -> None:
    """Refuses an id that no task can have, of a handle that somebody makes anew; raises `ConfigurationError`."""
    if not isinstance(id, str) or not _HANDLE.fullmatch(id):
        raise ConfigurationError(
            f"{id!r:.80} is no id of a task: it is a text of 1 to 63 printable ASCII characters without spaces. "
            "Give the `id` of a result."
        )


def check_record(record: Record, ttl: float) -> None:
    """Refuses what no store could keep, with `EncodeError`: an id that is too long, a body that is no bytes."""
    if not is_id(record.id):
        raise EncodeError(f"A task id is a text of 1 to {MAX_ID} characters; {record.id!r:.80} is not.")
    if record.state not in STATES:
        raise EncodeError(f"{record.state!r:.80} is no state of a task.")
    if not isinstance(record.body, bytes):
        raise EncodeError(f"The body of a record is bytes; that of {record.id} is {type(record.body).__name__}.")
    if not isinstance(ttl, int | float) or math.isnan(ttl):
        raise EncodeError(f"A record is kept for a number of seconds; {ttl!r:.80} is none.")


def short_key(key: str) -> str:
    """A key as it is kept: one that is empty, too long or has no encoding is replaced by its hash."""
    if is_id(key):
        return key
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def bounded_ttl(value: Any) -> float:
    """A number of seconds between 0 and `MAX_TTL`; raises `DecodeError` for anything that is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise DecodeError(f"its ttl is {value!r:.40}")
    return max(0.0, min(float(value), MAX_TTL))
