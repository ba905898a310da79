"""Where connections come from: the listening socket of the job server, which rests while no descriptor is to be had."""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import ssl
from typing import Final

from gtask.server.crowd import Crowd

log = logging.getLogger("gtask.server")

ACCEPTS: Final = 64
"""Connections accepted in one round."""

ACCEPT_AGAIN: Final = 1.0
"""Seconds until the next try after the process ran out of descriptors."""

_OUT_OF_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Door:
    """A listening socket in the reactor's selector; `open_at` is when it accepts again, None while it does."""

    def __init__(self, listener: socket.socket, selector: selectors.BaseSelector) -> None:
        self._listener: socket.socket | None = listener
        self._selector = selector
        self.open_at: float | None = None
        selector.register(listener, selectors.EVENT_READ)

    def accept(self, crowd: Crowd, now: float, context: ssl.SSLContext | None) -> None:
        """Lets in who waits, with TLS if there is a context for it."""
        for _ in range(ACCEPTS):
            if self._listener is None:
                return
            try:
                sock, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_ROOM:
                    crowd.complain(now, "A connection could not be accepted: %s.", error)
                    return
                # The listener stays readable: without a pause this would spin.
                log.error("No connection can be accepted: %s. Raise the limit of open files.", error)
                self._selector.unregister(self._listener)
                self.open_at = now + ACCEPT_AGAIN
                crowd.made_room = False
                return
            crowd.admit(sock, str(address[0]), now, context)

    def reopen(self, crowd: Crowd, now: float) -> None:
        """Accepts again, if it is time or a descriptor was given back."""
        if self._listener is not None and self.open_at is not None and (self.open_at <= now or crowd.made_room):
            self.open_at = None
            self._selector.register(self._listener, selectors.EVENT_READ)

    def close(self) -> None:
        """Accepts no more."""
        if self._listener is None:
            return
        if self.open_at is None:
            self._selector.unregister(self._listener)
        self.open_at = None
        self._listener.close()
        self._listener = None
