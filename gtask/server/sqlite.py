"""The queue in SQLite, in the very table of gearmand's libsqlite3 queue. Protocol reference, section 20.

A queue file can be moved between gearmand and this server both ways; `gearmand -q libsqlite3 --libsqlite3-db FILE`
reads it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gtask.errors import ConfigurationError
from gtask.server.store import Key, Row

log = logging.getLogger("gtask.server")

TABLE: Final = "gearman_queue"
MAX_PENDING_DELETES: Final = 100_000
"""Deletions that are kept for another try while the disk refuses them."""

_CREATE: Final = f"""
CREATE TABLE IF NOT EXISTS {TABLE} (
    unique_key TEXT, function_name TEXT, priority INTEGER, data BLOB, when_to_run INTEGER,
    PRIMARY KEY(unique_key, function_name))
"""
# Names are bytes, and the columns TEXT: the cast keeps the bytes as they are.
_INSERT: Final = f"INSERT OR REPLACE INTO {TABLE} VALUES (CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?)"
_DELETE: Final = f"DELETE FROM {TABLE} WHERE unique_key = CAST(? AS TEXT) AND function_name = CAST(? AS TEXT)"
_SELECT: Final = f"""
SELECT CAST(unique_key AS BLOB), CAST(function_name AS BLOB), priority, CAST(data AS BLOB), when_to_run
FROM {TABLE} ORDER BY rowid
"""


class SqliteStore:
    """A `Store` in one SQLite file; one process at a time may use it.

    Raises `ConfigurationError` when the file cannot be opened, is no queue, or is in use. Commits are durable against
    the death of the process at once, and against a power cut up to the last moments (WAL, synchronous=NORMAL).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._pending: dict[Key, Row | None] = {}
        self._failing = False
        self._lock = _lock(self.path)
        try:
            self._database = sqlite3.connect(self.path, timeout=1.0, isolation_level=None, check_same_thread=False)
            try:
                self._database.execute("PRAGMA journal_mode=WAL")
                self._database.execute("PRAGMA synchronous=NORMAL")
                # Each checkpoint waits for the disk; keys are random, so pages are touched all over.
                self._database.execute("PRAGMA wal_autocheckpoint=10000")
                self._database.execute("PRAGMA cache_size=-32000")
                self._database.execute(_CREATE)
                self._database.execute(_SELECT).fetchone()
            except BaseException:
                self._database.close()
                raise
        except sqlite3.Error as error:
            os.close(self._lock)
            raise ConfigurationError(
                f"{self.path} cannot be used as a queue: {error}. Name another file with --db."
            ) from error

    def load(self) -> Iterator[Row]:
        """All rows, in the order in which they were stored."""
        for unique, function, priority, data, when in self._database.execute(_SELECT):
            yield Row(unique or b"", function or b"", priority or 0, data or b"", when or 0)

    def put(self, row: Row) -> None:
        """Notes a row; one of the same key is replaced."""
        key = row[:2]
        self._pending.pop(key, None)
        self._pending[key] = row

    def delete(self, unique: bytes, function: bytes) -> None:
        """Notes a deletion."""
        self._pending[unique, function] = None

    def commit(self) -> set[Key]:
        """One transaction for all that is noted.

        The keys of rows that cannot be stored are returned: all of them when the disk is full or the file locked, or
        just the one that SQLite does not take. Deletions that cannot be made are tried again with the next commit.
        """
        pending = self._pending
        if not pending:
            return set()
        rows = [row for row in pending.values() if row is not None]
        keys = [key for key, row in pending.items() if row is None]
        try:
            self._write(rows, keys)
        except (sqlite3.Error, OverflowError) as error:
            if not self._failing:
                log.error("The queue file %s cannot be written: %s. Jobs are refused until it can.", self.path, error)
            self._failing = True
            if isinstance(error, sqlite3.OperationalError):
                # Disk full or file locked: trying each alone would only wait for each.
                self._pending = dict.fromkeys(keys[-MAX_PENDING_DELETES:])
                return {row[:2] for row in rows}
            return self._commit_singly(rows, keys)
        if self._failing:
            log.warning("The queue file %s can be written again.", self.path)
            self._failing = False
        pending.clear()
        return set()

    def _write(self, rows: list[Row], keys: list[Key]) -> None:
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        try:
            if rows:
                database.executemany(_INSERT, rows)
            if keys:
                database.executemany(_DELETE, keys)
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise

    def _commit_singly(self, rows: list[Row], keys: list[Key]) -> set[Key]:
        failed: set[Key] = set()
        self._pending = {}
        for row in rows:
            try:
                self._write([row], [])
            except (sqlite3.Error, OverflowError):
                failed.add(row[:2])
        try:
            self._write([], keys)
        except sqlite3.Error:
            self._pending = dict.fromkeys(keys[-MAX_PENDING_DELETES:])
        return failed

    def close(self) -> None:
        """Commits what is noted and closes the file."""
        try:
            self.commit()
        finally:
            self._database.close()
            os.close(self._lock)


def _lock(path: Path) -> int:
    """Opens the file and marks it as in use until the descriptor is closed, by whatever end of the process."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"The queue file {path} cannot be opened: {error.strerror}. Name another file with --db."
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ConfigurationError(
            f"The queue file {path} is used by another job server; stop that one, or name another file with --db."
        ) from error
    return descriptor
