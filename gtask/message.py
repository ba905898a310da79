"""The message a call of a task travels as: between Celery's words above and Gearman's below. Design, section 5.

A message is a msgpack map ``{"gtask": 1, "id", "args", "kwargs", "headers"}`` with the key ``gtask`` first, by which it
is told from the workloads of callers that know nothing of gtask.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from math import isfinite
from typing import Any, Final, NamedTuple, TypedDict

from gtask.answers import (
    Form,
    decode_answer,
    decode_failure,
    encode_answer,
    encode_failure,
    encode_foreign,
    is_envelope,
    read_text,
)
from gtask.codecs import MAX_DEPTH, MAX_SIZE, from_json, pack, unpack
from gtask.codecs.text import TooDeep
from gtask.codecs.wording import glimpse
from gtask.errors import ConfigurationError, DecodeError, EncodeError

MESSAGE_VERSION: Final = 1
"""The number under the key ``gtask``; a worker refuses the messages of later versions and says so."""

MESSAGE_DEPTH: Final = MAX_DEPTH + 128
"""Containers inside each other in a message: those of a value, and those around it in the groups of a canvas."""

CANVAS: Final = "gtask.canvas"
"""The function whose tasks return their argument: where a canvas needs one job that its user did not write."""

CARRIERS: Final = frozenset({"gtask.call", CANVAS})
"""Functions of gtask whose jobs are messages for other functions; there the header ``task`` names the task."""

MAX_TASK_ID: Final = 55
"""Characters of a task id: what follows it in a wire unique fits into the 63 bytes that a unique may have."""


class Headers(TypedDict, total=False):
    """The headers gtask knows; others are the user's own and survive, through retries and chains too.

    Times are Unix times in seconds, durations are seconds.
    """

    task: str  # the task's name; a message that is replayed under another function's name is refused by it
    retries: int  # retries that lie behind this run
    runs: int  # runs before the first of these: it failed for good, and was sent again from its dead letter
    history: list[Any]  # earlier runs that failed, the last ones: [type, message, time], see gtask.letters
    replayed: bool  # it may have been sent before, and so may have run: the worker asks the store
    max_retries: int | None  # in place of the task's own
    eta: float  # not to be run before
    expires: float  # not to be started after
    root: str  # the id of the first task of the whole
    parent: str  # the id of the task that called this one
    group: str  # the id of the group it belongs to
    chord: Any  # where the outcome of its flow is to be counted, see gtask.flows
    chain: list[Any]  # the nodes that follow, the next one LAST: signatures as lists, groups as maps, see gtask.flows
    over: str  # "map" or "starmap": it is to be run over a list, once for each item
    fail: dict[str, Any]  # of CANVAS: what it is to fail with: state, error, and the id and task of who failed
    link: list[Any]  # signatures or flows to call with the result
    link_error: list[Any]  # signatures to call with the failure
    time_limit: float
    soft_time_limit: float
    ignore_result: bool
    fg: bool  # a foreground call: the caller waits on its connection
    unique: str  # the key given as unique=, which its store has claimed for this task
    unique_until: str  # "start" when the claim on that key ends as soon as the task starts
    trace: dict[str, str]  # the W3C trace context
    origin: str  # host:pid that published it
    sent: float  # when it was published
    priority: str  # "high", "normal" or "low"


@dataclass(slots=True)
class Message:
    """One call of a task. `form` is how it came, and so how its answer goes back."""

    id: str
    task: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, Any] = field(default_factory=dict)
    form: Form = Form.ENVELOPE


# --- ids -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _function_mark(function: str) -> str:
    return sha256(function.encode()).hexdigest()[:8]


def new_task_id(function: str, random_bytes: bytes) -> str:
    """A task's id: 24 hex characters of chance and 8 of the function's name.

    `random_bytes` are 12 fresh random bytes. The function is in it because job servers and their queues keep uniques of
    all functions in one place (protocol reference, section 3).
    """
    if len(random_bytes) != 12:
        raise ValueError(f"A task id is made from 12 random bytes, not {len(random_bytes)}.")
    return random_bytes.hex() + _function_mark(function)


def check_task_id(task_id: str) -> str:
    """Returns an id the user chose, or raises `ConfigurationError` where it cannot travel."""
    if not _TASK_ID.fullmatch(task_id):
        raise ConfigurationError(
            f"{glimpse(task_id)} cannot be a task's id; use 1 to {MAX_TASK_ID} letters, digits and _ . : -"
        )
    return task_id


def wire_unique(task_id: str, retries: int = 0, later: bool = False) -> str:
    """The unique a background job travels under: its own for every run, and for the delayed job before it (`later`).

    The first run's is the task's id itself. No unique is used twice (design, section 6).
    """
    attempt = "" if not retries and not later else f"{retries:02x}" if retries < 256 else f"{retries:06x}"
    return f"{task_id}{attempt}{'d0' if later else ''}"


class WireUnique(NamedTuple):
    """What a unique says: the task's id, the retries behind this run, and whether the job is a delayed one."""

    id: str
    retries: int = 0
    later: bool = False


def parse_wire_unique(function: str, unique: str) -> WireUnique:
    """Reads back what `wire_unique` made of an id by `new_task_id`; any other unique is an id itself.

    An id that cannot be one, from a foreign caller, becomes empty.
    """
    found = _UNIQUE.fullmatch(unique)
    if found is not None and unique[24:32] == _function_mark(function):
        return WireUnique(found[1], int(found[2] or "0", 16), found[3] is not None)
    return WireUnique(unique if _FOREIGN_ID.fullmatch(unique) else "")


def is_own_unique(function: str, unique: str) -> bool:
    """Whether a unique is one that `wire_unique` made for a task of this function, of an id by `new_task_id`."""
    return unique[24:32] == _function_mark(function) and _UNIQUE.fullmatch(unique) is not None


_TASK_ID: Final = re.compile(rf"[A-Za-z0-9_.:\-]{{1,{MAX_TASK_ID}}}")
_FOREIGN_ID: Final = re.compile(r"[!-~]{1,63}")
_TEXT_ONLY: Final = frozenset({str})
_UNIQUE: Final = re.compile(r"([0-9a-f]{32})(?:([0-9a-f]{2}|[0-9a-f]{6})(d0)?)?")


# --- signatures ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SignatureData:
    """The plain data of one call to come: a step of a chain, a link, a member of a group.

    `options` are call options by name. An `immutable` step takes no result of the step before it. `codec` is None for
    a gtask task, and the codec of a foreign function otherwise ("json", "text", "raw").
    """

    task: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    immutable: bool = False
    id: str = ""
    codec: str | None = None

    def to_list(self) -> list[Any]:
        """The list that stands for it in headers."""
        return [self.task, list(self.args), self.kwargs, self.options, self.immutable, self.id, self.codec]

    @classmethod
    def from_list(cls, data: Any) -> SignatureData:
        """The signature behind such a list; raises `DecodeError` where it is none."""
        match data:
            case [str(task), list(args), dict(kwargs), dict(options), bool(immutable), str(id), None | str() as codec]:
                if _TEXT_ONLY.issuperset(map(type, (*kwargs, *options))):
                    return cls(task, tuple(args), kwargs, options, immutable, id, codec)
        raise DecodeError("A step of a chain is no signature as gtask sends it; see SignatureData in gtask/message.py.")


# --- the envelope --------------------------------------------------------------------------------------------


def encode_message(message: Message) -> bytes:
    """Encodes a message as a msgpack envelope, whatever form it came in.

    Raises `EncodeError`, which names the argument that cannot be sent: ``args[0].customer: a Foo cannot be sent``.
    """
    envelope = {
        "gtask": MESSAGE_VERSION,
        "id": message.id,
        "args": list(message.args),
        "kwargs": message.kwargs,
        "headers": message.headers,
    }
    return pack(envelope, "", max_depth=MESSAGE_DEPTH)


def decode_message(function: str, workload: bytes, codec: str = "auto", fallback_id: str = "") -> Message:
    """Decodes the workload of a job of `function`.

    With `codec` "auto" an envelope is told by its first bytes; else the workload is JSON, or else UTF-8 text, or else
    bytes, and in each case one positional argument; nothing at all is no argument. A JSON object with the key
    ``gtask`` is an envelope in JSON.

    "json", "text", "raw" and "msgpack" (one bare value) force one form. An envelope of gtask is still an envelope, as
    gtask's own callers and retries send one; JSON envelopes are known to "auto" and "json". A "raw" task may be handed
    bytes of strangers, so there an envelope counts only where the job's unique is that of its id, which
    nobody can arrange who only writes the bytes.

    `fallback_id` is the job's unique, for workloads that carry no id. What is signed is to be opened before
    (`gtask.signing`). Raises `DecodeError` and nothing else.
    """
    if is_envelope(workload) and (codec != "raw" or _is_own(function, workload, fallback_id)):
        return _open(function, unpack(workload, max_depth=MESSAGE_DEPTH), Form.ENVELOPE, fallback_id)
    if len(workload) > MAX_SIZE:
        raise DecodeError(f"The workload has {len(workload)} bytes, more than the {MAX_SIZE} that are taken.")
    form, args = _read_foreign(workload, codec)
    if form is Form.JSON and args and type(args[0]) is dict and "gtask" in args[0]:
        return _open(function, args[0], Form.JSON_ENVELOPE, fallback_id)
    id, retries, _ = parse_wire_unique(function, fallback_id)
    headers: dict[str, Any] = {"retries": retries} if retries else {}
    if form is Form.ENVELOPE:
        # A bare value in msgpack says no more than one in JSON does: somebody may be waiting for the answer.
        headers["fg"] = True
    return Message(id, function, args, {}, headers, form)


def _is_own(function: str, workload: bytes, unique: str) -> bool:
    """Whether an envelope is that of the background job it came in."""
    known = parse_wire_unique(function, unique).id
    if len(known) != 32:
        return False
    try:
        return bool(unpack(workload, max_depth=MESSAGE_DEPTH).get("id") == known)
    except DecodeError:
        return False


def _read_foreign(workload: bytes, codec: str) -> tuple[Form, tuple[Any, ...]]:
    if codec == "raw":
        return Form.RAW, (bytes(workload),) if workload else ()
    if codec == "json":
        return Form.JSON, (from_json(workload),) if workload.strip() else ()
    if codec == "msgpack":
        return Form.ENVELOPE, (unpack(workload),) if workload else ()
    if codec == "text":
        text = read_text(workload)
        if isinstance(text, bytes):
            raise DecodeError("The workload is no UTF-8 text; send UTF-8, or give the task codec='raw'.")
        return Form.TEXT, (text,) if text else ()
    if codec != "auto":
        raise DecodeError(f"{codec!r} is no codec; it is auto, json, text, raw or msgpack.")
    if not workload:
        return Form.JSON, ()
    try:
        return Form.JSON, (from_json(workload),)
    except TooDeep:
        raise
    except DecodeError:
        text = read_text(workload)
        return (Form.TEXT if isinstance(text, str) else Form.RAW), (text,)


def _open(function: str, data: Any, form: Form, fallback_id: str) -> Message:
    """The message in an envelope that was decoded; everything in it is checked, as anyone may have sent it."""
    if not isinstance(data, dict):
        raise DecodeError("The envelope is no map.")
    version = data.get("gtask")
    if type(version) is not int or version != MESSAGE_VERSION:
        raise DecodeError(
            f"The envelope has version {glimpse(version)}, and {MESSAGE_VERSION} is read here; update the older side."
        )
    id = data.get("id") or parse_wire_unique(function, fallback_id).id
    args, kwargs, headers = data.get("args"), data.get("kwargs"), data.get("headers")
    if not isinstance(id, str) or (id and not _FOREIGN_ID.fullmatch(id)):
        raise DecodeError(f"The envelope's id is {glimpse(id)}; it is 1 to 63 printable characters without spaces.")
    if args is not None and not isinstance(args, list | tuple):
        raise DecodeError(f"The envelope's args are a {type(args).__name__}; they are an array.")
    for name, value in (("kwargs", kwargs), ("headers", headers)):
        if value is not None and (not isinstance(value, dict) or not _TEXT_ONLY.issuperset(map(type, value))):
            raise DecodeError(f"The envelope's {name} are no map from text to values.")
    headers = headers or {}
    for name, value in headers.items():
        found = _CHECKS.get(name)
        if found is not None and not found[0](value):
            raise DecodeError(f"The header {name!r} is {glimpse(value)}; it is {found[1]}.")
    task = headers.get("task", function)
    if task != function and function not in CARRIERS:
        raise DecodeError(f"This message is for the task {glimpse(task, 210)}, not for {function!r}; it is not run.")
    return Message(id, task, tuple(args or ()), kwargs or {}, headers, form)


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and -1e12 < value < 1e12 and isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 1000


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 24


_Check = tuple[Callable[[Any], bool], str]
_TIME: Final[_Check] = (_is_time, "a Unix time in seconds")
_LIMIT: Final[_Check] = (
    lambda value: value is None or (_is_time(value) and value >= 0),
    "a number of seconds, or null",
)
_TEXT: Final[_Check] = (_is_text, "text of at most 1000 characters")
_FLAG: Final[_Check] = (lambda value: type(value) is bool, "true or false")
_STEPS: Final[_Check] = (lambda value: isinstance(value, list), "an array of signatures")

_CHECKS: Final[Mapping[str, _Check]] = {
    "task": _TEXT,
    "retries": (_is_count, "a count"),
    "runs": (_is_count, "a count"),
    "replayed": _FLAG,
    "max_retries": (lambda value: value is None or _is_count(value), "a count, or null for no end"),
    "eta": _TIME,
    "expires": _TIME,
    "root": _TEXT,
    "parent": _TEXT,
    "group": _TEXT,
    "chain": _STEPS,
    "over": (lambda value: value in ("map", "starmap"), '"map" or "starmap"'),
    "link": _STEPS,
    "link_error": _STEPS,
    "time_limit": _LIMIT,
    "soft_time_limit": _LIMIT,
    "ignore_result": _FLAG,
    "fg": _FLAG,
    "unique": _TEXT,
    "unique_until": _TEXT,
    "trace": (
        lambda value: isinstance(value, dict) and len(value) <= 32 and all(map(_is_text, (*value, *value.values()))),
        "a map from text to text, with 32 entries at most",
    ),
    "origin": _TEXT,
    "sent": _TIME,
    "priority": (lambda value: value in ("high", "normal", "low"), '"high", "normal" or "low"'),
}

__all__ = [
    "CANVAS",
    "CARRIERS",
    "MAX_TASK_ID",
    "MESSAGE_DEPTH",
    "MESSAGE_VERSION",
    "EncodeError",
    "Form",
    "Headers",
    "Message",
    "SignatureData",
    "WireUnique",
    "check_task_id",
    "decode_answer",
    "decode_failure",
    "decode_message",
    "encode_answer",
    "encode_failure",
    "encode_foreign",
    "encode_message",
    "is_own_unique",
    "new_task_id",
    "parse_wire_unique",
    "wire_unique",
]
