"""Tasks that live in other languages, called like any other: one in Perl, one in a shell.

perl examples/foreign/worker.pl
gearman -w -f upper -- tr a-z A-Z
gtask worker examples.foreign.app:app
python -m examples.foreign.app
"""

from __future__ import annotations

from examples.settlement.orders import Order, generate
from examples.settlement.settle import Settlement, settle
from gtask import App

app = App("foreign")


@app.task
def calculate(orders: list[Order]) -> Settlement:
    """Settles one merchant's orders."""
    return settle(orders)


letter = app.function("letter", codec="json")  # in Perl: takes a settlement as JSON, answers a text as JSON
upper = app.function("upper", codec="text")  # in a shell: text in, text out

if __name__ == "__main__":
    with app:
        orders = list(generate("M001", 1000))
        # A function that nobody here serves is called on this connection, and the answer comes back on it.
        print(upper.options(timeout=30).call("straight from the shell"))
        # In a chain the step runs elsewhere too: a gtask worker makes the call and goes on from its answer.
        print((calculate | letter | upper).delay(orders).get(timeout=30))
