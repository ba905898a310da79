"""The queue file: its table, its bytes, its failures, and that gearmand reads it and writes it."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gtask.errors import ConfigurationError
from gtask.protocol.packets import PacketType as T
from gtask.server import JobServer
from gtask.server.sqlite import SqliteStore
from gtask.server.store import Row
from gtask.testing.processes import gearmand
from gtask.testing.requirements import require
from tests.conformance.targets import SocketTarget, Talker

ROWS = [
    Row(b"key", b"f", 0, b"data", 0),
    Row(b"\xff\xfe", b"f \t\xc3\xbc", 1, b"\0bin\0ary\0", 0),
    Row(b"empty", b"f", 2, b"", 0),
    Row(b"later", b"f", 1, b"text", 2**40),
    Row(b"key", b"g", 1, b"the same unique in another function", 0),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path)
    yield store
    store.close()


def rows_in(path: Path) -> list[tuple[object, ...]]:
    database = sqlite3.connect(path)
    database.text_factory = bytes
    try:
        return database.execute("SELECT * FROM gearman_queue ORDER BY rowid").fetchall()
    finally:
        database.close()


def test_rows_survive(path: Path) -> None:
    store = SqliteStore(path)
    for row in ROWS:
        store.put(row)
    assert store.commit() == set()
    store.close()
    again = SqliteStore(path)
    assert list(again.load()) == ROWS
    again.close()


def test_the_table_and_its_types_are_those_of_gearmand(path: Path, store: SqliteStore) -> None:
    for row in ROWS:
        store.put(row)
    store.commit()
    database = sqlite3.connect(path)
    columns = [(name, kind, key) for _, name, kind, _, _, key in database.execute("PRAGMA table_info(gearman_queue)")]
    types = set(
        database.execute("SELECT typeof(unique_key), typeof(function_name), typeof(data) FROM gearman_queue").fetchall()
    )
    database.close()
    assert columns == [
        ("unique_key", "TEXT", 1),
        ("function_name", "TEXT", 2),
        ("priority", "INTEGER", 0),
        ("data", "BLOB", 0),
        ("when_to_run", "INTEGER", 0),
    ]
    assert types == {("text", "text", "blob")}


def test_a_deleted_row_is_gone_and_the_last_word_counts(path: Path, store: SqliteStore) -> None:
    store.put(ROWS[0])
    store.put(ROWS[1])
    store.commit()
    store.delete(b"key", b"f")
    store.delete(b"\xff\xfe", b"f \t\xc3\xbc")
    store.put(ROWS[1]._replace(data=b"again"))
    store.put(ROWS[2])
    store.delete(b"empty", b"f")
    assert store.commit() == set()
    assert [row[3] for row in rows_in(path)] == [b"again"]


def test_a_file_is_used_by_one_server_at_a_time(path: Path, store: SqliteStore) -> None:
    with pytest.raises(ConfigurationError, match="another job server"):
        SqliteStore(path)


@pytest.mark.parametrize("content", [b"this is no database" * 100, None])
def test_what_is_no_queue_is_refused_with_a_sentence(path: Path, content: bytes | None) -> None:
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="--db"):
        SqliteStore(path)


def test_a_foreign_table_is_refused(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE gearman_queue (other TEXT)")
    database.close()
    with pytest.raises(ConfigurationError, match="cannot be used as a queue"):
        SqliteStore(path)


def test_while_the_file_is_locked_rows_are_refused_and_deletions_wait(
    path: Path, store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.put(ROWS[0])
    store.commit()
    intruder = sqlite3.connect(path, isolation_level=None)
    try:
        intruder.execute("BEGIN IMMEDIATE")
        store.put(ROWS[1])
        store.delete(b"key", b"f")
        with caplog.at_level(logging.ERROR, "gtask.server"):
            assert store.commit() == {ROWS[1][:2]}
        assert "locked" in caplog.text
        intruder.execute("ROLLBACK")
    finally:
        intruder.close()
    assert store.commit() == set()
    assert rows_in(path) == []


# --- the server on top ---------------------------------------------------------------------------------------


def connect(port: int) -> Talker:
    return SocketTarget(port).connect()


def submit(talker: Talker, data: bytes, unique: bytes, type: T = T.SUBMIT_JOB_BG) -> tuple[T, tuple[bytes, ...]]:
    return talker.ask(type, b"f", unique, data)


def test_a_locked_file_costs_only_the_jobs_of_that_time(path: Path) -> None:
    with JobServer(port=0, db=path) as server:
        c = connect(server.port)
        assert submit(c, b"1", b"a")[0] == T.JOB_CREATED
        intruder = sqlite3.connect(path, isolation_level=None)
        intruder.execute("BEGIN IMMEDIATE")
        assert submit(c, b"2", b"b") == (T.ERROR, (b"QUEUE_ERROR", b"QUEUE_ERROR"))
        assert submit(c, b"3", b"c", T.SUBMIT_JOB)[0] == T.JOB_CREATED
        intruder.execute("ROLLBACK")
        intruder.close()
        assert submit(c, b"4", b"d")[0] == T.JOB_CREATED
        assert [row[3] for row in rows_in(path)] == [b"1", b"4"]
        c.close()


def drained(port: int) -> list[tuple[bytes, bytes]]:
    """Unique and data of every job, in the order in which a worker gets them."""
    w = connect(port)
    w.send(T.CAN_DO, b"f")
    found = []
    while (answer := w.ask(T.GRAB_JOB_UNIQ))[0] == T.JOB_ASSIGN_UNIQ:
        handle, _, unique, data = answer[1]
        found.append((unique, data))
        w.send(T.WORK_COMPLETE, handle, b"")
    w.collect()
    w.close()
    return found


def fill(port: int, far: int) -> None:
    c = connect(port)
    for type, unique in ((T.SUBMIT_JOB_LOW_BG, b"low"), (T.SUBMIT_JOB_BG, b"normal"), (T.SUBMIT_JOB_HIGH_BG, b"high")):
        assert submit(c, b"da\0ta", unique, type)[0] == T.JOB_CREATED
    assert submit(c, b"bytes", b"\xff\xfe")[0] == T.JOB_CREATED
    assert c.ask(T.SUBMIT_JOB_EPOCH, b"f", b"later", b"%d" % far, b"later")[0] == T.JOB_CREATED
    c.close()


EXPECTED = [(b"high", b"da\0ta"), (b"normal", b"da\0ta"), (b"\xff\xfe", b"bytes"), (b"low", b"da\0ta")]
OPTIONS = ("-q", "libsqlite3", "--libsqlite3-db")


def test_gearmand_reads_our_file(path: Path) -> None:
    require("gearmand", package="gearman-job-server")
    far = int(time.time()) + 10_000
    with JobServer(port=0, db=path) as server:
        fill(server.port, far)
        c = connect(server.port)
        for unique in (b"", b"", b"-"):
            assert submit(c, b"no name", unique)[0] == T.JOB_CREATED
        assert submit(c, b"", b"empty payload")[0] == T.JOB_CREATED
        c.close()
    with gearmand(*OPTIONS, str(path)) as other:
        found = drained(other.port)
        assert found[0] == EXPECTED[0]
        assert [job for job in found if job in EXPECTED] == [*EXPECTED[:3]]  # LOW is hidden by the epoch job there
        assert [data for _, data in found if data == b"no name"] == [b"no name"] * 3
        assert (b"empty payload", b"") in found
        other.stop()
    assert [(row[0], row[4]) for row in rows_in(path)] == [(b"low", 0), (b"later", far)]
    with JobServer(port=0, db=path) as server:
        assert drained(server.port) == [EXPECTED[3]]


@pytest.mark.parametrize("more", [(), ("--store-queue-on-shutdown",)], ids=["at once", "at shutdown"])
def test_we_read_gearmands_file(path: Path, more: tuple[str, ...]) -> None:
    require("gearmand", package="gearman-job-server")
    far = int(time.time()) + 10_000
    with gearmand(*OPTIONS, str(path), *more) as other:
        fill(other.port, far)
        c = connect(other.port)
        for unique in (b"", b"-"):
            assert submit(c, b"no name", unique)[0] == T.JOB_CREATED
        c.close()
        other.stop()
    with JobServer(port=0, db=path) as server:
        assert sorted(drained(server.port)) == sorted([*EXPECTED, (b"", b"no name"), (b"-", b"no name")])
        assert server.jobs == (1, 0)
    assert [(row[0], row[4]) for row in rows_in(path)] == [(b"later", far)]


# --- kill -9 -------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from gtask.server import JobServer
server = JobServer(port=0, db=sys.argv[1])
server.start()
print(server.port, flush=True)
server.serve_forever()
"""


def run(path: Path) -> tuple[subprocess.Popen[bytes], int]:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, os.fspath(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(10)
    assert process.stdout is not None
    process.stdout.close()


def test_every_job_that_was_confirmed_survives_a_kill(path: Path) -> None:
    """Killed in the middle of a stream of submissions, with jobs queued, running and completed."""
    process, port = run(path)
    try:
        c, w = connect(port), connect(port)
        w.send(T.CAN_DO, b"f")
        for n in range(2000):
            c.send(T.SUBMIT_JOB_BG, b"f", b"%d" % n, b"data %d" % n)
        confirmed = 0
        while confirmed < 1000:
            assert c.receive()[0] == T.JOB_CREATED
            confirmed += 1
        running = [w.ask(T.GRAB_JOB_UNIQ)[1] for _ in range(20)]
        for handle, *_ in running[:10]:
            w.send(T.WORK_COMPLETE, handle, b"")
        w.collect()
    finally:
        kill(process)
        c.close()
        w.close()
    done = {unique for _, _, unique, _ in running[:10]}
    process, port = run(path)
    try:
        found = drained(port)
    finally:
        kill(process)
    assert len(found) == len(set(found))
    assert {unique for unique, _ in found} >= {b"%d" % n for n in range(1000)} - done
    assert not {unique for unique, _ in found} & done
    assert all(data == b"data " + unique for unique, data in found)
