"""The App of the tests of revoking in each pool: tasks that wait, as functions of both kinds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio

from gtask import App, Retry, TaskContext, chain
from tests.e2e.tasks import note, pass_gate


def make(servers: Any = None) -> App:
    """The App on some job servers."""
    app = App("stopping", servers=servers)

    @app.task
    async def waits(folder: str, name: str) -> str:
        note(f"{folder}/{name}.started", os.getpid())
        try:
            while not Path(f"{folder}/{name}.go").exists():  # noqa: ASYNC240, ASYNC110
                await anyio.sleep(0.02)
        except BaseException as error:
            note(f"{folder}/{name}.left", type(error).__name__)
            raise
        return name

    @app.task
    async def cleans_up(folder: str) -> None:
        note(f"{folder}/cleaning.started", os.getpid())
        try:
            await anyio.sleep(60)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
                note(f"{folder}/cleaned", "cleaned")

    @app.task
    async def stubborn(folder: str) -> str:
        """Takes its cancellation for its own affair, which no task should."""
        note(f"{folder}/stubborn.started", os.getpid())
        try:
            await anyio.sleep(60)
        except BaseException:
            return "went on"
        return "slept"

    @app.task
    def plain(folder: str, name: str) -> int:
        return pass_gate(folder, name)

    @app.task
    def say(path: str, text: str) -> str:
        note(path, text)
        return text

    @app.task
    def failed(path: str) -> None:
        note(path, "called")

    @app.task(bind=True, max_retries=5)
    def again(ctx: TaskContext, path: str) -> None:
        note(path, ctx.retries)
        raise Retry(delay=1.5)

    @app.task(bind=True, max_retries=1, default_retry_delay=1.0, autoretry_for=(ValueError,))
    def tries(ctx: TaskContext, folder: str) -> int:
        if not ctx.retries:
            raise ValueError("too early")
        pass_gate(folder, "second")
        return ctx.retries

    @app.task
    def sends(folder: str) -> None:
        """Sends tasks of its own, and ends."""
        chain(plain.s(folder, "inner"), say.si(f"{folder}/after", "inner")).delay()
        say.apply_async((f"{folder}/after", "later"), countdown=1.5)

    return app


app = make()
