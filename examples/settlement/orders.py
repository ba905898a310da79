"""Orders: what they look like, a generator that always makes the same ones, and the CSV file between.

One row of the file is one order, with one to four products in its last column::

    merchant,order,day,items
    M001,M001-000001,2026-03-01,coffee 2 6.90 0.0290 0.00;mug 1 12.50 0.0150 12.50

Each product is written as *name quantity price rate refund*: the price of one piece in euros, the part of the sale
that is charged as a fee, and the euros that were paid back. Money is text wherever it travels, so that no floating
point number ever touches it.

By itself it prints a merchant's orders: ``python -m examples.settlement.orders M001 --rows 1000 [--json]``.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO, TypedDict

HEADER = ("merchant", "order", "day", "items")
DEFAULT_SEED = 2026
DAYS_IN_MONTH = 31


class Item(TypedDict):
    """One product of an order; `price` (of one piece) and `refund` are euros as text, `rate` a fraction as text."""

    product: str
    quantity: int
    price: str
    rate: str
    refund: str


class Order(TypedDict):
    """One order of one merchant; `day` is an ISO date."""

    merchant: str
    order: str
    day: str
    items: list[Item]


class Product(NamedTuple):
    """What the generator sells: the price of one piece lies between `low` and `high` cents."""

    name: str
    low: int
    high: int
    rate: str


# The rates make many fees fall on half a cent exactly, where a wrong rounding rule would show.
CATALOGUE = (
    Product("beans", 690, 1890, "0.0290"),
    Product("book", 995, 4950, "0.0150"),
    Product("course", 9900, 49900, "0.0450"),
    Product("filter", 250, 690, "0.0350"),
    Product("grinder", 4900, 24900, "0.0225"),
    Product("mug", 650, 1650, "0.0250"),
    Product("tea", 420, 1290, "0.0290"),
    Product("voucher", 1000, 10000, "0.0100"),
)


def merchant_name(number: int) -> str:
    """The name of the merchant with this number, counted from 1: ``M001``."""
    return f"M{number:03d}"


def euros(cents: int) -> str:
    """An amount in cents as text in euros: 1205 is ``12.05``."""
    return f"{cents // 100}.{cents % 100:02d}"


def generate(merchant: str, rows: int = 10_000, seed: int = DEFAULT_SEED) -> Iterator[Order]:
    """Yields `rows` orders of one merchant, one at a time; the same arguments always give the same orders."""
    rng = random.Random(f"{seed}:{merchant}")
    for number in range(1, rows + 1):
        day = 1 + (number - 1) * DAYS_IN_MONTH // rows
        products = rng.sample(CATALOGUE, rng.choices((1, 2, 3, 4), (40, 30, 20, 10))[0])
        yield Order(
            merchant=merchant,
            order=f"{merchant}-{number:06d}",
            day=f"2026-03-{day:02d}",
            items=[_item(product, rng) for product in products],
        )


def _item(product: Product, rng: random.Random) -> Item:
    quantity = 1 + int(rng.random() ** 3 * 6)
    price = product.low + int(rng.random() * (product.high - product.low + 1))
    refund = 0
    luck = rng.random()
    if luck < 0.04:  # pieces sent back
        refund = price * (1 + int(rng.random() * quantity))
    elif luck < 0.07:  # a part of the price given back, to the cent
        refund = int(price * quantity * rng.random())
    return Item(product=product.name, quantity=quantity, price=euros(price), rate=product.rate, refund=euros(refund))


def write_csv(path: Path, orders: Iterable[Order]) -> int:
    """Writes orders to a CSV file, one row each, without holding them in memory. Returns the number of rows."""
    with path.open("w", newline="", encoding="utf-8") as file:
        return write_rows(file, orders)


def write_rows(file: TextIO, orders: Iterable[Order]) -> int:
    """Writes the columns' names and one row per order to an open file. Returns the number of orders."""
    rows = 0
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEADER)
    for order in orders:
        items = ";".join(
            f"{item['product']} {item['quantity']} {item['price']} {item['rate']} {item['refund']}"
            for item in order["items"]
        )
        writer.writerow((order["merchant"], order["order"], order["day"], items))
        rows += 1
    return rows


def read_csv(path: Path) -> Iterator[Order]:
    """Yields the orders of a CSV file one at a time.

    Raises `ValueError`, naming the file and the line, for a file that `write_csv` would not have written.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        if tuple(next(reader, ())) != HEADER:
            raise ValueError(f"{path} does not start with the columns {','.join(HEADER)}; write it with write_csv().")
        for row in reader:
            try:
                merchant, order, day, items = row
                yield Order(merchant=merchant, order=order, day=day, items=[_read(item) for item in items.split(";")])
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {reader.line_num}: {error}; a row is {','.join(HEADER)}, "
                    "a product is 'name quantity price rate refund'."
                ) from None


def _read(text: str) -> Item:
    product, quantity, price, rate, refund = text.split(" ")
    return Item(product=product, quantity=int(quantity), price=price, rate=rate, refund=refund)


def main() -> None:
    """Prints a merchant's orders as CSV, or as the JSON that a foreign caller sends to `calculate`."""
    parser = argparse.ArgumentParser(description="Prints a merchant's orders.")
    parser.add_argument("merchant", nargs="?", default=merchant_name(1))
    parser.add_argument("--rows", type=int, default=10_000, help="how many orders (10000)")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--json", action="store_true", help="as JSON, not as CSV")
    options = parser.parse_args()
    orders = generate(options.merchant, options.rows, options.seed)
    if options.json:
        json.dump(list(orders), sys.stdout)
    else:
        write_rows(sys.stdout, orders)


if __name__ == "__main__":
    main()
