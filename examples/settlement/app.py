"""The app of the settlement: two tasks, and what each of them is called with.

    gtask worker examples.settlement.app:app -c 8

A caller in PHP sends `calculate` the orders as JSON, and gets the settlement as JSON back, its money as text. `send`
may as well be a PHP worker: see `with_php.py`.
"""

from __future__ import annotations

from examples.settlement.mail import build_mail, deliver
from examples.settlement.orders import Order
from examples.settlement.settle import Settlement, settle
from gtask import App, TaskContext

app = App("settlement")


@app.task
def calculate(orders: list[Order]) -> Settlement:
    """Settles one merchant's orders."""
    return settle(orders)


@app.task(bind=True, max_retries=5, autoretry_for=(OSError,), retry_backoff=True)
def send(ctx: TaskContext, settlement: Settlement) -> str:
    """Mails a settlement with its workbook, and returns the address it went to.

    A mail server that is away or refuses is an `OSError`: the task is tried again later, five times.
    """
    mail = build_mail(settlement)
    deliver(mail)
    return str(mail["To"])
