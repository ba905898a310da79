"""gearmand with TLS, as Debian's gearmand gets it: stunnel in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gtask.testing.processes import ATTEMPTS, JobServerProgram, gearmand
from gtask.testing.programs import Program, ProgramFailed, free_port
from gtask.testing.requirements import require
from gtask.types import Server
from tests.pki import Certificates

CONFIGURATION = """
foreground = yes
pid =
syslog = no
debug = notice

[gearmand]
accept = 127.0.0.1:{accept}
connect = 127.0.0.1:{connect}
cert = {certificate}
{clients}
"""


@contextmanager
def stunnel(
    folder: Path, behind: Server, certificates: Certificates, certificate: str = "", ask: bool = False
) -> Iterator[Server]:
    """Runs stunnel in front of a job server; `ask` has it ask its peers for certificates. Yields its address."""
    path = require("stunnel4", package="stunnel4")
    clients = f"CAfile = {certificates.ca}\nverifyChain = yes" if ask else ""
    for attempt in range(1, ATTEMPTS + 1):
        port = free_port()
        file = folder / f"stunnel-{port}.conf"
        file.write_text(
            CONFIGURATION.format(
                accept=port, connect=behind.port, certificate=certificate or certificates.server, clients=clients
            )
        )
        with Program([path, str(file)]) as program:
            try:
                program.wait_for_line("Configuration successful")
                program.wait_for_port("127.0.0.1", port)
            except ProgramFailed as error:
                if attempt < ATTEMPTS and "in use" in str(error):
                    continue  # somebody else was quicker to take the port
                raise
            yield Server("127.0.0.1", port, True)
            return


@contextmanager
def gearmand_with_tls(
    folder: Path, certificates: Certificates, certificate: str = "", ask: bool = False
) -> Iterator[tuple[JobServerProgram, Server]]:
    """Runs both; yields gearmand, and the address to reach it at."""
    require("gearmand", package="gearman-job-server")
    with gearmand() as server, stunnel(folder, server.server, certificates, certificate, ask) as address:
        yield server, address
