"""The result store in a SQLite file: for one host, without any service. Design, sections 3 and 4.

Any number of processes and threads use the file at once. Waiting is looking whether another connection has written
(``PRAGMA data_version``, which reads nothing from the disk) at intervals that grow from 2 to 100 ms.
"""

from __future__ import annotations

import operator
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final, NamedTuple, TypeVar

from gtask.results import joining, tables
from gtask.results.base import Marks, no_marks
from gtask.results.checks import check_record
from gtask.results.file import BUSY, SqliteFile
from gtask.results.joins import Join
from gtask.results.keyed import Keyed, KeyedStore, Value
from gtask.results.polling import Poll, apoll, poll
from gtask.results.wire import Item, JoinItem, PutItem, RevokeItem, check_join
from gtask.states import READY, Record, State
from gtask.types import Submission

APPLICATION: Final = 0x67746B72
"""Marks the file as gtask's results: "gtkr"."""

CHUNK: Final = 500
"""Ids in one query; older SQLites take 999 parameters."""

SWEEP: Final = 1000
"""Rows of one table whose time is over that are dropped at once."""

SWEEP_EVERY: Final = 1.0
"""Seconds between two sweeps, unless the last one left something."""

FIRST_LOOK: Final = 0.002
LAST_LOOK: Final = 0.1
"""Seconds between two looks of a wait, from the first to the longest."""

_TABLES: Final = """
CREATE TABLE results (
    id TEXT NOT NULL PRIMARY KEY,
    state TEXT NOT NULL,
    ready INTEGER NOT NULL,
    body BLOB NOT NULL,
    expires REAL NOT NULL
);
CREATE INDEX results_expires ON results (expires);
CREATE TABLE claims (key TEXT NOT NULL PRIMARY KEY, id TEXT NOT NULL, expires REAL NOT NULL);
CREATE INDEX claims_expires ON claims (expires);
"""

_PUT: Final = """
INSERT INTO results (id, state, ready, body, expires) VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT (id) DO UPDATE SET state = ?2, ready = ?3, body = ?4, expires = ?5
WHERE NOT results.ready OR results.expires <= ?6
"""

VERSIONS: Final = (_TABLES + joining.TABLES, tables.TABLES, joining.BODIES)
"""The tables of the first file, and what each later version adds to them."""

T = TypeVar("T")


class HandedIn(NamedTuple):
    """What came of handing in: for each join the job that it calls for, the ids that are ready now, and any marks."""

    jobs: list[Submission | None]
    ready: list[str]
    marked: bool = False


class SqliteStore(KeyedStore):
    """Keeps results in a SQLite file, which is made at the first use.

    `path` is taken from the current folder if it is relative. The folder has to be on a local disk: SQLite's locks
    do not work over network file systems. Raises `ConfigurationError` at the first use when the file is no result
    store of gtask, `ResultError` when it cannot be read or written: `busy` is how many seconds another process may be
    writing before that is said. Safe to use from several threads.
    """

    def __init__(self, path: str | os.PathLike[str], busy: float = BUSY) -> None:
        self._file = SqliteFile(path, APPLICATION, VERSIONS, busy)
        self._sweep_at = 0.0

    def __repr__(self) -> str:
        return f"<SqliteStore {self.path}>"

    @property
    def path(self) -> str:
        """The file, with its whole path."""
        return self._file.path

    # --- the contract ----------------------------------------------------------------------------------------

    def put(self, records: Sequence[Record], ttl: float) -> None:
        """See `ResultStore.put`; all of them in one transaction, on the disk when it returns."""
        self.hand_in([Item(record, ttl) for record in records])

    def join(self, join: Join, ttl: float) -> Submission | None:
        """See `ResultStore.join`."""
        return self.hand_in([JoinItem(join, ttl)]).jobs[0]

    def keyed(self, ask: Keyed) -> Value:
        """See `KeyedStore.keyed`."""
        return self.answers([ask])[0]

    def revoke(self, records: Sequence[Record], terminate: bool, ttl: float) -> None:
        """See `ResultStore.revoke`; all of them in one transaction."""
        self.hand_in([RevokeItem(record, terminate, ttl) for record in records])

    def revoked(self, cursor: str, timeout: float) -> Marks:
        """See `ResultStore.revoked`."""
        look = self._news(partial(self.marks_after, cursor))
        return poll(look, no_marks, Poll(timeout, FIRST_LOOK, LAST_LOOK))

    async def arevoked(self, cursor: str, timeout: float) -> Marks:
        """See `ResultStore.revoked`; no thread is kept while nothing happens."""
        look = self._news(partial(self.marks_after, cursor))
        return await apoll(look, no_marks, Poll(timeout, FIRST_LOOK, LAST_LOOK))

    def get(self, ids: Collection[str]) -> dict[str, Record]:
        """See `ResultStore.get`."""
        return self._select("SELECT id, state, body FROM results WHERE expires > ? AND id IN", ids)

    def wait(self, ids: Collection[str], timeout: float) -> dict[str, Record]:
        """See `ResultStore.wait`."""
        look = self._news(partial(self.ready, ids))
        return poll(look, operator.not_, Poll(timeout if ids else 0.0, FIRST_LOOK, LAST_LOOK))

    async def await_(self, ids: Collection[str], timeout: float) -> Mapping[str, Record]:
        """See `ResultStore.wait`; no thread is kept while nothing happens."""
        look = self._news(partial(self.ready, ids))
        return await apoll(look, operator.not_, Poll(timeout if ids else 0.0, FIRST_LOOK, LAST_LOOK))

    def forget(self, ids: Collection[str]) -> None:
        """See `ResultStore.forget`."""
        if ids:
            with self._file.transaction() as db:
                for chunk in _chunks(ids):
                    db.execute(f"DELETE FROM results WHERE id IN ({_marks(chunk)})", chunk)

    def close(self) -> None:
        """See `ResultStore.close`."""
        self._file.close()

    # --- for the results service -----------------------------------------------------------------------------

    def hand_in(self, items: Sequence[PutItem]) -> HandedIn:
        """Keeps records and marks, then counts members of chords, each for a time of its own; all in one transaction.

        When a chord is complete its job is returned, or the records that follow from a failed member are kept.
        """
        now = time.time()
        rows = []
        joins = []
        marks = []
        for item in items:
            if isinstance(item, JoinItem):
                check_join(item.join, item.ttl)
                joins.append(item)
            else:
                check_record(item.record, item.ttl)
                rows.append(_row(item.record, now + item.ttl, now))
                if isinstance(item, RevokeItem):
                    marks.append((item.record.id, item.terminate, now + item.ttl))
        ready = [row[0] for row in rows if row[2]]
        jobs: list[Submission | None] = []
        if not rows and not joins:
            return HandedIn([], [])
        with self._file.transaction() as db:
            db.executemany(_PUT, rows)
            for id, terminate, expires in marks:
                tables.mark(db, id, terminate, expires)
            for join, ttl in joins:
                job, records = joining.hand_in(db, join, now + ttl, now, self.keys)
                jobs.append(job)
                db.executemany(_PUT, [_row(record, now + ttl, now) for record in records])
                ready += [record.id for record in records]
            if now >= self._sweep_at:
                self._sweep(db, now)
        return HandedIn(jobs, ready, bool(marks))

    def answers(self, asks: Sequence[Keyed]) -> list[Value]:
        """The answers to questions about keys, in their order and in one transaction."""
        now = time.time()
        with self._file.transaction() as db:
            return [tables.answer(db, ask, now) for ask in asks]

    def marks_after(self, cursor: str) -> Marks:
        """The marks behind a cursor, without waiting for any."""
        with self._file.use() as db:
            return tables.marks_after(db, cursor, time.time())

    def newest_mark(self) -> int:
        """The number of the newest mark."""
        with self._file.use() as db:
            return tables.newest(db)

    def ready(self, ids: Collection[str]) -> dict[str, Record]:
        """The records of these ids that are ready."""
        return self._select("SELECT id, state, body FROM results WHERE ready AND expires > ? AND id IN", ids)

    def version(self) -> tuple[int, int]:
        """See `SqliteFile.version`."""
        return self._file.version()

    def sweep(self) -> bool:
        """Drops some of what is kept beyond its time; true when there may be more of it."""
        now = time.time()
        with self._file.use() as db:
            names = ("joins", *tables.SWEPT)
            if not any(
                db.execute(f"SELECT 1 FROM {name} WHERE expires <= ? LIMIT 1", (now,)).fetchone() for name in names
            ):
                return False
        with self._file.transaction() as db:
            return self._sweep(db, now)

    # --- inside ----------------------------------------------------------------------------------------------

    def _news(self, look: Callable[[], T]) -> Callable[[], T]:
        """A look that is only taken after a write by anybody."""
        seen: tuple[int, int] | None = None
        found: list[T] = []

        def anew() -> T:
            nonlocal seen
            version = self.version()
            if version != seen:
                found[:] = [look()]
                seen = version
            return found[0]

        return anew

    def _sweep(self, db: sqlite3.Connection, now: float) -> bool:
        more = joining.sweep(db, now, SWEEP)
        more |= tables.sweep(db, now, SWEEP)
        self._sweep_at = now + (0.0 if more else SWEEP_EVERY)
        return more

    def _select(self, query: str, ids: Collection[str]) -> dict[str, Record]:
        now = time.time()
        found: dict[str, Record] = {}
        for chunk in _chunks(ids):
            with self._file.use() as db:
                for id, state, body in db.execute(f"{query} ({_marks(chunk)})", (now, *chunk)):
                    found[id] = Record(id, State(state), body)
        return found


def _row(record: Record, expires: float, now: float) -> tuple[str, str, bool, bytes, float, float]:
    return record.id, str(record.state), record.state in READY, record.body, expires, now


def _chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(ids)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def _marks(chunk: Sequence[object]) -> str:
    return ",".join("?" * len(chunk))
