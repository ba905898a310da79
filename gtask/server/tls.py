"""TLS of the job server: whose certificate it shows, and whose it asks for. Protocol reference, section 19.

Implicit TLS from the first byte, for the whole port: there is no plain text beside it.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from typing import Final

from gtask.errors import ConfigurationError
from gtask.transport.tls import make_context

HELLO: Final = 0x16
"""The first byte of everything that a peer who speaks TLS begins with; no packet and no text command does."""


@dataclass(frozen=True, slots=True)
class ServerTLS:
    """The certificate that the job server shows, and the authority whose certificates it asks its peers for.

    `certfile` is the certificate, with those between it and its authority, and `keyfile` its key, both PEM; the key may
    be in `certfile` as well. With `client_cafile` (PEM) every peer has to show a certificate that this authority has
    signed, and is sent away without one: that is the only password Gearman knows.
    """

    certfile: str | os.PathLike[str]
    keyfile: str | os.PathLike[str] | None = None
    client_cafile: str | os.PathLike[str] | None = None

    def context(self) -> ssl.SSLContext:
        """Makes the context for it, from the files as they are now; raises `ConfigurationError` when one is no good."""
        if not self.certfile:
            raise ConfigurationError("TLS needs a certificate to show; name it as certfile (--tls-cert).")
        certfile, keyfile, cafile = (
            os.fspath(file) if file else None for file in (self.certfile, self.keyfile, self.client_cafile)
        )
        context = make_context(ssl.Purpose.CLIENT_AUTH, cafile, certfile, keyfile)
        if cafile:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def explain(error: ssl.SSLError) -> str:
    """Says in a sentence why a handshake or a connection failed, as the server sees it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"Its certificate is not accepted ({error.verify_message.rstrip('.')})."
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if "did not return a certificate" in reason:
        return "It showed no certificate, and this port asks for one (--tls-client-ca)."
    if "alert" in reason:
        said = reason.partition("alert ")[2]
        if "ca" in said.split() or "certificate" in said:
            return f"It does not accept the certificate of this server ({said})."
        return f"It ended TLS ({said})."
    return f"TLS failed ({reason})."
