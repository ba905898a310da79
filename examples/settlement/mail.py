"""The mail that carries a settlement to its merchant."""

from __future__ import annotations

import hashlib
import os
import smtplib
from email.message import EmailMessage

from examples.settlement.settle import Settlement
from examples.settlement.workbook import MIME_TYPE, build_workbook, workbook_name

SMTP_VARIABLE = "SETTLEMENT_SMTP"
SENDER = "settlements@market.example"
TIMEOUT = 30.0


def mail_address(merchant: str) -> str:
    """Where a merchant's mail goes."""
    return f"{merchant.lower()}@merchants.example"


def smtp_address() -> tuple[str, int]:
    """The mail server's host and port, from ``$SETTLEMENT_SMTP``; ``127.0.0.1:8025`` without it.

    Raises `ValueError` where the variable is not ``host:port``.
    """
    address = os.environ.get(SMTP_VARIABLE, "127.0.0.1:8025")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"${SMTP_VARIABLE} is {address!r}; write host:port, for instance 127.0.0.1:8025.")
    return host, int(port)


def build_mail(settlement: Settlement) -> EmailMessage:
    """Writes the mail of one settlement, with its workbook attached.

    The Message-ID comes from the settlement itself. A task may run twice (delivery is at least once); the second
    mail then has the name of the first, and whoever receives both can tell.
    """
    digest = hashlib.sha256(repr(settlement).encode()).hexdigest()[:24]
    mail = EmailMessage()
    mail["From"] = SENDER
    mail["To"] = mail_address(settlement.merchant)
    mail["Subject"] = f"Settlement {settlement.merchant}: {settlement.payout} EUR"
    mail["Message-ID"] = f"<{settlement.merchant.lower()}.{digest}@market.example>"
    mail.set_content(
        f"Your {settlement.orders} orders from {settlement.first_day} to {settlement.last_day}:\n\n"
        f"  Gross       {settlement.gross:>14}\n"
        f"  Refunds     {settlement.refunds:>14}\n"
        f"  Fees        {settlement.fees:>14}\n"
        f"  VAT on fees {settlement.vat:>14}\n"
        f"  Payout      {settlement.payout:>14} EUR\n"
    )
    maintype, subtype = MIME_TYPE
    mail.add_attachment(
        build_workbook(settlement), maintype=maintype, subtype=subtype, filename=workbook_name(settlement)
    )
    return mail


def deliver(mail: EmailMessage) -> None:
    """Hands a mail to the mail server, within `TIMEOUT` seconds per step.

    Raises `OSError` (of which `smtplib.SMTPException` is one) when the server cannot be reached or refuses it.
    """
    host, port = smtp_address()
    with smtplib.SMTP(host, port, timeout=TIMEOUT) as server:
        server.send_message(mail)
