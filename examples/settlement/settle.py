"""What a merchant is paid: arithmetic only, no file, no network.

Three rules of rounding, all to the cent:

* A sale and a refund need none: they are whole cents from the start.
* The fee of each product of each order is ``(sale - refund) * rate``, rounded *half to even*. There are many such
  roundings in a month, and half to even pulls neither way over many.
* The VAT on the fees of each product is ``fees * 21 %``, rounded *half up*, once per product: the rule of invoices.

So ``payout = gross - refunds - fees - vat`` holds per product and for the whole, to the cent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal, InvalidOperation

from examples.settlement.orders import Item, Order

CENT = Decimal("0.01")
NOTHING = Decimal("0.00")
VAT_RATE = Decimal("0.21")


@dataclass(frozen=True, slots=True)
class ProductLine:
    """The part of one product in a settlement; all amounts are euros with two decimals."""

    product: str
    quantity: int
    gross: Decimal
    refunds: Decimal
    fees: Decimal
    vat: Decimal
    payout: Decimal


@dataclass(frozen=True, slots=True)
class Settlement:
    """What one merchant is paid for its orders from `first_day` to `last_day`; products in alphabetical order."""

    merchant: str
    first_day: date
    last_day: date
    orders: int
    gross: Decimal
    refunds: Decimal
    fees: Decimal
    vat: Decimal
    payout: Decimal
    products: list[ProductLine]


@dataclass(slots=True)
class _Sums:
    quantity: int = 0
    gross: Decimal = field(default=NOTHING)
    refunds: Decimal = field(default=NOTHING)
    fees: Decimal = field(default=NOTHING)

    def line(self, product: str) -> ProductLine:
        vat = (self.fees * VAT_RATE).quantize(CENT, ROUND_HALF_UP)
        payout = self.gross - self.refunds - self.fees - vat
        return ProductLine(product, self.quantity, self.gross, self.refunds, self.fees, vat, payout)


def settle(orders: Iterable[Order]) -> Settlement:
    """Settles the orders of one merchant.

    Raises `ValueError`, naming the order, where there is none, they belong to several merchants, money is not text
    with at most two decimals, a quantity is not above zero, or more is refunded than was sold.
    """
    merchant = first = last = ""
    count = 0
    sums: dict[str, _Sums] = {}
    for order in orders:
        count += 1
        if order["merchant"] != (merchant := merchant or order["merchant"]):
            raise ValueError(f"Order {order['order']} is not {merchant}'s; settle one merchant at a time.")
        day = order["day"]
        first = min(first or day, day)
        last = max(last, day)
        for item in order["items"]:
            try:
                _add(sums.setdefault(item["product"], _Sums()), item)
            except ValueError as error:
                raise ValueError(f"Order {order['order']}, {item['product']}: {error}") from None
    if not count:
        raise ValueError("There is no order to settle; pass at least one.")
    lines = [sums[product].line(product) for product in sorted(sums)]
    return Settlement(
        merchant=merchant,
        first_day=date.fromisoformat(first),
        last_day=date.fromisoformat(last),
        orders=count,
        gross=sum((line.gross for line in lines), NOTHING),
        refunds=sum((line.refunds for line in lines), NOTHING),
        fees=sum((line.fees for line in lines), NOTHING),
        vat=sum((line.vat for line in lines), NOTHING),
        payout=sum((line.payout for line in lines), NOTHING),
        products=lines,
    )


def _add(sums: _Sums, item: Item) -> None:
    quantity = item["quantity"]
    if quantity <= 0:
        raise ValueError(f"the quantity is {quantity}; it must be above zero.")
    gross = _money(item["price"], "price") * quantity
    refund = _money(item["refund"], "refund")
    if refund > gross:
        raise ValueError(f"{refund} is refunded of a sale of {gross}; the refund cannot be more than the sale.")
    fee = ((gross - refund) * _number(item["rate"], "rate")).quantize(CENT, ROUND_HALF_EVEN)
    sums.quantity += quantity
    sums.gross += gross
    sums.refunds += refund
    sums.fees += fee


def _money(text: str, what: str) -> Decimal:
    amount = _number(text, what)
    cents = amount.quantize(CENT)
    if cents != amount:
        raise ValueError(f"the {what} {text} has parts of a cent; write euros with at most two decimals.")
    return cents


def _number(text: str, what: str) -> Decimal:
    # A float would already have lost the cents it is asked for, so only text is taken.
    if not isinstance(text, str):
        raise ValueError(f'the {what} {text!r} is not text; write it as "12.50".')
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError(f'the {what} {text!r} is not a number; write it as "12.50".') from None
    if not number.is_finite() or number < 0 or number > 10_000_000:
        raise ValueError(f"the {what} {text!r} is not between 0 and 10000000.")
    return number
