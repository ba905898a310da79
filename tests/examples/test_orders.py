"""The generator and its CSV file."""

from __future__ import annotations

import hashlib
import time
from itertools import islice
from pathlib import Path

import pytest

from examples.settlement.orders import HEADER, generate, merchant_name, read_csv, write_csv


def test_the_same_arguments_give_the_same_orders() -> None:
    assert list(generate("M001", 200)) == list(generate("M001", 200))


def test_merchants_and_seeds_differ() -> None:
    first = [order["items"] for order in generate("M001", 50)]
    assert first != [order["items"] for order in generate("M002", 50)]
    assert first != [order["items"] for order in generate("M001", 50, seed=1)]


def test_the_orders_are_those_of_every_other_machine(tmp_path: Path) -> None:
    write_csv(tmp_path / "m.csv", generate("M001", 1000))
    digest = hashlib.sha256((tmp_path / "m.csv").read_bytes()).hexdigest()
    assert digest == "46fd2a6611d193d020cd1b799354e469efada883f76401ed8faf1f44f9d56159"


def test_orders_are_made_one_at_a_time() -> None:
    assert len(list(islice(generate("M001", 10**12), 3))) == 3


def test_a_month_has_several_products_refunds_and_every_day() -> None:
    orders = list(generate(merchant_name(7), 10_000))
    assert len(orders) == 10_000
    assert len({order["order"] for order in orders}) == 10_000
    assert {len(order["items"]) for order in orders} == {1, 2, 3, 4}
    assert {order["day"] for order in orders} == {f"2026-03-{day:02d}" for day in range(1, 32)}
    refunded = [item for order in orders for item in order["items"] if item["refund"] != "0.00"]
    assert 1000 < len(refunded) < 3000
    assert len({item["rate"] for order in orders for item in order["items"]}) > 4


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    orders = list(generate("M003", 500))
    assert write_csv(tmp_path / "m.csv", orders) == 500
    assert list(read_csv(tmp_path / "m.csv")) == orders


def test_a_month_of_twenty_merchants_is_made_in_time(tmp_path: Path) -> None:
    started = time.monotonic()
    rows = write_csv(tmp_path / "m.csv", generate("M001", 20_000))
    assert rows == 20_000
    assert time.monotonic() - started < 30  # far above the second it takes, for a machine under load


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "does not start with the columns"),
        ("merchant,order\n", "does not start with the columns"),
        (",".join(HEADER) + "\nM001,1,2026-03-01\n", "line 2"),
        (",".join(HEADER) + "\nM001,1,2026-03-01,tea 1\n", "line 2"),
        (",".join(HEADER) + "\nM001,1,2026-03-01,tea one 1.00 0.01 0.00\n", "line 2"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "broken.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=named) as caught:
        list(read_csv(path))
    assert str(path) in str(caught.value)
