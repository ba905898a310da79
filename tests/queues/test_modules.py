"""What each of gearmand's queues does to gtask's jobs, and whether `gtask doctor` finds out which one it is.

Protocol reference, section 20: PostgreSQL forgets times and priorities, Redis takes no times and cuts at the first NUL.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from gtask import App, ServerError
from gtask.cli.checks import diagnose, queue_of
from gtask.cli.probing import examine
from gtask.errors import DecodeError
from gtask.publish import LATER, SOON
from gtask.testing.databases import HOST, USER, Database, mariadb
from gtask.testing.processes import JobServerProgram, gearmand, worker
from gtask.testing.programs import wait_until
from tests.queues.app import make
from tests.queues.conftest import LIMIT, ROOT, needed


@contextmanager
def serve(database: Database) -> Iterator[JobServerProgram]:
    """Runs gearmand with its queue in a database."""
    with gearmand(*database.queue_options(), "--verbose=ERROR") as server:
        yield server


@contextmanager
def staff(server: JobServerProgram, store: str | None) -> Iterator[None]:
    """Runs a worker that keeps results where the test reads them."""
    env = {"QUEUES_RESULTS": store}
    with worker("tests.queues.app:app", "--loglevel=error", cwd=ROOT, servers=server.url, env=env, ready=None):
        yield


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Where results are kept: apart from the job server, so that they tell of its queue alone."""
    return f"sqlite:///{tmp_path / 'results.db'}"


@contextmanager
def on_redis(database: Database, store: str) -> Iterator[tuple[JobServerProgram, App]]:
    """A job server on an empty Redis, and the App as its caller."""
    database.run("FLUSHALL")
    with serve(database) as server, make(server.url, store) as app:
        yield server, app


def test_a_job_that_redis_has_cut_fails_and_is_parked(redis_queue: Database, store: str) -> None:
    with on_redis(redis_queue, store) as (server, app):
        cut = app.tasks["size"].delay(b"a\0b")
        whole = app.tasks["size"].delay(b"abc")
        foreign = app.tasks["shout"].delay("no NUL in JSON")
        server.restart(signal.SIGKILL)
        with staff(server, store):
            assert whole.get(timeout=LIMIT) == 3
            assert foreign.get(timeout=LIMIT) == "NO NUL IN JSON"
            with pytest.raises(DecodeError, match="cut off"):
                cut.get(timeout=LIMIT)
            wait_until(lambda: [row for row in server.admin("status") if row.startswith("size.dead\t1\t")], LIMIT)
            assert app.tasks["size"].call(b"a\0b") == 3, "the worker goes on"


def test_a_nul_goes_through_redis_where_nothing_is_replayed(redis_queue: Database, store: str) -> None:
    with on_redis(redis_queue, store) as (server, app), staff(server, store):
        assert app.tasks["size"].delay(b"a\0b").get(timeout=LIMIT) == 3


def test_a_delay_is_refused_on_redis_with_the_way_out(redis_queue: Database, store: str) -> None:
    with on_redis(redis_queue, store) as (server, app):
        with pytest.raises(ServerError, match=r"a later time .*Redis.*use the MySQL or the libsqlite3 queue"):
            app.tasks["size"].apply_async((b"",), countdown=60)
        assert [row for row in server.admin("status") if not row.endswith("\t0\t0\t0")] == []


def test_a_retry_waits_its_time_on_redis_all_the_same(redis_queue: Database, store: str) -> None:
    """Its delayed job is refused, so it goes without a time, and comes too early."""
    with on_redis(redis_queue, store) as (server, app), staff(server, store):
        sent = time.time()
        assert app.tasks["again"].delay().get(timeout=LIMIT) == "done"
        assert time.time() >= sent + 0.5


def test_a_long_retry_on_redis_is_held_and_does_not_go_round_and_round(redis_queue: Database, store: str) -> None:
    """It would come again at once, each time; and a worker that is stopped gives it back at once."""
    with on_redis(redis_queue, store) as (server, app):
        with worker("tests.queues.app:app", cwd=ROOT, servers=server.url, env={"QUEUES_RESULTS": store}) as program:
            app.tasks["again"].delay(90.0)
            # Once it goes round: then it is known that this job server takes no times. Its first unique ends in d0.
            wait_until(lambda: _waits(redis_queue) and not _waits(redis_queue)[0].endswith("d0"), LIMIT, "a round")
            wait_until(lambda: _running(server, LATER) == 1, LIMIT, "the job in the worker's hands")
            held = _waits(redis_queue)
            # Each of these takes about as long as the job would need to go round again.
            for _ in range(3):
                assert app.tasks["again"].delay(1.0).get(timeout=LIMIT) == "done"
            assert _waits(redis_queue) == held
            assert _running(server, LATER) == 1
            program.terminate()
            assert program.wait(LIMIT) == 0
            assert "did not finish in time" not in program.tail(1000)
        assert len(_waits(redis_queue)) == 1


def _waits(database: Database) -> list[str]:
    """The keys in Redis of the jobs that wait for their time."""
    return [key for key in database.run("KEYS *") if LATER in key and SOON not in key]


def _running(server: JobServerProgram, function: str) -> int:
    rows = (line.split("\t") for line in server.admin("status"))
    return next((int(row[2]) for row in rows if row[0] == function), 0)


def taken(database: Database) -> set[str]:
    """The uniques of the jobs in PostgreSQL; while one is there, nothing was lost."""
    return set(database.run("SELECT unique_key FROM queue"))


def sent_back(database: Database, known: set[str]) -> bool:
    """Whether the one job there was is over, and another stands in for it."""
    now = taken(database)
    return len(now) == 1 and now != known


def test_what_postgres_replays_too_early_is_sent_back_each_time(postgres_queue: Database, tmp_path: Path) -> None:
    """That it runs at its time in the end is seen in test_replay.py."""
    path = tmp_path / "runs"
    with serve(postgres_queue) as server:
        with make(server.url) as app:
            app.tasks["note"].apply_async((str(path), 1), countdown=3600)
        for _ in range(2):
            known = taken(postgres_queue)
            assert len(known) == 1
            server.restart(signal.SIGKILL)
            with staff(server, None):
                wait_until(partial(sent_back, postgres_queue, known), LIMIT, "the way back into the queue")
    postgres_queue.run("DELETE FROM queue")
    assert not path.exists()


def test_a_job_that_mysql_does_not_take_is_refused_and_all_goes_on() -> None:
    """Larger than max_allowed_packet: with some connectors gearmand would try for ever, with Debian's it says no."""
    needed("mariadbd", "mariadb-server")
    with mariadb("--max-allowed-packet=1M") as database, serve(database) as server, make(server.url) as app:
        with pytest.raises(ServerError, match="QUEUE_ERROR"):
            app.tasks["size"].delay(b"x" * 2**21)
        app.tasks["size"].delay(b"x")
        assert [row for row in server.admin("status") if row.startswith("size\t1\t")]


# --- the doctor ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue", "guess", "found"),
    [
        ("mysql", "mysql with binary columns", set()),
        ("postgres", "postgres", {"queue"}),
        ("redis", "redis or libmemcached", {"queue", "epoch"}),
    ],
)
def test_the_doctor_knows_the_queue(queue: str, guess: str, found: set[str], request: pytest.FixtureRequest) -> None:
    database: Database = request.getfixturevalue(f"{queue}_queue")
    with serve(database) as server:
        before = server.admin("status")
        facts = examine(server.server, None, True)
        assert server.admin("status") == before, "nothing is left behind"
    assert facts.probe is not None
    assert facts.probe.error == ""
    of_queue = {"queue", "epoch", "collation"}
    assert queue_of(facts) == (queue, True)
    assert {one.code for one in diagnose(facts, False)} & of_queue == found
    facts.options = None  # as of a server on another machine
    assert queue_of(facts) == (guess, False)
    assert {one.code for one in diagnose(facts, False)} & of_queue == found


def test_the_doctor_sees_the_table_that_gearmand_has_made_itself(mysql_queue: Database) -> None:
    mysql_queue.run(f"CREATE DATABASE own; GRANT ALL ON own.* TO '{USER}'@'{HOST}'")
    options_of_own = [option.replace("--mysql-db=gearman", "--mysql-db=own") for option in mysql_queue.queue_options()]
    with gearmand(*options_of_own, "--verbose=ERROR") as server:
        facts = examine(server.server, None, True)
    assert mysql_queue.run("SHOW TABLES IN own") == ["gearman_queue"]
    for options in (facts.options, None):
        facts.options = options
        assert queue_of(facts)[0] == "mysql"
        assert "collation" in {one.code for one in diagnose(facts, False)}
