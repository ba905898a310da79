"""The App of the tests of tasks that wait for others."""

from __future__ import annotations

import os
import signal
from typing import Any

import anyio

from gtask import App, group
from tests.e2e.tasks import note


def make(servers: Any = None) -> App:
    """The App on some job servers."""
    app = App("recursion", servers=servers)

    @app.task
    async def depth(n: int) -> int:
        """Waits for a task that waits for a task, and so on."""
        return 0 if n == 0 else 1 + await depth.delay(n - 1)

    @app.task
    async def tree(n: int) -> int:
        """Waits for several at once, in tasks of the event loop and as a group."""
        if n == 0:
            return 1
        found: list[int] = []

        async def one() -> None:
            found.append(await tree.delay(n - 1))

        async with anyio.create_task_group() as group:
            group.start_soon(one)
            group.start_soon(one)
        return sum(found)

    @app.task
    async def wide(n: int) -> int:
        """Waits for a group."""
        return 1 if n == 0 else sum(await group(wide.s(n - 1) for _ in range(3)).delay())

    @app.task
    def joining() -> list[int]:
        return group(depth.s(0) for _ in range(3)).delay().get(timeout=10)

    @app.task
    def plain() -> int:
        return depth.delay(0).get(timeout=10)

    @app.task
    def allowed() -> int:
        return depth.delay(0).get(timeout=30, disable_sync_subtasks=False)

    @app.task
    async def blocking() -> int:
        return depth.delay(0).get(timeout=10)

    @app.task
    def known() -> Any:
        """Looks, and does not wait."""
        return depth.delay(0).wait(timeout=0)

    @app.task
    async def dies_below(path: str, n: int) -> int:
        """The innermost kills the process in which the others wait."""
        if n:
            return await dies_below.delay(path, n - 1)
        note(path, os.getpid())
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    return app


app = make()
