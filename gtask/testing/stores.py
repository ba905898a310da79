"""Result stores in real servers, with fresh data, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from gtask.testing import databases
from gtask.testing.databases import DATABASE, HOST, Database

SERVERS: Final = ("redis", "mysql", "postgres")
"""What `store_server` runs."""

PROGRAMS: Final = {"redis": "redis-server", "mysql": "mariadbd", "postgres": "postgres"}
MODULES: Final = {"redis": ("redis",), "mysql": ("sqlalchemy", "pymysql"), "postgres": ("sqlalchemy", "psycopg")}
"""What each of them needs: a program, and Python modules."""


@contextmanager
def store_server(kind: str) -> Iterator[Database]:
    """Runs the server for a kind of store, one of `SERVERS`; raises `FileNotFoundError` when it is not installed."""
    if kind == "mysql":
        # What is committed outlives a server that is killed.
        running = databases.mariadb("--innodb-flush-log-at-trx-commit=2")
    else:
        running = {"redis": databases.redis, "postgres": databases.postgres}[kind]()
    with running as server:
        if kind == "mysql":
            server.run(
                f"CREATE USER gtask@'{HOST}' IDENTIFIED BY 'secret'; GRANT ALL ON {DATABASE}.* TO gtask@'{HOST}'"
            )
        yield server


def store_url(server: Database, name: str = "gtask") -> str:
    """The URL of a store in that server; stores of different names know nothing of each other."""
    if server.kind == "redis":
        return f"redis://{HOST}:{server.port}/0?prefix={name}:"
    if server.kind == "mysql":
        return f"mysql+pymysql://gtask:secret@{HOST}:{server.port}/{DATABASE}?prefix={name}_"
    return f"postgresql+psycopg://postgres@{HOST}:{server.port}/postgres?prefix={name}_"
