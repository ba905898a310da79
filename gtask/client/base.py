"""What a client decides, without a socket, a clock or a thread: which server, how long, under which name.

Design, sections 6 and 8.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache
from random import Random
from typing import Final, NamedTuple

from gtask.errors import ConnectFailed, LocalProtocolError, NetworkError
from gtask.types import JobStatus, Server, Submission

INF: Final = float("inf")
"""No deadline, as a time."""

REQUEST_TIMEOUT: Final = 10.0
"""Seconds a job server may take for the answer to a request, unless the client is told otherwise."""

CONNECT_TIMEOUT: Final = 5.0
"""Seconds one connection may take to be made, unless the client is told otherwise."""

RECONNECT_FOR: Final = 60.0
"""Seconds a foreground job without a timeout of its own goes on looking for a server after its connection was lost."""

MAX_LOSSES: Final = 25
"""Times one job may lose its connection before the caller is told; a job that kills its server ends here."""

SILENCE: Final = 15.0
"""Seconds without a byte after which whoever waits for a foreground job asks its job server for a sign of life."""

DOUBT: Final = 0.9
"""Seconds after which a call that gives up on a connection that has said nothing since leaves no other call to it."""

WINDOW_JOBS: Final = 1000
WINDOW_BYTES: Final = 4 * 1024 * 1024
"""Requests, and bytes of workload, that a bulk call has under way at once."""

REJOIN_PATIENCE: Final = 1.0
"""Seconds spent on a server that failed before, while another one works."""

_FIRST_BACKOFF: Final = 0.5
_MAX_BACKOFF: Final = 60.0


class Submitted(NamedTuple):
    """A job that a job server has accepted: where, its handle there, and its unique.

    The handle means nothing on another server or after a restart (protocol reference, section 5); the unique does.
    """

    server: Server
    handle: str
    unique: str


@lru_cache(maxsize=4096)
def _function_mark(function: str) -> str:
    return hashlib.sha256(function.encode(errors="surrogatepass")).hexdigest()[:8]


def fresh_unique(function: str) -> str:
    """Makes a unique that no other job has: 24 random hexadecimal digits, then 8 of the function's hash."""
    return secrets.token_hex(12) + _function_mark(function)


def as_background(submission: Submission) -> Submission:
    """Checks a submission for `submit`, and gives it a unique if it has none."""
    if not submission.background and submission.when is None:
        raise LocalProtocolError("submit() is for background jobs; use call() or open() for this foreground job.")
    if not submission.unique:
        return _under(fresh_unique(submission.function), submission, submission.background)
    return submission


def as_foreground(submission: Submission) -> Submission:
    """Makes the submission for one attempt of a foreground job: always under a fresh unique.

    The unique of an abandoned attempt would swallow the next one (protocol reference, section 11).
    """
    if submission.when is not None:
        raise LocalProtocolError("A job for a later time runs in the background; submit() it.")
    return _under(fresh_unique(submission.function), submission, background=False)


def _under(unique: str, old: Submission, background: bool) -> Submission:
    # In place of dataclasses.replace, which takes several times as long; in a bulk call that is felt.
    return Submission(old.function, old.workload, unique, old.priority, background, old.when, old.reducer, old.coalesce)


def better_status(one: JobStatus, other: JobStatus) -> JobStatus:
    """Which of two servers' words on a job says more: running before queued before unknown."""
    return max(one, other, key=lambda status: (status.known, status.running, status.numerator))


def no_server(reasons: Mapping[Server, NetworkError], servers: Sequence[Server]) -> ConnectFailed:
    """Makes the error for a call that found no server: each with its reason, and what to do."""
    hint = "Check that a job server runs at the configured address (`gtask server` starts one)."
    if not reasons:
        names = ", ".join(str(server) for server in servers)
        return ConnectFailed(f"No job server could be reached in time: {names}. {hint}")
    failed = ConnectFailed(f"{' '.join(str(reason) for reason in reasons.values())} {hint}")
    failed.__cause__ = next(iter(reasons.values()))
    return failed


def still_trying(server: Server, seconds: float) -> ConnectFailed:
    """Makes the error for a call that waited for another one's connection, in vain."""
    return ConnectFailed(f"{server} could not be reached within {seconds:.3g} s; another call is still trying.")


class Router:
    """Chooses servers: where a job goes first, where next, and which ones are left alone for a while.

    A job that coalesces goes to the server its unique points to (rendezvous hashing), so that its duplicates meet.
    Every other job goes to the client's preferred server, which is drawn by `rng`: many clients spread over all
    servers, and one client keeps one connection. A server that failed comes last, for a time that doubles from half
    a second to a minute, jittered, or for as long as it took to find out; then it is back in its place. Times are
    seconds of any monotonic clock.
    """

    def __init__(self, servers: Sequence[Server], rng: Random | None = None) -> None:
        self._rng = rng or Random()
        start = self._rng.randrange(len(servers))
        self.servers: list[Server] = [*servers[start:], *servers[:start]]
        self._failures: dict[Server, tuple[int, float]] = {}

    def __repr__(self) -> str:
        return f"<Router {', '.join(map(str, self.servers))}; {len(self._failures)} failed>"

    def order(self, key: str | None, now: float) -> list[Server]:
        """All servers in the order in which to try them for a job with this coalescing unique, None for others."""
        servers = self.servers
        if key is not None and len(servers) > 1:
            servers = sorted(servers, key=lambda server: _weight(server, key), reverse=True)
        if self._failures:
            failures = self._failures
            servers = sorted(
                servers, key=lambda server: max(0.0, failures[server][1] - now) if server in failures else 0.0
            )
        return servers

    def failed(self, server: Server, now: float, cost: float = 0.0) -> None:
        """Notes that a server could not be reached, or did not answer, after `cost` seconds of waiting."""
        count = self._failures[server][0] + 1 if server in self._failures else 1
        span = min(_MAX_BACKOFF, _FIRST_BACKOFF * 2 ** min(count - 1, 16))
        self._failures[server] = (count, now + max(cost, span * (0.5 + self._rng.random() / 2)))

    def worked(self, server: Server) -> None:
        """Notes that a server answers."""
        if self._failures:
            self._failures.pop(server, None)

    def avoided(self, server: Server, now: float) -> bool:
        """Whether a server is to be left alone for now."""
        return server in self._failures and self._failures[server][1] > now

    def patience(self, server: Server, now: float, left: float, connect_timeout: float) -> float:
        """Seconds to spend on connecting to a server, when a call has `left` seconds for all of them."""
        others = [other for other in self.servers if other != server and not self.avoided(other, now)]
        if others and server in self._failures:
            connect_timeout = min(connect_timeout, REJOIN_PATIENCE)
        return max(0.0, min(connect_timeout, left / (len(others) + 1)))

    def pause(self, count: int) -> float:
        """Seconds to wait before looking for a server again for the `count`-th time, jittered."""
        span: float = min(5.0, 0.05 * 2 ** min(count, 10))
        return span * (0.5 + self._rng.random() / 2)


def _weight(server: Server, key: str) -> bytes:
    return hashlib.blake2b(f"{server}\0{key}".encode(errors="surrogatepass"), digest_size=8).digest()
