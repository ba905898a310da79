"""The databases that gearmand keeps queues in, as processes with fresh data, on loopback and free ports, for tests.

```python
with mariadb() as database, gearmand(*database.queue_options()) as server:
    database.run("SELECT count(*) FROM gearman_queue")
```

A database that the machine runs as a service is never touched. What a test writes is gone when the block ends, so
nothing is synced to the disk: kill the job server at will, the database only where its data need not survive.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import Final, Self

from gtask.testing.processes import find_program
from gtask.testing.programs import Program, ProgramFailed, free_port, wait_until

HOST: Final = "127.0.0.1"

USER: Final = "gearman"
PASSWORD: Final = "secret"
DATABASE: Final = "gearman"

TABLE: Final = """
CREATE TABLE gearman_queue (
  id            BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  unique_key    VARBINARY(64)  NOT NULL,
  function_name VARBINARY(255) NOT NULL,
  priority      INT            NOT NULL,
  data          LONGBLOB       NOT NULL,
  when_to_run   BIGINT         NOT NULL,
  UNIQUE KEY (unique_key, function_name)
) ENGINE=InnoDB
"""
"""The queue's table as README.md has it."""

LIMIT: Final = 60.0
"""Seconds that a step may take; only what hangs takes nearly as long."""


class Database(Program):
    """A database as a process: `kind` (``mysql``, ``postgres``, ``redis``), `port`, and the `folder` of its data."""

    kind = ""

    def __init__(self, argv: Sequence[str], folder: Path, port: int) -> None:
        super().__init__(argv, cwd=folder)
        self.folder = folder
        self.port = port

    def run(self, command: str) -> list[str]:
        """Runs one command (SQL; for Redis its words) in the database's own client and returns the lines it prints."""
        raise NotImplementedError

    def queue_options(self) -> tuple[str, ...]:
        """The options with which gearmand keeps its queue here."""
        raise NotImplementedError

    def wait_until_ready(self) -> Self:
        """Waits until it takes commands; raises `ProgramFailed` when it ends, `TimeoutError` when it takes too long."""

        def answers() -> bool:
            if not self.running:
                raise ProgramFailed(f"{self.kind} ended with {self.exit_code}. Its last lines:\n{self.tail()}")
            try:
                socket.create_connection((HOST, self.port), 1).close()
                self.run("PING" if self.kind == "redis" else "SELECT 1")
            except (OSError, ProgramFailed):
                return False
            return True

        wait_until(answers, LIMIT, f"an answer of {self.kind}")
        return self

    def restart(self) -> None:
        """Ends it in order and starts it again at the same port with the same data."""
        self.stop()
        self.start()
        self.wait_until_ready()


class _MariaDB(Database):
    kind = "mysql"

    def run(self, command: str) -> list[str]:
        client = [_program("mariadb"), "--no-defaults", f"--socket={self.folder}/socket", "--user=root"]
        return _run(*client, "--batch", "--skip-column-names", "--execute", command)

    def queue_options(self) -> tuple[str, ...]:
        where = ("--queue-type=mysql", f"--mysql-host={HOST}", f"--mysql-port={self.port}", f"--mysql-db={DATABASE}")
        return (*where, f"--mysql-user={USER}", f"--mysql-password={PASSWORD}", "--mysql-table=gearman_queue")


class _PostgreSQL(Database):
    kind = "postgres"

    def run(self, command: str) -> list[str]:
        client = [
            _program("psql"),
            "--no-psqlrc",
            f"--host={self.folder}",
            f"--port={self.port}",
            "--username=postgres",
        ]
        return _run(*client, "--tuples-only", "--no-align", "--quiet", "--command", command, "postgres")

    def queue_options(self) -> tuple[str, ...]:
        where = f"host={HOST} port={self.port} user=postgres dbname=postgres"
        return ("--queue-type=postgres", f"--libpq-conninfo={where}")


class _Redis(Database):
    kind = "redis"

    def run(self, command: str) -> list[str]:
        return _run(_program("redis-cli"), "-p", str(self.port), *command.split())

    def queue_options(self) -> tuple[str, ...]:
        return ("--queue-type=redis", f"--redis-server={HOST}", f"--redis-port={self.port}")


@contextmanager
def mariadb(*options: str, table: str | None = TABLE) -> Iterator[Database]:
    """Runs MariaDB with a database and a user for gearmand; `options` are further ones of the server.

    `table` is the SQL that makes the queue's table; None leaves that to gearmand. Raises `FileNotFoundError` when it
    is not installed (`gtask.testing.requirements.require("mariadbd")` skips the test instead).
    """
    with tempfile.TemporaryDirectory(prefix="gtask-mariadb-") as name:
        folder, port = Path(name), free_port(HOST)
        # As root it has to be told that it may be.
        base = ["--no-defaults", f"--datadir={folder}/data", f"--user={pwd.getpwuid(os.geteuid()).pw_name}"]
        small = ["--innodb-log-file-size=8M", "--innodb-buffer-pool-size=32M"]
        _run(
            _program("mariadb-install-db"),
            *(*base, *small, "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"),
        )
        serve = [f"--socket={folder}/socket", f"--pid-file={folder}/pid", f"--bind-address={HOST}", f"--port={port}"]
        fast = ["--innodb-flush-log-at-trx-commit=0", "--skip-log-bin", "--skip-name-resolve"]
        with _MariaDB([_program("mariadbd"), *base, *small, *serve, *fast, *options], folder, port) as database:
            database.wait_until_ready()
            database.run(f"CREATE DATABASE {DATABASE}; USE {DATABASE}; {table or 'SELECT 1'}")
            # Without a table of yours gearmand makes one, for which it needs more than the README grants.
            rights = "ALL" if table is None else "SELECT, INSERT, DELETE"
            database.run(f"GRANT {rights} ON {DATABASE}.* TO '{USER}'@'{HOST}' IDENTIFIED BY '{PASSWORD}'")
            yield database


@contextmanager
def postgres(*options: str) -> Iterator[Database]:
    """Runs PostgreSQL; its superuser needs no password. `options` are further ones of the server.

    It refuses to run as root, and then runs as the user ``postgres`` that its package makes. Raises
    `FileNotFoundError` when it is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="gtask-postgres-") as name:
        folder, port = Path(name), free_port(HOST)
        prefix: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
            prefix = [_program("setpriv"), f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        data = f"{folder}/data"
        _run(*prefix, _program("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", cwd=folder)
        settings = {"listen_addresses": HOST, "port": str(port), "unix_socket_directories": name, "fsync": "off"}
        flags = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        with _PostgreSQL([*prefix, _program("postgres"), "-D", data, *flags, *options], folder, port) as database:
            yield database.wait_until_ready()


@contextmanager
def redis(*options: str) -> Iterator[Database]:
    """Runs Redis, which keeps its data in memory; `options` are further ones of the server.

    Raises `FileNotFoundError` when it is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="gtask-redis-") as name:
        folder, port = Path(name), free_port(HOST)
        command = [_program("redis-server"), "--bind", HOST, "--port", str(port), "--save", "", "--dir", name]
        with _Redis([*command, *options], folder, port) as database:
            yield database.wait_until_ready()


def find_database_program(name: str) -> str | None:
    """Returns the path of a database's program, also where Debian hides those of PostgreSQL; None if absent."""
    found = find_program(name)
    if found is None:
        hidden = sorted(glob("/usr/lib/postgresql/*/bin"))
        found = shutil.which(name, path=":".join(reversed(hidden))) if hidden else None
    return found


def _program(name: str) -> str:
    path = find_database_program(name)
    if path is None:
        raise FileNotFoundError(
            f"{name} is not installed; on Debian: apt-get install mariadb-server, postgresql or redis-server."
        )
    return path


def _run(*command: str, cwd: Path | None = None) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL, cwd=cwd)
    if done.returncode != 0:
        raise ProgramFailed(f"{command[0]} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout.splitlines()
