"""Job servers of both kinds, each with results and a worker, as processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gtask import App
from gtask.testing.processes import JobServerProgram, gearmand, job_server, worker
from gtask.testing.programs import Program
from gtask.testing.requirements import require
from tests.e2e.tasks import make

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60.0
"""Seconds that something may take; only what hangs takes nearly as long."""


@dataclass
class House:
    """A job server with a results service, and the App as its caller."""

    server: JobServerProgram
    app: App

    def worker(self, *options: str, concurrency: int = 2, pool: str = "prefork") -> AbstractContextManager[Program]:
        """Runs a worker of `tests.e2e.tasks`."""
        return worker(
            "tests.e2e.tasks:app", *options, cwd=ROOT, servers=self.server.url, concurrency=concurrency, pool=pool
        )

    def row(self, function: str) -> tuple[int, int, int]:
        """What the job server says of a function: jobs in all, jobs running, workers."""
        for line in self.server.admin("status"):
            name, jobs, running, workers = line.split("\t")
            if name == function:
                return int(jobs), int(running), int(workers)
        return 0, 0, 0


@contextmanager
def results_service(url: str, db: Path) -> Iterator[Program]:
    """Runs `gtask results`."""
    command = [sys.executable, "-m", "gtask", "results", f"--servers={url}", f"--db={db}", "--loglevel=info"]
    with Program(command, cwd=ROOT) as program:
        program.wait_for_line(r"\bready\b|Connected", LIMIT)
        yield program


@contextmanager
def house_of(kind: str, folder: Path) -> Iterator[House]:
    """A job server of a kind, ``gtask`` or ``gearmand``."""
    with ExitStack() as stack:
        if kind == "gtask":
            server = stack.enter_context(job_server(db=folder / "queue.db", results=folder / "results.db"))
        else:
            require("gearmand", package="gearman-job-server")
            server = stack.enter_context(gearmand())
            stack.enter_context(results_service(server.url, folder / "results.db"))
        yield House(server, stack.enter_context(make(server.url)))


@pytest.fixture(scope="module", params=["gtask", "gearmand"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Each job server in turn, without a worker."""
    with house_of(request.param, tmp_path_factory.mktemp("house")) as made:
        yield made


@dataclass
class Staffed:
    """A house with a worker of two processes."""

    house: House
    worker: Program

    @property
    def app(self) -> App:
        """The App as a caller."""
        return self.house.app


@pytest.fixture(scope="module")
def staffed(house: House) -> Iterator[Staffed]:
    """Each job server in turn, with a worker."""
    with house.worker() as program:
        yield Staffed(house, program)
