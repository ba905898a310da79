"""A job server of each kind with a results service and a worker, for all tests of the command line together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from gtask.testing.processes import JobServerProgram, gearmand, job_server, worker
from gtask.testing.programs import Program
from gtask.testing.requirements import require
from tests.cli.runs import write_app


@dataclass
class House:
    """A job server and a worker of the app in `folder`."""

    server: JobServerProgram
    worker: Program
    folder: Path

    @property
    def url(self) -> str:
        """The job server's address."""
        return self.server.url


def build(kind: str, folder: Path, stack: ExitStack) -> House:
    write_app(folder)
    if kind == "gearmand":
        require("gearmand", package="gearman-job-server")
        server = stack.enter_context(gearmand())
        options = [f"--with-results={folder / 'results.db'}"]
    else:
        server = stack.enter_context(job_server(results=folder / "results.db"))
        options = []
    return House(server, stack.enter_context(worker("app:app", *options, cwd=folder, servers=server.url)), folder)


@pytest.fixture(scope="session")
def embedded_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The embedded job server, with its own results service."""
    with ExitStack() as stack:
        yield build("gtask", tmp_path_factory.mktemp("cli"), stack)


@pytest.fixture(scope="session")
def gearmand_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """gearmand, and a worker that carries the results service along."""
    with ExitStack() as stack:
        yield build("gearmand", tmp_path_factory.mktemp("cli"), stack)


@pytest.fixture(params=["embedded", "gearmand"])
def house(request: pytest.FixtureRequest) -> House:
    """Each in turn."""
    found: House = request.getfixturevalue(f"{request.param}_house")
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with app.py in it, and no job server."""
    return write_app(tmp_path)
