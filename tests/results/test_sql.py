"""The store in a SQL database: the contract in each of them, and what happens when the database is away or refuses."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from gtask.errors import ConfigurationError, ResultError, ResultsUnavailable
from gtask.results.base import Mark, ResultStore
from gtask.states import Record, State
from gtask.testing.contracts import PATIENCE, TTL, ResultStoreContract, new_id, settle
from gtask.testing.databases import Database
from gtask.testing.joins import chord_of, result
from gtask.testing.programs import wait_until
from gtask.testing.requirements import in_ci, missing
from gtask.testing.stores import PROGRAMS, store_server, store_url

if not in_ci():
    pytest.importorskip("sqlalchemy", reason="missing: Python module sqlalchemy (pip install 'gtask[sql]')")

from sqlalchemy import delete, select, update

from gtask.results import sql
from gtask.results.sql import SqlStore

# Python 3.12 and later warn of any fork in a process with threads; that is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

KINDS = ("mysql", "postgres")
SPAWN = multiprocessing.get_context("spawn")


@contextmanager
def running(kind: str) -> Iterator[Database]:
    try:
        with store_server(kind) as server:
            yield server
    except FileNotFoundError:
        missing(f"program {PROGRAMS[kind]}")


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Database]:
    with running(request.param) as server:
        yield server


@pytest.fixture(scope="module")
def shared(server: Database) -> Iterator[SqlStore]:
    """One store for the module: making tables takes longer than emptying them."""
    store = SqlStore(store_url(server))
    yield store
    store.close()


@pytest.fixture
def store(shared: SqlStore) -> SqlStore:
    empty(shared)
    return shared


def empty(store: SqlStore) -> None:
    tables = store._tables
    for table in tables.metadata.tables.values():
        query = delete(table)
        if table is tables.meta:
            query = query.where(tables.meta.c.name != "version")
        store._base.write(lambda db, query=query: db.execute(query))  # type: ignore[misc]


class TestSqlStore(ResultStoreContract):
    @pytest.fixture
    def store(self, shared: SqlStore) -> ResultStore:
        empty(shared)
        return shared


class TestSqlStoreInSqlite(ResultStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ResultStore]:
        store = SqlStore(f"sqlite+pysqlite:///{tmp_path}/results.db")
        yield store
        store.close()


# --- many at once ----------------------------------------------------------------------------------------------


def use(url: str, number: int) -> None:
    store = SqlStore(url)
    store.put([Record(f"shared {at}", State.SUCCESS, b"%d" % number) for at in range(50)], TTL)
    assert store.count("runs", TTL) in range(1, 5)
    store.close()


def test_many_processes_use_a_new_database(server: Database) -> None:
    """All of them make the tables at once."""
    url = store_url(server, f"n{new_id()[:8]}")
    processes = [SPAWN.Process(target=use, args=(url, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
        process.close()
    store = SqlStore(url)
    assert store.count("runs", TTL) == 5
    assert len(store.get([f"shared {at}" for at in range(50)])) == 50
    store.close()


def test_batches_that_cross_each_other(store: SqlStore) -> None:
    """The same ids in different orders, chords and counters, from many threads: nobody is refused."""
    ids = [new_id() for _ in range(40)]
    joins = chord_of([result(number) for number in range(40)])

    def work(number: int) -> int:
        order = ids if number % 2 else ids[::-1]
        store.put([Record(id, State.SUCCESS, b"%d" % number) for id in order], TTL)
        store.revoke([Record(id, State.REVOKED) for id in order], bool(number % 3), TTL)
        store.acquire("key", str(number), 3, TTL)
        store.take("key", 5.0, 3)
        return sum(store.join(join, TTL) is not None for join in joins[number::8])

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 1
    assert len({record.body for record in store.get(ids).values()}) == 1
    assert {mark.id for mark in store.revoked("", 0).marks} == set(ids)


def test_marks_are_seen_in_order_by_whoever_follows(store: SqlStore) -> None:
    """None is passed over, though several make them at once."""
    ids = [new_id() for _ in range(120)]
    seen: list[str] = []

    def follow() -> None:
        cursor = ""
        while len(seen) < len(ids):
            marks = store.revoked(cursor, PATIENCE)
            assert marks.marks, f"{len(ids) - len(seen)} marks did not come"
            seen.extend(mark.id for mark in marks.marks)
            cursor = marks.cursor

    with ThreadPoolExecutor(9) as pool:
        following = pool.submit(follow)
        list(pool.map(lambda one: store.revoke([Record(one, State.REVOKED)], False, TTL), ids))
        following.result(PATIENCE)
    assert sorted(seen) == sorted(ids)


def test_a_wait_for_many_sees_what_is_written_late(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """One query says that something is ready; without it, the whole is looked at now and then."""
    ids = [new_id() for _ in range(2000)]
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(store.wait, ids, PATIENCE)
        settle(store)
        settle(store)
        record = Record(ids[1234], State.FAILURE, b"x")
        store.put([record], TTL)
        assert wait.result(PATIENCE) == {record.id: record}
    monkeypatch.setattr(sql, "OVERLAP", -1000.0)
    monkeypatch.setattr(sql, "WHOLE_EVERY", 0.1)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(store.wait, ids[:1234], PATIENCE)
        settle(store)
        record = Record(ids[5], State.FAILURE, b"x")
        store.put([record], TTL)
        assert wait.result(PATIENCE) == {record.id: record}


def test_a_fork_in_the_middle(store: SqlStore) -> None:
    """Parent and child go on with connections of their own."""
    before, inside = Record(new_id(), State.SUCCESS, b"1"), Record(new_id(), State.SUCCESS, b"2")
    store.put([before], TTL)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            store.put([inside], TTL)
            code = 0 if store.get([before.id]) == {before.id: before} else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert store.get([before.id, inside.id]).keys() == {before.id, inside.id}


def test_what_is_over_is_swept(store: SqlStore) -> None:
    store.put([Record(new_id(), State.SUCCESS) for _ in range(20)], 0.0)
    store.revoke([Record(new_id(), State.REVOKED)], True, 0.0)
    store.claim("key", "a", 0.0)
    store.acquire("key", "a", 1, 0.0)
    store.take("key", 1e6, 1)
    store.count("key", 0.0)
    kept = chord_of([result(1), result(2)])
    for join in chord_of([result(number) for number in range(3)]):
        store.join(join, 0.0)
    store.join(kept[0], TTL)
    while store.sweep():
        pass
    tables = store._tables
    for table in (*tables.swept, tables.joins, tables.members):
        left = store._base.read(lambda db, table=table: db.execute(select(table)).all())  # type: ignore[misc]
        assert len(left) == (table in (tables.joins, tables.members)), table.name
    assert store.join(kept[1], TTL) is not None


# --- deaths ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_database_is_killed_and_started_again_in_a_wait(kind: str) -> None:
    """The wait goes on, and nothing that was taken is lost; connections that were idle do no harm."""
    with running(kind) as server, ThreadPoolExecutor(2) as pool:
        store = SqlStore(store_url(server))
        early, late = Record(new_id(), State.SUCCESS, b"early"), Record(new_id(), State.SUCCESS, b"late")
        store.put([early], TTL)
        cursor = store.revoked("", 0).cursor
        wait = pool.submit(store.wait, [late.id], 2 * PATIENCE)
        marks = pool.submit(store.revoked, cursor, 2 * PATIENCE)
        settle(store)
        server.kill()
        server.wait()
        with pytest.raises(ResultsUnavailable, match="see whether it runs"):
            store.get([early.id])
        start_again(server)
        assert store.get([early.id]) == {early.id: early}
        store.put([late], TTL)
        store.revoke([Record("r", State.REVOKED)], True, TTL)
        assert wait.result(PATIENCE) == {late.id: late}
        assert marks.result(PATIENCE).marks == [Mark("r", True)]
        store.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_database_is_killed_for_good_in_a_wait(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait is given up after a while, and ends with its time if that is sooner; in async code as well."""
    monkeypatch.setattr(sql, "RESTART", 1.0)
    with running(kind) as server, ThreadPoolExecutor(3) as pool:
        store = SqlStore(store_url(server))
        settle(store)
        wait = pool.submit(store.wait, [new_id()], 600)
        other = pool.submit(anyio.run, store.await_, [new_id()], 600)
        short = pool.submit(store.wait, [new_id()], 1.5)
        settle(store)
        server.kill()
        server.wait()
        for one in (wait, other):
            with pytest.raises(ResultsUnavailable):
                one.result(PATIENCE)
        assert short.exception(PATIENCE) is None or isinstance(short.exception(), ResultsUnavailable)
        with pytest.raises(ResultsUnavailable, match=str(server.port)):
            store.put([Record("a", State.SUCCESS)], TTL)
        store.close()


def start_again(server: Database) -> None:
    """PostgreSQL's processes end one after another when their first one is killed; until then none can be started."""

    def starts() -> bool:
        if not server.running:
            server.start()
        try:
            server.wait_until_ready()
        except Exception:
            return False
        return True

    wait_until(starts, PATIENCE, "the database")


# --- what a database refuses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mysql"])
def test_who_may_not_is_told(kind: str) -> None:
    with running(kind) as server:
        url = store_url(server)
        server.run("CREATE USER poor@'127.0.0.1' IDENTIFIED BY 'secret'; GRANT SELECT ON gearman.* TO poor@'127.0.0.1'")
        poor, nowhere = url.replace("//gtask:", "//poor:"), url.replace("gearman?", "other?")
        for bad in (url.replace("secret", "wrong"), nowhere, poor):
            store = SqlStore(bad)
            with pytest.raises(ConfigurationError, match="refuses this user") as caught:
                store.put([Record("a", State.SUCCESS)], TTL)
            assert "wrong" not in str(caught.value)
            store.close()


def test_a_database_that_is_not_there_is_said_in_postgres() -> None:
    with running("postgres") as server:
        store = SqlStore(store_url(server).replace("/postgres?", "/other?"))
        with pytest.raises(ConfigurationError, match='"other" does not exist'):
            store.get(["a"])
        store.close()


def test_a_value_that_is_too_large_for_mysql_is_said() -> None:
    with running("mysql") as server:
        server.run("SET GLOBAL max_allowed_packet = 2097152")
        store = SqlStore(store_url(server))
        store.put([Record("a", State.SUCCESS, bytes(900_000))], TTL)
        with pytest.raises(ResultError, match="max_allowed_packet"):
            store.put([Record("b", State.SUCCESS, bytes(3_000_000))], TTL)
        assert store.get(["a", "b"]).keys() == {"a"}
        store.close()


def test_tables_of_a_newer_gtask(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite+pysqlite:///{tmp_path}/results.db")
    meta = store._tables.meta
    store._base.write(lambda db: db.execute(update(meta).values(number=7)))
    store.close()
    with pytest.raises(ConfigurationError, match="newer gtask"):
        store.get(["a"])
    store.close()


@pytest.mark.parametrize(
    "url",
    [
        "mysql+pymysql://root@localhost",
        "sqlite+pysqlite://",
        "sqlite+pysqlite:///:memory:",
        "mysql+pymysql://root@localhost/x?prefix=a;b",
        "mysql+pymysql://root@localhost:port/x",
        "mysql+nothing://root@localhost/x",
    ],
)
def test_urls_that_name_no_database(url: str) -> None:
    with pytest.raises(ConfigurationError, match="SQL store"):
        SqlStore(url)


def test_a_password_is_not_shown() -> None:
    store = SqlStore("postgresql+psycopg://me:secret@127.0.0.1:1/x")
    assert "secret" not in repr(store)
    with pytest.raises(ResultsUnavailable) as caught:
        store.get(["a"])
    assert "secret" not in str(caught.value)
