"""The quick start of the design, section 2, in a user's folder: on both job servers, with every pool."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import anyio
import pytest

from gtask import AsyncResult, State
from gtask.testing.processes import worker
from gtask.types import parse_servers
from tests.e2e.conftest import LIMIT, House

APP = """
from decimal import Decimal

from gtask import App, AsyncResult, Retry, TaskContext, chain, chord, group, signature

app = App("billing", servers=["gearman://127.0.0.1:4730"], results="gearman://")   # both shown with their defaults

@app.task                                   # or @app.task(option=...)
def calculate(order_id: int) -> Decimal:
    return order_id * Decimal("12.50")

@app.task(bind=True, max_retries=5, autoretry_for=(OSError,), retry_backoff=True)
def send(ctx: TaskContext, amount: Decimal) -> str:
    return f"{amount} EUR sent by {ctx.task.name}"

@app.task
def send_all(amounts: list[Decimal]) -> str:
    return f"{sum(amounts)} EUR sent"
"""

POOLS = [
    ("prefork",),
    ("thread",),
    ("async",),
    ("async", "--backend=trio"),
    ("async", "--backend=uvloop"),
    ("solo",),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "app.py").write_text(APP)
    return folder


@pytest.fixture(scope="module")
def user(house: House, folder: Path) -> Iterator[ModuleType]:
    """The user's module in this process, on the job server of the test."""
    spec = importlib.util.spec_from_file_location(f"user_app_{house.server.kind}", folder / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.app.servers = parse_servers(house.server.url)
    with module.app:
        yield module


@pytest.fixture(scope="module")
def later(house: House, folder: Path, user: ModuleType) -> Iterator[AsyncResult[Decimal]]:
    """The one call of the quick start that takes ten seconds: made before all others, and looked at after them."""
    calculate = user.calculate
    sent = calculate.apply_async((7,), priority="high", countdown=10, unique="order:7")
    assert calculate.apply_async((7,), priority="high", countdown=10, unique="order:7").id == sent.id
    yield sent
    with worker("app:app", f"--servers={house.server.url}", cwd=folder):
        assert sent.get(timeout=LIMIT) == Decimal("87.50")
    assert calculate.apply_async((7,), unique="order:7").id != sent.id


@pytest.mark.parametrize("pool", POOLS, ids=" ".join)
def test_every_line(
    house: House, folder: Path, user: ModuleType, later: AsyncResult[Decimal], pool: tuple[str, ...]
) -> None:
    name, *options = pool
    with worker("app:app", f"--servers={house.server.url}", *options, cwd=folder, pool=name, concurrency=8):
        blocking_code(user)
        for backend in ("asyncio", "trio"):
            anyio.run(async_code, user, backend=backend)


def blocking_code(user: ModuleType) -> None:
    app, calculate, send = user.app, user.calculate, user.send
    chain, chord, group = user.chain, user.chord, user.group
    ids = [1, 2, 3]

    assert calculate(7) == Decimal("87.50")
    r = calculate.delay(7)
    assert r.get(timeout=30) == Decimal("87.50")
    assert calculate.apply_async((7,), priority="high", countdown=0.1, unique="order:8").get(timeout=30) == 87.5
    assert calculate.call(7) == Decimal("87.50")
    assert calculate.options(timeout=5, priority="high").call(7) == Decimal("87.50")
    assert (calculate | send).delay(7).get(timeout=30) == "87.50 EUR sent by send"
    assert chain(calculate.s(7), send.s()).delay().get(timeout=30) == "87.50 EUR sent by send"
    assert group(calculate.s(i) for i in ids).delay().get(timeout=30) == [Decimal("12.5"), Decimal(25), Decimal("37.5")]
    joined = chord([calculate.s(i) for i in ids], user.send_all.s()).delay()
    assert joined.get(timeout=30) == "75.00 EUR sent"
    assert app.AsyncResult(r.id).get(timeout=30) == Decimal("87.50")
    assert r.state is State.SUCCESS


async def async_code(user: ModuleType) -> None:
    calculate, send = user.calculate, user.send
    async with user.app:
        r = await calculate.adelay(7)
        assert await r.aget(timeout=30) == Decimal("87.50")
        assert await r == Decimal("87.50")
        assert await calculate.acall(7) == Decimal("87.50")
        assert await (await (calculate | send).adelay(7)) == "87.50 EUR sent by send"
