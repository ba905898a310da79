"""What the engine wants done, in the order in which it must happen. Pure."""

from __future__ import annotations

from typing import NamedTuple

from gtask.server.jobs import Job, Peer


class Send(NamedTuple):
    """Bytes for a peer. `job` is the stored job that they speak of, where they must not leave before it is stored.

    `durable` says that they promise it to be stored, to somebody who joined a job that was there.
    """

    peer: Peer
    data: bytes
    job: Job | None = None
    durable: bool = False


class Persist(NamedTuple):
    """The job's row is to be stored. `upgrade` says that it was a foreground job until now."""

    job: Job
    upgrade: bool = False


class Forget(NamedTuple):
    """The job's row is to be deleted."""

    job: Job


class Close(NamedTuple):
    """The connection is to be closed once all that was sent before is out; `reason` is for the log."""

    peer: Peer
    reason: str


Effect = Send | Persist | Forget | Close
