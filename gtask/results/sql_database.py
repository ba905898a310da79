"""The connections of the SQL store: opened when needed, not shared with forks, errors said in sentences.

A transaction that lost against another one is made again, and so is one whose connection was cut while it was idle.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gtask.errors import ConfigurationError, GtaskError, ResultError, ResultsUnavailable
from gtask.results.sql_tables import VERSION, Tables

TRIES: Final = 8
"""How often a transaction is made that meets others in a deadlock, and tables that others make at the same time."""

CLOCK_FOR: Final = 60.0
"""Seconds for which the difference to the database's clock is believed."""

CONNECT: Final = 2
ANSWER: Final = 30
"""Seconds a database has to take a connection, and (MySQL) to answer; the URL's options may say otherwise."""

POOL: Final = {"pool_size": 5, "max_overflow": 45, "pool_timeout": 10.0, "pool_recycle": 1800}

_CONFLICTS: Final = (1213, 1205, "40001", "40P01")
_REFUSED: Final = (1044, 1045, 1049, 1142, "28P01", "28000", "3D000", "42501")
_REFUSALS: Final = ("does not exist", "authentication failed", "no pg_hba.conf entry", "no password supplied")
_TOO_LARGE: Final = (1153, 2020)
_CUT: Final = (0, 2006, 2013, 2014)
"""Codes of errors, and words of PostgreSQL's that come without one."""

_CONNECT_ARGS: Final[dict[str, dict[str, Any]]] = {
    "pymysql": {"connect_timeout": CONNECT, "read_timeout": ANSWER, "write_timeout": ANSWER},
    "psycopg": {"connect_timeout": CONNECT, "application_name": "gtask-results", "tcp_user_timeout": ANSWER * 1000},
    "pysqlite": {"timeout": float(ANSWER)},
}

T = TypeVar("T")


class SqlDatabase:
    """A database with our tables, for any number of threads and for forks."""

    def __init__(self, url: URL, tables: Tables) -> None:
        self._url = url
        self._tables = tables
        self._errors: type[Exception] = url.get_dialect().import_dbapi().Error
        self._lock = threading.RLock()
        self._engine: Engine | None = None
        self._reader: Engine | None = None
        self._pid = 0
        self._offset = 0.0
        self._believed_until = 0.0
        self.answered: float | None = None
        """When the database last did something, on the clock of `time.monotonic`; None before the first time."""

    def read(self, work: Callable[[Connection], T]) -> T:
        """Does what only reads; each query sees what is committed by then."""
        return self._do(work, False)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Does work in a transaction, which is committed when this returns; in a conflict the work is done again."""
        return self._do(work, True)

    def now(self, db: Connection) -> float:
        """The database's time: of many hosts, the one clock that all share."""
        if time.monotonic() >= self._believed_until:
            self._offset = float(db.execute(self._tables.now).scalar_one()) - time.monotonic()
            self._believed_until = time.monotonic() + CLOCK_FOR
        return time.monotonic() + self._offset

    def close(self) -> None:
        """Closes the connections; they are made again when they are needed."""
        with self._lock:
            engine, self._engine = self._engine, None
            if engine is not None:
                engine.dispose(close=self._pid == os.getpid())

    # --- inside ----------------------------------------------------------------------------------------------

    def _do(self, work: Callable[[Connection], T], write: bool) -> T:
        conflicts = 0
        lost = False
        while True:
            try:
                engine, reader = self._engines()
                with engine.begin() if write else reader.connect() as db:
                    done = work(db)
                self.answered = time.monotonic()
                return done
            except (SQLAlchemyError, self._errors) as error:
                if _code(error) in _CONFLICTS and conflicts < TRIES:
                    conflicts += 1
                    time.sleep(random.random() * 0.005 * 2**conflicts)
                elif _is_cut(error) and not lost:
                    lost = True
                else:
                    raise self._explained(error) from error

    def _engines(self) -> tuple[Engine, Engine]:
        if self._pid != os.getpid() and self._engine is not None:
            # The connections are the parent's, and so is a lock that another of its threads may have held.
            self._lock = threading.RLock()
            self.close()
        with self._lock:
            if self._engine is None or self._reader is None:
                engine = self._create()
                self._prepare(engine)
                self._engine, self._reader, self._pid = engine, engine.execution_options(gtask_read=True), os.getpid()
            return self._engine, self._reader

    def _create(self) -> Engine:
        driver = self._url.get_driver_name()
        arguments = {name: value for name, value in _CONNECT_ARGS[driver].items() if name not in self._url.query}
        options: dict[str, Any] = {} if driver == "pysqlite" else {"isolation_level": "READ COMMITTED"}
        engine = create_engine(self._url, connect_args=arguments, hide_parameters=True, **POOL, **options)
        if driver == "pysqlite":
            event.listen(engine, "connect", _connected_to_sqlite)
            event.listen(engine, "begin", _begin_in_sqlite)
        return engine

    def _prepare(self, engine: Engine) -> None:
        """Makes the tables where they are not there yet; several processes may be doing that at once."""
        for tries in range(TRIES):
            try:
                found = self._version(engine)
                if found is None:
                    with engine.begin() as db:
                        self._tables.metadata.create_all(db)
                        db.execute(self._tables.lock_meta, {"name": "version", "number": VERSION, "text": ""})
                elif found > VERSION:
                    raise ConfigurationError(
                        f"The tables of {self._where} were made by a newer gtask (version {found}, here {VERSION}); "
                        "update gtask."
                    )
                return
            except DBAPIError as error:
                engine.dispose()
                if tries == TRIES - 1 or _code(error) in _REFUSED or not _is_race(error):
                    raise
                time.sleep(random.random() * 0.02 * 2**tries)

    def _version(self, engine: Engine) -> int | None:
        meta = self._tables.meta.c
        try:
            with engine.connect() as db:
                number: int | None = db.execute(select(meta.number).where(meta.name == "version")).scalar_one_or_none()
                return number
        except DBAPIError as error:
            if _is_race(error) and not isinstance(error, IntegrityError):
                return None
            raise

    @property
    def _where(self) -> str:
        return self._url.set(query={}).render_as_string(hide_password=True)

    def _explained(self, error: Exception) -> GtaskError:
        """The error as gtask's own, with what to do."""
        code, why = _code(error), _words(error)
        if isinstance(error, PoolTimeout):
            return ResultsUnavailable(
                f"All connections of this process to {self._where} are in use ({why}); wait in fewer threads at once."
            )
        if code in _REFUSED or (code is None and any(words in why for words in _REFUSALS)):
            return ConfigurationError(
                f"{self._where} refuses this user, or has no such database ({why}); see the URL, and what the user may "
                "do: it needs CREATE, SELECT, INSERT, UPDATE and DELETE."
            )
        if any(one in _TOO_LARGE for one in _codes(error)):
            return ResultError(f"A value is too large for {self._where} ({why}); raise its max_allowed_packet.")
        if _is_away(error):
            hint = "" if code != 2006 else ", and whether a value was larger than its max_allowed_packet"
            return ResultsUnavailable(f"{self._where} cannot be reached: {why}; see whether it runs there{hint}.")
        return ResultError(f"{self._where} refuses: {why}.")


def _code(error: BaseException | None) -> object:
    """MySQL's number or PostgreSQL's code of an error, None without any."""
    original = _original(error)
    number = next(iter(getattr(original, "args", ())), None)
    return number if isinstance(number, int) else getattr(original, "sqlstate", None)


def _codes(error: BaseException | None) -> Iterator[object]:
    """The codes of an error and of those that led to it: MySQL closes the connection over what is too large."""
    for _ in range(10):
        if error is not None:
            yield _code(error)
            error = error.__context__


def _original(error: Any) -> Any:
    """The driver's error inside of SQLAlchemy's."""
    return getattr(error, "orig", None) or error


def _words(error: Exception) -> str:
    words = getattr(_original(error), "args", ())
    return (" ".join(str(words[-1] if words else error).split()))[:300].rstrip(".")


def _is_cut(error: Exception) -> bool:
    return _code(error) in _CUT or (isinstance(error, DBAPIError) and error.connection_invalidated)


def _is_away(error: Exception) -> bool:
    """Whether the database is not there, rather than that it is and refuses."""
    original, code = _original(error), _code(error)
    if _is_cut(error):
        return True
    if isinstance(code, int):
        return code in (1040, 1053, 2002, 2003)
    state = getattr(original, "sqlstate", None)
    if isinstance(state, str):
        return state.startswith(("08", "53", "57P"))
    kind = type(original)
    return kind.__name__ in ("OperationalError", "InterfaceError") and not kind.__module__.startswith("sqlite3")


def _is_race(error: DBAPIError) -> bool:
    """Whether a table is missing, or has just been made by another."""
    if isinstance(error, IntegrityError) or _code(error) in (1050, 1146, 1061, "42P01", "42P07", "42710", "23505"):
        return True
    return "no such table" in str(error.orig) or "already exists" in str(error.orig)


def _connected_to_sqlite(connection: Any, _: object) -> None:
    # Transactions are begun below; the driver's own begin too late for a writer.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")


def _begin_in_sqlite(db: Connection) -> None:
    db.exec_driver_sql("BEGIN" if db.get_execution_options().get("gtask_read") else "BEGIN IMMEDIATE")
