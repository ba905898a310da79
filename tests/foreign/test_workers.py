"""A gtask caller gets answers from workers in PHP, Perl and a shell, on both job servers."""

from __future__ import annotations

from typing import Any

import pytest

from examples.settlement.check import check_mails, expected_of
from examples.settlement.orders import Order, write_csv
from examples.settlement.settle import Settlement, settle
from examples.settlement.smtp_sink import SmtpSink
from gtask.errors import DecodeError, TaskFailed
from tests.foreign.conftest import LIMIT, House
from tests.foreign.peers import make

ADDRESS = "m001@merchants.example"


def letter_of(settlement: Settlement) -> str:
    return f"Dear M001, for {settlement.orders} orders we pay you {settlement.payout} EUR."


@pytest.fixture
def settlement(orders: list[Order]) -> Settlement:
    return settle(orders)


# --- Perl ----------------------------------------------------------------------------------------------------


def test_perl_called(house: House, settlement: Settlement) -> None:
    house.serve_letter()
    assert house.peers.letter.call(settlement) == letter_of(settlement)


def test_perl_delayed(house: House, settlement: Settlement) -> None:
    house.serve_letter()
    assert house.peers.letter.delay(settlement).get(timeout=LIMIT) == letter_of(settlement)


def test_perl_later(house: House, settlement: Settlement) -> None:
    house.serve_letter()
    assert house.peers.letter.apply_async((settlement,), countdown=1).get(timeout=LIMIT) == letter_of(settlement)


def test_perl_in_a_chain(house: House, orders: list[Order], settlement: Settlement) -> None:
    house.serve_letter()
    sent = (house.peers.calculate.s(orders) | house.peers.letter.s() | house.peers.shout.s()).delay()
    assert sent.get(timeout=LIMIT) == letter_of(settlement).upper()


def test_perl_exception(house: House, settlement: Settlement) -> None:
    house.serve_letter()
    with pytest.raises(TaskFailed, match=r"This is no settlement\."):
        house.peers.letter.call({"not": "one"})
    with pytest.raises(TaskFailed, match=r"This is no settlement\."):
        house.peers.letter.delay([]).get(timeout=LIMIT)
    assert house.peers.letter.call(settlement) == letter_of(settlement)


# --- PHP -----------------------------------------------------------------------------------------------------


def test_php_called(house: House, sink: SmtpSink, settlement: Settlement) -> None:
    house.serve_send(sink)
    before = len(sink.mails)
    assert house.peers.send.call(settlement) == ADDRESS
    assert len(sink.wait(before + 1)) == before + 1


def test_php_in_a_chain(house: House, sink: SmtpSink, orders: list[Order], tmp_path: Any) -> None:
    house.serve_send(sink)
    write_csv(tmp_path / "m.csv", orders)
    before = len(sink.mails)
    sent = (house.peers.calculate | house.peers.send).delay(orders)
    assert sent.get(timeout=LIMIT) == ADDRESS
    assert sent.parent is not None
    assert sent.parent.get(timeout=LIMIT) == settle(orders)
    assert check_mails([expected_of(tmp_path / "m.csv")], sink.wait(before + 1)[before:]) == []


def test_php_exception(house: House, sink: SmtpSink) -> None:
    house.serve_send(sink)
    with pytest.raises(TaskFailed, match=r"This is no settlement: it has no merchant\."):
        house.peers.send.call({"merchants": 3})
    with pytest.raises(TaskFailed, match=r"This is no settlement: it has no merchant\."):
        house.peers.send.delay({"merchants": 3}).get(timeout=LIMIT)


def test_php_exception_ends_a_chain(house: House, sink: SmtpSink) -> None:
    house.serve_send(sink)
    with pytest.raises(TaskFailed, match=r"This is no settlement"):
        (house.peers.shout.s("a text") | house.peers.send.s() | house.peers.letter.s()).delay().get(timeout=LIMIT)


def test_the_first_step_fails_and_php_is_not_asked(house: House, sink: SmtpSink) -> None:
    house.serve_send(sink)
    before = len(sink.mails)
    with pytest.raises(ValueError, match="There is no order to settle"):
        (house.peers.calculate | house.peers.send).delay([]).get(timeout=LIMIT)
    assert len(sink.mails) == before


def test_php_failure_without_a_reason(house: House) -> None:
    house.serve_php()
    with pytest.raises(TaskFailed, match="did not say why"):
        house.peers.php_fails.call(1)
    with pytest.raises(TaskFailed, match="did not say why"):
        house.peers.php_fails.delay(1).get(timeout=LIMIT)


def test_php_streams(house: House) -> None:
    house.serve_php()
    progress: list[tuple[int, int]] = []
    data: list[bytes] = []
    warnings: list[bytes] = []
    answer = house.peers.php_streams.options(
        on_progress=lambda done, of: progress.append((done, of)), on_data=data.append, on_warning=warnings.append
    ).call([1, "two", None, {"three": 3.5}])
    assert answer == [1, "two", None, {"three": 3.5}]
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert b"".join(data) == b"part 1;part 2;part 3;"
    assert b"".join(warnings) == b"warning 1;warning 2;warning 3;"


def test_php_answers_no_json(house: House) -> None:
    house.serve_php()
    with pytest.raises(DecodeError):
        house.peers.php_answers_nonsense.call(1)
    with pytest.raises(DecodeError):
        house.peers.php_answers_nonsense.delay(1).get(timeout=LIMIT)


def test_php_returns_nothing(house: House) -> None:
    house.serve_php()
    assert house.peers.php_returns_nothing.call(1) is None
    assert house.peers.php_returns_nothing.delay(1).get(timeout=LIMIT) is None


# --- a shell -------------------------------------------------------------------------------------------------


def test_shell_worker(house: House) -> None:
    house.serve_upper()
    assert house.peers.upper.call("one two") == "ONE TWO"
    assert house.peers.upper.delay("one two").get(timeout=LIMIT) == "ONE TWO"


# --- async callers -------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_async_callers(house: House, orders: list[Order], settlement: Settlement) -> None:
    house.serve_letter()
    peers = make(house.server.url)
    async with peers.app:
        assert await peers.letter.acall(settlement) == letter_of(settlement)
        sent = await (peers.calculate | peers.letter).adelay(orders)
        assert await sent.aget(timeout=LIMIT) == letter_of(settlement)
        with pytest.raises(TaskFailed, match="This is no settlement"):
            await peers.letter.acall({"not": "one"})
