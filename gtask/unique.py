"""`unique=`: one run at a time for a key, which all callers share. Design, section 6.

The result store decides: a caller claims the key for the id of its task, or is told the id of the one that has it. A
job server's own unique cannot do this: it forgets what has ended, swallows what is sent after a call that was given up,
and lets a caller who leaves take the job of another with it. docs/limits.md has the rules for users.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from gtask.codecs.packed import pack
from gtask.context import TaskContext
from gtask.errors import ConfigurationError, GtaskError
from gtask.results.checks import short_key
from gtask.states import State

if TYPE_CHECKING:
    from gtask.app import App
    from gtask.signatures import Signature

log = logging.getLogger("gtask.worker")

T = TypeVar("T")

START: Final = "start"
"""The value of `unique_until` by which a claim ends when its task starts."""

MAX_DEPTH: Final = 64
"""Containers inside each other that a key is made of, at most."""


class Ask(NamedTuple):
    """A question, as blocking and as async code puts it."""

    now: Callable[[], Any]
    later: Callable[[], Awaitable[Any]]


Asking = Generator[Ask, Any, T]
"""A decision that needs answers on its way."""


def answered(asking: Asking[T]) -> T:
    """Comes to a decision in blocking code."""
    answer = None
    while True:
        try:
            ask = asking.send(answer)
        except StopIteration as stop:
            made: T = stop.value
            return made
        answer = ask.now()


async def aanswered(asking: Asking[T]) -> T:
    """Comes to a decision in async code."""
    answer = None
    while True:
        try:
            ask = asking.send(answer)
        except StopIteration as stop:
            made: T = stop.value
            return made
        answer = await ask.later()


# --- the caller ----------------------------------------------------------------------------------------------


def unique_key(steps: Sequence[Signature[Any]]) -> str | None:
    """The key under which one run at a time is enough, None for a call without one.

    Raises `ConfigurationError` for a key that is none, and for a step of a chain: its result would be shared.
    """
    step = steps[0]
    key = step.options.get("unique", step.task.config.unique)
    if key is None or key is False:
        return None
    if len(steps) > 1:
        raise ConfigurationError(
            f"{step.task.name} has unique=, so it cannot be a step of a chain: its result is shared."
        )
    if key is True:
        text: Any = key_of(step.task.arguments.whole(step.args, dict(step.kwargs)))
    else:
        text = key(*step.args, **step.kwargs) if callable(key) else key
    if not isinstance(text, str) or not text:
        raise ConfigurationError(
            f"unique= of {step.task.name} is a text, True for all arguments, or a function of the arguments that "
            "returns a text."
        )
    return short_key(f"{step.task.name}:{text}")


def ends_at_start(step: Signature[Any]) -> bool:
    """Whether a call's claim ends when its task starts; raises `ConfigurationError` where nobody would end it."""
    until = step.options.get("unique_until") or step.task.config.unique_until
    if until == START and step.task.foreign_codec is not None:
        raise ConfigurationError(
            f"unique_until='start' of {step.task.name} needs a worker of gtask, and it lives in another language; "
            "leave it at 'done'."
        )
    return bool(until == START)


def claiming(app: App, key: str, id: str) -> Asking[tuple[str, bool]]:
    """Claims a key for a task: the id that its caller is to use, and whether it is to be submitted.

    A caller who comes second submits nothing, unless neither the store nor a job server knows the first one's task:
    then that caller is still about to submit it, or has died before. Both may submit it: under one id it coalesces on
    the job server, and a worker looks first whether it has run.
    """
    store = app.store
    assert store is not None
    ttl = app.settings.result_expires
    shared = yield Ask(partial(store.claim, key, id, ttl), partial(store.aclaim, key, id, ttl))
    if shared == id:
        return id, True
    look = Ask(partial(store.get, [shared]), partial(store.aget, [shared]))
    if (yield look):
        return shared, False
    state = yield Ask(partial(app.state_on_servers, shared), partial(app.astate_on_servers, shared))
    if state is not State.UNKNOWN:
        return shared, False
    # Once more: it may have run to its end between the two questions.
    return shared, not (yield look)


# --- the worker ----------------------------------------------------------------------------------------------


def starts(context: TaskContext) -> bool:
    """Whether this run ends the claim of its task by starting."""
    headers = context.message.headers
    return headers.get("unique_until") == START and context.completed is None and not context.foreground


def start(context: TaskContext) -> None:
    """Ends the claim of a task that starts. When the store does not answer it lasts until the task is done."""
    store = context.task.app.store
    if store is not None:
        try:
            store.unclaim(context.message.headers.get("unique", ""), context.id)
        except GtaskError as error:
            _not_ended(context, error)


async def astart(context: TaskContext) -> None:
    """The twin of `start`."""
    store = context.task.app.store
    if store is not None:
        try:
            await store.aunclaim(context.message.headers.get("unique", ""), context.id)
        except GtaskError as error:
            _not_ended(context, error)


def _not_ended(context: TaskContext, error: GtaskError) -> None:
    log.warning("The claim of %s[%s] lasts until it is done: %s", context.task.name, context.id, error)


# --- keys of arguments ---------------------------------------------------------------------------------------


def key_of(value: Any) -> str:
    """A key of fixed length for a value: equal values of the same types have the same, in every process.

    The order of maps and sets does not count, nor does the time zone of an aware datetime or the exponent of a Decimal.
    Raises `EncodeError` for what cannot be sent.
    """
    return hashlib.sha256(_canonical(value, 0)).hexdigest()


def _canonical(value: Any, depth: int) -> bytes:
    if depth > MAX_DEPTH:
        raise ConfigurationError(f"unique=True: arguments are nested deeper than {MAX_DEPTH}; give a key instead.")
    depth += 1
    if isinstance(value, Mapping):
        pairs = sorted(_framed(b"", [_canonical(key, depth), _canonical(one, depth)]) for key, one in value.items())
        return _framed(b"map", pairs)
    if isinstance(value, set | frozenset):
        return _framed(b"set", sorted(_canonical(one, depth) for one in value))
    if isinstance(value, list | tuple):
        return _framed(b"list", [_canonical(one, depth) for one in value])
    if isinstance(value, datetime) and value.tzinfo is not None:
        return pack(value.astimezone(UTC), "an argument")
    if type(value) is Decimal and value.is_finite():
        return pack(value.normalize(), "an argument")
    if is_dataclass(value) and not isinstance(value, type):
        parts = [_canonical(getattr(value, field.name), depth) for field in fields(value)]
        return _framed(type(value).__qualname__.encode(), parts)
    return pack(value, "an argument")


def _framed(kind: bytes, parts: Sequence[bytes]) -> bytes:
    return b"(%s %d " % (kind, len(parts)) + b"".join(b"%d:" % len(part) + part for part in parts) + b")"
