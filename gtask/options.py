"""The options of a task and of a call: names, kinds, and what an unknown one is told. Design, section 2."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from math import isfinite
from typing import Any, Final, Literal, Self, TypedDict

from gtask.errors import ConfigurationError, UnknownOption
from gtask.retry import RetryPolicy
from gtask.types import Priority

TASK_NAME: Final = re.compile(r"[A-Za-z0-9_.:]{1,200}")
"""What every queue module and the admin protocol carry unharmed (design, section 6)."""

CODECS: Final = ("auto", "msgpack", "json", "text", "raw")

Codec = Literal["auto", "msgpack", "json", "text", "raw"]
PriorityName = Literal["high", "normal", "low"]
Seconds = float | timedelta
Unique = str | bool | Callable[..., str]
UniqueUntil = Literal["done", "start"]
LimitScope = Literal["worker", "cluster"]


class CallOptions(TypedDict, total=False):
    """What `apply_async`, `Signature.set` and `Task.options` take besides the arguments.

    `countdown` and `expires` are seconds from now; `eta` and `expires` may also be a datetime (a naive one is local
    time). `timeout` is how long `call` waits, in seconds. `unique` names work of which one run at a time is enough.
    With True its arguments name it, with a function what that makes of them; `unique_until` ("done" or "start") says
    until when others who call share that run (docs/limits.md).
    `task_id` is an id of your own instead of a random one: use an id once, for its first result stands and is what
    every later call under it returns. `unique` is for work that may be sent again and again.
    `on_progress(numerator, denominator)`, `on_data(bytes)` and `on_warning(bytes)` hear of a foreground call live.
    `window` is how many items a stream's generator may be ahead of its reader. `resume` says that it yields the same
    items each time: when its worker is lost, the stream goes on with a second run.
    """

    countdown: Seconds | None
    eta: datetime | None
    expires: Seconds | datetime | None
    priority: PriorityName | Priority
    background: bool
    unique: Unique | None
    unique_until: UniqueUntil
    task_id: str | None
    headers: Mapping[str, Any] | None
    ignore_result: bool
    max_retries: int | None
    time_limit: float | None
    soft_time_limit: float | None
    timeout: float | None
    link: Any
    link_error: Any
    on_progress: Callable[[int, int], object]
    on_data: Callable[[bytes], object]
    on_warning: Callable[[bytes], object]
    window: int
    resume: bool


CALL_OPTIONS: Final = frozenset(CallOptions.__annotations__)


class TaskOptions(TypedDict, total=False):
    """What `@app.task(...)` takes."""

    name: str | None
    bind: bool
    namespace: str | None
    background: bool
    ignore_result: bool
    priority: PriorityName | Priority
    max_retries: int | None
    default_retry_delay: float
    autoretry_for: tuple[type[BaseException], ...]
    dont_autoretry_for: tuple[type[BaseException], ...]
    retry_backoff: bool | float
    retry_backoff_max: float
    retry_jitter: bool
    time_limit: float | None
    soft_time_limit: float | None
    rate_limit: str | float | None
    max_concurrency: int | None
    limit_scope: LimitScope
    expires: Seconds | None
    unique: Unique | None
    unique_until: UniqueUntil
    codec: Codec
    throws: tuple[type[BaseException], ...]
    allow_unsigned: bool
    check_arguments: bool | None


@dataclass(frozen=True, slots=True)
class Options:
    """A task's options, checked."""

    background: bool = True
    ignore_result: bool = False
    priority: Priority = Priority.NORMAL
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    time_limit: float | None = None
    soft_time_limit: float | None = None
    rate_limit: str | float | None = None
    max_concurrency: int | None = None
    limit_scope: LimitScope = "worker"
    """Who keeps the two limits together: the processes of one worker, or all workers, which the result store counts."""
    expires: float | None = None
    unique: Unique | None = None
    unique_until: UniqueUntil = "done"
    codec: Codec = "auto"
    throws: tuple[type[BaseException], ...] = ()
    allow_unsigned: bool = False
    """With `signing_keys`: whether bare JSON, text and bytes are taken from callers who do not sign."""
    check_arguments: bool | None = None
    """Whether arguments must fit the annotations (docs/types.md); None goes by the App's setting of that name."""

    @property
    def rate(self) -> float | None:
        """`rate_limit` in starts per second, None without one."""
        return None if self.rate_limit is None else rate_of(self.rate_limit)

    @property
    def is_limited(self) -> bool:
        """Whether a worker does not take all jobs of the task that it could run."""
        return self.rate_limit is not None or self.max_concurrency is not None

    @classmethod
    def of(cls, name: str, given: Mapping[str, Any], also: Iterable[str] = ()) -> Self:
        """Reads the options given to a task; raises `UnknownOption` or `ConfigurationError`, naming the task."""
        known = {*TaskOptions.__annotations__, *also}
        refuse_unknown(given, known, f"Task {name!r}", "a task")
        own = {key: value for key, value in given.items() if key in _OWN}
        retry = {key: value for key, value in given.items() if key in _RETRY}
        own["priority"] = priority_of(own.get("priority", Priority.NORMAL))
        for key in ("autoretry_for", "dont_autoretry_for", "throws"):
            if key in given:
                (own if key == "throws" else retry)[key] = _classes(name, key, given[key])
        _check_retry(name, retry)
        for key in ("time_limit", "soft_time_limit", "expires"):
            if own.get(key) is not None:
                own[key] = _positive(name, key, own[key])
        if own.get("codec", "auto") not in CODECS:
            raise ConfigurationError(f"Task {name!r}: codec={own['codec']!r}; use one of {', '.join(CODECS)}.")
        for key, (check, wanted) in (_UNIQUE_CHECKS | _LIMIT_CHECKS).items():
            if key in own and not (check(own[key]) or (own[key] is None and key not in _NEVER_NONE)):
                raise ConfigurationError(f"Task {name!r}: {key}={own[key]!r}; write {wanted}.")
        soft, hard = own.get("soft_time_limit"), own.get("time_limit")
        if soft is not None and hard is not None and soft >= hard:
            raise ConfigurationError(f"Task {name!r}: soft_time_limit must be less than time_limit to be of use.")
        return replace(cls(), retry=replace(RetryPolicy(), **retry), **own)


_RETRY: Final = frozenset(f.name for f in fields(RetryPolicy))
_OWN: Final = frozenset(f.name for f in fields(Options)) - {"retry"}


_QUEUES: Final = "a task's queue is its name; run a worker on an App with the tasks it is to serve, or set namespace=."

_ELSEWHERE: Final = {
    **dict.fromkeys(("queue", "routing_key", "exchange"), _QUEUES),
    **dict.fromkeys(
        ("acks_late", "reject_on_worker_lost"), "it is always so: a job is its worker's until it has ended."
    ),
    **dict.fromkeys(("retry", "retry_policy"), "a call is sent to the next job server by itself when one is away."),
    "retry_kwargs": "write max_retries= and default_retry_delay= on the task.",
    "serializer": "messages are msgpack; codec= on a task says what callers in other languages get.",
    "track_started": "it is not needed; ctx.progress() says how far a task is.",
    "broker": "write servers='gearman://127.0.0.1:4730'.",
    "backend": "write results='redis://...', or another store of docs/stores.md.",
    "include": "import the modules with tasks in the one that the worker is given.",
}
"""What those who come from Celery write, and what it is here (docs/celery.md)."""


def refuse_unknown(given: Iterable[str], known: Iterable[str], who: str, kind: str) -> None:
    """Raises `UnknownOption` for a name that is not known, with the nearest one that is, or what Celery's is here."""
    names = sorted(known)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"{kind} knows {', '.join(names)}."
            hint = _ELSEWHERE.get(name, hint)
            raise UnknownOption(f"{who}: there is no option {name!r}; {hint}")


def check_call(task: str, given: Mapping[str, Any]) -> None:
    """Raises `ConfigurationError` for an option of a call whose value makes no sense; names are not looked at."""
    for key, value in given.items():
        check, wanted = _CALL_CHECKS.get(key, (None, ""))
        if check is not None and value is not None and not check(value):
            raise ConfigurationError(f"A call of {task}: {key}={value!r}; write {wanted}.")
    if given.get("countdown") is not None and given.get("eta") is not None:
        raise ConfigurationError(f"A call of {task}: countdown and eta both say when it is to run; give one of them.")


def _is_span(value: Any) -> bool:
    number = value.total_seconds() if isinstance(value, timedelta) else value
    return isinstance(number, int | float) and type(number) is not bool and isfinite(number)


def rate_of(value: str | float) -> float:
    """Reads a rate, "10/s", "100/m", "3600/h" or a number per second, as starts per second.

    Raises `ValueError` for what is none, or is not above zero.
    """
    number, _, unit = value.partition("/") if isinstance(value, str) else (value, "", "s")
    rate = float(number) / _UNITS[unit.strip() or "s"] if type(value) is not bool else 0.0
    if not (isfinite(rate) and rate > 0.0):
        raise ValueError(f"{value!r} is no rate above zero")
    return rate


def _is_rate(value: Any) -> bool:
    try:
        return rate_of(value) > 0.0
    except (ValueError, TypeError, KeyError):
        return False


_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}

_LIMIT_CHECKS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "rate_limit": (_is_rate, "how many starts there may be, as '10/s', '100/m', '3600/h' or a number per second"),
    "max_concurrency": (
        lambda value: type(value) is int and 0 < value <= 1_000_000,
        "how many may run at once, or None for no limit",
    ),
    "limit_scope": (lambda value: value in ("worker", "cluster"), "'worker' or 'cluster'"),
}

_NEVER_NONE: Final = ("limit_scope", "unique_until")

_UNIQUE_CHECKS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "unique": (
        lambda value: type(value) is bool or callable(value) or (isinstance(value, str) and value != ""),
        "a key, True for all arguments, or a function of the arguments that returns a key",
    ),
    "unique_until": (lambda value: value in ("done", "start"), "'done' or 'start'"),
}

_CALL_CHECKS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    **_UNIQUE_CHECKS,
    "countdown": (_is_span, "a number of seconds, or a timedelta"),
    "eta": (lambda value: isinstance(value, datetime), "a datetime"),
    "expires": (lambda value: isinstance(value, datetime) or _is_span(value), "a number of seconds, or a datetime"),
    "priority": (lambda value: value in tuple(Priority), "'high', 'normal' or 'low'"),
    "headers": (
        lambda value: isinstance(value, Mapping) and all(isinstance(name, str) for name in value),
        "a mapping from text to values",
    ),
    "max_retries": (lambda value: type(value) is int and 0 <= value < 1 << 24, "how many retries, or None for no end"),
    "time_limit": (lambda value: _is_span(value) and seconds_of(value) > 0, "a number of seconds above zero"),
    "soft_time_limit": (lambda value: _is_span(value) and seconds_of(value) > 0, "a number of seconds above zero"),
    "timeout": (lambda value: _is_span(value) and type(value) is not timedelta, "a number of seconds"),
}


def check_name(name: str, what: str = "task") -> str:
    """Returns a task's name; raises `ConfigurationError` when a job server would not carry it unharmed."""
    if not TASK_NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} cannot be the name of a {what}: use 1 to 200 of the characters A-Z a-z 0-9 _ . : (name='...')."
        )
    return name


def priority_of(value: str | Priority) -> Priority:
    """Reads a priority; raises `ConfigurationError` when it is none of the three."""
    if isinstance(value, Priority):
        return value
    try:
        return Priority(value)
    except ValueError:
        raise ConfigurationError(f"priority={value!r}: a job server has 'high', 'normal' and 'low'.") from None


def seconds_of(value: Seconds) -> float:
    """A span of time in seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def moment_of(value: Seconds | datetime, now: float) -> float:
    """A moment in Unix seconds: a datetime (naive is local time), or a span from `now` on."""
    return value.timestamp() if isinstance(value, datetime) else now + seconds_of(value)


def _check_retry(name: str, given: Mapping[str, Any]) -> None:
    limit = given.get("max_retries")
    if limit is not None and not (type(limit) is int and limit >= 0):
        raise ConfigurationError(f"Task {name!r}: max_retries={limit!r}; write how many retries, or None for no end.")
    for key in ("default_retry_delay", "retry_backoff", "retry_backoff_max"):
        value = given.get(key, 0)
        if not (isinstance(value, int | float) and value >= 0):
            raise ConfigurationError(f"Task {name!r}: {key}={value!r}; write a number of seconds.")


def _positive(name: str, key: str, value: Any) -> float:
    seconds = seconds_of(value)
    if seconds <= 0:
        raise ConfigurationError(f"Task {name!r}: {key}={value!r}; write a number of seconds above zero.")
    return seconds


def _classes(name: str, key: str, value: Any) -> tuple[type[BaseException], ...]:
    classes = tuple(value) if isinstance(value, list | tuple | set | frozenset) else (value,)
    for one in classes:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise ConfigurationError(f"Task {name!r}: {key} takes exception classes; {one!r} is none.")
    return classes
