"""The arithmetic of a settlement, and the second opinion that checks it."""

from __future__ import annotations

import dataclasses
from datetime import date
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.settlement.check import check_settlement, divide_half_even, divide_half_up, expected_of, whole
from examples.settlement.orders import Item, Order, generate, write_csv
from examples.settlement.settle import ProductLine, Settlement, settle


def item(
    product: str = "tea", quantity: Any = 1, price: Any = "1.00", rate: Any = "0.01", refund: Any = "0.00"
) -> Item:
    return Item(product=product, quantity=quantity, price=price, rate=rate, refund=refund)


def order(*items: Item, merchant: str = "M001", number: str = "1", day: str = "2026-03-01") -> Order:
    return Order(merchant=merchant, order=number, day=day, items=list(items))


def test_one_order_by_hand() -> None:
    found = settle([order(item(quantity=3, price="10.00", rate="0.029", refund="10.00"))])
    assert (found.merchant, found.orders) == ("M001", 1)
    assert found.gross == Decimal("30.00")
    assert found.refunds == Decimal("10.00")
    assert found.fees == Decimal("0.58")
    assert found.vat == Decimal("0.12")
    assert found.payout == Decimal("19.30")


@pytest.mark.parametrize(("price", "fee"), [("10.20", "0.26"), ("10.60", "0.26"), ("11.00", "0.28"), ("10.21", "0.26")])
def test_fees_are_rounded_half_to_even(price: str, fee: str) -> None:
    # 10.20 and 10.60 at 2.5 % are 0.255 and 0.265: both go to the even 0.26.
    assert settle([order(item(price=price, rate="0.025"))]).fees == Decimal(fee)


def test_vat_is_rounded_half_up_once_per_product() -> None:
    # Fees of 0.50: VAT is 0.105, which half up makes 0.11 and half to even would make 0.10.
    found = settle([order(item(price="50.00", rate="0.01"), item("mug", price="50.00", rate="0.01"))])
    assert [line.vat for line in found.products] == [Decimal("0.11"), Decimal("0.11")]
    assert found.vat == Decimal("0.22")


def test_products_have_subtotals_in_alphabetical_order() -> None:
    found = settle([order(item("tea", 2, "2.00"), item("mug", 1, "5.00")), order(item("mug", 4, "5.00"), number="2")])
    assert [(line.product, line.quantity, line.gross) for line in found.products] == [
        ("mug", 5, Decimal("25.00")),
        ("tea", 2, Decimal("4.00")),
    ]


def test_the_days_are_the_first_and_the_last() -> None:
    days = ("2026-03-09", "2026-03-02", "2026-03-30")
    found = settle([order(item(), day=day, number=day) for day in days])
    assert (found.first_day, found.last_day) == (date(2026, 3, 2), date(2026, 3, 30))


def test_every_amount_has_two_decimals() -> None:
    found = settle([order(item(price="5", rate="0.1", refund="0"))])
    lines: list[Settlement | ProductLine] = [found, *found.products]
    for line in lines:
        for value in (line.gross, line.refunds, line.fees, line.vat, line.payout):
            assert value.as_tuple().exponent == -2


@pytest.mark.parametrize(
    ("orders", "named"),
    [
        ([], "no order"),
        ([order(item()), order(item(), merchant="M002", number="77")], "Order 77 is not M001's"),
        ([order(item(price="1.005"))], "parts of a cent"),
        ([order(item(price=1.25))], "is not text"),
        ([order(item(price="much"))], "not a number"),
        ([order(item(price="-1.00"))], "not between"),
        ([order(item(price="NaN"))], "not between"),
        ([order(item(quantity=0))], "quantity is 0"),
        ([order(item(price="1.00", refund="1.01"))], "cannot be more"),
    ],
)
def test_what_cannot_be_settled_is_named(orders: list[Order], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        settle(orders)


@given(st.integers(0, 10**12), st.integers(1, 10**6))
def test_the_second_opinion_rounds_as_decimal_does(number: int, by: int) -> None:
    exact = Decimal(number) / Decimal(by)
    # Decimal's quotient has 28 digits, which could turn a near half into a half; such pairs say nothing here.
    if exact * by == number:
        assert divide_half_even(number, by) == int(exact.quantize(Decimal(1), ROUND_HALF_EVEN))
        assert divide_half_up(number, by) == int(exact.quantize(Decimal(1), ROUND_HALF_UP))


def test_the_second_opinion_reads_numbers_as_text() -> None:
    assert (whole("12.5", 2), whole("0.0290", 4), whole("7", 2), whole("0.07", 2)) == (1250, 290, 700, 7)


@pytest.mark.parametrize("seed", [2026, 1, 2])
def test_both_opinions_agree_on_a_month(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "m.csv"
    orders = list(generate("M001", 2000, seed))
    write_csv(path, orders)
    assert check_settlement(expected_of(path), settle(orders)) == []


def test_a_cent_too_many_is_found(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    orders = list(generate("M001", 100))
    write_csv(path, orders)
    right = settle(orders)
    line = dataclasses.replace(right.products[0], fees=right.products[0].fees + Decimal("0.01"))
    wrong = dataclasses.replace(right, payout=right.payout + Decimal("0.01"), products=[line, *right.products[1:]])
    faults = check_settlement(expected_of(path), wrong)
    assert len(faults) == 2
    assert "M001: the settlement's payout should be" in faults[0]
    assert f"{line.product} fees" in faults[1]
