"""The result store in a SQL database, through SQLAlchemy Core 2: MySQL, MariaDB, PostgreSQL, SQLite. Design, section 3.

Whoever changes what is kept by a key locks its row for the time of a transaction; a transaction that meets another one
in a deadlock is made again. Waiting is looking at intervals that grow: by one query for its ids, or, for many of them,
by one for what has lately become ready. Needs the extra ``sql``.
"""

from __future__ import annotations

import logging
import operator
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from secrets import token_hex
from typing import Final

from sqlalchemy import Connection, Delete, Table, delete, select, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from gtask.errors import ConfigurationError, GtaskError
from gtask.results.asking import RESTART
from gtask.results.base import Mark, Marks, Weakness, no_marks
from gtask.results.batches import CHUNK, chunks, cut, folded
from gtask.results.checks import MAX_TTL, STATES, check_record
from gtask.results.joining import follow_up, pack_body, unpack_body
from gtask.results.joins import Join
from gtask.results.keyed import Acquire, Claim, Count, Keyed, KeyedStore, Release, Take, Unclaim, Value, next_full
from gtask.results.polling import Poll, apoll, poll
from gtask.results.sql_database import SqlDatabase
from gtask.results.sql_tables import Tables
from gtask.results.wire import check_join
from gtask.states import Record
from gtask.types import Submission

log = logging.getLogger("gtask.results")

PREFIX: Final = "gtask_"
LARGE_PACKET: Final = 64 * 1024 * 1024
MAX_PREFIX: Final = 40

SWEEP: Final = 500
SWEEP_EVERY: Final = 10.0
"""Rows whose time is over that are dropped at once, and seconds between two sweeps of a process."""

MAX_MARKS: Final = 10_000
"""Marks that are read at once."""

FIRST_LOOK: Final = 0.005
LAST_LOOK: Final = 0.2
LAST_LOOK_FOR_MARKS: Final = 0.5
"""Seconds between two looks of a wait, from the first to the longest."""

WHOLE_EVERY: Final = 5.0
OVERLAP: Final = 2.0
"""A wait for many ids looks for all of them so often, and otherwise for what was written since, with an overlap: a
transaction is seen some time after the time that it writes down."""


class SqlStore(KeyedStore):
    """Results in the database of a SQLAlchemy URL, in tables of their own that are made at the first use.

    ``?prefix=`` is what their names begin with (``gtask_``), the other options are the driver's. Raises
    `ConfigurationError` for a URL or a database that cannot be used, `ResultsUnavailable` when the database cannot be
    reached, and `ResultError` when it refuses. Safe to use from several threads, and across forks.
    """

    def __init__(self, url: str | URL) -> None:
        try:
            made = make_url(url)
            prefix = made.query.get("prefix", PREFIX)
            made = made.difference_update_query(["prefix"])
            dialect = made.get_dialect()
            dialect.import_dbapi()
        except (ArgumentError, NoSuchModuleError, ValueError) as error:
            raise ConfigurationError(f"The URL of a SQL store cannot be used: {error}.") from None
        if not isinstance(prefix, str) or not prefix.replace("_", "a").isalnum() or len(prefix) > MAX_PREFIX:
            raise ConfigurationError(f"The prefix of a SQL store is letters, digits and underscores, not {prefix!r}.")
        if not made.database or made.database == ":memory:":
            raise ConfigurationError(
                "The URL of a SQL store names a database: mysql+pymysql://user:password@host/name."
            )
        self._url = made
        self._tables = Tables(prefix, dialect.name)
        self._base = SqlDatabase(made, self._tables)
        self._sweep_at = 0.0

    def __repr__(self) -> str:
        return f"<SqlStore {self._url.render_as_string(hide_password=True)}>"

    # --- the contract ----------------------------------------------------------------------------------------

    def put(self, records: Sequence[Record], ttl: float) -> None:
        """See `ResultStore.put`; up to 500 of them are one transaction."""
        for record in records:
            check_record(record, ttl)
        for chunk in cut(records):
            self._base.write(partial(self._put, chunk, ttl))
        if records and time.monotonic() >= self._sweep_at:
            self._sweep_at = time.monotonic() + SWEEP_EVERY * (0.5 + random.random())
            self.sweep()

    def get(self, ids: Collection[str]) -> dict[str, Record]:
        """See `ResultStore.get`."""
        return self._base.read(partial(self._select, ids, False))

    def wait(self, ids: Collection[str], timeout: float) -> dict[str, Record]:
        """See `ResultStore.wait`; goes on when the database was away for up to 15 seconds."""
        when = self._when(timeout if ids else 0.0, LAST_LOOK)
        return poll(self._look(ids), operator.not_, when)

    async def await_(self, ids: Collection[str], timeout: float) -> Mapping[str, Record]:
        """See `ResultStore.wait`; no thread is kept while nothing happens."""
        when = self._when(timeout if ids else 0.0, LAST_LOOK)
        return await apoll(self._look(ids), operator.not_, when)

    def _when(self, timeout: float, last: float) -> Poll:
        """When a wait looks, at most `last` seconds apart; a database that answered lately may be away for a while."""
        return Poll(timeout, FIRST_LOOK, last, RESTART, self._base.answered)

    def forget(self, ids: Collection[str]) -> None:
        """See `ResultStore.forget`."""
        table = self._tables.results
        for chunk in chunks(ids):
            self._base.write(partial(_execute, delete(table).where(table.c.id.in_(chunk))))

    def join(self, join: Join, ttl: float) -> Submission | None:
        """See `ResultStore.join`; in one transaction."""
        check_join(join, ttl)
        return self._base.write(partial(self._join, join, ttl))

    def keyed(self, ask: Keyed) -> Value:
        """See `KeyedStore.keyed`; in one transaction. Made again after a lost connection, it may so count twice."""
        return self._base.write(partial(self._answer, ask))

    def revoke(self, records: Sequence[Record], terminate: bool, ttl: float) -> None:
        """See `ResultStore.revoke`."""
        self.put(records, ttl)
        for chunk in chunks(record.id for record in records):
            self._base.write(partial(self._mark, chunk, terminate, ttl))

    def revoked(self, cursor: str, timeout: float) -> Marks:
        """See `ResultStore.revoked`."""
        when = self._when(timeout, LAST_LOOK_FOR_MARKS)
        return poll(partial(self._base.read, partial(self._marks, cursor)), no_marks, when)

    async def arevoked(self, cursor: str, timeout: float) -> Marks:
        """See `ResultStore.revoked`; no thread is kept while nothing happens."""
        when = self._when(timeout, LAST_LOOK_FOR_MARKS)
        return await apoll(partial(self._base.read, partial(self._marks, cursor)), no_marks, when)

    def weaknesses(self) -> list[Weakness]:
        """See `ResultStore.weaknesses`: how large a packet MySQL takes."""
        if not self._tables.is_mysql:
            return super().weaknesses()
        most = self._base.read(lambda db: int(db.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one()))
        if most >= LARGE_PACKET:
            return []
        what = f"max_allowed_packet is {most:,} bytes; a result may need twice its size there, and fails beyond it."
        return [Weakness("max_allowed_packet", what, "Set max_allowed_packet = 128M, or keep results smaller.")]

    def close(self) -> None:
        """Closes the connections; they are made again when they are needed."""
        self._base.close()

    def sweep(self) -> bool:
        """Drops some of what is kept beyond its time; true when there may be more of it. Errors are logged only."""
        try:
            more = [self._base.write(partial(self._sweep, table)) for table in self._tables.swept]
            return self._base.write(self._sweep_joins) or any(more)
        except GtaskError as error:
            log.warning("Old results stay for now: %s", error)
            return False

    # --- records ---------------------------------------------------------------------------------------------

    def _put(self, records: Sequence[Record], ttl: float, db: Connection) -> None:
        now = self._base.now(db)
        expires = now + min(max(0.0, ttl), MAX_TTL)
        rows = [
            {
                "id": record.id,
                "state": str(record.state),
                "body": record.body,
                "ready_until": expires if record.ready else 0.0,
                "changed": now,
                "expires": expires,
            }
            for record in folded(records)
        ]
        db.execute(self._tables.put, rows if len(rows) > 1 else rows[0])

    def _select(self, ids: Collection[str], ready: bool, db: Connection) -> dict[str, Record]:
        table, now = self._tables.results, self._base.now(db)
        until = table.c.ready_until if ready else table.c.expires
        found: dict[str, Record] = {}
        for chunk in chunks(ids):
            query = select(table.c.id, table.c.state, table.c.body).where(table.c.id.in_(chunk), until > now)
            for id, state, body in db.execute(query):
                found[id] = Record(id, STATES[state], bytes(body))
        return found

    def _look(self, ids: Collection[str]) -> Callable[[], dict[str, Record]]:
        """What looks for those of the ids that are ready."""
        whole = partial(self._base.read, partial(self._select, ids, True))
        if len(ids) <= CHUNK:
            return whole
        wanted = frozenset(ids)
        since = whole_at = 0.0

        def lately(db: Connection) -> tuple[float, bool]:
            table, now = self._tables.results, self._base.now(db)
            query = select(table.c.id).where(table.c.changed > since - OVERLAP, table.c.ready_until > now)
            return now, any(id in wanted for (id,) in db.execute(query))

        def look() -> dict[str, Record]:
            nonlocal since, whole_at
            if time.monotonic() < whole_at:
                since, hit = self._base.read(lately)
                if not hit:
                    return {}
            else:
                since = self._base.read(self._base.now)
            whole_at = time.monotonic() + WHOLE_EVERY
            return whole()

        return look

    # --- chords ----------------------------------------------------------------------------------------------

    def _join(self, join: Join, ttl: float, db: Connection) -> Submission | None:
        joins, members, now = self._tables.joins, self._tables.members, self._base.now(db)
        chord, position = join.group, join.position
        row = {"chord": chord, "size": join.size, "body": pack_body(join.body)}
        expires = now + min(max(0.0, ttl), MAX_TTL)
        db.execute(self._tables.lock_join, {**row, "arrived": 0, "completed_by": -1, "expires": expires})
        kept = (joins.c.size, joins.c.arrived, joins.c.completed_by)
        size, arrived, completed_by = db.execute(select(*kept).where(joins.c.chord == chord)).one()
        if position >= size:
            log.error("Member %d of the chord %s is not counted: it has %d members.", position, chord, size)
            return None
        if row["body"]:
            missing = update(joins).where(joins.c.chord == chord, joins.c.body == b"")
            db.execute(missing.values(body=row["body"]))
        of = members.c.chord == chord
        if db.execute(select(members.c.position).where(of, members.c.position == position)).first() is None:
            record = join.record
            member = {"id": record.id, "state": str(record.state), "body": record.body}
            db.execute(members.insert(), {"chord": chord, "position": position, **member})
            arrived += 1
            completed_by = position if arrived == size else completed_by
            change = update(joins).where(joins.c.chord == chord)
            db.execute(change.values(arrived=arrived, completed_by=completed_by))
        if completed_by != position:
            return None
        body = unpack_body(bytes(db.execute(select(joins.c.body).where(joins.c.chord == chord)).scalar_one()))
        if self._select([body.id], True, db):
            return None
        rows = db.execute(select(members.c.id, members.c.state, members.c.body).where(of).order_by(members.c.position))
        records = [Record(id, STATES[state], bytes(data)) for id, state, data in rows]
        job, following = follow_up(body, records, self.keys, time.time())
        if following:
            self._put(following, ttl, db)
        return job

    # --- marks -----------------------------------------------------------------------------------------------

    def _mark(self, ids: Sequence[str], terminate: bool, ttl: float, db: Connection) -> None:
        """Marks are numbered under the lock of one row, so that they are seen in the order of their numbers."""
        tables, now = self._tables, self._base.now(db)
        name = tables.meta.c.name == "marks"
        db.execute(tables.lock_meta, {"name": "marks", "number": 0, "text": token_hex(8)})
        last: int = db.execute(select(tables.meta.c.number).where(name)).scalar_one()
        expires = now + min(max(0.0, ttl), MAX_TTL)
        common = {"terminate": int(terminate), "expires": expires}
        db.execute(tables.mark, [{"id": id, "number": last + at, **common} for at, id in enumerate(ids, 1)])
        db.execute(update(tables.meta).where(name).values(number=last + len(ids)))

    def _marks(self, cursor: str, db: Connection) -> Marks:
        tables, (before, _, number) = self._tables, cursor.partition(":")
        state = db.execute(
            select(tables.meta.c.number, tables.meta.c.text).where(tables.meta.c.name == "marks")
        ).one_or_none()
        if state is None:
            return Marks([], "")
        last, era = state
        start = int(number) if before == era and number.isascii() and number.isdigit() and len(number) < 19 else 0
        found: list[Mark] = []
        if start < last:
            marks = tables.marks.c
            query = select(marks.number, marks.id, marks.terminate).where(
                marks.number > start, marks.number <= last, marks.expires > self._base.now(db)
            )
            for number, id, terminate in db.execute(query.order_by(marks.number).limit(MAX_MARKS)):
                found.append(Mark(id, bool(terminate)))
                last = number if len(found) == MAX_MARKS else last
        return Marks(found, f"{era}:{last}")

    # --- what is kept by a key -------------------------------------------------------------------------------

    def _answer(self, ask: Keyed, db: Connection) -> Value:
        tables, now = self._tables, self._base.now(db)
        match ask:
            case Claim(key, id, ttl):
                return self._claim(key, id, now + ttl, now, db)
            case Unclaim(key, id):
                db.execute(delete(tables.claims).where(tables.claims.c.key == key, tables.claims.c.id == id))
            case Acquire(key, holder, most, ttl):
                return self._acquire(key, holder, most, now + ttl, now, db)
            case Release(key, holder):
                places = tables.places
                db.execute(delete(places).where(places.c.key == key, places.c.holder == holder))
            case Take(key, rate, burst):
                tokens, each = tables.tokens, 1.0 / rate
                db.execute(tables.lock_tokens, {"key": key, "full": 0.0, "expires": now + each})
                mine = tokens.c.key == key
                full, wait = next_full(
                    db.execute(select(tokens.c.full).where(mine)).scalar_one(), each, burst, self._base.now(db)
                )
                if not wait:
                    db.execute(update(tokens).where(mine).values(full=full, expires=full))
                return wait
            case Count(key, ttl):
                counters = tables.counters
                db.execute(tables.count, {"key": key, "value": 1, "expires": now + ttl, "now": now})
                return int(db.execute(select(counters.c.value).where(counters.c.key == key)).scalar_one())
        return 0

    def _claim(self, key: str, id: str, expires: float, now: float, db: Connection) -> str:
        claims = self._tables.claims
        mine = claims.c.key == key
        db.execute(self._tables.lock_claim, {"key": key, "id": id, "expires": expires})
        owner, until = db.execute(select(claims.c.id, claims.c.expires).where(mine)).one()
        if until > now and not self._select([owner], True, db):
            return str(owner)
        db.execute(update(claims).where(mine).values(id=id, expires=expires))
        return id

    def _acquire(self, key: str, holder: str, most: int, expires: float, now: float, db: Connection) -> int:
        places = self._tables.places
        # A row of the key itself, whose holder is nobody, is its lock.
        db.execute(self._tables.lock_places, {"key": key, "holder": "", "expires": expires})
        held = places.c.key == key, places.c.holder != ""
        db.execute(delete(places).where(*held, places.c.expires <= now))
        holders = [one for (one,) in db.execute(select(places.c.holder).where(*held))]
        if holder not in holders and len(holders) >= most:
            return 0
        if holder in holders:
            db.execute(update(places).where(*held, places.c.holder == holder).values(expires=expires))
        else:
            db.execute(places.insert(), {"key": key, "holder": holder, "expires": expires})
        return 1

    # --- sweeping --------------------------------------------------------------------------------------------

    def _sweep(self, table: Table, db: Connection) -> bool:
        first, now = next(iter(table.primary_key)), self._base.now(db)
        found = list(db.execute(select(first).where(table.c.expires <= now).limit(SWEEP)).scalars())
        if found:
            db.execute(delete(table).where(first.in_(found), table.c.expires <= now))
        return len(found) == SWEEP

    def _sweep_joins(self, db: Connection) -> bool:
        joins, members, now = self._tables.joins, self._tables.members, self._base.now(db)
        found = list(db.execute(select(joins.c.chord).where(joins.c.expires <= now).limit(50)).scalars())
        if found:
            db.execute(delete(joins).where(joins.c.chord.in_(found), joins.c.expires <= now))
            db.execute(
                delete(members).where(
                    members.c.chord.in_(found),
                    members.c.chord.not_in(select(joins.c.chord).where(joins.c.chord.in_(found))),
                )
            )
        return len(found) == 50


def _execute(statement: Delete, db: Connection) -> None:
    db.execute(statement)
