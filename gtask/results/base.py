"""What a result store does: one contract, whatever keeps the records. Design, sections 3 and 4.

A record's body is bytes to the store: the worker that ran the task encodes it, the caller that asks for it decodes
it. A store is written by workers and read by callers, in any number of processes at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import anyio.to_thread

from gtask.errors import ConfigurationError
from gtask.results.joins import Join
from gtask.signing import Keyring
from gtask.states import Record
from gtask.types import Submission

DEFAULT_TTL = 86400.0
"""Seconds a result is kept unless `result_expires` says otherwise: a day, as in Celery."""


class Carriage(NamedTuple):
    """How a record reaches a store that is served on the job server: as an item of a background job."""

    function: str
    item: bytes


class Mark(NamedTuple):
    """A task that was revoked; with `terminate` it is to be stopped where it runs already."""

    id: str
    terminate: bool = False


class Marks(NamedTuple):
    """Marks in the order in which they were made, and the cursor behind the last of them."""

    marks: list[Mark]
    cursor: str


class Weakness(NamedTuple):
    """What an operator should know of a store: a short code, what it is, what to do, and whether results are lost."""

    code: str
    what: str
    remedy: str
    serious: bool = False


def no_marks(marks: Marks) -> bool:
    """Whether there are none."""
    return not marks.marks


class ResultStore(ABC):
    """Keeps the records of tasks by their id.

    `keys` are the App's `signing_keys`, which it gives to a store that has none: for what the store sends to others,
    and for the bodies of chords, which are signed anew when the results are put into them.

    The rule for every store: a record that is ready (SUCCESS, FAILURE, REVOKED) is never overwritten by another;
    whoever puts second changes nothing. A job that was run twice so keeps its first result. `forget` makes room for a
    new one.
    """

    keys: Keyring | None = None

    @abstractmethod
    def put(self, records: Sequence[Record], ttl: float) -> None:
        """Keeps records, each for `ttl` seconds from now; safe on disk (or with the server) when it returns."""

    @abstractmethod
    def get(self, ids: Collection[str]) -> dict[str, Record]:
        """The records there are for these ids, ready or not; an id nobody knows is left out."""

    @abstractmethod
    def wait(self, ids: Collection[str], timeout: float) -> dict[str, Record]:
        """Waits until one of these ids is ready at least, up to `timeout` seconds; returns every one that is ready.

        Empty when the time is over. Raises `ResultsUnavailable` within two seconds when nothing serves the store.
        """

    @abstractmethod
    def forget(self, ids: Collection[str]) -> None:
        """Drops the records of these ids; ids nobody knows are no error."""

    def claim(self, key: str, id: str, ttl: float) -> str:
        """Says which task may run for a key: the id of one that has claimed it and is not ready yet, else `id`.

        The claim lasts until that task is ready, `ttl` seconds at most. Raises `ConfigurationError` in a store that
        keeps no claims.
        """
        raise ConfigurationError(f"{type(self).__name__} keeps no claims; unique= needs another result store.")

    def join(self, join: Join, ttl: float) -> Submission | None:
        """Hands in one member's outcome of a chord; the job to submit when that completed it, else None.

        The member at position 0 brings the chord's body, which is kept until all are in; the others have None there,
        or bring it as well. A member that hands in again changes nothing, but gets the same answer. When a member has
        failed, the body's failure is stored once all are in, and no job follows. Outcomes are kept for `ttl` seconds.
        Raises `ConfigurationError` in a store that keeps no joins.
        """
        raise ConfigurationError(f"{type(self).__name__} keeps no joins; chords need another result store.")

    def carry_join(self, join: Join, ttl: float) -> Carriage:
        """As `carry`, for a member's outcome of a chord; whoever serves the store then submits the body."""
        raise NotImplementedError(f"Workers hand joins in to {type(self).__name__} themselves.")

    def unclaim(self, key: str, id: str) -> None:
        """Ends the claim that the task `id` has on a key before the task is ready; without that claim nothing happens.

        Raises `ConfigurationError` in a store that keeps no claims.
        """
        raise ConfigurationError(f"{type(self).__name__} keeps no claims; unique= needs another result store.")

    def revoke(self, records: Sequence[Record], terminate: bool, ttl: float) -> None:
        """Keeps the REVOKED records of tasks, and marks these tasks for every worker, for `ttl` seconds.

        A task that is ready already keeps its record. Safe on disk (or with the server) when it returns, whether a
        worker or a service is there or not. Raises `ConfigurationError` in a store that keeps no marks.
        """
        raise ConfigurationError(f"{type(self).__name__} keeps no marks; revoke() needs another result store.")

    def revoked(self, cursor: str, timeout: float) -> Marks:
        """Waits up to `timeout` seconds for marks made after `cursor`; returns them, none when the time is over.

        The cursor "" stands for the beginning, and so does one of another time of the store: all marks that are still
        kept. Up to 10,000 come at once, whoever asks again gets the rest. Raises as `wait` and `revoke` do.
        """
        raise ConfigurationError(f"{type(self).__name__} keeps no marks; revoke() needs another result store.")

    def acquire(self, key: str, holder: str, most: int, ttl: float) -> bool:
        """Takes one of the `most` places of a key for a holder, who has it for `ttl` seconds unless it asks again.

        False when others have them all. Raises `ConfigurationError` in a store that keeps no places.
        """
        raise ConfigurationError(f"{type(self).__name__} keeps no places; such limits need another result store.")

    def release(self, key: str, holder: str) -> None:
        """Gives a holder's place of a key back; without one nothing happens."""
        raise ConfigurationError(f"{type(self).__name__} keeps no places; such limits need another result store.")

    def take(self, key: str, rate: float, burst: int) -> float:
        """Takes one token of a key: `rate` come back each second, `burst` may be saved up.

        Returns 0.0 with the token, else the seconds until there is one. Raises `ConfigurationError` in a store that
        counts no tokens.
        """
        raise ConfigurationError(f"{type(self).__name__} counts no tokens; such limits need another result store.")

    def count(self, key: str, ttl: float) -> int:
        """Adds one to the counter of a key, which begins at zero and is kept for `ttl` seconds from now; returns it.

        Raises `ConfigurationError` in a store that keeps no counters.
        """
        raise ConfigurationError(f"{type(self).__name__} keeps no counters; use another result store.")

    def served(self) -> bool | None:
        """Whether somebody serves the store now, None when that cannot be told; a store without a service always is."""
        return True

    def weaknesses(self) -> list[Weakness]:
        """What cannot be trusted in the way this store is set up, for `gtask doctor`. Raises as `get` does."""
        self.get(["gtask-can-this-be-read"])
        return []

    def close(self) -> None:  # noqa: B027 - a store that holds nothing has nothing to do
        """Gives back connections and files; the store opens them again when it is used again."""

    carries: bool = False
    """Whether records reach this store as items of background jobs, rather than by `put` from the workers."""

    def carry(self, record: Record, ttl: float) -> Carriage:
        """The record as an item of a background job, for a worker to hand over on the connection it holds.

        Only for a store that `carries`; others raise `NotImplementedError`.
        """
        raise NotImplementedError(f"Workers write to {type(self).__name__} themselves.")

    # The async twins; a store with a native way overrides them.

    async def aput(self, records: Sequence[Record], ttl: float) -> None:
        """`put` for async code."""
        await anyio.to_thread.run_sync(self.put, records, ttl)

    async def aget(self, ids: Collection[str]) -> Mapping[str, Record]:
        """`get` for async code."""
        return await anyio.to_thread.run_sync(self.get, ids)

    async def await_(self, ids: Collection[str], timeout: float) -> Mapping[str, Record]:
        """`wait` for async code."""
        return await anyio.to_thread.run_sync(partial(self.wait, ids, timeout), abandon_on_cancel=True)

    async def aclaim(self, key: str, id: str, ttl: float) -> str:
        """`claim` for async code."""
        return await anyio.to_thread.run_sync(self.claim, key, id, ttl)

    async def aunclaim(self, key: str, id: str) -> None:
        """`unclaim` for async code."""
        await anyio.to_thread.run_sync(self.unclaim, key, id)

    async def arevoke(self, records: Sequence[Record], terminate: bool, ttl: float) -> None:
        """`revoke` for async code."""
        await anyio.to_thread.run_sync(self.revoke, records, terminate, ttl)

    async def arevoked(self, cursor: str, timeout: float) -> Marks:
        """`revoked` for async code."""
        return await anyio.to_thread.run_sync(partial(self.revoked, cursor, timeout), abandon_on_cancel=True)

    async def aacquire(self, key: str, holder: str, most: int, ttl: float) -> bool:
        """`acquire` for async code."""
        return await anyio.to_thread.run_sync(self.acquire, key, holder, most, ttl)

    async def arelease(self, key: str, holder: str) -> None:
        """`release` for async code."""
        await anyio.to_thread.run_sync(self.release, key, holder)

    async def atake(self, key: str, rate: float, burst: int) -> float:
        """`take` for async code."""
        return await anyio.to_thread.run_sync(self.take, key, rate, burst)

    async def acount(self, key: str, ttl: float) -> int:
        """`count` for async code."""
        return await anyio.to_thread.run_sync(self.count, key, ttl)

    async def aforget(self, ids: Collection[str]) -> None:
        """`forget` for async code."""
        await anyio.to_thread.run_sync(self.forget, ids)

    async def aclose(self) -> None:
        """`close` for async code."""
        await anyio.to_thread.run_sync(self.close)
