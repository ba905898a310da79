"""Callers in PHP, Perl and a shell get answers from a gtask worker, on both job servers."""

from __future__ import annotations

import json
from collections.abc import Callable

from examples.settlement.orders import Order
from examples.settlement.settle import Settlement, settle
from gtask.codecs import convert
from gtask.testing.programs import wait_until
from tests.foreign.conftest import LIMIT, House

WRONG = '[{"merchant": "M001", "order": "17", "day": "2026-03-01", "items": [{"product": "tea", "quantity": 0, %s}]}]'
NO_QUANTITY = WRONG % '"price": "1.00", "rate": "0.01", "refund": "0.00"'
MONEY_IS_FLOAT = WRONG % '"price": 1.25, "rate": "0.01", "refund": "0.00"'


def settlement(text: str) -> Settlement:
    found: Settlement = convert(json.loads(text), Settlement)
    return found


def test_gearman_tool(house: House, orders: list[Order], orders_json: str) -> None:
    done = house.gearman("-f", "calculate", stdin=orders_json)
    assert settlement(done.stdout) == settle(orders)
    assert (done.returncode, done.stderr) == (0, "")


def test_gearman_tool_with_text(house: House) -> None:
    assert house.gearman("-f", "shout", stdin="grüß dich, welt").stdout == "GRÜSS DICH, WELT"


def test_gearman_tool_without_a_workload(house: House) -> None:
    assert house.gearman("-f", "nothing", "-s", stdin="").stdout in ("", "null")


def test_gearman_tool_sees_the_exception(house: House) -> None:
    done = house.gearman("-t", "20000", "-f", "calculate", stdin=NO_QUANTITY)
    if house.server.kind == "gearmand":
        assert "ValueError: Order 17, tea: the quantity is 0" in done.stdout + done.stderr
    else:  # where exceptions are not asked for, and the tool never asks, the job just fails
        assert "FAIL" in (done.stdout + done.stderr).upper()


def test_php_do_normal(house: House, orders: list[Order], orders_json: str, write: Callable[[str], str]) -> None:
    done = house.php(write(orders_json))
    assert (done.returncode, done.stderr) == (0, "")
    assert settlement(done.stdout) == settle(orders)
    assert isinstance(json.loads(done.stdout)["payout"], str), "money is text, so that PHP's floats never touch it"


def test_php_sees_the_exception(house: House, write: Callable[[str], str]) -> None:
    done = house.php(write(NO_QUANTITY))
    assert done.returncode == 1
    assert "calculate raised ValueError: Order 17, tea: the quantity is 0" in done.stderr


def test_wrong_types_are_named_with_their_path(house: House, write: Callable[[str], str]) -> None:
    done = house.php(write(MONEY_IS_FLOAT))
    assert done.returncode == 1
    assert "orders[0].items[0].price: expected str, got float 1.25" in done.stderr


def test_php_background_with_an_id(
    house: House, orders: list[Order], orders_json: str, write: Callable[[str], str]
) -> None:
    done = house.php("--background", write(orders_json))
    assert (done.returncode, done.stderr) == (0, "")
    found = house.peers.app.AsyncResult(done.stdout.strip()).get(timeout=LIMIT)
    assert convert(found, Settlement) == settle(orders)


def test_perl_do_task(house: House, orders: list[Order], orders_json: str) -> None:
    done = house.perl(stdin=orders_json)
    assert (done.returncode, done.stderr) == (0, "")
    assert settlement(done.stdout) == settle(orders)


def test_perl_sees_the_exception(house: House) -> None:
    done = house.perl(stdin=NO_QUANTITY)
    assert done.returncode == 1
    assert "calculate raised ValueError: Order 17, tea: the quantity is 0" in done.stderr


def test_perl_background(house: House, orders_json: str) -> None:
    since = house.worker.output.position
    done = house.perl("--background", stdin=orders_json)
    assert (done.returncode, done.stderr) == (0, "")
    house.worker.wait_for_line(r"calculate.*succeeded|succeeded.*calculate", LIMIT, since)


def test_a_function_that_nobody_serves(house: House) -> None:
    done = house.perl("--function=nobody", "--timeout=1", stdin="{}")
    assert done.returncode == 1
    assert "Does a worker serve nobody?" in done.stderr


def test_garbage_fails_its_caller_and_nobody_else(house: House, orders_json: str) -> None:
    for garbage in ("[" * 5000, '{"gtask": 99, "args": []}', '{"gtask": 1, "args": 7}', "\x83\xa5gtask", "[1, 2]"):
        done = house.perl("--timeout=30", stdin=garbage)
        assert done.returncode == 1, garbage[:20]
        assert "raised" in done.stderr, garbage[:20]
    assert house.perl(stdin=orders_json).returncode == 0


def test_the_worker_is_seen_by_the_admin_protocol(house: House) -> None:
    wait_until(lambda: house.serves("calculate"), LIMIT, "calculate in status")
