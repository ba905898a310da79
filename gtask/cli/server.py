"""`gtask server`: the embedded job server and the results service, in one process."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gtask.cli.bounds import bounds_options, tls_options
from gtask.cli.failures import CliError
from gtask.cli.logs import log_options, set_up
from gtask.types import is_loopback

if TYPE_CHECKING:
    from gtask.results.service import ResultsService
    from gtask.server import JobServer, ServerTLS
    from gtask.signing import Keyring
    from gtask.transport.blocking import Connection
    from gtask.transport.tls import TLS
    from gtask.types import Server

log = logging.getLogger("gtask.server")


@click.command(name="server")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="The address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=4730,
    show_default=True,
    metavar="N",
    help="The TCP port to listen at; 0 takes a free one.",
)
@click.option(
    "--db",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Keep background jobs in this SQLite file, which gearmand can read too.  [default: in memory]",
)
@click.option(
    "--results",
    metavar="FILE|none",
    help="Keep results in this SQLite file; `none` runs no results service.  [default: beside --db, else as long as "
    "the server runs]",
)
@click.option(
    "--job-retries",
    type=click.IntRange(0, 255),
    default=0,
    show_default=True,
    metavar="N",
    help="Fail a job that was handed out N times and lost its worker each time; 0 for no limit.",
)
@click.option("--exceptions", is_flag=True, help="Send exceptions to callers that did not ask for them too.")
@tls_options
@bounds_options
@log_options("warning")
def command(
    host: str,
    port: int,
    db: str | None,
    results: str | None,
    job_retries: int,
    exceptions: bool,
    tls_cert: str | None,
    tls_key: str | None,
    tls_client_ca: str | None,
    loglevel: str,
    json_logs: bool,
    **bounds: Any,
) -> int:
    """Run the embedded job server, with the results service.

    It speaks the protocol of gearmand, and is ended by SIGTERM or Ctrl-C. Without --db everything is in memory and
    gone when it ends. It listens at loopback unless told otherwise: Gearman knows no passwords. With --tls-cert the
    port speaks TLS, for gearmans:// addresses.

    Where callers and workers sign what they send, the results service needs their keys in $GTASK_SIGNING_KEYS.
    """
    from gtask.errors import ConfigurationError
    from gtask.server import JobServer
    from gtask.settings import Settings

    set_up(loglevel, json_logs)
    keys = Settings.of("gtask server", {}).signing_keys
    tls = read_tls(tls_cert, tls_key, tls_client_ca)
    if not is_loopback(host) and not tls_client_ca:
        log.warning(
            "%s can be reached from other machines, and Gearman has no passwords: whoever reaches the port can run "
            "tasks and read them. Keep it behind a firewall%s.",
            host,
            ", or ask for certificates with --tls-client-ca" if tls else ", or use --tls-cert and --tls-client-ca",
        )
    server = JobServer(host, port, db, job_retries=job_retries, exceptions=exceptions, tls=tls, **bounds)
    with results_file(db, results) as file:
        try:
            server.start()
        except ConfigurationError as error:
            raise CliError(str(error)) from error
        waiting, _ = server.jobs
        queue = f"queue in {db} ({waiting} waiting)" if db else "queue in memory"
        ready = f"gtask server ready at {server.url}, {queue}, results {results_text(db, results, file)}"
        return _Run(server, file, keys).serve(ready, json_logs)


def read_tls(cert: str | None, key: str | None, client_ca: str | None) -> ServerTLS | None:
    """What the options of TLS say together; raises `click.UsageError` when one lacks the certificate it goes with."""
    from gtask.server import ServerTLS

    if cert is None:
        if key or client_ca:
            given = "--tls-key" if key else "--tls-client-ca"
            raise click.UsageError(f"{given} needs the certificate to show as well; name it with --tls-cert.")
        return None
    return ServerTLS(cert, key, client_ca)


@contextlib.contextmanager
def results_file(db: str | None, results: str | None) -> Iterator[str | None]:
    """The file of the results service: as told, beside the queue, or one that is gone with this process."""
    if results is not None:
        yield None if results.lower() == "none" else results
    elif db is not None:
        path = Path(db)
        yield str(path.with_name(f"{path.stem}-results{path.suffix}"))
    else:
        with tempfile.TemporaryDirectory(prefix="gtask-results-") as folder:
            yield os.path.join(folder, "results.db")


def results_text(db: str | None, results: str | None, file: str | None) -> str:
    """Where results are, for the line that says that the server is ready."""
    if file is None:
        return "nowhere (--results none)"
    return "in memory" if db is None and results is None else f"in {file}"


class _Run:
    """The server in this thread, the results service in another: they end together."""

    def __init__(self, server: JobServer, file: str | None, keys: Keyring | None = None) -> None:
        self._server = server
        self._file = file
        self._keys = keys
        self._service: ResultsService | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None

    def serve(self, ready: str, json_logs: bool) -> int:
        """Serves until a signal comes."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        if self._server.tls is not None:
            signal.signal(signal.SIGHUP, self._on_hangup)
        thread = None
        if self._file is not None:
            from gtask.results.service import ResultsService

            self._service = ResultsService(self._server.url, self._file, keys=self._keys, connect=self._connect)
            thread = threading.Thread(target=self._run_service, name="gtask-results")
            thread.start()
            self._ready.wait()
        if self._failure is None:
            if json_logs:
                logging.getLogger("gtask.server").log(logging.WARNING, ready)
            else:
                click.echo(ready)
        self._server.serve_forever()
        if thread is not None:
            thread.join()
        if self._failure is not None:
            raise CliError(f"The results service ended, and so did the server: {self._failure}") from self._failure
        return 0

    def _connect(self, server: Server, timeout: float, tls: TLS | None) -> Connection:
        """How the results service is connected: from inside, whatever certificates the port asks for."""
        from gtask.transport.blocking import Connection
        from gtask.transport.stream import connect_failed

        try:
            return Connection(self._server.connect(), server)
        except OSError as error:
            raise connect_failed(server, error) from error

    def _run_service(self) -> None:
        assert self._service is not None
        try:
            self._service.run(self._ready.set)
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()
            # Last, so that the service can hand back what it holds while the server still listens.
            self._server.stop()

    def _on_hangup(self, number: int, frame: object) -> None:
        from gtask.errors import ConfigurationError

        try:
            self._server.renew_tls()
        except ConfigurationError as error:
            log.error("The certificate stays the one it was: %s", error)
        else:
            log.warning("The certificate was read again; new connections are shown it.")

    def _on_signal(self, number: int, frame: object) -> None:
        if self._service is None or self._service_told:
            self._server.stop()
        else:
            self._service_told = True
            self._service.stop()

    _service_told = False
