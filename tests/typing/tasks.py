"""Tasks, calls and results as the type checkers see them (design, section 2). Checked, never run.

A line with an ignore comment is an error that has to be found: both checkers are told to object to a comment that
silences nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, assert_type

from gtask import (
    App,
    AsyncResult,
    AsyncStream,
    Chain,
    Group,
    GroupResult,
    Retry,
    Signature,
    Stream,
    TaskContext,
    chain,
    chord,
    group,
)
from gtask.sendable import Canvas

app = App("billing", servers=["gearman://127.0.0.1:4730"], results="gearman://")


@app.task
def calculate(order_id: int) -> Decimal:
    """A task without options."""
    return Decimal(order_id)


@app.task(bind=True, max_retries=5, autoretry_for=(OSError,), retry_backoff=True)
def send(ctx: TaskContext, amount: Decimal, subject: str = "") -> str:
    """A task that is given its context; whoever calls it does not see that parameter."""
    if amount < 0:
        raise Retry(delay=1.5)
    return f"{ctx.id}: {amount} {subject}"


@app.task
def count(values: object) -> int:
    """A task that takes anything, such as the list of a group's results."""
    return len(str(values))


@app.task(priority="high")
async def fetch(url: str) -> bytes:
    """An async task: its result is what it returns, not the coroutine."""
    return url.encode()


@app.task
def export(year: int) -> Iterator[Decimal]:
    """A generator: its items are read as a stream."""
    yield Decimal(year)


@app.task(bind=True)
async def follow(ctx: TaskContext, name: str) -> AsyncIterator[bytes]:
    """An async one."""
    yield name.encode()


def a_plain_call_is_a_plain_call() -> None:
    """The function stays what it was."""
    assert_type(calculate(7), Decimal)
    calculate("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def a_delayed_call_keeps_parameters_and_result() -> None:
    """`delay` takes the function's parameters, and its result's type is the function's."""
    result = calculate.delay(7)
    assert_type(result, AsyncResult[Decimal])
    assert_type(result.get(timeout=3), Decimal)
    assert_type(result.id, str)
    assert_type(result.ready(), bool)
    assert_type(calculate.delay(order_id=7), AsyncResult[Decimal])
    assert_type(send.delay(Decimal(1), subject="July"), AsyncResult[str])
    assert_type(fetch.delay("https://example.org"), AsyncResult[bytes])


async def the_async_twins_say_the_same() -> None:
    """Every blocking method has a twin with an `a` in front, and a result can be awaited."""
    result = await calculate.adelay(7)
    assert_type(result, AsyncResult[Decimal])
    assert_type(await result.aget(timeout=3), Decimal)
    assert_type(await result, Decimal)
    assert_type(await calculate.acall(7), Decimal)
    assert_type(await fetch.acall("https://example.org"), bytes)


def a_foreground_call_returns_the_answer() -> None:
    """`call` waits, so there is no result object."""
    assert_type(calculate.call(7), Decimal)
    assert_type(send.call(Decimal(1)), str)
    assert_type(fetch.call("https://example.org"), bytes)


def options_keep_the_signature() -> None:
    """`options()` changes how a task is called, not with what."""
    urgent = calculate.options(timeout=5, priority="high")
    assert_type(urgent.call(7), Decimal)
    assert_type(urgent.delay(7), AsyncResult[Decimal])
    urgent.delay("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def apply_async_knows_the_result() -> None:
    """`apply_async` takes arguments as values, so only the result is known."""
    result = calculate.apply_async((7,), priority="high", countdown=10, unique="order:7")
    assert_type(result, AsyncResult[Decimal])
    calculate.apply_async((7,), eta=datetime.now(UTC), expires=60)


def wrong_arguments_are_errors() -> None:
    """What the worker would only find out later, the type checker finds now."""
    calculate.delay("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    calculate.delay()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    calculate.delay(7, 8)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    calculate.delay(order=7)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    calculate.call("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send.delay("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    fetch.delay(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def signatures_take_the_same_arguments(order_ids: Iterable[int]) -> None:
    """A signature may be part of a call, so its arguments are not checked; its result, and a chain's, is known."""
    assert_type((calculate | send).delay(7), AsyncResult[str])
    assert_type((calculate.s(7) | send.s() | fetch).delay().get(timeout=30), bytes)
    chain(calculate.s(7), send.s()).delay().get()
    totals = group(calculate.s(order_id) for order_id in order_ids).delay()
    assert_type(totals.get(timeout=30), list[Decimal])


def a_bar_shows_the_last_steps_type() -> None:
    """Whatever stands before it: tasks, chains, groups and chords, and what ends with a group has a list."""
    totals = calculate.s(1) | group(send.s(), send.s("July"))
    assert_type(totals.delay(), GroupResult[str])
    assert_type(totals.delay().get(timeout=30), list[str])
    assert_type((group(calculate.s(1), calculate.s(2)) | count).delay(), AsyncResult[int])
    assert_type((totals | count).delay(), AsyncResult[int])
    assert_type((totals | count | fetch).delay().get(), bytes)
    assert_type((calculate | group(send.s())).delay().get(), list[str])
    assert_type((group(calculate.s(1)) | group(send.s())).delay().get(), list[str])
    assert_type(chord([calculate.s(1), calculate.s(2)], count).delay().get(), int)
    assert_type((calculate | chord([send.s()], count)).delay().get(), int)
    assert_type((chord([calculate.s(1)], count) | fetch.s()).delay().get(), bytes)
    assert_type(chain(calculate.s(1), send.s(), count).delay().get(), int)
    assert_type(chain(calculate.s(1), group(send.s())).delay().get(), list[str])


async def the_async_twins_of_a_canvas_say_the_same() -> None:
    """Groups too."""
    assert_type(await (await (calculate | send).adelay(7)), str)
    assert_type(await (await group(calculate.s(1)).adelay()), list[Decimal])


def copies_stay_what_they_were() -> None:
    """`set`, `clone`, `link` and the like give the same kind."""
    both = calculate.s(1) | send.s()
    assert_type(both.set(priority="high").link(count).link_error(count.s()).on_error(fetch), Chain[str])
    assert_type(calculate.s(1).clone((2,)), Signature[Decimal])
    assert_type(group(calculate.s(1)).set(expires=60), Group[Decimal])
    both.set(priorty="high")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def lists_are_lists() -> None:
    """A task over a list has a list of its results, chunks a list of lists."""
    assert_type(calculate.map([1, 2]).delay().get(), list[Decimal])
    assert_type(calculate.starmap([(1,)]).call(), list[Decimal])
    assert_type((calculate.map([1, 2]) | count).delay().get(), int)
    assert_type(calculate.chunks([(1,), (2,)], 1).delay().get(), list[list[Decimal]])


def what_is_known_by_name_alone_is_untyped(data: Mapping[str, object]) -> None:
    """By a name, or as data from elsewhere."""
    assert_type(app.signature("elsewhere", (1,)), Signature[Any])
    app.signature(data).delay().get()
    assert_type(calculate.s(1) | app.signature(data), Canvas)
    assert_type(app.signature(data) | count, Canvas)


def a_result_is_opened_again_by_its_id(task_id: str) -> None:
    """In another process only the id is left of the type."""
    app.AsyncResult(task_id).get(timeout=30)


def misspelt_options_are_errors() -> None:
    """The options of a call are typed, by name and by value."""
    calculate.options(priorty="high")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    calculate.apply_async((7,), countdwn=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    calculate.options(priority="urgent")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    App("billing", result_expire=60)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def a_generator_streams_its_items() -> None:
    """Its result is the list of its items; a plain call is a plain generator."""
    assert_type(export(2026), Iterator[Decimal])
    assert_type(export.stream(2026), Stream[Decimal])
    for amount in export.options(window=16).stream(2026):
        assert_type(amount, Decimal)
    assert_type(export.s(2026).stream(), Stream[Decimal])
    assert_type(export.call(2026), list[Decimal])
    assert_type(export.delay(2026).get(timeout=3), list[Decimal])
    export.stream("2026")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    calculate.stream(7)  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


async def an_async_generator_streams_too() -> None:
    """And each can be read by async code."""
    assert_type(follow("a"), AsyncIterator[bytes])
    assert_type(follow.astream("a"), AsyncStream[bytes])
    async for piece in follow.astream("a"):
        assert_type(piece, bytes)
    async with export.astream(2026) as amounts:
        assert_type([amount async for amount in amounts], list[Decimal])
    assert_type(await follow.acall("a"), list[bytes])


def a_function_of_another_language_is_untyped() -> None:
    """Nobody knows what a PHP worker takes and returns; everything else is as for any task."""
    php = app.function("send_mail", codec="json")
    php.delay({"order": 7}).get(timeout=30)
    (calculate | php).delay(7)
