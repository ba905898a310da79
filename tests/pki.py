"""Certificates for tests, made by `trustme` when they are first needed: an authority, and what it and another sign."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gtask.server import ServerTLS
from gtask.testing.requirements import require_module
from gtask.transport import TLS


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files; each certificate is in one file with its key.

    `server` is for 127.0.0.1 and localhost, `elsewhere` for another name, `expired` has ended; `renewed` is as good
    as `server`, and another one. `client` is what a peer shows. All these are signed by `ca`; `stranger` by `other`.
    """

    ca: str
    other: str
    server: str
    renewed: str
    elsewhere: str
    expired: str
    client: str
    stranger: str

    def for_server(self, certificate: str = "", ask: bool = False) -> ServerTLS:
        """What a job server is to show, and whether it asks its peers for certificates."""
        return ServerTLS(certificate or self.server, client_cafile=self.ca if ask else None)

    def for_client(self, certificate: str | None = None) -> TLS:
        """How to reach it."""
        return TLS(self.ca, certificate)

    def context(self, certificate: str | None = None) -> ssl.SSLContext:
        """The same for a socket of the test's own."""
        return self.for_client(certificate).context()

    @property
    def environment(self) -> dict[str, str | None]:
        """The same for a process."""
        return {"GTASK_TLS_CAFILE": self.ca}


def make(folder: Path) -> Certificates:
    """Makes them; the test is skipped without `trustme`."""
    require_module("trustme", "test")
    import trustme

    ca, other = trustme.CA(), trustme.CA()

    def issue(name: str, authority: Any, *hosts: str, **when: datetime) -> str:
        path = folder / f"{name}.pem"
        authority.issue_cert(*hosts, **when).private_key_and_cert_chain_pem.write_to_path(path)
        return str(path)

    for name, authority in (("ca", ca), ("other", other)):
        authority.cert_pem.write_to_path(folder / f"{name}.pem")
    past = datetime.now(UTC) - timedelta(days=2)
    here = ("127.0.0.1", "localhost")
    return Certificates(
        ca=str(folder / "ca.pem"),
        other=str(folder / "other.pem"),
        server=issue("server", ca, *here),
        renewed=issue("renewed", ca, *here),
        elsewhere=issue("elsewhere", ca, "jobs.example"),
        expired=issue("expired", ca, *here, not_before=past - timedelta(days=2), not_after=past),
        client=issue("client", ca, "client.example"),
        stranger=issue("stranger", other, *here),
    )
