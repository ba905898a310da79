"""`max_concurrency` and `rate_limit`: which tasks have lanes of their own, and the gates before them.

Design, section 7. With `limit_scope="worker"` the processes of a worker share a limit in memory
(`gtask.worker.limits`), with "cluster" all workers share it in the result store (`gtask.cluster`). Tasks without a
limit have one lane together, and pay nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import random
from typing import TYPE_CHECKING, Any

from gtask.cluster import Asker, ClusterGate
from gtask.errors import ConfigurationError
from gtask.results.base import ResultStore
from gtask.task import Task
from gtask.worker.gate import Gate
from gtask.worker.limits import LimitTable, Rate, WorkerGate
from gtask.worker.link import Lane

if TYPE_CHECKING:
    from gtask.app import App


def limited(app: App) -> list[Task[..., Any]]:
    """The tasks of an App that have a limit, in the order of the table."""
    return [task for task in app.tasks.values() if isinstance(task, Task) and task.config.is_limited]


def check_scopes(app: App) -> None:
    """Raises `ConfigurationError` for a limit in the cluster that the App's store cannot keep."""
    store = app.store
    for task in limited(app):
        if task.config.limit_scope != "cluster":
            continue
        if store is None or type(store).acquire is ResultStore.acquire or type(store).take is ResultStore.take:
            raise ConfigurationError(
                f"Task {task.name!r} has limit_scope='cluster', for which all workers count in the result store, and "
                f"{'there is none' if store is None else f'{type(store).__name__} does not count'}: use another store, "
                "or limit_scope='worker'."
            )


@dataclass(frozen=True)
class Counters:
    """What a worker's processes need to keep limits: made before the forks.

    `worker` is a name of this worker that nobody else has; `slots` is how many jobs one process runs.
    """

    table: LimitTable
    worker: str
    slots: int

    @classmethod
    def of(cls, app: App, processes: int, slots: int, worker: str) -> Counters | None:
        """The counters of a worker, None when no task has a limit."""
        tasks = limited(app)
        # A process may begin before the one that it replaces has ended.
        return cls(LimitTable(len(tasks), 2 * processes), worker, slots) if tasks else None

    def row(self, places: range) -> int:
        """The row of the process that has these places of the ledger."""
        return places.start // self.slots if places else self.table.rows

    def gone(self, places: range) -> None:
        """Hears from the supervisor that a process is gone."""
        self.table.clear(self.row(places))


class Limits:
    """The limits of one process: its lanes, and the thread that asks the store where a limit is the cluster's."""

    def __init__(self, app: App, counters: Counters | None, places: range) -> None:
        self.asker: Asker | None = None
        self._gates: dict[str, Gate] = {}
        if counters is not None:
            self._make_gates(app, counters, counters.row(places))

    def _make_gates(self, app: App, counters: Counters, row: int) -> None:
        used = counters.table.begin(row)
        for index, task in enumerate(limited(app)):
            config = task.config
            rate = None if config.rate is None else Rate(config.rate, burst_of(config.rate))
            if config.limit_scope == "worker":
                self._gates[task.name] = WorkerGate(counters.table, index, row, config.max_concurrency, rate, random)
                continue
            assert app.store is not None
            if self.asker is None:
                self.asker = Asker(app.store)
            names = [f"{counters.worker}:{row}:{slot}" for slot in range(counters.slots)]
            gate = ClusterGate(counters.table, index, task.name, names, config.max_concurrency, rate, self.asker)
            self._gates[task.name] = gate
            if used and config.max_concurrency is not None:
                gate.forget()

    def lanes(self, functions: Sequence[str]) -> list[Lane]:
        """A lane for all functions without a limit, if there are any, and one for each with a limit.

        None at all when no function has a limit.
        """
        if not self._gates:
            return []
        free = tuple(name for name in functions if name not in self._gates)
        lanes = [Lane(free)] if free else []
        return lanes + [Lane((name,), window=1, gate=gate) for name, gate in self._gates.items()]

    def begin(self, wake: Callable[[], object]) -> None:
        """Starts what there is to start; `wake` wakes the driver from any thread."""
        if self.asker is not None:
            self.asker.begin(wake)

    def end(self) -> None:
        """Gives back what is held in the store."""
        if self.asker is not None:
            self.asker.end()


def burst_of(rate: float) -> int:
    """How many starts may come at once: those of a tenth of a second, so that a late look loses nothing."""
    return max(1, int(rate / 10))
