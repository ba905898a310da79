"""What a result store's records hold: outcomes to bytes and back. Design, section 4."""

from __future__ import annotations

import time
from math import isfinite
from typing import Any, Final

from gtask.answers import error_from_plain, error_to_plain
from gtask.codecs import MAX_DEPTH, convert, pack, unpack
from gtask.codecs.wording import glimpse
from gtask.errors import DecodeError, EncodeError, TaskRevoked
from gtask.failures import error_info
from gtask.states import Outcome, Record, State

_VERSION: Final = 1
_DEPTH: Final = MAX_DEPTH + 8
_OPTIONAL: Final = ("task", "retries", "started", "finished", "worker", "parent", "delay")
_DEFAULTS: Final = Outcome("", State.UNKNOWN)


def outcome_to_record(outcome: Outcome) -> Record:
    """Encodes an outcome for a store. What has its default value is left out.

    Raises `EncodeError`, which names the part of the value that cannot be sent: ``result[3].customer: a Foo ...``.
    """
    body: dict[str, Any] = {"gtask": _VERSION}
    for name in _OPTIONAL:
        value = getattr(outcome, name)
        if value != getattr(_DEFAULTS, name):
            body[name] = value
    if outcome.children:
        body["children"] = list(outcome.children)
    if outcome.error is not None:
        body["error"] = error_to_plain(outcome.error)
    if outcome.value is not None:
        body["result"] = outcome.value
    return Record(outcome.id, outcome.state, pack(body, "", max_depth=_DEPTH))


def record_to_outcome(record: Record, annotation: Any = Any) -> Outcome:
    """Decodes a store's record, and rebuilds a SUCCESS' value as `annotation` says. Raises `DecodeError`."""
    outcome = Outcome(record.id, record.state)
    if not record.body:
        return outcome
    body = unpack(record.body, max_depth=_DEPTH)
    if not isinstance(body, dict) or body.get("gtask") != _VERSION:
        raise DecodeError(
            f"The record of {record.id!r} is none that this gtask reads; it was stored by another version."
        )
    for name, check in _CHECKS.items():
        if name in body:
            if not check(body[name]):
                raise DecodeError(f"The record of {record.id!r} has {glimpse(body[name])} for {name!r}; it is damaged.")
            setattr(outcome, name, body[name])
    children = body.get("children", ())
    if not isinstance(children, list | tuple) or not all(isinstance(child, str) for child in children):
        raise DecodeError(f"The record of {record.id!r} has {glimpse(children)} for 'children'; it is damaged.")
    outcome.children = tuple(children)
    if body.get("error") is not None:
        outcome.error = error_from_plain(body["error"])
    outcome.value = body.get("result")
    if record.state is State.SUCCESS:
        outcome.value = convert(outcome.value, annotation, "result")
    return outcome


def revoked_record(id: str, task: str | None = None) -> Record:
    """The record of a task that was revoked now."""
    error = error_info(TaskRevoked())
    return outcome_to_record(Outcome(id, State.REVOKED, error=error, task=task or "", finished=time.time()))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and abs(value) < 1e15 and isfinite(value)


_CHECKS: Final = {
    "task": _is_text,
    "retries": lambda value: type(value) is int and value >= 0,
    "started": _is_number,
    "finished": _is_number,
    "worker": _is_text,
    "parent": _is_text,
    "delay": _is_number,
}

__all__ = ["EncodeError", "outcome_to_record", "record_to_outcome", "revoked_record"]
