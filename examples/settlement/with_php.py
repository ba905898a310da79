"""The settlement with its second task in PHP: `calculate` runs here, `send` in `php/send_worker.php`.

    gtask worker examples.settlement.with_php:app -c 8
    php examples/settlement/php/send_worker.php

`calculate | send` is written and called as before.
"""

from __future__ import annotations

from examples.settlement.orders import Order
from examples.settlement.settle import Settlement, settle
from gtask import App

app = App("settlement")


@app.task
def calculate(orders: list[Order]) -> Settlement:
    """Settles one merchant's orders."""
    return settle(orders)


send = app.function("send", codec="json")
