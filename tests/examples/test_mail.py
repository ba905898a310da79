"""The workbook, the mail, and the mail server that keeps it."""

from __future__ import annotations

import dataclasses
import smtplib
import socket
from decimal import Decimal
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from examples.settlement.check import Expected, check_mail, check_mails, check_workbook, expected_of
from examples.settlement.mail import SMTP_VARIABLE, build_mail, deliver, smtp_address
from examples.settlement.orders import generate, write_csv
from examples.settlement.settle import Settlement, settle
from examples.settlement.smtp_sink import SmtpSink
from examples.settlement.workbook import build_workbook, workbook_name


def month(folder: Path, merchant: str = "M001") -> tuple[Expected, Settlement]:
    orders = list(generate(merchant, 300))
    write_csv(folder / f"{merchant}.csv", orders)
    return expected_of(folder / f"{merchant}.csv"), settle(orders)


def test_the_workbook_holds_every_number_to_the_cent(tmp_path: Path) -> None:
    expected, settlement = month(tmp_path)
    assert check_workbook(expected, build_workbook(settlement)) == []
    assert workbook_name(settlement) == "settlement-M001-2026-03.xlsx"


def test_a_wrong_cent_in_the_workbook_is_found(tmp_path: Path) -> None:
    expected, settlement = month(tmp_path)
    wrong = dataclasses.replace(settlement, payout=settlement.payout - Decimal("0.01"))
    assert len(check_workbook(expected, build_workbook(wrong))) == 2  # on the first sheet and in the bottom line


def test_a_mail_has_one_name_however_often_it_is_built(tmp_path: Path) -> None:
    expected, settlement = month(tmp_path)
    mail = build_mail(settlement)
    assert mail["Message-ID"] == build_mail(settlement)["Message-ID"]
    assert mail["Message-ID"] != build_mail(dataclasses.replace(settlement, orders=1))["Message-ID"]
    assert check_mail(expected, message_from_bytes(mail.as_bytes(), policy=policy.default)) == []


def test_mails_go_through_a_real_mail_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = month(tmp_path, "M001"), month(tmp_path, "M002")
    with SmtpSink(folder=tmp_path / "mails") as sink:
        monkeypatch.setenv(SMTP_VARIABLE, sink.address)
        for _, settlement in (first, second, first):  # the first comes twice and counts once
            deliver(build_mail(settlement))
        mails = sink.wait(3)
        assert sink.mails == mails
    assert check_mails([first[0], second[0]], mails) == []
    assert sorted(path.name for path in (tmp_path / "mails").iterdir()) == ["0001.eml", "0002.eml", "0003.eml"]
    assert (tmp_path / "mails" / "0002.eml").read_bytes() == mails[1]


def test_a_missing_and_a_surplus_mail_are_found(tmp_path: Path) -> None:
    first, second = month(tmp_path, "M001"), month(tmp_path, "M002")
    faults = check_mails([first[0]], [build_mail(second[1]).as_bytes()])
    assert faults == [
        "M001: one mail was expected and 0 arrived.",
        "m002@merchants.example: a mail arrived that nobody expected.",
    ]


def test_the_mail_server_ends_with_a_client_still_connected() -> None:
    with SmtpSink() as sink:
        client = smtplib.SMTP(sink.host, sink.port, timeout=10)
        assert client.ehlo()[0] == 250
    assert client.sock is not None
    client.close()
    with pytest.raises(OSError):
        socket.create_connection((sink.host, sink.port), timeout=5)


def test_an_occupied_port_is_an_error_at_once() -> None:
    with SmtpSink() as sink, pytest.raises(OSError):
        SmtpSink(port=sink.port).__enter__()


def test_the_mail_servers_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SMTP_VARIABLE, raising=False)
    assert smtp_address() == ("127.0.0.1", 8025)
    monkeypatch.setenv(SMTP_VARIABLE, "mail.example:25")
    assert smtp_address() == ("mail.example", 25)
    monkeypatch.setenv(SMTP_VARIABLE, "mail.example")
    with pytest.raises(ValueError, match=SMTP_VARIABLE):
        smtp_address()
