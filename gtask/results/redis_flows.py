"""What the Redis store asks and says, for both of its faces. No socket, no thread, no loop. Design, section 3.

Each call is a generator, its flow. It yields what is to be done (a `Command`, `Listen`, `Hear`, `Probe`, `Nap`); the
blocking or the async face does it and sends back what came of it, or throws in the error.

A wait listens to the topics of its ids first and looks then, so nothing that becomes ready in between is missed. Where
Redis is away for a while, the wait looks again when it is back.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable, Collection, Container, Generator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgpack

from gtask.errors import ResultError, ResultsUnavailable
from gtask.results import redis_scripts as scripts
from gtask.results.asking import RESTART
from gtask.results.base import Mark, Marks, Weakness
from gtask.results.batches import CHUNK, chunks, cut
from gtask.results.checks import MAX_TTL, STATES, check_record, is_id
from gtask.results.joining import follow_up, pack_body, unpack_body
from gtask.results.joins import Join
from gtask.results.keyed import Acquire, Claim, Count, Keyed, Release, Take, Unclaim, Value
from gtask.results.redis_scripts import SHA, Names
from gtask.results.waits import LINGER, LINGER_IDS
from gtask.results.wire import check_join
from gtask.signing import Keyring
from gtask.states import Record
from gtask.types import Submission

log = logging.getLogger("gtask.results")

MAX_MARKS: Final = 10_000
"""Marks that are read at once."""

MAX_TOPICS: Final = 64
"""Ids up to which a wait subscribes to their own topics; with more it hears of everything that becomes ready."""

OLDEST: Final = 5
"""The first Redis that runs scripts which ask for the time and then write."""

QUIET: Final = 10.0
"""Seconds without a word after which a wait sees whether its connection is alive."""

FIRST_NAP: Final = 0.05
MAX_NAP: Final = 1.0

T = TypeVar("T")


class NoScript(ResultError):
    """Redis does not know a script yet; raised and caught within the store."""


class Command(NamedTuple):
    """A command of Redis; its reply is sent back."""

    words: tuple[Any, ...]


class Listen(NamedTuple):
    """Subscribe to topics, or to one pattern, and come back when Redis has done so."""

    topics: tuple[str, ...]
    pattern: bool = False


class Hear(NamedTuple):
    """Wait until one of `ids` is said on the topics, any message if None; whether that was within `timeout` seconds."""

    ids: Container[bytes] | None
    timeout: float


class Probe(NamedTuple):
    """See that the connection that listens is alive; raises `ResultsUnavailable` otherwise."""


class Nap(NamedTuple):
    """Do nothing for so many seconds."""

    seconds: float


Step = Command | Listen | Hear | Probe | Nap
Flow = Generator[Step, Any, T]


class Seen:
    """When Redis has answered in a wait, on a monotonic clock; None before it has."""

    at: float | None = None


class Flows:
    """The calls of one store; `now` is a monotonic clock."""

    def __init__(self, prefix: str, now: Callable[[], float] = time.monotonic) -> None:
        self.names = Names(prefix)
        self._now = now

    # --- records ---------------------------------------------------------------------------------------------

    def put(self, records: Sequence[Record], ttl: float) -> Flow[None]:
        """Flow of `ResultStore.put`."""
        for record in records:
            check_record(record, ttl)
        for chunk in cut(records):
            words: list[Any] = [self.names.ready, _milliseconds(ttl)]
            for record in chunk:
                words += [_pack(record), self.names.shard(record.id), record.id]
            yield from self._script(scripts.PUT, [self.names.result(record.id) for record in chunk], words)

    def get(self, ids: Collection[str], ready: bool = False) -> Flow[dict[str, Record]]:
        """Flow of `ResultStore.get`; only of what is `ready`, if that is said."""
        found: dict[str, Record] = {}
        for chunk in chunks(ids):
            values = yield Command(("MGET", *map(self.names.result, chunk)))
            for id, value in zip(chunk, values, strict=True):
                if value is not None and (not ready or value[:1] == b"1"):
                    found[id] = _unpack(id, value)
        return found

    def wait(self, ids: Collection[str], timeout: float, seen: Seen | None = None) -> Flow[dict[str, Record]]:
        """Flow of `ResultStore.wait`; a wait in several pieces has one `seen` for all."""
        nothing: dict[str, Record] = {}
        wanted = {id.encode(): id for id in ids if is_id(id)}
        listen = Listen((self.names.everything_ready,), True)
        if len(wanted) <= MAX_TOPICS:
            listen = Listen(tuple({self.names.ready + self.names.shard(id) for id in wanted.values()}))
        linger = LINGER * min(1.0, (len(wanted) - 1) / LINGER_IDS)
        return (
            yield from self._until(
                lambda: self.get(wanted.values(), True),
                nothing,
                bool,
                (listen, wanted, linger),
                timeout if wanted else 0.0,
                seen or Seen(),
            )
        )

    def forget(self, ids: Collection[str]) -> Flow[None]:
        """Flow of `ResultStore.forget`."""
        for chunk in chunks(ids):
            yield Command(("DEL", *map(self.names.result, chunk)))

    # --- marks -----------------------------------------------------------------------------------------------

    def revoke(self, records: Sequence[Record], terminate: bool, ttl: float) -> Flow[None]:
        """Flow of `ResultStore.revoke`."""
        yield from self.put(records, ttl)
        for chunk in chunks([record.id for record in records]):
            words = [secrets.token_hex(8), _milliseconds(ttl), int(terminate), self.names.marked, *chunk]
            yield from self._script(scripts.MARK, self.names.marks, words)

    def revoked(self, cursor: str, timeout: float, seen: Seen | None = None) -> Flow[Marks]:
        """Flow of `ResultStore.revoked`."""
        return (
            yield from self._until(
                lambda: self._marks(cursor),
                Marks([], cursor),
                lambda marks: bool(marks.marks),
                (Listen((self.names.marked,)), None, 0.0),
                timeout,
                seen or Seen(),
            )
        )

    def _marks(self, cursor: str) -> Flow[Marks]:
        era, _, number = cursor.partition(":")
        if not (number.isascii() and number.isdigit() and len(number) < 16):
            era, number = "", "0"
        words = [secrets.token_hex(8), era.encode("utf-8", "replace"), number, MAX_MARKS]
        era, number, *found = yield from self._script(scripts.MARKS, self.names.marks, words)
        marks = [Mark(id.decode(), bool(stop)) for id, stop in zip(found[::2], found[1::2], strict=True)]
        return Marks(marks, f"{_text(era)}:{_text(number)}")

    # --- what is kept by a key -------------------------------------------------------------------------------

    def keyed(self, ask: Keyed) -> Flow[Value]:
        """Flow of `KeyedStore.keyed`."""
        of = self.names.of
        match ask:
            case Claim(key, id, ttl):
                words: list[Any] = [id, _milliseconds(ttl), self.names.results]
                owner: bytes = yield from self._script(scripts.CLAIM, [of("claim", key)], words)
                return owner.decode()
            case Unclaim(key, id):
                yield from self._script(scripts.UNCLAIM, [of("claim", key)], [id])
            case Acquire(key, holder, most, ttl):
                words = [holder, most, _milliseconds(ttl)]
                return int((yield from self._script(scripts.ACQUIRE, [of("places", key)], words)))
            case Release(key, holder):
                yield Command(("ZREM", of("places", key), holder))
            case Take(key, rate, burst):
                return float((yield from self._script(scripts.TAKE, [of("tokens", key)], [repr(1.0 / rate), burst])))
            case Count(key, ttl):
                return int((yield from self._script(scripts.COUNT, [of("count", key)], [_milliseconds(ttl)])))
        return 0

    # --- chords ----------------------------------------------------------------------------------------------

    def join(self, join: Join, ttl: float, keys: Keyring | None) -> Flow[Submission | None]:
        """Flow of `ResultStore.join`."""
        check_join(join, ttl)
        name = self.names.of("join", join.group)
        member = msgpack.packb([join.record.id, str(join.record.state), join.record.body])
        words = [join.position, join.size, pack_body(join.body), member, _milliseconds(ttl)]
        answer = yield from self._script(scripts.JOIN, [name], words)
        if len(answer) == 1:
            log.error(
                "Member %d of the chord %s is not counted: it has %d members.", join.position, join.group, answer[0]
            )
        if len(answer) < 2:
            return None
        body = unpack_body(answer[1])
        if (yield from self.get([body.id], True)):
            return None
        members: list[Record] = []
        for start in range(0, answer[0], CHUNK):
            values = yield Command(("HMGET", name, *range(start, min(start + CHUNK, answer[0]))))
            for id, state, data in map(msgpack.unpackb, values):
                members.append(Record(id, STATES[state], data))
        job, records = follow_up(body, members, keys, time.time())
        yield from self.put(records, ttl)
        return job

    # --- inside ----------------------------------------------------------------------------------------------

    def _script(self, text: str, keys: Sequence[str], words: Sequence[Any]) -> Flow[Any]:
        try:
            return (yield Command(("EVALSHA", SHA[text], len(keys), *keys, *words)))
        except NoScript:
            return (yield Command(("EVAL", text, len(keys), *keys, *words)))

    def _until(
        self,
        look: Callable[[], Flow[T]],
        last: T,
        found: Callable[[T], bool],
        where: tuple[Listen, Container[bytes] | None, float],
        timeout: float,
        seen: Seen,
    ) -> Flow[T]:
        """Looks until there is something or the time is over, each time something is heard `where` it is said.

        That is what to listen to, for which ids, and how many seconds others may gather; `last` is what nothing is.
        """
        listen, ids, linger = where
        deadline = self._now() + timeout
        nap = FIRST_NAP
        while True:
            try:
                last = yield from look()
                seen.at, nap = self._now(), FIRST_NAP
                if found(last) or seen.at >= deadline:
                    return last
                yield listen
                last = yield from look()
                while not found(last) and (left := deadline - self._now()) > 0:
                    if not (yield Hear(ids, min(left, QUIET))):
                        if left > QUIET:
                            yield Probe()
                    elif linger:
                        yield Nap(max(0.0, min(linger, left)))
                    last = yield from look()
                    seen.at = self._now()
                return last
            except ResultsUnavailable:
                now = self._now()
                if seen.at is None or now - seen.at >= RESTART:
                    raise
                if now >= deadline:
                    return last
                yield Nap(min(nap, deadline - now))
                nap = min(nap * 2, MAX_NAP)


def weaknesses(info: Mapping[str, Any]) -> list[Weakness]:
    """What Redis' own report (INFO) says against it as a store."""
    found: list[Weakness] = []
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        limit = int(info.get("maxmemory", 0))
        found.append(
            Weakness(
                "eviction",
                f"Redis evicts by {policy}{'' if limit else ' once maxmemory is set'}: when its memory is full it "
                "drops results that somebody waits for, claims and members of chords, and says nothing.",
                "Set maxmemory-policy noeviction, and give results a Redis of their own.",
                serious=limit > 0,
            )
        )
    if not int(info.get("aof_enabled", 0)):
        found.append(
            Weakness(
                "persistence",
                "Redis keeps no log of what it takes (appendonly no): results since its last snapshot are gone when it "
                "is restarted, and chords that were half done never finish.",
                "Set appendonly yes where results must survive.",
            )
        )
    if info.get("role") == "slave":
        found.append(
            Weakness("replica", "This Redis is a replica, which takes no results.", "Name its master.", serious=True)
        )
    version = str(info.get("redis_version", ""))
    if version.split(".")[0].isdigit() and int(version.split(".")[0]) < OLDEST:
        what = f"This is Redis {version}, which does not run the store's scripts."
        found.append(Weakness("version", what, f"Use Redis {OLDEST} or newer, or Valkey.", serious=True))
    return found


def _milliseconds(ttl: float) -> int:
    return max(1, math.ceil(max(0.0, min(ttl, MAX_TTL)) * 1000))


def _pack(record: Record) -> bytes:
    return b"%d%s\n%s" % (record.ready, record.state.encode(), record.body)


def _unpack(id: str, value: bytes) -> Record:
    state, _, body = value.partition(b"\n")
    name = state[1:].decode(errors="replace")
    if name not in STATES:
        raise ResultError(f"Redis keeps something else for the task {id}; give the store a `prefix` of its own.")
    return Record(id, STATES[name], body)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
