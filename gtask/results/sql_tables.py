"""The tables of the SQL store, and the statements that differ between databases. Design, section 3.

Ids and keys are kept as bytes: they so compare exactly in every database, whatever its collations and its case.
Times are Unix times of the database's clock, in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    case,
    func,
    text,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.types import TypeDecorator

VERSION: Final = 1
"""Of these tables; a newer gtask that changes them counts it up."""

MAX_BYTES: Final = 1020
"""Bytes of an id: 255 characters."""

CLOCK: Final = {
    "mysql": "SELECT UNIX_TIMESTAMP(NOW(6))",
    "mariadb": "SELECT UNIX_TIMESTAMP(NOW(6))",
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())",
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400.0",
}
"""What asks a database for its time."""


class Exact(TypeDecorator[str]):
    """A text as its bytes in UTF-8."""

    impl = LargeBinary(MAX_BYTES)
    cache_ok = True

    def load_dialect_impl(self, dialect: Any) -> Any:
        """MySQL indexes no BLOB."""
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.VARBINARY(MAX_BYTES))
        return dialect.type_descriptor(LargeBinary(MAX_BYTES))

    def process_bind_param(self, value: str | None, dialect: Any) -> Any:
        """To the database."""
        return None if value is None else value.encode()

    def process_result_value(self, value: Any, dialect: Any) -> str | None:
        """From the database."""
        return None if value is None else bytes(value).decode()


class Tables:
    """The tables whose names begin with a prefix, for one dialect of SQL."""

    def __init__(self, prefix: str, dialect: str) -> None:
        self.dialect = dialect
        self.metadata = MetaData()
        body = LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
        time, whole = Float(53), BigInteger()

        def table(name: str, *columns: Column[Any]) -> Table:
            expires = [Column("expires", time, nullable=False, index=True)] if name not in ("meta", "members") else []
            return Table(prefix + name, self.metadata, *columns, *expires, mysql_engine="InnoDB")

        def key(name: str) -> Column[Any]:
            return Column(name, Exact(), primary_key=True)

        # `ready_until` is the end of a record that is ready, 0 for any other: until then it is not overwritten.
        self.results = table(
            "results",
            key("id"),
            Column("state", String(16), nullable=False),
            Column("body", body, nullable=False),
            Column("ready_until", time, nullable=False),
            Column("changed", time, nullable=False, index=True),
        )
        self.claims = table("claims", key("key"), Column("id", Exact(), nullable=False))
        self.joins = table(
            "joins",
            key("chord"),
            Column("size", Integer, nullable=False),
            Column("body", body, nullable=False),
            Column("arrived", Integer, nullable=False),
            Column("completed_by", Integer, nullable=False),
        )
        self.members = table(
            "members",
            key("chord"),
            Column("position", Integer, primary_key=True, autoincrement=False),
            Column("id", Exact(), nullable=False),
            Column("state", String(16), nullable=False),
            Column("body", body, nullable=False),
        )
        self.marks = table(
            "marks",
            key("id"),
            Column("number", whole, nullable=False, index=True),
            Column("terminate", Integer, nullable=False),
        )
        self.places = table("places", key("key"), key("holder"))
        self.tokens = table("tokens", key("key"), Column("full", time, nullable=False))
        self.counters = table("counters", key("key"), Column("value", whole, nullable=False))
        self.meta = table(
            "meta",
            Column("name", String(32), primary_key=True),
            Column("number", whole, nullable=False),
            Column("text", String(64), nullable=False),
        )
        self.swept = (self.results, self.claims, self.marks, self.places, self.tokens, self.counters)
        self.put = self._put()
        self.count = self._count()
        self.lock_claim = self._upsert(self.claims)
        self.lock_tokens = self._upsert(self.tokens)
        self.lock_meta = self._upsert(self.meta)
        self.lock_places = self._upsert(self.places, later=("expires",))
        self.lock_join = self._upsert(self.joins, later=("expires",))
        self.mark = self._upsert(self.marks, new=("number",), later=("terminate", "expires"))
        self.now = text(CLOCK[dialect])

    # --- statements that write a row or meet one --------------------------------------------------------------

    @property
    def is_mysql(self) -> bool:
        """Whether it is MySQL or MariaDB."""
        return self.dialect in ("mysql", "mariadb")

    def _insert(self, table: Table) -> Any:
        kinds: Any = {"postgresql": postgresql, "sqlite": sqlite}.get(self.dialect, mysql)
        return kinds.insert(table)

    def _new(self, insert: Any, name: str) -> Any:
        return insert.inserted[name] if self.is_mysql else insert.excluded[name]

    def _meet(self, insert: Any, changes: dict[str, Any], where: Any = None) -> Any:
        """The insert, which changes a row that is there already; the order of the changes counts in MySQL."""
        if self.is_mysql:
            return insert.on_duplicate_key_update(list(changes.items()))
        return insert.on_conflict_do_update(index_elements=list(insert.table.primary_key), set_=changes, where=where)

    def _upsert(self, table: Table, new: Sequence[str] = (), later: Sequence[str] = ()) -> Any:
        """Sees to it that a row is there, and locks it until the end of the transaction.

        One that is there already takes the `new` values of these columns, and the greater ones of those in `later`.
        """
        insert = self._insert(table)
        first = next(iter(table.primary_key))
        changes = {first.name: first} | {name: self._new(insert, name) for name in new}
        for name in later:
            old, other = table.c[name], self._new(insert, name)
            changes[name] = case((old > other, old), else_=other)
        return self._meet(insert, changes)

    def _put(self) -> Any:
        """The first that is ready wins. All rows of a put are `changed` at the time it is made."""
        table, insert = self.results, self._insert(self.results)
        # `ready_until` is the last: MySQL already sees the new values of what is before.
        names = ("state", "body", "changed", "expires", "ready_until")
        new = {name: self._new(insert, name) for name in names}
        if self.is_mysql:
            keep = table.c.ready_until > new["changed"]
            return self._meet(insert, {name: func.IF(keep, table.c[name], new[name]) for name in names})
        return self._meet(insert, new, table.c.ready_until <= new["changed"])

    def _count(self) -> Any:
        table, insert = self.counters, self._insert(self.counters)
        value = case((table.c.expires > bindparam("now"), table.c.value + 1), else_=1)
        return self._meet(insert, {"value": value, "expires": self._new(insert, "expires")})
