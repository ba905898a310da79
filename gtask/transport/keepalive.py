"""TCP keep-alive: how a system notices that the other end of an idle connection is gone. The same on both ends.

It is the last resort: gtask's workers ask for a sign of life much sooner (`gtask.worker.pulse`). For a job server it is
the only way to learn that a worker's host is gone, and that the jobs it held are to be run by another one.
"""

from __future__ import annotations

import socket
from typing import Final

_OPTIONS: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6), ("TCP_USER_TIMEOUT", 90_000))


def keep_alive(sock: socket.socket) -> None:
    """Has the system end the connection after 90 s without a sign of life, where it can be told so.

    The system's own defaults are two hours for an idle connection, and about 15 minutes for bytes under way.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
