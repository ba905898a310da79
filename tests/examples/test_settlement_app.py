"""The settlement's tasks when something is away or wrong, with real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.settlement.check import check_mails, expected_of
from examples.settlement.mail import SMTP_VARIABLE
from examples.settlement.orders import generate, read_csv, write_csv
from examples.settlement.settle import Settlement, settle
from examples.settlement.smtp_sink import SmtpSink
from gtask import App
from gtask.testing.processes import job_server, worker
from gtask.testing.programs import Program, free_port

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60.0


@pytest.fixture
def smtp_port() -> int:
    """Where a mail server may be started; there is none yet."""
    return free_port()


@pytest.fixture
def serving(smtp_port: int, tmp_path: Path) -> Iterator[tuple[Program, App]]:
    """A worker of the example, and an app that knows its tasks by name."""
    with job_server(db=tmp_path / "queue.db", results=tmp_path / "results.db") as server:
        environment = {SMTP_VARIABLE: f"127.0.0.1:{smtp_port}"}
        serving = worker("examples.settlement.app:app", cwd=ROOT, servers=server.url, env=environment)
        with serving as program, App("caller", servers=server.url) as app:
            yield program, app


def tasks_of(app: App) -> tuple[Any, Any]:
    @app.task
    def calculate(orders: list[Any]) -> Settlement:
        raise NotImplementedError

    @app.task
    def send(settlement: Settlement) -> str:
        raise NotImplementedError

    return calculate, send


def test_a_mail_server_that_is_away_is_tried_again(
    serving: tuple[Program, App], smtp_port: int, tmp_path: Path
) -> None:
    program, app = serving
    calculate, send = tasks_of(app)
    path = tmp_path / "M001.csv"
    write_csv(path, generate("M001", 100))
    sent = (calculate | send).delay(list(read_csv(path)))
    assert sent.parent.get(timeout=LIMIT) == settle(read_csv(path))
    program.wait_for_line(r"send.*(retr|again)", LIMIT)
    with SmtpSink(port=smtp_port) as sink:
        assert sent.get(timeout=LIMIT) == "m001@merchants.example"
        assert check_mails([expected_of(path)], sink.wait(1)) == []


def test_what_cannot_be_settled_is_not_mailed(serving: tuple[Program, App], smtp_port: int) -> None:
    _, app = serving
    calculate, send = tasks_of(app)
    orders = list(generate("M001", 1)) + list(generate("M002", 1))
    with SmtpSink(port=smtp_port) as sink:
        with pytest.raises(ValueError, match="is not M001's; settle one merchant at a time"):
            (calculate | send).delay(orders).get(timeout=LIMIT)
        assert sink.mails == []
    with pytest.raises(TypeError, match=r"send: settlement: .*merchant"):
        send.call({"no": "settlement"})
