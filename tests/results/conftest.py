"""A results service beside a test: in a thread of this process, or as a process that can be killed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gtask.results.service import ResultsService
from gtask.results.wire import WAIT
from gtask.signing import Keyring
from gtask.testing.contracts import PATIENCE
from gtask.testing.processes import admin
from gtask.testing.programs import Program, wait_until
from gtask.types import parse_server

PROGRAM = """
import logging, sys
from gtask.results.service import run_service
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
run_service(sys.argv[2:], sys.argv[1])
"""


def workers(url: str, function: str = WAIT) -> int:
    """How many workers a job server has for a function."""
    server = parse_server(url)
    rows = [line.split("\t") for line in admin(server.host, server.port, "status")]
    return sum(int(row[3]) for row in rows if row[0] == function)


def jobs(url: str, function: str) -> int:
    """How many jobs of a function a job server has, queued and running."""
    server = parse_server(url)
    rows = [line.split("\t") for line in admin(server.host, server.port, "status")]
    return sum(int(row[1]) for row in rows if row[0] == function)


def running(url: str, function: str = WAIT) -> int:
    """How many jobs of a function are with a worker."""
    server = parse_server(url)
    rows = [line.split("\t") for line in admin(server.host, server.port, "status")]
    return sum(int(row[2]) for row in rows if row[0] == function)


@contextmanager
def serving(
    urls: str | Iterable[str], path: Path, max_waits: int = 10_000, keys: Keyring | None = None
) -> Iterator[ResultsService]:
    """A results service in a thread of this process, connected when the block begins."""
    urls = [urls] if isinstance(urls, str) else list(urls)
    service = ResultsService(urls, path, max_waits=max_waits, keys=keys)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            service.run()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="results")
    thread.start()
    try:
        for url in urls:
            wait_until(lambda url=url: failed or workers(url), PATIENCE, f"the results service on {url}")  # type: ignore[misc]
        yield service
    finally:
        service.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()
    if failed:
        raise failed[0]


def service_program(urls: str | Iterable[str], path: Path) -> Program:
    """A results service as a process; start it with `with` or `start`."""
    return Program([sys.executable, "-c", PROGRAM, str(path), *([urls] if isinstance(urls, str) else urls)])


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[[str], Program]]:
    """Starts a results service as a process and waits until it is connected; what was started is ended."""
    started: list[Program] = []

    def start(url: str) -> Program:
        wait_until(lambda: not workers(url), PATIENCE, "the end of the service before")
        program = service_program(url, tmp_path / "results.db")
        started.append(program)
        program.start()
        wait_until(lambda: workers(url) or not program.running, PATIENCE, "the results service")
        assert program.running, program.tail()
        return program

    yield start
    for program in started:
        program.stop()
