"""The app of `gtask demo`: a few small tasks, the kind that a user's own app.py would have."""

from __future__ import annotations

import time
from decimal import Decimal

from gtask.app import App  # in your own code: from gtask import App, TaskContext
from gtask.context import TaskContext

app = App("demo", tls=None)  # whatever the environment says: the demo has a job server of its own


@app.task
def calculate(order_id: int) -> Decimal:
    """The amount of an order."""
    return order_id * Decimal("12.50")


@app.task
def send(amount: Decimal) -> str:
    """Pretends to send an invoice."""
    return f"invoice over {amount} EUR sent"


@app.task(bind=True)
def crunch(ctx: TaskContext, steps: int) -> str:
    """Takes a moment, and says how far it is."""
    for step in range(steps):
        time.sleep(0.02)
        ctx.progress(step + 1, steps)
    return f"{steps} steps done"


@app.task
def refuse(order_id: int) -> None:
    """Fails, to show how that looks from the caller's side."""
    raise ValueError(f"there is no order {order_id}")
