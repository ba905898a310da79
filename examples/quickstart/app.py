"""Two tasks. Start a job server with `gtask server`, a worker with `gtask worker app:app -c 8`, then run `call.py`."""

from __future__ import annotations

from decimal import Decimal

from gtask import App, TaskContext

app = App("billing")  # servers=["gearman://127.0.0.1:4730"], results="gearman://"


@app.task
def calculate(order_id: int) -> Decimal:
    """The amount of an order."""
    return order_id * Decimal("12.50")


@app.task(bind=True, max_retries=5, autoretry_for=(OSError,), retry_backoff=True)
def send(ctx: TaskContext, amount: Decimal) -> str:
    """Sends an invoice; an `OSError` in here would be tried again later."""
    return f"{amount} EUR sent by {ctx.task.name}"
