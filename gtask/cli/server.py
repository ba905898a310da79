"""`gtask server`: the embedded job server and the results service, in one process."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gtask.cli.failures import CliError
from gtask.cli.logs import log_options, set_up
from gtask.cli.options import read_size

if TYPE_CHECKING:
    from gtask.results.service import ResultsService
    from gtask.server import JobServer
    from gtask.signing import Keyring

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
@click.option(
    "--max-body",
    callback=read_size,
    default="64M",
    show_default=True,
    metavar="SIZE",
    help="The most bytes one packet may have, for instance 64M.",
)
@click.option("--exceptions", is_flag=True, help="Send exceptions to callers that did not ask for them too.")
@log_options("warning")
def command(
    host: str,
    port: int,
    db: str | None,
    results: str | None,
    job_retries: int,
    max_body: int,
    exceptions: bool,
    loglevel: str,
    json_logs: bool,
) -> int:
    """Run the embedded job server, with the results service.

    It speaks the protocol of gearmand, and is ended by SIGTERM or Ctrl-C. Without --db everything is in memory and
    gone when it ends. It listens at loopback unless told otherwise: Gearman knows no passwords.

    Where callers and workers sign what they send, the results service needs their keys in $GTASK_SIGNING_KEYS.
    """
    from gtask.errors import ConfigurationError
    from gtask.server import JobServer
    from gtask.settings import Settings

    set_up(loglevel, json_logs)
    keys = Settings.of("gtask server", {}).signing_keys
    if not is_loopback(host):
        log.warning(
            "%s can be reached from other machines, and Gearman has no passwords: whoever reaches the port can run "
            "tasks and read them. Keep it behind a firewall.",
            host,
        )
    server = JobServer(host, port, db, job_retries=job_retries, exceptions=exceptions, max_body=max_body)
    with results_file(db, results) as file:
        try:
            server.start()
        except ConfigurationError as error:
            raise CliError(str(error)) from error
        waiting, _ = server.jobs
        queue = f"queue in {db} ({waiting} waiting)" if db else "queue in memory"
        ready = f"gtask server ready at {server.url}, {queue}, results {results_text(db, results, file)}"
        return _Run(server, file, keys).serve(ready, json_logs)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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
        thread = None
        if self._file is not None:
            from gtask.results.service import ResultsService

            self._service = ResultsService(self._server.url, self._file, keys=self._keys)
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

    def _on_signal(self, number: int, frame: object) -> None:
        if self._service is None or self._service_told:
            self._server.stop()
        else:
            self._service_told = True
            self._service.stop()

    _service_told = False
