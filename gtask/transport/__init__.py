"""Bytes to and from a job server, and nothing else: sockets, TLS, deadlines, errors in gtask's words.

`blocking` waits with `poll`, `aio` with anyio; both stand on the one non-blocking `Connection` of `stream`.
"""

from __future__ import annotations

from gtask.transport.tls import TLS

__all__ = ["TLS"]
