"""The result store in a SQLite file: for one host, without any service. Design, sections 3 and 4.

Any number of processes and threads use the file at once: it is kept in WAL mode, so readers never wait. Waiting is
looking whether another connection has written (``PRAGMA data_version``, which reads nothing from the disk) at
intervals that grow from 2 to 100 ms.

SQLite does not survive a fork: its locks are the parent's. So every connection of this process is closed before a
fork and opened again by whoever uses it next, in the parent and in the child.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Final

import anyio
import anyio.to_thread

from gtask.errors import ConfigurationError, ResultError
from gtask.results.base import ResultStore
from gtask.results.wire import MAX_TTL, check_record
from gtask.states import READY, Record, State

VERSION: Final = 1
APPLICATION_ID: Final = 0x67746B72
"""Marks the file as gtask's results (``PRAGMA application_id``): "gtkr"."""

BUSY: Final = 30.0
"""Seconds to wait for another process that is writing."""

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
"""

_PUT: Final = """
INSERT INTO results (id, state, ready, body, expires) VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT (id) DO UPDATE SET state = ?2, ready = ?3, body = ?4, expires = ?5
WHERE NOT results.ready OR results.expires <= ?6
"""


class SqliteStore(ResultStore):
    """Keeps results in a SQLite file, which is made at the first use.

    `path` is taken from the current folder if it is relative. The folder has to be on a local disk: SQLite's locks
    do not work over network file systems. Raises `ConfigurationError` at the first use when the file is no result
    store of gtask, `ResultError` when it cannot be read or written: `busy` is how many seconds another process may be
    writing before that is said. Safe to use from several threads.
    """

    def __init__(self, path: str | os.PathLike[str], busy: float = BUSY) -> None:
        self.path = os.path.abspath(path)
        self._busy = busy
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._db: sqlite3.Connection | None = None
        self._writes = 0
        self._sweep_at = 0.0
        _stores.add(self)

    def __repr__(self) -> str:
        return f"<SqliteStore {self.path}>"

    # --- the contract ----------------------------------------------------------------------------------------

    def put(self, records: Sequence[Record], ttl: float) -> None:
        """See `ResultStore.put`; all of them in one transaction, on the disk when it returns."""
        self.put_each([(record, ttl) for record in records])

    def put_each(self, items: Sequence[tuple[Record, float]]) -> None:
        """`put` for records that are kept for different times."""
        now = time.time()
        rows = []
        for record, ttl in items:
            check_record(record, ttl)
            state = State(record.state)
            rows.append((record.id, str(state), state in READY, record.body, now + min(ttl, MAX_TTL), now))
        if rows:
            with self._transaction() as db:
                db.executemany(_PUT, rows)
                if now >= self._sweep_at:
                    self._sweep(db, now)

    def get(self, ids: Collection[str]) -> dict[str, Record]:
        """See `ResultStore.get`."""
        return self._select("SELECT id, state, body FROM results WHERE expires > ? AND id IN", ids)

    def ready(self, ids: Collection[str]) -> dict[str, Record]:
        """The records of these ids that are ready."""
        return self._select("SELECT id, state, body FROM results WHERE ready AND expires > ? AND id IN", ids)

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
            with self._transaction() as db:
                for chunk in _chunks(ids):
                    db.execute(f"DELETE FROM results WHERE id IN ({_marks(chunk)})", chunk)

    def close(self) -> None:
        """See `ResultStore.close`."""
        with self._lock:
            self._drop()

    # --- for the results service -----------------------------------------------------------------------------

    def version(self) -> tuple[int, int]:
        """A value that changes when this or another connection has written."""
        with self._use() as db:
            (number,) = db.execute("PRAGMA data_version").fetchone()
            return number, self._writes

    def sweep(self) -> bool:
        """Drops some records whose time is over; true when there may be more of them."""
        now = time.time()
        with self._use() as db:
            due = db.execute("SELECT 1 FROM results WHERE expires <= ? LIMIT 1", (now,)).fetchone()
        if due is None:
            return False
        with self._transaction() as db:
            return self._sweep(db, now)

    # --- inside ----------------------------------------------------------------------------------------------

    def _sweep(self, db: sqlite3.Connection, now: float) -> bool:
        dropped = db.execute(
            "DELETE FROM results WHERE rowid IN (SELECT rowid FROM results WHERE expires <= ? LIMIT ?)", (now, SWEEP)
        ).rowcount
        self._sweep_at = now + (SWEEP_EVERY if dropped < SWEEP else 0.0)
        return dropped >= SWEEP

    def _select(self, query: str, ids: Collection[str]) -> dict[str, Record]:
        now = time.time()
        found: dict[str, Record] = {}
        for chunk in _chunks(ids):
            with self._use() as db:
                for id, state, body in db.execute(f"{query} ({_marks(chunk)})", (now, *chunk)):
                    found[id] = Record(id, State(state), body)
        return found

    @contextmanager
    def _use(self) -> Iterator[sqlite3.Connection]:
        if self._pid != os.getpid():
            self._after_foreign_fork()
        with self._lock, _explained(self.path):
            if self._db is None:
                self._db = _open(self.path, self._busy)
            yield self._db

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._use() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
                self._writes += 1
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def _drop(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def _after_foreign_fork(self) -> None:
        """This process was forked past Python's hooks: the parent's connection may not even be closed here."""
        if self._db is not None:
            _inherited.append(self._db)
        self._db = None
        self._lock = threading.RLock()
        self._pid = os.getpid()


def _open(path: str, busy: float) -> sqlite3.Connection:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise ConfigurationError(f"Results cannot be kept in {path}: the folder {folder} does not exist; create it.")
    try:
        db = sqlite3.connect(path, timeout=busy, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise ConfigurationError(
            f"Results cannot be kept in {path}: {error}. Name a file that can be written."
        ) from error
    try:
        # Looked at first, so that nothing is changed in a file that belongs to another program.
        db.execute("BEGIN")
        ours = _is_ours(db, path)
        db.execute("COMMIT")
        if not ours:
            _prepare(db, path)
        db.execute("PRAGMA synchronous = FULL")
        return db
    except BaseException:
        db.close()
        raise


def _is_ours(db: sqlite3.Connection, path: str) -> bool:
    """Whether the file is a result store; false when it is empty. Raises `ConfigurationError` for any other."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application == APPLICATION_ID and version == VERSION:
        return True
    if application == APPLICATION_ID and version > VERSION:
        raise ConfigurationError(
            f"{path} was made by a newer gtask (version {version} of its results, here {VERSION}); update gtask."
        )
    if application or version or tables:
        raise ConfigurationError(
            f"{path} is a SQLite file of another program, so no results are kept in it; name a file of their own."
        )
    return False


def _prepare(db: sqlite3.Connection, path: str) -> None:
    deadline = time.monotonic() + BUSY
    while True:
        try:
            # SQLite does not wait by itself here, and several processes may be starting with a new file.
            db.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
    db.execute("BEGIN IMMEDIATE")
    try:
        if not _is_ours(db, path):
            for statement in filter(str.strip, _TABLES.split(";")):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        remedy = "see whether another program holds it" if "locked" in str(error) else "see to its disk and its rights"
        raise ResultError(f"The results in {path} cannot be used now: {error}; {remedy}.") from error
    except sqlite3.DatabaseError as error:
        raise ConfigurationError(
            f"{path} cannot be used as a result store: {error}. Move it away or name another file."
        ) from error


def _chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(ids)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def _marks(chunk: Sequence[object]) -> str:
    return ",".join("?" * len(chunk))


# --- forks -----------------------------------------------------------------------------------------------------

_stores: weakref.WeakSet[SqliteStore] = weakref.WeakSet()
_inherited: list[sqlite3.Connection] = []
_forking = threading.Lock()
_held: list[SqliteStore] = []


def _before_fork() -> None:
    _forking.acquire()
    for store in list(_stores):
        store._lock.acquire()
        store._drop()
        _held.append(store)


def _after_fork() -> None:
    pid = os.getpid()
    while _held:
        store = _held.pop()
        store._pid = pid
        store._lock.release()
    _forking.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
