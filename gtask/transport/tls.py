"""TLS to a job server: what `gearmans://` addresses ask for. Protocol reference, section 19."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NoReturn, Self

from gtask.errors import ConfigurationError
from gtask.types import Server

VARIABLES: Final = {
    "cafile": "GTASK_TLS_CAFILE",
    "certfile": "GTASK_TLS_CERTFILE",
    "keyfile": "GTASK_TLS_KEYFILE",
    "server_hostname": "GTASK_TLS_SERVER_HOSTNAME",
}
"""The environment variable of each setting of `TLS`."""


@dataclass(frozen=True, slots=True)
class TLS:
    """How connections to `gearmans://` addresses are protected.

    The server's certificate is always verified: against `cafile` (PEM), or against the system's authorities when it
    is None. `certfile` and `keyfile` (PEM) are what this side shows when the server asks; `keyfile` may be left out
    when the key is in `certfile`. `server_hostname` is the name the server's certificate must carry, when that is
    not the host of the address. Nothing here makes a `gearman://` address one with TLS, and none with TLS is ever
    spoken to in plain text.
    """

    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    server_hostname: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self | None:
        """What `VARIABLES` say, None when they say nothing; an empty one counts as one that is not set."""
        given = os.environ if environment is None else environment
        found = {name: text for name, variable in VARIABLES.items() if (text := given.get(variable))}
        return cls(**found) if found else None

    def context(self) -> ssl.SSLContext:
        """Makes the context for it; raises `ConfigurationError` when a file cannot be used."""
        return _context(self)


@lru_cache(maxsize=16)
def _context(tls: TLS) -> ssl.SSLContext:
    if tls.keyfile and not tls.certfile:
        raise ConfigurationError(f"{tls.keyfile} is a key without a certificate; name that too, as certfile.")
    return make_context(ssl.Purpose.SERVER_AUTH, tls.cafile, tls.certfile, tls.keyfile)


def make_context(purpose: ssl.Purpose, cafile: str | None, certfile: str | None, keyfile: str | None) -> ssl.SSLContext:
    """A context of Python's defaults, TLS 1.2 or newer; raises `ConfigurationError` when a file cannot be used.

    Renegotiation is refused, which TLS 1.3 does not have any more: with it a read might have to wait for a write and
    the other way round, and so would whoever waits for the socket.
    """
    try:
        context = ssl.create_default_context(purpose, cafile=cafile)
        if certfile:
            context.load_cert_chain(certfile, keyfile, password=_refuse_passphrase(keyfile or certfile))
    except (OSError, ValueError) as error:
        files = ", ".join(str(file) for file in (cafile, certfile, keyfile) if file)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigurationError(f"TLS cannot be set up with {files}: {reason}. Name readable PEM files.") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def _refuse_passphrase(file: str) -> Callable[[], NoReturn]:
    # Without a callback OpenSSL would ask on the terminal, and wait.
    def refuse() -> NoReturn:
        raise ConfigurationError(f"The key in {file} is encrypted, and gtask asks for no passphrase; name a plain one.")

    return refuse


def check_tls(servers: Iterable[Server], tls: TLS | None) -> None:
    """Finds out early whether the addresses and the files go together: `refuse_plaintext`, and the files are read.

    Raises `ConfigurationError`, where a worker would only log that it cannot connect, again and again.
    """
    servers = tuple(servers)
    refuse_plaintext(servers, tls)
    if any(server.tls for server in servers):
        (tls or TLS()).context()


def refuse_plaintext(servers: Iterable[Server], tls: TLS | None) -> None:
    """Raises `ConfigurationError` when TLS is set up and an address would go around it.

    Plain text is left to addresses of this very machine, beside others with TLS. Design, section 2.
    """
    if tls is None:
        return
    servers = tuple(servers)
    plain = [server for server in servers if not server.tls]
    for server in plain:
        if len(plain) == len(servers) or not server.is_loopback:
            raise ConfigurationError(
                f"TLS is set up (tls= or $GTASK_TLS_*), but {server} is plain text; write gearmans:// for TLS."
            )
