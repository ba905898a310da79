"""What the job server asks of the place where its queue survives. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from gtask.server.effects import Effect, Forget, Persist
from gtask.server.jobs import Job


class Row(NamedTuple):
    """One background job as it is stored: gearmand's own columns (protocol reference, section 20).

    `when` is the Unix time in seconds before which it must not run, 0 for at once.
    """

    unique: bytes
    function: bytes
    priority: int
    data: bytes
    when: int


Key = tuple[bytes, bytes]
"""A row's unique and function."""


class Store(Protocol):
    """A place for rows; `put` and `delete` collect, `commit` makes them durable together."""

    def load(self) -> Iterable[Row]:
        """All rows, in the order in which they were stored."""

    def put(self, row: Row) -> None:
        """Notes a row to be stored at the next commit."""

    def delete(self, unique: bytes, function: bytes) -> None:
        """Notes a row to be deleted at the next commit."""

    def commit(self) -> set[Key]:
        """Makes everything noted durable and returns the keys of the rows that could not be stored."""

    def close(self) -> None:
        """Commits what is noted and lets go of the file."""


def commit(store: Store, effects: Sequence[Effect]) -> list[Job]:
    """Makes the rows of a round's effects durable in one go, and returns the jobs that could not be stored."""
    stored: list[Job] = []
    for effect in effects:
        if type(effect) is Persist:
            job = effect.job
            store.put(Row(job.key, job.function.name, job.priority, job.data, job.when))
            stored.append(job)
        elif type(effect) is Forget:
            store.delete(effect.job.key, effect.job.function.name)
    failed = store.commit()
    return [job for job in stored if (job.key, job.function.name) in failed] if failed else []
