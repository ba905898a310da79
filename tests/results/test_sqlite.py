"""The store in a SQLite file: the contract, many processes, forks, and files that are none."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgpack
import pytest

from gtask.errors import ConfigurationError, ResultError
from gtask.message import decode_message
from gtask.results import joins, sqlite, tables
from gtask.results.base import Mark, ResultStore
from gtask.results.file import _inherited as inherited
from gtask.results.records import record_to_outcome
from gtask.results.sqlite import SqliteStore
from gtask.states import Record, State
from gtask.testing.contracts import PATIENCE, TTL, ResultStoreContract, new_id, wait_for_all
from gtask.testing.joins import body_of, chord_of, result
from gtask.testing.programs import wait_until

# Python 3.12 and later warn of any fork in a process with threads; that is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path)
    yield store
    store.close()


class TestSqliteStore(ResultStoreContract):
    @pytest.fixture
    def store(self, path: Path) -> Iterator[ResultStore]:
        store = SqliteStore(path)
        yield store
        store.close()


class TestTwoSqliteStores(ResultStoreContract):
    """One object puts, another one reads, as worker and caller do."""

    @pytest.fixture
    def store(self, path: Path) -> Iterator[ResultStore]:
        reader, writer = SqliteStore(path), SqliteStore(path)
        reader.put, reader.join = writer.put, writer.join  # type: ignore[method-assign]
        yield reader
        reader.close()
        writer.close()


# --- processes -------------------------------------------------------------------------------------------------


def put_some(path: str, ids: list[str], body: bytes) -> None:
    store = SqliteStore(path)
    for id in ids:
        store.put([Record(id, State.STARTED)], TTL)
        store.put([Record(id, State.SUCCESS, body)], TTL)
    store.close()


def test_many_processes_write_one_new_file(path: Path) -> None:
    """All of them make the file at once; each result is one of theirs, whole."""
    ids = [new_id() for _ in range(50)]
    processes = [SPAWN.Process(target=put_some, args=(str(path), ids, b"%d" % number)) for number in range(4)]
    for process in processes:
        process.start()
    store = SqliteStore(path)
    found = wait_for_all(store, ids)
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
        process.close()
    assert {record.body for record in found.values()} <= {b"0", b"1", b"2", b"3"}
    assert store.get(ids) == found
    store.close()


def in_child(work: object) -> None:
    """Forks, runs `work` in the child, and fails when it failed there."""
    assert callable(work)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_fork_in_the_middle(store: SqliteStore) -> None:
    """Parent and child go on with connections of their own, and see each other's records."""
    before, inside, after = (Record(new_id(), State.SUCCESS, b"%d" % number) for number in range(3))
    store.put([before], TTL)

    def work() -> None:
        assert store.get([before.id]) == {before.id: before}
        store.put([inside], TTL)

    in_child(work)
    store.put([after], TTL)
    assert store.get([before.id, inside.id, after.id]).keys() == {before.id, inside.id, after.id}


def test_a_fork_while_another_thread_waits_and_writes(store: SqliteStore) -> None:
    """The fork waits for the write that is under way; the child has locks of its own."""
    stop = threading.Event()
    last = Record(new_id(), State.SUCCESS, b"last")
    found: list[dict[str, Record]] = []

    def write() -> None:
        while not stop.is_set():
            store.put([Record(new_id(), State.SUCCESS, b"x")], TTL)

    threads = [
        threading.Thread(target=write),
        threading.Thread(target=lambda: found.append(store.wait([last.id], PATIENCE))),
    ]
    for thread in threads:
        thread.start()
    for _ in range(5):
        in_child(lambda: store.put([Record(new_id(), State.SUCCESS, b"y")], TTL))
    stop.set()
    store.put([last], TTL)
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert found == [{last.id: last}]
    assert store.get([last.id])


def test_a_fork_past_the_hooks(store: SqliteStore) -> None:
    """Some web servers fork without telling Python: the child leaves the parent's connection alone."""
    record = Record(new_id(), State.SUCCESS, b"kept")
    store.put([record], TTL)
    connection = store._file._db
    assert connection is not None
    store._file._pid = -1
    assert store.get([record.id]) == {record.id: record}
    assert store._file._db is not connection
    assert inherited.pop() is connection
    connection.close()


# --- the file --------------------------------------------------------------------------------------------------


def test_relative_paths_are_those_of_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that changes the folder does not move the results."""
    monkeypatch.chdir(tmp_path)
    store = SqliteStore("here.db")
    monkeypatch.chdir("/")
    store.put([Record("a", State.SUCCESS)], TTL)
    store.close()
    assert (tmp_path / "here.db").exists()


def test_expired_records_leave_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bounded number at once, while other records are put."""
    monkeypatch.setattr(sqlite, "SWEEP", 10)
    store = SqliteStore(path)
    store.put([Record(new_id(), State.SUCCESS) for _ in range(95)], 0.0)

    def rows() -> int:
        with store._file.use() as db:
            number: int = db.execute("SELECT count(*) FROM results").fetchone()[0]
            return number

    before = rows()
    assert 80 <= before <= 95
    store._sweep_at = 0
    store.put([Record("one", State.SUCCESS)], TTL)
    assert rows() == before + 1 - 10
    while store.sweep():
        pass
    assert rows() == 1
    store.close()


def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(b"These are the minutes of our meeting.\n" * 100)
    store = SqliteStore(path)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"results\.db cannot be used as a result store.*another file"):
            store.get(["a"])
    assert path.read_bytes().startswith(b"These are the minutes")


def test_a_file_of_another_program(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE orders (id)")
    db.close()
    with pytest.raises(ConfigurationError, match="another program"):
        SqliteStore(path).put([Record("a", State.SUCCESS)], TTL)
    db = sqlite3.connect(path)
    assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("orders",)]
    db.close()


def test_a_file_of_a_newer_gtask(store: SqliteStore, path: Path) -> None:
    store.put([Record("a", State.SUCCESS)], TTL)
    store.close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {len(sqlite.VERSIONS) + 1}")
    db.close()
    with pytest.raises(ConfigurationError, match="newer gtask"):
        store.get(["a"])


def test_a_file_of_an_older_gtask(path: Path) -> None:
    """It goes on: what is in it stays, and what was added since can be used."""
    db = sqlite3.connect(path)
    db.executescript(sqlite.VERSIONS[0])
    db.execute("INSERT INTO results VALUES ('a', 'SUCCESS', 1, x'34', 9e9)")
    first, second = chord_of([result(1), result(2)], all_bring=True)
    group, record, body = first.group, first.record, msgpack.packb(tuple(body_of([first])))
    db.execute("INSERT INTO joins VALUES (?, 2, ?, 1, NULL, 9e9)", (group, body))
    db.execute("INSERT INTO members VALUES (?, 0, ?, 'SUCCESS', ?)", (group, record.id, record.body))
    db.execute(f"PRAGMA application_id = {sqlite.APPLICATION}")
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()
    with closing(SqliteStore(path)) as store, closing(SqliteStore(path)) as other:
        assert store.get(["a"]) == {"a": Record("a", State.SUCCESS, b"4")}
        assert other.count("key", TTL) == 1
        assert store.count("key", TTL) == 2
        store.revoke([Record("b", State.REVOKED)], True, TTL)
        assert other.revoked("", PATIENCE).marks == [Mark("b", True)]
        job = store.join(second, TTL)
        assert job is not None
        assert decode_message(job.function, job.workload).args == ([1, 2], "and")


def test_marks_of_another_file_are_read_from_the_beginning(path: Path) -> None:
    """Whoever goes on after the file was replaced misses none of the new one's."""
    with closing(SqliteStore(path)) as store:
        for number in range(5):
            store.revoke([Record(f"old {number}", State.REVOKED)], False, TTL)
        cursor = store.revoked("", 0).cursor
    for name in path.parent.glob("results.db*"):
        name.unlink()
    with closing(SqliteStore(path)) as store:
        store.revoke([Record("new", State.REVOKED)], False, TTL)
        assert store.revoked(cursor, PATIENCE).marks == [Mark("new")]


def test_a_damaged_file(store: SqliteStore, path: Path) -> None:
    store.put([Record(new_id(), State.SUCCESS, b"x" * 1000) for _ in range(200)], TTL)
    store.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
    with pytest.raises((ConfigurationError, ResultError), match=r"results\.db"):
        store.put([Record(new_id(), State.SUCCESS, b"x" * 1000) for _ in range(200)], TTL)
    store.close()


def test_the_file_is_for_its_owner_alone(path: Path) -> None:
    """Whatever the umask of whoever starts it: results are as private as the queue."""
    before = os.umask(0o022)
    try:
        with closing(SqliteStore(path)) as store:
            store.put([Record(new_id(), State.SUCCESS, b"x")], TTL)
            modes = {file.name: oct(file.stat().st_mode & 0o777) for file in path.parent.glob(f"{path.name}*")}
    finally:
        os.umask(before)
    assert modes == {path.name + end: "0o600" for end in ("", "-shm", "-wal")}


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist; create it"):
        SqliteStore(tmp_path / "nowhere" / "results.db").get(["a"])


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises((ConfigurationError, ResultError), match=str(tmp_path)):
        SqliteStore(tmp_path).get(["a"])


def test_a_file_that_goes_away_does_not_loop(store: SqliteStore, path: Path) -> None:
    """Somebody deletes the file under a running store: after close it makes a new one."""
    store.put([Record("a", State.SUCCESS)], TTL)
    store.close()
    path.unlink()
    assert store.get(["a"]) == {}


def test_a_copy_of_the_closed_file_is_complete(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    """Backups are copies: nothing stays behind in another file once the store is closed."""
    record = Record("a", State.SUCCESS, b"kept")
    store.put([record], TTL)
    store.close()
    shutil.copy(path, tmp_path / "copy.db")
    copy = SqliteStore(tmp_path / "copy.db")
    assert copy.get(["a"]) == {"a": record}
    copy.close()


def test_a_wait_for_another_connection_is_short(path: Path) -> None:
    """What another process writes is seen without a notice from it."""
    reader, writer = SqliteStore(path), SqliteStore(path)
    record = Record(new_id(), State.SUCCESS, b"x")
    found: list[dict[str, Record]] = []
    thread = threading.Thread(target=lambda: found.append(reader.wait([record.id], PATIENCE)))
    thread.start()
    writer.put([record], TTL)
    wait_until(lambda: found, PATIENCE, "the end of the wait")
    thread.join(PATIENCE)
    assert found == [{record.id: record}]
    reader.close()
    writer.close()


# --- chords ----------------------------------------------------------------------------------------------------


def test_a_body_that_cannot_be_read_fails(store: SqliteStore) -> None:
    """Whoever waits for it is told, and nothing is submitted."""
    (join,) = chord_of([result(1)])
    body = body_of([join])
    broken = join._replace(body=body._replace(workload=body.workload[:-3]))
    assert store.join(broken, TTL) is None
    (record,) = store.wait([body.id], PATIENCE).values()
    assert record.state is State.FAILURE


def test_results_that_fit_into_no_packet_fail_the_body(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """They all travel to the body in one; the error says what to do."""
    monkeypatch.setattr(joins, "MAX_WORKLOAD", 100_000)
    members = chord_of([result("x" * 60_000) for _ in range(2)])
    assert [store.join(join, TTL) for join in members] == [None, None]
    body = body_of(members)
    outcome = record_to_outcome(store.wait([body.id], PATIENCE)[body.id])
    assert outcome.error is not None
    assert "too many for the one packet" in outcome.error.message


def test_a_member_of_another_size_of_chord_is_not_counted(store: SqliteStore) -> None:
    """Two programs that use one id for their chords do not break each other's."""
    small = chord_of([result(1), result(2)])
    large = [join._replace(group=small[0].group) for join in chord_of([result(number) for number in range(5)])]
    store.join(small[0], TTL)
    assert store.join(large[4], TTL) is None
    job = store.join(small[1], TTL)
    assert job is not None
    assert job.unique == body_of(small).unique


def test_chords_and_claims_leave_the_file_with_their_time(store: SqliteStore) -> None:
    store.claim("key", "a", 0.0)
    store.revoke([Record("b", State.REVOKED)], True, 0.0)
    store.acquire("key", "a", 1, 0.0)
    store.take("key", 1e6, 1)
    store.count("key", 0.0)
    for join in chord_of([result(number) for number in range(3)]):
        store.join(join, 0.0)
    kept = chord_of([result(1), result(2)])
    store.join(kept[0], TTL)
    store._sweep_at = 0
    while store.sweep():
        pass
    with store._file.use() as db:
        for table, rows in {**dict.fromkeys(tables.SWEPT, 0), "joins": 1, "bodies": 1, "members": 1}.items():
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (rows,)
    assert store.join(kept[1], TTL) is not None
