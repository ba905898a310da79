"""Calls the two tasks in every way of the quick start and prints the answers."""

from __future__ import annotations

import asyncio

from app import app, calculate, send

from gtask import chain, group


def blocking() -> None:
    """The blocking face."""
    print("here      ", calculate(7))
    result = calculate.delay(7)
    print("delay     ", result.get(timeout=30))
    print("reopened  ", app.AsyncResult(result.id).get(timeout=30))
    print("urgent    ", calculate.apply_async((7,), priority="high").get(timeout=30))
    print("later     ", calculate.apply_async((7,), countdown=1).get(timeout=30))
    print("call      ", calculate.call(7))
    print("options   ", calculate.options(timeout=5, priority="high").call(7))
    print("chain     ", (calculate | send).delay(7).get(timeout=30))
    print("chain     ", chain(calculate.s(7), send.s()).delay().get(timeout=30))
    print("group     ", group(calculate.s(number) for number in range(5)).delay().get(timeout=30))


async def waiting() -> None:
    """The same from async code."""
    result = await calculate.adelay(7)
    print("adelay    ", await result.aget(timeout=30))
    print("acall     ", await calculate.acall(7))
    print("chain     ", await (await (calculate | send).adelay(7)))


async def main() -> None:
    """Runs the async face, and closes its connections."""
    async with app:
        await waiting()


if __name__ == "__main__":
    with app:
        blocking()
    asyncio.run(main())
