"""`gtask demo`: everything for real, and nothing left behind."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

from gtask.testing.programs import Program, port_is_open, wait_until
from tests.cli.runs import gtask

CALLS = [
    "calculate(7)  ->  Decimal('87.50')",
    "calculate.delay(7).get()  ->  Decimal('87.50')",
    "calculate.call(7)  ->  Decimal('87.50')",
    "(calculate | send).delay(7).get()  ->  'invoice over 87.50 EUR sent'",
    "group(calculate.s(i) for i in range(100)).delay().get()  ->  100 results",
    "crunch.call(50)  ->  '50 steps done'",
    "refuse.call(8)  ->  raises ValueError: there is no order 8",
]


def test_it_shows_every_way_to_call_and_ends(tmp_path: Path) -> None:
    done = gtask("demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for call in CALLS:
        assert any(line.endswith(f"   {call}") for line in lines), done.stdout
    assert "crunch: 50 of 50" in done.stderr
    assert max(map(len, lines)) <= 110
    port = re.search(r"gearman://127\.0\.0\.1:(\d+)", done.stdout)
    assert port is not None
    assert not port_is_open("127.0.0.1", int(port[1]))
    assert list(tmp_path.iterdir()) == []


def test_it_takes_its_parts_along_when_it_is_ended(tmp_path: Path) -> None:
    with Program([sys.executable, "-m", "gtask", "demo", "-c", "1"], cwd=tmp_path) as program:
        port = int(program.wait_for_line(r"gearman://127\.0\.0\.1:(\d+)")[1])
        program.terminate()
        assert program.wait() == 128 + signal.SIGTERM
        wait_until(lambda: not port_is_open("127.0.0.1", port), what="the end of the demo's job server")
