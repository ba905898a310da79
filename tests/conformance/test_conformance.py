"""Every script against every job server: the engine in memory, JobServer with SQLite over TCP and TLS, gearmand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gtask.server import JobServer, ServerTLS
from gtask.server.state import Settings
from gtask.testing.processes import gearmand
from gtask.testing.requirements import require
from tests.conformance import scripts
from tests.conformance.deviations import GEARMAND
from tests.conformance.session import SCRIPTS, Script, Session
from tests.conformance.targets import MemoryTarget, SocketTarget, Target
from tests.pki import Certificates

assert scripts.__all__

Options = tuple[tuple[str, int], ...]
Ports = Callable[[Options], int]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    """The port of an embedded server with these options; each is started once and shared."""
    with embedded_servers(tmp_path_factory, None) as port:
        yield port


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Ports]:
    """The same, with TLS."""
    with embedded_servers(tmp_path_factory, certificates.for_server()) as port:
        yield port


@contextmanager
def embedded_servers(tmp_path_factory: pytest.TempPathFactory, tls: ServerTLS | None) -> Iterator[Ports]:
    with ExitStack() as stack:
        ports: dict[Options, int] = {}

        def port(options: Options) -> int:
            if options not in ports:
                wanted = dict(options)
                folder: Path = tmp_path_factory.mktemp("queue")
                server = JobServer(
                    port=0,
                    db=folder / "queue.db",
                    job_retries=wanted.get("job_retries", 0),
                    exceptions=bool(wanted.get("exceptions")),
                    tls=tls,
                )
                ports[options] = stack.enter_context(server).port
            return ports[options]

        yield port


@pytest.fixture(scope="module")
def real() -> Iterator[Ports]:
    """The port of a gearmand with these options; each is started once and shared, except those that may die."""
    require("gearmand", package="gearman-job-server")
    with ExitStack() as stack:
        ports: dict[Options, int] = {}

        def port(options: Options) -> int:
            wanted = dict(options)
            if options in ports and "own" not in wanted:
                return ports[options]
            flags = [f"--job-retries={wanted['job_retries']}"] if "job_retries" in wanted else []
            flags += ["--exceptions"] if "exceptions" in wanted else []
            ports[options] = stack.enter_context(gearmand(*flags)).port
            return ports[options]

        yield port


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
@pytest.mark.parametrize("server", ["memory", "embedded", "secured", "gearmand"])
def test_script(script: Script, server: str, request: pytest.FixtureRequest) -> None:
    target: Target
    if server == "memory":
        options = dict(script.options)
        target = MemoryTarget(Settings(job_retries=options.get("job_retries", 0), exceptions="exceptions" in options))
    elif server == "embedded":
        target = SocketTarget(request.getfixturevalue("embedded")(script.options))
    elif server == "secured":
        context = request.getfixturevalue("certificates").context()
        target = SocketTarget(request.getfixturevalue("secured")(script.options), context=context)
    else:
        reason = GEARMAND.get(script.name)
        if reason is not None:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
        port = request.getfixturevalue("real")(script.options)
        target = SocketTarget(port, patience=5.0 if reason is None else 0.3)
    try:
        script.run(Session(target, script.name.encode()))
    finally:
        target.end()


def test_every_deviation_names_a_script() -> None:
    assert set(GEARMAND) <= {script.name for script in SCRIPTS}
