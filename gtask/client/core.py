"""What both clients share: connections, and the way of a call from server to server until one has answered.

A call is a generator, its flow. It runs whenever it can without waiting, and yields what it must wait for: a `Pending`
(an answer), an `Open` (a connection) or a `Pause`. `gtask.client.blocking` and `gtask.client.aio` do the waiting and
resume it; an error of the wait is thrown into it. The calls themselves are in `gtask.client.flows`. Design, section 8.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from random import Random
from time import monotonic
from typing import Any, TypeVar

from gtask.client import base
from gtask.client.base import INF, Router
from gtask.client.link import MAX_ABANDONED, Link, Part, Pending
from gtask.errors import (
    ConnectFailed,
    ConnectionLost,
    LocalProtocolError,
    NetworkError,
    ProtocolError,
    RemoteProtocolError,
    RequestTimeout,
)
from gtask.protocol.codec import MAX_BODY
from gtask.transport.stream import Connection, is_refusal
from gtask.transport.tls import TLS, refuse_plaintext
from gtask.types import Server, parse_servers


@dataclass(frozen=True, slots=True)
class Open:
    """Wait for a connection to `server`, `timeout` seconds at most; the flow gets its `Link`."""

    server: Server
    timeout: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait `seconds`."""

    seconds: float


T = TypeVar("T")
Flow = Generator[Pending | Open | Pause, Any, T]


class Trip:
    """One call's way over the servers: when it must end, and what went wrong on the way.

    `uncertain` is true once something was sent whose answer was lost: from then on the call does not fail because no
    server is there at the moment, but goes on looking until `give_up_at`: its own `limit`, or `window` seconds after
    the loss when it has none.
    """

    __slots__ = ("excluded", "give_up_at", "key", "limit", "losses", "pauses", "uncertain", "window")

    def __init__(self, limit: float, key: str | None, window: float) -> None:
        self.limit = limit
        self.key = key
        self.window = window
        self.losses = 0
        self.pauses = 0
        self.uncertain = False
        self.give_up_at = limit
        self.excluded: dict[Server, NetworkError | ProtocolError] = {}

    def calm(self) -> None:
        """Says that all went well again."""
        self.uncertain = False
        self.give_up_at = self.limit
        self.pauses = 0


class Core:
    """The state of a client and the flows of its calls.

    `wake`, the face's, is told whose news it is. `monotonic` times throughout.
    """

    link_type: type[Link] = Link

    def __init__(
        self,
        servers: str | Server | Iterable[str | Server] | None,
        *,
        wake: Callable[[Iterable[Pending]], None],
        request_timeout: float = base.REQUEST_TIMEOUT,
        connect_timeout: float = base.CONNECT_TIMEOUT,
        max_body: int = MAX_BODY,
        tls: TLS | None = None,
        client_id: str = "",
        rng: Random | None = None,
    ) -> None:
        self.servers = parse_servers(servers)
        refuse_plaintext(self.servers, tls)
        self.request_timeout = request_timeout
        self.connect_timeout = connect_timeout
        self.max_body = max_body
        self.tls = tls
        self.client_id = client_id
        self.router = Router(self.servers, rng)
        self.links: dict[Server, Link] = {}
        self.retired: set[Link] = set()
        self.closed = False
        self._refusals: dict[Server, tuple[float, NetworkError]] = {}
        self._wake = wake

    def describe(self, name: str) -> str:
        """The client in a few words, for its repr."""
        jobs = sum(link.live for link in [*self.links.values(), *self.retired])
        connected = sum(link.error is None for link in self.links.values())
        what = "closed" if self.closed else f"{connected} connected, {jobs} jobs open"
        return f"<{name} {len(self.servers)} server{'s' * (len(self.servers) != 1)}, {what}>"

    # --- connections -----------------------------------------------------------------------------------------

    def opened(self, server: Server, stream: Connection) -> Link:
        """Takes a new connection; raises `LocalProtocolError` when the client was closed meanwhile."""
        if self.closed:
            stream.close()
            raise self._closed()
        self.mend()
        for old in [old for old in self.retired if old.server == server and old.live <= 0]:
            self.end(old, ConnectionLost("This connection was doubtful, and is replaced."))
        self._refusals.pop(server, None)
        link = self.links[server] = self.link_type(server, stream, self.max_body, self.client_id, monotonic())
        return link

    def connection(self, server: Server, since: float) -> Link | None:
        """The connection another call has made meanwhile, or None; raises what it failed with at `since` or later."""
        link = self.links.get(server)
        if link is not None and link.usable:
            return link
        when, error = self._refusals.get(server, (-INF, None))
        if error is not None and when >= since:
            raise ConnectFailed(str(error)) from error
        return None

    def refused(self, server: Server, error: NetworkError) -> None:
        """Notes that a server could not be reached, also for the calls that wait for this one's connection."""
        now = monotonic()
        self.router.failed(server, now)
        self._refusals[server] = (now, error)

    def end(self, link: Link, error: NetworkError | ProtocolError) -> None:
        """Ends a connection; whoever waits on it is told."""
        self._wake([*link.end(error), *link.followers])
        self._forget(link)

    def _forget(self, link: Link) -> None:
        if self.links.get(link.server) is link:
            del self.links[link.server]
        self.retired.discard(link)
        link.release()

    def receive(self, link: Link) -> bool:
        """Takes what has come over a connection, and tells whom it concerns; says whether there was anything."""
        if link.torn:
            self.mend()
        if link.error is not None:
            return False
        link.torn = True
        try:
            news = link.receive(monotonic())
        except NetworkError as error:
            link.torn = False
            self.end(link, error)
            return False
        if news is not None and link.error is None:
            # Not before it has said something: a server that stalls takes connections as well.
            self.router.worked(link.server)
        if news is not None:
            self._wake(news)
        link.torn = False
        if link.error is not None:
            self._forget(link)
        return news is not None

    def flush(self, link: Link) -> None:
        """Sends what is in line on a connection, as far as it goes."""
        if link.torn:
            self.mend()
        if link.error is not None:
            return
        link.torn = True
        try:
            link.flush()
        except NetworkError as error:
            link.torn = False
            # The answers to earlier requests may have come before the connection broke.
            while self.receive(link):
                pass
            self.end(link, error)
        link.torn = False

    def attend(self, pending: Pending) -> Part | None:
        """Does what can be done for all on this connection without waiting; then says how the caller is to wait.

        None means that it need not: there is news, the connection has ended, or its time is up.
        """
        link = pending.link
        try:
            if link.reader is pending or (link.reader is None and pending.deadline() <= monotonic()):
                # Whoever has no time to wait takes what has come, or a poll would never see anything.
                self.receive(link)
            if link.unsent and (link.reader is pending or link.writer is pending):
                self.flush(link)
        except BaseException:
            self.mend()  # before another caller has its turn
            raise
        if link.error is not None:
            pending.lose()
        if pending.ready or pending.deadline() <= monotonic():
            self.stand_down(pending)
            return None
        return link.part(pending)

    def stand_down(self, pending: Pending) -> None:
        """The caller waits no more; if it read for all, another one does now. May be called again."""
        link = pending.link
        self._wake(link.stand_down(pending))
        if link.error is not None:
            link.release()

    def mend(self) -> None:
        """After a call was interrupted anywhere: ends each connection on which it left something half done."""
        for link in [*self.links.values(), *self.retired]:
            if link.torn:
                self.end(link, ConnectionLost(f"The connection to {link.server} was given up by an interrupted call."))
                link.torn = False

    def forked(self) -> None:
        """In a forked child: lets go of the parent's connections. Closing a descriptor does not end them there."""
        links = [*self.links.values(), *self.retired]
        self.links.clear()
        self.retired.clear()
        for link in links:
            link.reader = link.writer = None
            link.followers.clear()
            with contextlib.suppress(Exception):  # another thread of the parent may have been at work on it
                link.end(ConnectionLost(f"The connection to {link.server} stayed with the parent process."))
            link.stream.close()

    def close(self) -> None:
        """Ends everything, for good."""
        self.closed = True
        for link in [*self.links.values(), *self.retired]:
            self.end(link, ConnectionLost("This client was closed."))

    def _closed(self) -> LocalProtocolError:
        return LocalProtocolError("This client is closed; make a new one.")

    def leave(self, pending: Pending) -> None:
        """The caller waits no more, whatever the reason."""
        link = pending.link
        link.live -= 1
        # Nothing at all has come since this was sent: dead, or slow. A new connection costs little, finding out much.
        doubtful = not pending.answered and link.used < pending.since <= monotonic() - base.DOUBT
        pending.give_up()
        if (doubtful or link.abandoned >= MAX_ABANDONED) and not link.retired and link.error is None:
            link.retired = True
            if self.links.get(link.server) is link:
                del self.links[link.server]
            self.retired.add(link)
        # A doubtful one is ended by the call that found its server silent (`unanswered`), or by the next connection.
        if link.retired and link.live <= 0 and not doubtful:
            self.end(link, ConnectionLost("This connection has served its time."))

    def reach(self, trip: Trip) -> Flow[Link]:
        """Finds a connection for a call, makes one if need be, and goes from server to server until one works."""
        reasons: dict[Server, NetworkError] = {}
        while True:
            if self.closed:
                raise self._closed()
            for server in self.router.order(trip.key, monotonic()):
                if server in trip.excluded:
                    continue
                try:
                    return (yield from self.reach_server(server, trip.give_up_at))
                except NetworkError as error:
                    # What is told is why it could not be reached, and not that one more attempt had no time left.
                    if server not in reasons or monotonic() < trip.give_up_at:
                        reasons[server] = error
            pause = self.router.pause(trip.pauses)
            if not reasons or not trip.uncertain or monotonic() + pause >= trip.give_up_at:
                silent = {server: error for server, error in trip.excluded.items() if isinstance(error, NetworkError)}
                raise base.no_server(silent | reasons, self.servers) from None
            trip.pauses += 1
            yield Pause(pause)

    def reach_server(self, server: Server, limit: float) -> Flow[Link]:
        """Finds a connection to one server, or makes one by `limit` at the latest; raises `ConnectFailed`."""
        link = self.links.get(server)
        now = monotonic()
        if link is not None and not link.busy and now - link.used > 1.0:
            # Idle for a while: a connection that has ended meanwhile is noticed before a job is entrusted to it.
            link.used = now
            self.receive(link)
        if link is not None and link.usable:
            return link
        patience = self.router.patience(server, now, limit - now, self.connect_timeout)
        for _ in range(3):
            found: Link = yield Open(server, patience)
            if found.usable:  # else another call has ended it before this one had its turn
                return found
        raise found.stream.lost()

    def lost(self, trip: Trip, link: Link, answered: bool = False) -> Flow[None]:
        """After a connection was lost with something of this call on it: whether, and when, to try again.

        `answered` says that all was well before: the job had been accepted, and ran or waited.
        """
        error = link.error or link.stream.lost()
        now = monotonic()
        trip.losses += 1
        if self.closed:
            raise error
        if answered or not trip.uncertain:
            trip.give_up_at = trip.limit if trip.limit < INF else now + trip.window
            trip.pauses = 0
        trip.uncertain = True
        final = isinstance(error, RemoteProtocolError) or is_refusal(error.__cause__)
        if final:
            # No job server speaks like that, or it refuses our certificate; this call does not ask it again.
            trip.excluded[link.server] = error
            self.router.failed(link.server, now)
        if trip.losses >= base.MAX_LOSSES or now >= trip.give_up_at or len(trip.excluded) == len(self.servers):
            raise error
        if trip.losses > 1 and not final:
            # Once may be an old connection; again, and the others come first.
            self.router.failed(link.server, now)
            trip.pauses += 1
            yield Pause(min(self.router.pause(trip.pauses), trip.give_up_at - now))

    def unanswered(self, pending: Pending) -> RequestTimeout:
        """After a request was not answered in time: makes the error, and ends the connection.

        A connection on which others wait is kept while they may still be answered.
        """
        link, now = pending.link, monotonic()
        error = RequestTimeout(f"{link.server} did not answer within {now - pending.since:.3g} s.")
        self.router.failed(link.server, now, now - pending.since)
        if not link.live or link.unsent or now >= pending.since + self.request_timeout:
            self.end(link, error)
        # What silenced this connection (a laptop that slept, a NAT that forgot) has often silenced all of them. Those
        # on which nobody waits are made anew, so that the next server does not cost the same time again.
        for other in [other for other in self.links.values() if not other.live and other.used < pending.since]:
            self.end(other, ConnectionLost(f"The connection to {other.server} was given up with another one."))
        return error

    def silent(self, trip: Trip, pending: Pending) -> None:
        """After a request was not answered in time: raises, unless another server may be asked in the time left."""
        error = self.unanswered(pending)
        trip.excluded[pending.link.server] = error
        trip.uncertain = True
        if monotonic() >= trip.limit or len(trip.excluded) == len(self.servers):
            raise error

    def trip(self, key: str | None, timeout: float | None, window: float | None = None) -> Trip:
        """Starts the way of a call that may take `timeout` seconds; `key` is the unique if it coalesces."""
        limit = INF if timeout is None else monotonic() + timeout
        return Trip(limit, key, self.request_timeout if window is None else window)

    def answer(self, pending: Pending) -> Flow[None]:
        """Sends what is in line, and waits until this is done or its time is up."""
        pending.link.live += 1
        try:
            self.flush(pending.link)
            if not pending.done:
                yield pending
        finally:
            self.leave(pending)
