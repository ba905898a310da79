"""The workbook a merchant gets: one sheet with the totals, one with a row per product."""

from __future__ import annotations

import io
from dataclasses import astuple

import xlsxwriter

from examples.settlement.settle import Settlement

MIME_TYPE = ("application", "vnd.openxmlformats-officedocument.spreadsheetml.sheet")
SUMMARY = "Settlement"
PRODUCTS = "Products"
PRODUCT_COLUMNS = ("Product", "Pieces", "Gross", "Refunds", "Fees", "VAT on fees", "Payout")
AMOUNTS = ("gross", "refunds", "fees", "vat", "payout")


def workbook_name(settlement: Settlement) -> str:
    """The name of the file: ``settlement-M001-2026-03.xlsx``."""
    return f"settlement-{settlement.merchant}-{settlement.last_day:%Y-%m}.xlsx"


def build_workbook(settlement: Settlement) -> bytes:
    """Builds the .xlsx file of one settlement and returns its bytes."""
    buffer = io.BytesIO()
    with xlsxwriter.Workbook(buffer, {"in_memory": True}) as book:
        _summary(book, settlement)
        _products(book, settlement)
    return buffer.getvalue()


def _summary(book: xlsxwriter.Workbook, settlement: Settlement) -> None:
    bold = book.add_format({"bold": True})
    money = book.add_format({"num_format": "#,##0.00"})
    total = book.add_format({"num_format": "#,##0.00", "bold": True, "top": 1})
    day = book.add_format({"num_format": "yyyy-mm-dd", "align": "left"})
    sheet = book.add_worksheet(SUMMARY)
    sheet.set_column(0, 1, 18)
    sheet.write_string(0, 0, f"Settlement {settlement.merchant}", bold)
    sheet.write_string(1, 0, "From")
    sheet.write_datetime(1, 1, settlement.first_day, day)
    sheet.write_string(2, 0, "To")
    sheet.write_datetime(2, 1, settlement.last_day, day)
    sheet.write_string(3, 0, "Orders")
    sheet.write_number(3, 1, settlement.orders)
    labels = ("Gross", "Refunds", "Fees", "VAT on fees", "Payout")
    for row, (label, name) in enumerate(zip(labels, AMOUNTS, strict=True), start=4):
        last = name == "payout"
        sheet.write_string(row, 0, label, bold if last else None)
        # A sheet knows only floating point numbers; to the cent they are exact up to billions.
        sheet.write_number(row, 1, float(getattr(settlement, name)), total if last else money)


def _products(book: xlsxwriter.Workbook, settlement: Settlement) -> None:
    bold = book.add_format({"bold": True, "bottom": 1})
    money = book.add_format({"num_format": "#,##0.00"})
    total = book.add_format({"num_format": "#,##0.00", "bold": True, "top": 1})
    sheet = book.add_worksheet(PRODUCTS)
    sheet.set_column(0, len(PRODUCT_COLUMNS) - 1, 14)
    sheet.freeze_panes(1, 0)
    sheet.write_row(0, 0, PRODUCT_COLUMNS, bold)
    for row, line in enumerate(settlement.products, start=1):
        product, pieces, *amounts = astuple(line)
        sheet.write_string(row, 0, product)
        sheet.write_number(row, 1, pieces)
        for column, amount in enumerate(amounts, start=2):
            sheet.write_number(row, column, float(amount), money)
    bottom = len(settlement.products) + 1
    sheet.write_string(bottom, 0, "Total", bold)
    for column, name in enumerate(AMOUNTS, start=2):
        letter = "ABCDEFG"[column]
        # The value is stored beside the formula, for readers that do not calculate.
        value = float(getattr(settlement, name))
        sheet.write_formula(bottom, column, f"=SUM({letter}2:{letter}{bottom})", total, value)
