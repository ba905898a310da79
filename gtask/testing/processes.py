"""Job servers and workers as real processes, on loopback and free ports, for tests.

```python
with job_server(db="queue.db") as server, worker("app:app", cwd=folder, servers=server.url) as w:
    w.kill(w.children()[0])
    w.wait_for_line("succeeded")
```

Each of them is ready when the `with` block begins, and gone with all its children when it ends.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Self

from gtask.testing.programs import Program, ProgramFailed, free_port
from gtask.transport.tls import TLS
from gtask.types import Server

READY = r"\bready\b"
"""What a worker's log says when it takes jobs."""

ATTEMPTS = 5
"""How many free ports are tried when another process is quicker to take one."""


def find_program(name: str) -> str | None:
    """Returns the path of a program in ``$PATH`` or ``/usr/sbin``, ``/usr/local/sbin``, ``/sbin``; None if absent."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")


def admin(host: str, port: int, command: str, timeout: float = 10.0, tls: TLS | None = None) -> list[str]:
    """Asks a job server one question of the text protocol and returns the lines of the answer.

    Lists (``status``, ``workers``) come without their closing dot. With `tls` it is asked through TLS. Raises `OSError`
    when the server does not answer within `timeout` seconds. Protocol reference, section 17.
    """
    listing = command.lower().split()[:1] in (["status"], ["workers"], ["prioritystatus"], ["show"])
    with ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection((host, port), timeout))
        if tls is not None:
            name = tls.server_hostname or host
            connection = stack.enter_context(tls.context().wrap_socket(connection, server_hostname=name))
        connection.sendall(command.encode() + b"\r\n")
        with connection.makefile("rb") as answer:
            lines: list[str] = []
            while line := answer.readline():
                text = line.decode(errors="replace").rstrip("\r\n")
                if listing and text == ".":
                    return lines
                lines.append(text)
                if not listing or text.startswith("ERR "):
                    return lines
    raise ConnectionError(f"The job server at {host}:{port} closed the connection on the command {command!r}.")


class JobServerProgram(Program):
    """A job server that runs as a process: where it listens, and the admin protocol.

    `kind` is ``gtask`` or ``gearmand``; `server` its address, `tls` how it is reached if that has TLS. It is made by
    `gearmand()` and `job_server()`.
    """

    def __init__(
        self,
        kind: str,
        server: Server,
        argv: Sequence[str],
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str | None] | None = None,
        tls: TLS | None = None,
    ) -> None:
        super().__init__(argv, cwd=cwd, env=env)
        self.kind = kind
        self.tls = tls
        self.server = server

    @property
    def host(self) -> str:
        """The address it listens on."""
        return self.server.host

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        return self.server.port

    @property
    def url(self) -> str:
        """Its address as `App(servers=...)` and ``$GTASK_SERVERS`` take it."""
        return str(self.server)

    def admin(self, command: str, timeout: float = 10.0) -> list[str]:
        """Asks it one question of the text protocol; see `gtask.testing.processes.admin`."""
        return admin(self.host, self.port, command, timeout, self.tls)

    def restart(self, signum: int | None = None, timeout: float = 30.0) -> Self:
        """Ends it with a signal (None: SIGTERM, then SIGKILL when it lingers), and starts it at the same port.

        Returns itself when it answers again, at most `timeout` seconds later.
        """
        if signum is not None and self.running:
            self.kill(signum=signum)
            self.wait(timeout)
        self.stop()
        self.start()
        self.wait_until_ready(timeout)
        return self

    def wait_until_ready(self, timeout: float = 30.0) -> None:
        """Waits until it answers on its port; raises `ProgramFailed` when it ends or takes longer.

        The answer has to be its own: gearmand waits in silence for a port that another process holds.
        """
        self.wait_for_port(self.host, self.port, timeout)
        try:
            answer = self.admin("getpid", timeout)
        except OSError as error:
            raise ProgramFailed(f"{self._name} does not answer: {error}. Its last lines:\n{self.tail()}") from None
        if answer != [f"OK {self.pid}"]:
            raise ProgramFailed(f"Port {self.port} is in use: asked for its process id, it answers {answer}.")


@contextmanager
def gearmand(
    *options: str,
    host: str = "127.0.0.1",
    port: int = 0,
    program: str | None = None,
    env: Mapping[str, str | None] | None = None,
    timeout: float = 30.0,
) -> Iterator[JobServerProgram]:
    """Runs the C++ gearmand in the foreground, its log in the program's output.

    `options` are gearmand's own (``"-q", "libsqlite3", "--libsqlite3-db", path``, ``"--job-retries=3"``); without a
    ``--verbose`` it tells of every submission (NOTICE). `port` 0 takes a free one; `program` is its path when it is
    not the one that is installed. Raises `FileNotFoundError` when it is not installed
    (`gtask.testing.require("gearmand")` skips the test instead), `ProgramFailed` when it does not answer within
    `timeout` seconds.
    """
    path = program or find_program("gearmand")
    if path is None:
        raise FileNotFoundError("gearmand is not installed; on Debian: apt-get install gearman-job-server")
    with tempfile.TemporaryDirectory(prefix="gtask-gearmand-") as folder:  # for the pid file, which it insists on
        base = [path, "--log-file=stderr", f"--pid-file={folder}/pid", f"--listen={host}"]
        base += [] if any(option.startswith("--verbose") for option in options) else ["--verbose=NOTICE"]
        # A Kubernetes service called gearmand sets GEARMAND_PORT, which makes it exit (defect 41).
        environment = {"GEARMAND_PORT": None, **(env or {})}
        server = _serve("gearmand", [*base, *options], host, port, environment, None, timeout)
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def job_server(
    *options: str,
    host: str = "127.0.0.1",
    port: int = 0,
    db: str | os.PathLike[str] | None = None,
    results: str | os.PathLike[str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str | None] | None = None,
    tls: TLS | None = None,
    timeout: float = 30.0,
) -> Iterator[JobServerProgram]:
    """Runs `gtask server` as a process.

    `port` 0 takes a free one. `db` is the queue's file (None: jobs live in memory), `results` the file of the results
    service that comes with it (None: without one), `options` whatever else its command line takes. If these have it
    speak TLS (``--tls-cert=...``), `tls` says how its peers are to reach it. Raises `ProgramFailed` when it does not
    answer within `timeout` seconds.
    """
    command = [sys.executable, "-m", "gtask", "server", f"--host={host}"]
    command += [f"--db={os.fspath(db)}"] if db is not None else []
    command += [f"--results={'none' if results is None else os.fspath(results)}", *options]
    server = _serve("gtask", command, host, port, {"PYTHONUNBUFFERED": "1", **(env or {})}, cwd, timeout, tls)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def worker(
    app: str = "app:app",
    *options: str,
    cwd: str | os.PathLike[str] | None = None,
    servers: str | Iterable[str] | None = None,
    concurrency: int = 2,
    pool: str = "prefork",
    env: Mapping[str, str | None] | None = None,
    ready: str | None = READY,
    timeout: float = 30.0,
) -> Iterator[Program]:
    """Runs `gtask worker` as a process, in the folder `cwd` from which `app` is imported.

    `servers` are the job servers' addresses (None: as the app says), `concurrency` and `pool` the flags ``-c`` (which
    the pool solo does without) and ``--pool``, `options` any others. Its `children()` are the processes that run tasks
    and the one that moves delayed jobs. The block begins when a line of its log matches `ready` (None: at once);
    `ProgramFailed` when that takes more than `timeout` seconds.
    """
    size = [] if pool == "solo" else ["-c", str(concurrency)]
    command = [sys.executable, "-m", "gtask", "worker", app, "--pool", pool, *size, *options]
    environment: dict[str, str | None] = {"PYTHONUNBUFFERED": "1", **(env or {})}
    if servers is not None:
        environment["GTASK_SERVERS"] = servers if isinstance(servers, str) else ",".join(servers)
    with Program(command, cwd=cwd, env=environment) as program:
        if ready is not None:
            program.wait_for_line(ready, timeout)
        yield program


def _serve(
    kind: str,
    command: list[str],
    host: str,
    port: int,
    env: Mapping[str, str | None],
    cwd: str | os.PathLike[str] | None,
    timeout: float,
    tls: TLS | None = None,
) -> JobServerProgram:
    """Starts a job server and waits for its answer; on another port when a free one was taken meanwhile."""
    for attempt in range(1, ATTEMPTS + 1):
        address = Server(host, port or free_port(host), tls is not None)
        server = JobServerProgram(kind, address, [*command, f"--port={address.port}"], cwd=cwd, env=env, tls=tls)
        server.start()
        try:
            server.wait_until_ready(timeout)
        except BaseException as error:
            server.kill()  # a server that waits for its port does not always listen to SIGTERM
            server.stop()
            taken = isinstance(error, ProgramFailed) and "in use" in str(error).lower()
            if port or not taken or attempt == ATTEMPTS:
                raise
        else:
            return server
    raise AssertionError("unreachable")
