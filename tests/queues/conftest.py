"""Job servers with each queue that outlives them; the databases are fresh, on free ports, and shared by a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from gtask.testing.databases import Database, find_database_program, mariadb, postgres, redis
from gtask.testing.processes import JobServerProgram, gearmand, job_server
from gtask.testing.requirements import missing, require

ROOT = Path(__file__).resolve().parents[2]

JOBS = int(os.environ.get("GTASK_QUEUE_JOBS", "240"))
"""Jobs that are queued in the large tests. With 10000 these take minutes, and say how long."""

LIMIT = 60.0 + JOBS / 20
"""Seconds that something may take; only what hangs takes nearly as long."""

Serve = Callable[[], AbstractContextManager[JobServerProgram]]
"""Starts a job server with a queue that outlives it."""


def needed(program: str, package: str) -> None:
    """Ends the test when the programs of a database are not there."""
    require("gearmand", package="gearman-job-server")
    if find_database_program(program) is None:
        missing(f"program {program}", f"apt-get install {package}")
    if program == "postgres" and os.geteuid() == 0:
        require("setpriv", package="util-linux")


@pytest.fixture(scope="session")
def mysql_queue() -> Iterator[Database]:
    """MariaDB with the table of the README."""
    needed("mariadbd", "mariadb-server")
    with mariadb() as database:
        yield database


@pytest.fixture(scope="session")
def postgres_queue() -> Iterator[Database]:
    """PostgreSQL, where gearmand makes its own table."""
    needed("postgres", "postgresql")
    with postgres() as database:
        yield database


@pytest.fixture(scope="session")
def redis_queue() -> Iterator[Database]:
    """Redis."""
    needed("redis-server", "redis-server")
    with redis() as database:
        yield database


def serving(queue: str, request: pytest.FixtureRequest, folder: Path) -> Serve:
    """How a job server is started with this queue: ``embedded``, or a module of gearmand."""
    if queue == "embedded":
        return lambda: job_server(db=folder / "queue.db")
    require("gearmand", package="gearman-job-server")
    if queue == "libsqlite3":
        return lambda: gearmand("-q", "libsqlite3", "--libsqlite3-db", str(folder / "queue.db"), "--verbose=ERROR")
    database: Database = request.getfixturevalue(f"{queue}_queue")
    return lambda: gearmand(*database.queue_options(), "--verbose=ERROR")


def report(line: str) -> None:
    """Says what a run of the size of `GTASK_QUEUE_JOBS` came to; `pytest -s` shows it."""
    if "GTASK_QUEUE_JOBS" in os.environ:
        print(f"\n{line}", flush=True)
