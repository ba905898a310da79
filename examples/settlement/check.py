"""A second opinion: the same sums by other means, and the mails and workbooks compared with them.

This reads the CSV file itself and counts in whole cents with integers, so that it shares neither code nor arithmetic
with `settle.py`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import openpyxl

from examples.settlement.mail import mail_address
from examples.settlement.settle import Settlement
from examples.settlement.workbook import PRODUCTS, SUMMARY

VAT_PERCENT = 21


@dataclass(slots=True)
class Cents:
    """Sums in whole cents."""

    gross: int = 0
    refunds: int = 0
    fees: int = 0
    vat: int = 0
    payout: int = 0


@dataclass(slots=True)
class Expected:
    """What one merchant's file adds up to."""

    merchant: str = ""
    orders: int = 0
    total: Cents = field(default_factory=Cents)
    products: dict[str, Cents] = field(default_factory=dict)
    pieces: dict[str, int] = field(default_factory=dict)


def whole(text: str, decimals: int) -> int:
    """A number in text as a whole number of its smallest part: ``whole("12.5", 2)`` is 1250."""
    left, _, right = text.partition(".")
    return int(left + right.ljust(decimals, "0"))


def divide_half_even(number: int, by: int) -> int:
    """`number / by` rounded to a whole number, a half to the even one."""
    quotient, rest = divmod(number, by)
    return quotient + (rest * 2 > by or (rest * 2 == by and quotient % 2 == 1))


def divide_half_up(number: int, by: int) -> int:
    """`number / by` rounded to a whole number, a half up; for numbers not below zero."""
    return (number * 2 + by) // (by * 2)


def expected_of(path: Path) -> Expected:
    """Adds up one merchant's CSV file."""
    found = Expected()
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.merchant = row["merchant"]
            found.orders += 1
            for part in row["items"].split(";"):
                product, pieces, price, rate, refund = part.split()
                sums = found.products.setdefault(product, Cents())
                sale, back = int(pieces) * whole(price, 2), whole(refund, 2)
                sums.gross += sale
                sums.refunds += back
                sums.fees += divide_half_even((sale - back) * whole(rate, 4), 10_000)
                found.pieces[product] = found.pieces.get(product, 0) + int(pieces)
    for sums in found.products.values():
        sums.vat = divide_half_up(sums.fees * VAT_PERCENT, 100)
        sums.payout = sums.gross - sums.refunds - sums.fees - sums.vat
        for name in Cents.__slots__:
            setattr(found.total, name, getattr(found.total, name) + getattr(sums, name))
    return found


def check_settlement(expected: Expected, settlement: Settlement) -> list[str]:
    """Compares what the task `calculate` returned with the second opinion; each difference is one sentence."""
    who = f"{expected.merchant}: the settlement's"
    faults = _differences(who, "merchant", expected.merchant, settlement.merchant)
    faults += _differences(who, "orders", expected.orders, settlement.orders)
    faults += _amounts(who, expected.total, settlement)
    lines = {line.product: line for line in settlement.products}
    faults += _differences(who, "products", sorted(expected.products), sorted(lines))
    for product in lines.keys() & expected.products.keys():
        whose = f"{who} {product}"
        faults += _differences(whose, "pieces", expected.pieces[product], lines[product].quantity)
        faults += _amounts(whose, expected.products[product], lines[product])
    return faults


def _amounts(who: str, cents: Cents, amounts: Any) -> list[str]:
    faults = []
    for name in Cents.__slots__:
        faults += _differences(who, name, getattr(cents, name), whole(format(getattr(amounts, name), ".2f"), 2))
    return faults


def _differences(who: str, what: str, wanted: object, found: object) -> list[str]:
    return [] if wanted == found else [f"{who} {what} should be {wanted!r} and is {found!r}."]


def check_mails(expected: Iterable[Expected], mails: Iterable[bytes]) -> list[str]:
    """Compares the mails that arrived, and the workbooks in them, with the second opinion.

    A mail that came twice under one Message-ID counts once, because delivery is at least once.
    """
    arrived: dict[str, dict[str, EmailMessage]] = {}
    for raw in mails:
        mail = message_from_bytes(raw, policy=policy.default)
        arrived.setdefault(str(mail["To"]), {})[str(mail["Message-ID"])] = mail
    faults = []
    for merchant in expected:
        found = arrived.pop(mail_address(merchant.merchant), {})
        if len(found) != 1:
            faults.append(f"{merchant.merchant}: one mail was expected and {len(found)} arrived.")
        for mail in found.values():
            faults += check_mail(merchant, mail)
    faults += [f"{address}: a mail arrived that nobody expected." for address in arrived]
    return faults


def check_mail(expected: Expected, mail: EmailMessage) -> list[str]:
    """Compares one mail and what is attached to it with the second opinion: a workbook, or PHP's CSV table."""
    attached = list(mail.iter_attachments())
    if len(attached) != 1:
        return [f"{expected.merchant}: the mail has {len(attached)} attachments and should have one."]
    name, content = str(attached[0].get_filename()), attached[0].get_content()
    if name.endswith(".xlsx"):
        return check_workbook(expected, content)
    if name.endswith(".csv"):
        return check_table(expected, content)
    return [f"{expected.merchant}: {name} is attached and should be a workbook or a table."]


def check_table(expected: Expected, text: str) -> list[str]:
    """Compares each number of the table that the PHP worker attaches with the second opinion."""
    _, *rows, bottom = csv.reader(io.StringIO(text))
    found = {row[0]: (int(row[1]), *(whole(cell, 2) for cell in row[2:])) for row in rows}
    wanted = {name: (expected.pieces[name], *astuple(cents)) for name, cents in expected.products.items()}
    faults = _differences(f"{expected.merchant}: the table's", "products", wanted, found)
    total = tuple(whole(cell, 2) for cell in bottom[2:])
    return faults + _differences(f"{expected.merchant}: the table's", "bottom line", astuple(expected.total), total)


def check_workbook(expected: Expected, content: bytes) -> list[str]:
    """Opens a workbook and compares each of its numbers with the second opinion."""
    book = openpyxl.load_workbook(io.BytesIO(content), data_only=True)
    who = f"{expected.merchant}: the workbook's"
    summary = dict(book[SUMMARY].iter_rows(min_row=2, max_col=2, values_only=True))
    faults = _differences(who, "orders", expected.orders, summary.get("Orders"))
    total = astuple(expected.total)
    labels = ("Gross", "Refunds", "Fees", "VAT on fees", "Payout")
    faults += _differences(who, "totals", total, tuple(_cents(summary.get(label)) for label in labels))
    _, *rows, bottom = book[PRODUCTS].iter_rows(values_only=True)
    found = {row[0]: (row[1], *map(_cents, row[2:])) for row in rows}
    wanted = {name: (expected.pieces[name], *astuple(cents)) for name, cents in expected.products.items()}
    faults += _differences(who, "products", wanted, found)
    faults += _differences(who, "bottom line", total, tuple(map(_cents, bottom[2:])))
    return faults


def _cents(value: object) -> int | None:
    return round(value * 100) if isinstance(value, int | float) else None
