"""What a store keeps by a key: claims, places, tokens and counters. Design, section 4.

Each of them is one question that is answered at once, so a store that answers `keyed` has all of them, in both faces.
Everything that comes from the wire is checked here before anything is done with it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from math import isfinite
from typing import Any, Final, NamedTuple

import anyio.to_thread

from gtask.errors import DecodeError, EncodeError
from gtask.results.base import ResultStore
from gtask.results.checks import MAX_ID, bounded_ttl, is_id, short_key

MAX_PLACES: Final = 1_000_000_000
"""Places or saved tokens of one key at most."""


class Claim(NamedTuple):
    """A task that wants to run for a key, and for how many seconds at most the key is its own."""

    key: str
    id: str
    ttl: float


class Unclaim(NamedTuple):
    """A task that gives up its claim on a key."""

    key: str
    id: str


class Acquire(NamedTuple):
    """A holder who wants one of the `most` places of a key, for `ttl` seconds."""

    key: str
    holder: str
    most: int
    ttl: float


class Release(NamedTuple):
    """A holder who gives up its place of a key."""

    key: str
    holder: str


class Take(NamedTuple):
    """One token of a key of which `rate` come back each second, up to `burst`."""

    key: str
    rate: float
    burst: int


class Count(NamedTuple):
    """One more on the counter of a key, which is kept for `ttl` seconds from now."""

    key: str
    ttl: float


Keyed = Claim | Unclaim | Acquire | Release | Take | Count
Value = str | float
"""What is answered: the id of a claim; 1 or 0 for a place; seconds for a token; the counter; 0 for what ends."""

KINDS: Final[dict[str, type[Keyed]]] = {
    "claim": Claim,
    "unclaim": Unclaim,
    "acquire": Acquire,
    "release": Release,
    "take": Take,
    "count": Count,
}
"""By the name in the question."""


def check_keyed(ask: Keyed) -> Keyed:
    """The question as it is asked: keys that are too long are replaced by their hash. Raises `EncodeError`."""
    try:
        values = {name: short_key(value) if name in _KEYS else value for name, value in ask._asdict().items()}
        return _checked(type(ask), list(values.values()))
    except DecodeError as error:
        raise EncodeError(f"A store cannot {type(ask).__name__.lower()} that: {error}.") from None


def check_claim(key: str, id: str, ttl: float) -> Claim:
    """A claim as it is kept: a key that is too long is replaced by its hash. Raises `EncodeError`."""
    claim = check_keyed(Claim(key, id, ttl))
    assert isinstance(claim, Claim)
    return claim


def keyed_to_plain(ask: Keyed) -> dict[str, Any]:
    """The question as plain values."""
    return {type(ask).__name__.lower(): list(ask)}


def keyed_from_plain(value: dict[Any, Any]) -> Keyed | None:
    """The question in plain values, None when it is another one. Raises `DecodeError` with a sentence."""
    for name, kind in KINDS.items():
        if name in value:
            fields = value[name]
            if not isinstance(fields, list) or len(fields) != len(kind._fields):
                raise DecodeError(f"{kind.__name__} is a list of {len(kind._fields)}: {', '.join(kind._fields)}.")
            try:
                return _checked(kind, fields)
            except DecodeError as error:
                raise DecodeError(f"{kind.__name__} is refused: {error}.") from None
    return None


def _checked(kind: type[Keyed], fields: list[Any]) -> Keyed:
    return kind(*(_FIELDS[name](value) for name, value in zip(kind._fields, fields, strict=True)))


def _text(what: str, value: Any) -> str:
    if not is_id(value):
        raise DecodeError(f"{what} is a text of 1 to {MAX_ID} characters, not {value!r:.80}")
    text: str = value
    return text


def _number(what: str, least: int, value: Any) -> int:
    if type(value) is not int or not least <= value <= MAX_PLACES:
        raise DecodeError(f"{what} is a whole number from {least} to {MAX_PLACES:,}, not {value!r:.40}")
    return value


def _rate(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or not 1e-6 <= value <= 1e9:
        raise DecodeError(f"its rate is a number a second, from a millionth to a billion, not {value!r:.40}")
    return float(value)


_KEYS: Final = frozenset({"key", "holder"})
_FIELDS: Final[dict[str, Callable[[Any], Any]]] = {
    "key": partial(_text, "its key"),
    "id": partial(_text, "its task id"),
    "holder": partial(_text, "its holder"),
    "most": partial(_number, "`most`", 0),
    "burst": partial(_number, "its burst", 1),
    "rate": _rate,
    "ttl": bounded_ttl,
}


def next_full(full: float, each: float, burst: int, now: float) -> tuple[float, float]:
    """Takes a token from a bucket that will be `full` at a time: when it is full afterwards, and the seconds to wait.

    A token comes back every `each` seconds, up to `burst`. The one number says all: the tokens missing now are those
    that come until then. A clock that was set back leaves an empty bucket, not one that is empty for hours.
    """
    full = max(now, min(full, now + burst * each))
    wait = full - (burst - 1) * each - now
    return (full + each, 0.0) if wait <= 1e-6 else (full, wait)


class KeyedStore(ResultStore):
    """A store whose claims, places, tokens and counters are questions that `keyed` and `akeyed` answer."""

    @abstractmethod
    def keyed(self, ask: Keyed) -> Value:
        """Answers a question that has been checked, see `Value`."""

    async def akeyed(self, ask: Keyed) -> Value:
        """`keyed` for async code."""
        return await anyio.to_thread.run_sync(self.keyed, ask)

    def claim(self, key: str, id: str, ttl: float) -> str:
        """See `ResultStore.claim`."""
        return str(self.keyed(check_keyed(Claim(key, id, ttl))))

    def unclaim(self, key: str, id: str) -> None:
        """See `ResultStore.unclaim`."""
        self.keyed(check_keyed(Unclaim(key, id)))

    def acquire(self, key: str, holder: str, most: int, ttl: float) -> bool:
        """See `ResultStore.acquire`."""
        return bool(self.keyed(check_keyed(Acquire(key, holder, most, ttl))))

    def release(self, key: str, holder: str) -> None:
        """See `ResultStore.release`."""
        self.keyed(check_keyed(Release(key, holder)))

    def take(self, key: str, rate: float, burst: int) -> float:
        """See `ResultStore.take`."""
        return float(self.keyed(check_keyed(Take(key, rate, burst))))

    def count(self, key: str, ttl: float) -> int:
        """See `ResultStore.count`."""
        return int(self.keyed(check_keyed(Count(key, ttl))))

    async def aclaim(self, key: str, id: str, ttl: float) -> str:
        """`claim` for async code."""
        return str(await self.akeyed(check_keyed(Claim(key, id, ttl))))

    async def aunclaim(self, key: str, id: str) -> None:
        """`unclaim` for async code."""
        await self.akeyed(check_keyed(Unclaim(key, id)))

    async def aacquire(self, key: str, holder: str, most: int, ttl: float) -> bool:
        """`acquire` for async code."""
        return bool(await self.akeyed(check_keyed(Acquire(key, holder, most, ttl))))

    async def arelease(self, key: str, holder: str) -> None:
        """`release` for async code."""
        await self.akeyed(check_keyed(Release(key, holder)))

    async def atake(self, key: str, rate: float, burst: int) -> float:
        """`take` for async code."""
        return float(await self.akeyed(check_keyed(Take(key, rate, burst))))

    async def acount(self, key: str, ttl: float) -> int:
        """`count` for async code."""
        return int(await self.akeyed(check_keyed(Count(key, ttl))))
