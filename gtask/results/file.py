"""A SQLite file that many processes and threads share, and that survives forks.

It is kept in WAL mode, so readers never wait. SQLite itself does not survive a fork: its locks are the parent's. So
every connection of this process is closed before a fork and opened again by whoever uses it next, in the parent and
in the child.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from gtask.errors import ConfigurationError, ResultError

BUSY: Final = 30.0
"""Seconds to wait for another process that is writing."""


class SqliteFile:
    """One file with gtask's own tables, made at the first use.

    `application` marks it (``PRAGMA application_id``). `versions` are SQL statements: those that make the tables of an
    empty file, then those that lead from each version (``PRAGMA user_version``) to the next, so that an older file
    goes on. `busy` is how many seconds another process may be writing before a `ResultError` says so. Raises
    `ConfigurationError` at the first use when the file belongs to another program or is damaged.
    """

    def __init__(
        self, path: str | os.PathLike[str], application: int, versions: Sequence[str], busy: float = BUSY
    ) -> None:
        self.path = os.path.abspath(path)
        self._application = application
        self._versions = versions
        self._busy = busy
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._db: sqlite3.Connection | None = None
        self._writes = 0
        _files.add(self)

    def __repr__(self) -> str:
        return f"<SqliteFile {self.path}>"

    @contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone while the block lasts."""
        if self._pid != os.getpid():
            self._after_foreign_fork()
        with self._lock, self._explained():
            if self._db is None:
                self._db = self._open()
            yield self._db

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection, in a transaction that is on the disk when the block ends, or undone when it raises."""
        with self.use() as db:
            with _transaction(db):
                yield db
            self._writes += 1

    def version(self) -> tuple[int, int]:
        """A pair whose first number changes when another connection has written, and the second when this one has."""
        with self.use() as db:
            (number,) = db.execute("PRAGMA data_version").fetchone()
            return number, self._writes

    def close(self) -> None:
        """Closes the file; it is opened again when it is used again."""
        with self._lock:
            db, self._db = self._db, None
            if db is not None:
                db.close()

    # --- opening ---------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise ConfigurationError(
                f"Results cannot be kept in {self.path}: the folder {folder} does not exist; create it."
            )
        self._create()
        db = sqlite3.connect(self.path, timeout=self._busy, isolation_level=None, check_same_thread=False)
        try:
            # Looked at first, so that nothing is changed in a file that belongs to another program.
            db.execute("BEGIN")
            version = self._found(db)
            db.execute("COMMIT")
            if version < len(self._versions):
                self._prepare(db)
            db.execute("PRAGMA synchronous = FULL")
            return db
        except BaseException:
            db.close()
            raise

    def _create(self) -> None:
        """Makes the file, for its owner's eyes only: results are as private as the queue. SQLite's files follow it."""
        with _creating:  # closing any descriptor of a file that is in use would drop its locks
            try:
                os.close(os.open(os.path.realpath(self.path), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            except OSError:
                pass  # it is there, or SQLite says why it cannot be

    def _found(self, db: sqlite3.Connection) -> int:
        """The version of our tables in the file, 0 when it is empty. Raises `ConfigurationError` for any other file."""
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application == self._application and 0 < version <= len(self._versions):
            return int(version)
        if application == self._application and version:
            raise ConfigurationError(
                f"{self.path} was made by a newer gtask (version {version} of its tables, here {len(self._versions)}); "
                "update gtask."
            )
        if application or version or tables:
            raise ConfigurationError(
                f"{self.path} is a SQLite file of another program, so no results are kept in it; name a file of "
                "their own."
            )
        return 0

    def _prepare(self, db: sqlite3.Connection) -> None:
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
        with _transaction(db):
            version = self._found(db)
            if version < len(self._versions):
                for statement in filter(str.strip, ";".join(self._versions[version:]).split(";")):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {self._application}")
                db.execute(f"PRAGMA user_version = {len(self._versions)}")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            locked = "locked" in str(error)
            remedy = "see whether another program holds it" if locked else "see to its disk and its rights"
            raise ResultError(f"The results in {self.path} cannot be used now: {error}; {remedy}.") from error
        except sqlite3.DatabaseError as error:
            raise ConfigurationError(
                f"{self.path} cannot be used as a result store: {error}. Move it away or name another file."
            ) from error

    # --- forks -----------------------------------------------------------------------------------------------

    def _before_fork(self) -> None:
        self._lock.acquire()
        self.close()

    def _after_fork(self) -> None:
        self._pid = os.getpid()
        self._lock.release()

    def _after_foreign_fork(self) -> None:
        """This process was forked past Python's hooks: the parent's connection may not even be closed here."""
        if self._db is not None:
            _inherited.append(self._db)
        self._db = None
        self._lock = threading.RLock()
        self._pid = os.getpid()


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


_files: weakref.WeakSet[SqliteFile] = weakref.WeakSet()
_inherited: list[sqlite3.Connection] = []  # one for each file and fork past the hooks
_forking = threading.Lock()
_creating = threading.Lock()
_held: list[SqliteFile] = []


def _before_fork() -> None:
    _forking.acquire()
    for file in list(_files):
        file._before_fork()
        _held.append(file)
    _creating.acquire()


def _after_fork() -> None:
    _creating.release()
    while _held:
        _held.pop()._after_fork()
    _forking.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
