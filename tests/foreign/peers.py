"""The app of these tests: what gtask serves, and what PHP, Perl and a shell serve for it.

A worker imports `app`; a test makes one of its own with `make()`, for the job server it talks to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from examples.settlement.orders import Order
from examples.settlement.settle import Settlement, settle
from gtask import App, TaskContext
from gtask.task import BaseTask


@dataclass(frozen=True)
class Peers:
    """An app and its tasks; `send` and `php_*` are served by PHP, `letter` by Perl and `upper` by a shell."""

    app: App
    calculate: BaseTask[Any, Settlement]
    shout: BaseTask[Any, str]
    progress: BaseTask[Any, str]
    nothing: BaseTask[Any, None]
    send: BaseTask[Any, Any]
    letter: BaseTask[Any, Any]
    upper: BaseTask[Any, Any]
    php_fails: BaseTask[Any, Any]
    php_streams: BaseTask[Any, Any]
    php_answers_nonsense: BaseTask[Any, Any]
    php_returns_nothing: BaseTask[Any, Any]


def make(servers: str | None = None) -> Peers:
    """Makes the app and its tasks, for these job servers (None: as ``$GTASK_SERVERS`` says)."""
    app = App("foreign", servers=servers)

    @app.task
    def calculate(orders: list[Order]) -> Settlement:
        return settle(orders)

    @app.task
    def shout(text: str) -> str:
        return text.upper()

    @app.task(bind=True)
    def progress(ctx: TaskContext, steps: int) -> str:
        for step in range(steps):
            ctx.progress(step + 1, steps)
            ctx.send_data(f"part {step + 1};")
        return "done"

    @app.task
    def nothing() -> None:
        return None

    return Peers(
        app,
        calculate,
        shout,
        progress,
        nothing,
        send=app.function("send", codec="json"),
        letter=app.function("letter", codec="json"),
        upper=app.function("upper", codec="text"),
        php_fails=app.function("php_fails", codec="json"),
        php_streams=app.function("php_streams", codec="json"),
        php_answers_nonsense=app.function("php_answers_nonsense", codec="json"),
        php_returns_nothing=app.function("php_returns_nothing", codec="json"),
    )


app = make().app
