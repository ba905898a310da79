"""The result store in a SQLite file: for one host, without any service. Design, sections 3 and 4.

Any number of processes and threads use the file at once. Waiting is looking whether another connection has written
(``PRAGMA data_version``, which reads nothing from the disk) at intervals that grow from 2 to 100 ms.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

import anyio
import anyio.to_thread

from gtask.results import joining
from gtask.results.base import ResultStore
from gtask.results.file import BUSY, SqliteFile
from gtask.results.joins import Join
from gtask.results.wire import Claim, Item, JoinItem, check_claim, check_join, check_record
from gtask.states import READY, Record, State
from gtask.types import Submission

VERSION: Final = 1
APPLICATION: Final = 0x67746B72
"""Marks the file as gtask's results: "gtkr"."""

CHUNK: Final = 500
"""Ids in one query; older SQLites take 999 parameters."""

SWEEP: Final = 1000
"""Expired records dropped at once."""

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

_CLAIM: Final = """
INSERT INTO claims (key, id, expires) VALUES (?1, ?2, ?3)
ON CONFLICT (key) DO UPDATE SET id = ?2, expires = ?3
WHERE claims.expires <= ?4
OR EXISTS (SELECT 1 FROM results WHERE results.id = claims.id AND results.ready AND results.expires > ?4)
"""


class HandedIn(NamedTuple):
    """What came of handing in: for each join the job that it calls for, and the ids that are ready now."""

    jobs: list[Submission | None]
    ready: list[str]


class SqliteStore(ResultStore):
    """Keeps results in a SQLite file, which is made at the first use.

    `path` is taken from the current folder if it is relative. The folder has to be on a local disk: SQLite's locks
    do not work over network file systems. Raises `ConfigurationError` at the first use when the file is no result
    store of gtask, `ResultError` when it cannot be read or written: `busy` is how many seconds another process may be
    writing before that is said. Safe to use from several threads.
    """

    def __init__(self, path: str | os.PathLike[str], busy: float = BUSY) -> None:
        self._file = SqliteFile(path, APPLICATION, VERSION, _TABLES + joining.TABLES, busy)
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

    def claim(self, key: str, id: str, ttl: float) -> str:
        """See `ResultStore.claim`."""
        return self.claims([check_claim(key, id, ttl)])[0]

    def get(self, ids: Collection[str]) -> dict[str, Record]:
        """See `ResultStore.get`."""
        return self._select("SELECT id, state, body FROM results WHERE expires > ? AND id IN", ids)

    def wait(self, ids: Collection[str], timeout: float) -> dict[str, Record]:
        """See `ResultStore.wait`."""
        deadline = time.monotonic() + timeout
        look = FIRST_LOOK
        seen: tuple[int, int] | None = None
        while True:
            version = self.version()
            if version != seen:
                seen = version
                found = self.ready(ids)
                if found:
                    return found
            left = deadline - time.monotonic()
            if left <= 0 or not ids:
                return {}
            time.sleep(min(look, left))
            look = min(look * 1.5, LAST_LOOK)

    async def await_(self, ids: Collection[str], timeout: float) -> Mapping[str, Record]:
        """See `ResultStore.wait`; no thread is kept while nothing happens."""
        deadline = time.monotonic() + timeout
        look = FIRST_LOOK
        seen: tuple[int, int] | None = None
        while True:
            version = await anyio.to_thread.run_sync(self.version)
            if version != seen:
                seen = version
                found = await anyio.to_thread.run_sync(self.ready, ids)
                if found:
                    return found
            left = deadline - time.monotonic()
            if left <= 0 or not ids:
                return {}
            await anyio.sleep(min(look, left))
            look = min(look * 1.5, LAST_LOOK)

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

    def hand_in(self, items: Sequence[Item | JoinItem]) -> HandedIn:
        """Keeps records, then counts members of chords, each for a time of its own; all in one transaction.

        When a chord is complete its job is returned, or the records that follow from a failed member are kept.
        """
        now = time.time()
        rows = []
        joins = []
        for item in items:
            if isinstance(item, JoinItem):
                check_join(item.join, item.ttl)
                joins.append(item)
            else:
                check_record(item.record, item.ttl)
                rows.append(_row(item.record, now + item.ttl, now))
        ready = [row[0] for row in rows if row[2]]
        jobs: list[Submission | None] = []
        if not rows and not joins:
            return HandedIn([], [])
        with self._file.transaction() as db:
            db.executemany(_PUT, rows)
            for join, ttl in joins:
                job, records = joining.hand_in(db, join, now + ttl, now, self.keys)
                jobs.append(job)
                db.executemany(_PUT, [_row(record, now + ttl, now) for record in records])
                ready += [record.id for record in records]
            if now >= self._sweep_at:
                self._sweep(db, now)
        return HandedIn(jobs, ready)

    def claims(self, claims: Sequence[Claim]) -> list[str]:
        """`claim` for several, in their order and in one transaction; the id that each of them has to share."""
        now = time.time()
        shared = []
        with self._file.transaction() as db:
            for key, id, ttl in claims:
                db.execute(_CLAIM, (key, id, now + ttl, now))
                shared.append(db.execute("SELECT id FROM claims WHERE key = ?", (key,)).fetchone()[0])
        return shared

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
            tables = ("results", "claims", "joins")
            if not any(
                db.execute(f"SELECT 1 FROM {name} WHERE expires <= ? LIMIT 1", (now,)).fetchone() for name in tables
            ):
                return False
        with self._file.transaction() as db:
            return self._sweep(db, now)

    # --- inside ----------------------------------------------------------------------------------------------

    def _sweep(self, db: sqlite3.Connection, now: float) -> bool:
        more = joining.sweep(db, now, SWEEP)
        for table in ("results", "claims"):
            found = f"SELECT rowid FROM {table} WHERE expires <= ? LIMIT ?"
            more |= db.execute(f"DELETE FROM {table} WHERE rowid IN ({found})", (now, SWEEP)).rowcount >= SWEEP
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
