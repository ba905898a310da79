"""All connections of the job server, and what each of them may take: a place, time, memory. No peer is trusted.

Whoever reaches the port may open connections, begin packets and not end them, ask and not read, or just stay. Each of
these has a bound here (`Bounds`), and one that is reached costs the offender its connection and the log one line. What
jobs and functions may take is bounded in the engine (`gtask.server.state.Settings`).
"""

from __future__ import annotations

import logging
import math
import selectors
import socket
import ssl
from collections import Counter
from ipaddress import IPv6Address, ip_address
from typing import Final, NamedTuple

from gtask.protocol.codec import MAX_BODY
from gtask.server.connection import Connection, TLSConnection
from gtask.server.effects import Effect
from gtask.server.engine import Engine
from gtask.server.jobs import Peer

log = logging.getLogger("gtask.server")

PAUSE_AT: Final = 8 * 1024 * 1024
"""Unwritten bytes at which a peer is not read from until it reads."""

LINGER: Final = 1.0
"""Seconds a closed connection is kept for its peer to read the last answer."""

MIN_RATE: Final = 1024
"""Bytes a second by which an incomplete packet must grow."""

SWEEP: Final = 5.0
"""Seconds between two looks at all connections, or a quarter of the shortest bound if that is less."""

LINES: Final = 100
LINES_PER: Final = 10.0
"""Complaints about peers that are logged within so many seconds; more are counted and summed up in one line."""

_READ: Final = selectors.EVENT_READ
_WRITE: Final = selectors.EVENT_WRITE


class Bounds(NamedTuple):
    """What peers may take.

    `connections` is the most connections, `per_place` the most from one address, of which a network of IPv6 (/64)
    counts as one; None is half of all for addresses of other machines. `body` is the most bytes of a packet, `output`
    how many unread bytes one peer may let pile up, `buffers` how many bytes all peers together, of unfinished packets
    and unread answers. `idle` is after how many seconds a peer is sent away that holds nothing and says nothing (0
    for never), `stall` how many it has for a TLS handshake, and for each KiB times `stall` of a packet.
    """

    connections: int = 10_000
    per_place: int | None = None
    body: int = MAX_BODY
    output: int = 2 * MAX_BODY
    buffers: int = 4 * MAX_BODY
    idle: float = 7200.0
    stall: float = 30.0


class Crowd:
    """The connections, by their peers; all methods are the reactor's, in its one thread.

    Those that return effects have let go of peers: the engine says what follows from it.
    """

    def __init__(self, engine: Engine, selector: selectors.BaseSelector, bounds: Bounds) -> None:
        self.members: dict[Peer, Connection] = {}
        self.again: dict[Connection, None] = {}
        """Those that have something to do though nothing comes from them: requests that wait for their turn."""
        self.made_room = False
        """Whether a descriptor was given back since somebody set this to false."""
        self._bounds = bounds
        self._engine = engine
        self._selector = selector
        self._closing: dict[Connection, None] = {}
        self._places: Counter[str] = Counter()
        self.buffered = 0
        """Bytes of unfinished requests and unread answers of all members together."""
        self.tidy_at = math.inf
        """When `tidy` has something to do."""
        self._step = min(SWEEP, bounds.stall / 4, (bounds.idle or SWEEP * 4) / 4)
        self._sweep_at = 0.0
        self._lines = 0
        self._lines_until = 0.0

    # --- coming ----------------------------------------------------------------------------------------------

    def admit(self, sock: socket.socket, address: str, now: float, tls: ssl.SSLContext | None) -> bool:
        """Takes a connection that was accepted, or closes it when there is no place for it."""
        bounds, place = self._bounds, place_of(address)
        most = bounds.per_place
        if most is None:
            most = bounds.connections if place is None else max(1, bounds.connections // 2)
        place = place or "this machine"
        if len(self.members) + len(self._closing) >= bounds.connections:
            self.complain(now, "%s was turned away: %d connections is the limit.", address, bounds.connections)
        elif self._places[place] >= most:
            self.complain(now, "%s was turned away: %d connections from one address is the limit.", address, most)
        else:
            self._places[place] += 1
            self._add(sock, address, now, tls).place = place
            return True
        sock.close()
        return False

    def admit_own(self, sock: socket.socket, now: float) -> None:
        """Takes a connection from inside of this process: it counts for no bound."""
        self._add(sock, "127.0.0.1", now, None)

    def _add(self, sock: socket.socket, address: str, now: float, tls: ssl.SSLContext | None) -> Connection:
        peer = Peer(sock.fileno(), address)
        body = self._bounds.body
        connection = Connection(sock, peer, body) if tls is None else TLSConnection(sock, peer, body, tls)
        connection.active_at = connection.marked_at = now
        if not self.members:
            self._sweep_at = now + self._step
            self.tidy_at = min(self.tidy_at, self._sweep_at)
        self.members[peer] = connection
        self._engine.connected(peer, now)
        self.watch(connection)
        return connection

    # --- being there -----------------------------------------------------------------------------------------

    def watch(self, connection: Connection) -> None:
        """Asks the selector for what the connection needs: to be written to, and, if it reads, to be read from."""
        pending = connection.pending
        held = pending + connection.unfinished
        if held != connection.counted:
            self.buffered += held - connection.counted
            connection.counted = held
        interest = 0
        if pending < PAUSE_AT:
            if connection.requests or connection.ended:
                self.again[connection] = None
            else:
                interest = _READ
        if pending:
            interest |= _WRITE
        if interest == connection.interest:
            return
        if not interest:
            self._selector.unregister(connection.socket)
        elif connection.interest:
            self._selector.modify(connection.socket, interest, connection)
        else:
            self._selector.register(connection.socket, interest, connection)
        connection.interest = interest

    def take_again(self) -> list[Connection]:
        """Those of `again` that are still here and may go on."""
        if not self.again:
            return []
        found = [one for one in self.again if one.pending < PAUSE_AT and one.closing_at is None]
        self.again.clear()
        return [one for one in found if self.members.get(one.peer) is one]

    # --- leaving ---------------------------------------------------------------------------------------------

    def lost(self, connection: Connection, now: float) -> list[Effect]:
        """The peer is gone."""
        self._leave(connection)
        self._drop(connection)
        return self._engine.disconnected(connection.peer, now)

    def hang_up(self, connection: Connection, now: float) -> list[Effect]:
        """Ends the conversation, but lets the peer read what was sent to it last."""
        try:
            connection.finish()
        except OSError:
            return self.lost(connection, now)
        self._leave(connection)
        connection.closing_at = now + LINGER
        self._closing[connection] = None
        self.tidy_at = min(self.tidy_at, connection.closing_at)
        if connection.interest:
            self._selector.modify(connection.socket, _READ, connection)
        else:
            self._selector.register(connection.socket, _READ, connection)
        connection.interest = _READ
        return self._engine.disconnected(connection.peer, now)

    def send_away(self, connection: Connection, reason: str, now: float) -> list[Effect]:
        """`hang_up`, with a line in the log that gives the reason, a sentence."""
        self.complain(now, "%s: %s The connection was closed.", connection.peer.address, reason)
        return self.hang_up(connection, now)

    def forget_closed(self, connection: Connection) -> None:
        """A connection that lingers has something to read: it ends when that is the peer's own end."""
        if not connection.discard():
            self._drop(connection)

    def _leave(self, connection: Connection) -> None:
        del self.members[connection.peer]
        self.again.pop(connection, None)
        self.buffered -= connection.counted
        connection.counted = 0
        place = connection.place
        if place is not None:
            self._places[place] -= 1
            if not self._places[place]:
                del self._places[place]

    def _drop(self, connection: Connection) -> None:
        self._closing.pop(connection, None)
        if connection.interest:
            self._selector.unregister(connection.socket)
            connection.interest = 0
        connection.socket.close()
        self.made_room = True

    def close(self) -> None:
        """Closes all."""
        for connection in self.members.values():
            connection.flush()
            try:
                connection.finish()
            except OSError:
                pass
        for connection in [*self.members.values(), *self._closing]:
            connection.socket.close()
        self.members.clear()
        self._closing.clear()
        self.again.clear()

    # --- bounds ----------------------------------------------------------------------------------------------

    def tidy(self, now: float) -> list[Effect]:
        """Drops what has lingered, and sends away whom time has run out for."""
        while self._closing:
            first = next(iter(self._closing))
            if first.closing_at is None or first.closing_at > now:
                break
            self._drop(first)
        effects: list[Effect] = []
        if self.members and self._sweep_at <= now:
            self._sweep_at = now + self._step
            for connection in list(self.members.values()):
                if reason := self._offence(connection, now):
                    effects += self.send_away(connection, reason, now)
                elif self._is_idle(connection, now):
                    log.info("%s held nothing and said nothing; it was closed.", connection.peer.address)
                    effects += self.hang_up(connection, now)
        self.tidy_at = self._sweep_at if self.members else math.inf
        if self._closing:
            self.tidy_at = min(self.tidy_at, next(iter(self._closing)).closing_at or now)
        return effects

    def _offence(self, connection: Connection, now: float) -> str:
        """A sentence about a peer that lets the server wait in the middle of something, else nothing."""
        if connection.received != connection.seen:
            connection.seen = connection.received
            connection.active_at = now
        stall = self._bounds.stall
        if not connection.greeted:
            # From its arrival on: a handshake is short, however slowly it comes.
            return f"The TLS handshake took more than {stall:g} s." if now - connection.marked_at >= stall else ""
        buffered = connection.unfinished
        if not buffered:
            connection.mark = 0
        elif not connection.mark:
            # One more than was received: 0 says that nothing is measured.
            connection.mark, connection.marked_at = connection.received + 1, now
        elif now - connection.marked_at >= stall:
            if connection.received + 1 - connection.mark < stall * MIN_RATE:
                return f"It left a request unfinished for {stall:g} s, after {buffered} bytes of it."
            connection.mark, connection.marked_at = connection.received + 1, now
        return ""

    def _is_idle(self, connection: Connection, now: float) -> bool:
        idle, peer = self._bounds.idle, connection.peer
        if not idle or now - connection.active_at < idle or connection.place is None:
            return False
        return not (peer.functions or peer.running or peer.waiting or connection.pending)

    def relieve(self, now: float) -> list[Effect]:
        """Sends away those who hold most, until what all hold together is within bounds."""
        effects: list[Effect] = []
        while self.buffered > self._bounds.buffers and (worst := self._worst()) is not None:
            held, address = worst.counted, worst.peer.address
            self.complain(
                now,
                "%s was closed: all peers together hold more than %d bytes in requests they do not finish and answers "
                "they do not read, and of these it held %d.",
                address,
                self._bounds.buffers,
                held,
            )
            effects += self.lost(worst, now)
        return effects

    def _worst(self) -> Connection | None:
        """The connection that holds most, of the address that holds most."""
        places: Counter[str] = Counter()
        for connection in self.members.values():
            if connection.place is not None:
                places[connection.place] += connection.counted
        if not places:
            return None
        ((place, _),) = places.most_common(1)
        return max((one for one in self.members.values() if one.place == place), key=lambda one: one.counted)

    def complain(self, now: float, text: str, *args: object) -> None:
        """Logs a line about a peer; a flood of them is cut, for a disk can be filled as well."""
        if now >= self._lines_until:
            if self._lines > LINES:
                log.warning("%d more lines like these were left out.", self._lines - LINES)
            self._lines, self._lines_until = 0, now + LINES_PER
        self._lines += 1
        if self._lines <= LINES:
            log.warning(text, *args)


def place_of(address: str) -> str | None:
    """What an address is counted under: itself, its /64 network if it is one of IPv6; None for this machine."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        elif not found.is_loopback:
            return f"{IPv6Address(int(found) >> 64 << 64)}/64"
    return None if found.is_loopback else str(found)
