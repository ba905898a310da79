"""A task's parameters: what a call has to fit, and how what came over the wire is made to fit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from gtask import App
from gtask.arguments import Arguments

if TYPE_CHECKING:
    from nowhere import Invisible


@dataclass
class Line:
    """Something that a message carries as a map."""

    amount: Decimal
    day: date


def plain(a: int, b: str = "x") -> None:
    """Two parameters."""


def many(a: int, *rest: Decimal, key: date, **more: Decimal) -> None:
    """Every kind of parameter."""


def only(a: int, /, *, key: int) -> None:
    """Positional only, and keyword only."""


def untyped(a, b=1):  # type: ignore[no-untyped-def]
    """No annotation at all."""


def invisible(a: Invisible, b: int) -> Invisible:
    """An annotation that exists for type checkers only."""


DAY = date(2026, 1, 1)


def arguments(func: Any, bind: bool = False) -> Arguments:
    return Arguments(func, func.__name__, bind)


@pytest.mark.parametrize(
    ("func", "args", "kwargs"),
    [
        (plain, (1,), {}),
        (plain, (1, "y"), {}),
        (plain, (), {"a": 1}),
        (plain, (1,), {"b": "y"}),
        (many, (1, 2, 3), {"key": DAY}),
        (many, (1,), {"key": "2026-01-01", "other": 2}),
        (only, (1,), {"key": 2}),
        (untyped, (1,), {}),
    ],
)
def test_a_call_that_fits(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    arguments(func).check(args, kwargs)


@pytest.mark.parametrize(
    ("func", "args", "kwargs", "match"),
    [
        (plain, (), {}, "missing a required argument: 'a'"),
        (plain, (1, "y", 2), {}, "too many positional arguments"),
        (plain, (1,), {"c": 1}, "unexpected keyword argument 'c'"),
        (plain, (1,), {"a": 1}, "multiple values for argument 'a'"),
        (many, (1,), {}, "missing a required.*'key'"),
        (only, (), {"a": 1, "key": 2}, "'a'"),
    ],
)
def test_a_call_that_does_not_fit(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(TypeError, match=rf"{func.__name__}\(.*\).*does not take these arguments: .*{match}"):
        arguments(func).check(args, kwargs)
    with pytest.raises(TypeError, match=match):
        arguments(func).fit(args, kwargs)


def test_the_context_is_no_parameter_of_a_bound_task() -> None:
    bound = arguments(lambda ctx, a: None, bind=True)
    bound.check((1,), {})
    with pytest.raises(TypeError, match="too many"):
        bound.check((1, 2), {})


def test_arguments_are_made_what_the_annotations_say() -> None:
    def task(line: Line, count: int, tags: set[str], at: date = date(2000, 1, 1)) -> None: ...

    wire = {"amount": "1.50", "day": "2026-02-03"}
    args, kwargs = arguments(task).fit((wire, 2, ["a"]), {"at": "2026-01-01"})
    assert args == (Line(Decimal("1.50"), date(2026, 2, 3)), 2, {"a"}, date(2026, 1, 1))
    assert kwargs == {}
    args, kwargs = arguments(task).fit((wire, 2, ["a"]), {})
    assert args == (Line(Decimal("1.50"), date(2026, 2, 3)), 2, {"a"})


def test_variable_arguments_are_made_so_one_by_one() -> None:
    args, kwargs = arguments(many).fit((1, "2.5", 3), {"key": "2026-01-01", "more": "4"})
    assert args == (1, Decimal("2.5"), Decimal(3))
    assert kwargs == {"key": date(2026, 1, 1), "more": Decimal(4)}


@pytest.mark.parametrize(
    ("args", "kwargs", "match"),
    [
        (("seven",), {}, r"plain: a: .*int"),
        ((1, 2), {}, r"plain: b: .*str"),
        ((1,), {"b": None}, r"plain: b: .*str"),
    ],
)
def test_what_cannot_be_made_so_is_named(args: tuple[Any, ...], kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(TypeError, match=match):
        arguments(plain).fit(args, kwargs)


def test_without_annotations_everything_is_taken() -> None:
    assert arguments(untyped).fit(("x", None), {}) == (("x", None), {})


def test_annotations_for_type_checkers_only_leave_their_own_parameter_open() -> None:
    found = arguments(invisible)
    assert found.fit(("x", 7), {}) == (("x", 7), {})
    with pytest.raises(TypeError, match=r"invisible: b: expected int, got str '7'"):
        found.fit(("x", "7"), {})
    assert found.returns is Any


def test_annotations_may_name_what_is_defined_later(app: App) -> None:
    @app.task
    def task(value: Later) -> Later:
        return value

    args, _ = task.arguments.fit(({"number": 3},), {})
    assert args == (Later(3),)
    assert task.arguments.returns is Later


@dataclass
class Later:
    """Defined after the task that names it."""

    number: int


@pytest.mark.parametrize("way", ["delay", "call", "apply_async", "options", "signature"])
def test_a_call_is_checked_before_anything_is_sent(app: App, way: str) -> None:
    task = app.task(plain)
    calls: dict[str, Any] = {
        "delay": lambda: task.delay(),  # type: ignore[call-arg]
        "call": lambda: task.call(1, "y", 3),  # type: ignore[call-arg]
        "apply_async": lambda: task.apply_async((1,), {"c": 1}),
        "options": lambda: task.options(timeout=1).delay(c=1),  # type: ignore[call-arg]
        "signature": lambda: task.s().delay(),
    }
    with pytest.raises(TypeError, match="does not take these arguments"):
        calls[way]()
