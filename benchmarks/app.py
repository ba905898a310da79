"""The tasks that are measured: empty ones, so that what is left is gtask's own share."""

from __future__ import annotations

from typing import NamedTuple

from gtask import App
from gtask.task import Task

NAMESPACES = ("one.", "two.")
"""Each is served by a worker of its own, of one process and of two, so that neither gets the other's jobs."""


class Tasks(NamedTuple):
    """One namespace as a caller sees it: its app, a task whose result is kept and one whose result is not."""

    app: App
    empty: Task[[], None]
    quiet: Task[[], None]


def make(servers: str | None = None, namespace: str | None = None) -> Tasks:
    """Makes the app; a worker leaves both to ``$GTASK_SERVERS`` and ``$GTASK_NAMESPACE``."""
    app = App("benchmarks", servers) if namespace is None else App("benchmarks", servers, namespace=namespace)

    @app.task
    def empty() -> None:
        """Does nothing; its result is stored when it runs in the background."""

    @app.task(ignore_result=True)
    def quiet() -> None:
        """Does nothing, and nobody wants to know."""

    return Tasks(app, empty, quiet)


app = make().app
