"""TLS to a job server: what `gearmans://` addresses ask for. Protocol reference, section 19."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import lru_cache

from gtask.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class TLS:
    """How connections to `gearmans://` addresses are protected.

    The server's certificate is always verified: against `cafile` (PEM), or against the system's authorities when it
    is None. `certfile` and `keyfile` (PEM) are what this side shows when the server asks; `keyfile` may be left out
    when the key is in `certfile`. `server_hostname` is the name the server's certificate must carry, when that is
    not the host of the address.
    """

    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    server_hostname: str | None = None

    def context(self) -> ssl.SSLContext:
        """Makes the context for it; raises `ConfigurationError` when a file cannot be used."""
        return _context(self)


@lru_cache(maxsize=16)
def _context(tls: TLS) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=tls.cafile)
        if tls.certfile:
            context.load_cert_chain(tls.certfile, tls.keyfile)
    except (OSError, ValueError) as error:
        files = ", ".join(str(file) for file in (tls.cafile, tls.certfile, tls.keyfile) if file)
        raise ConfigurationError(f"TLS cannot be set up with {files}: {error}. Name readable PEM files.") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
