"""Typed arguments at the sender: a wrong call raises before anything is sent, whichever way it goes. docs/types.md."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import InitVar, dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Required, TypedDict, TypeVar, Unpack
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field

from gtask import App, BadArguments, chain, chord, group
from gtask.arguments import COMING, Arguments
from gtask.codecs import convert, from_json, pack, to_json, unpack
from gtask.errors import ConnectFailed
from tests.app.helpers import ending_of, error_of, foreign, seal
from tests.unit.samples import Address, Colour, Customer, Level, Line, Node, Opaque, Order, Page, Point, Word

if TYPE_CHECKING:
    from nowhere import Invisible

T = TypeVar("T")


class Special(Line):
    """A subclass that has no field of its own."""


@dataclass
class Gift(Line):
    """A subclass with one more field."""

    card: str = ""


@dataclass
class Seeded:
    """Built from more than its fields."""

    total: int
    seed: InitVar[int]


@dataclass
class Lax:
    """A default that its annotation does not name."""

    label: str = None  # type: ignore[assignment]


class Late(NamedTuple):
    """The same in a NamedTuple."""

    at: datetime = None  # type: ignore[assignment]


class Adult(Customer):
    """A model with one more field."""

    age: int = 18


class Open(BaseModel):
    """A model that keeps what it does not know."""

    model_config = ConfigDict(extra="allow")
    name: str


class Wide(Open):
    """Its subclass."""

    more: int = 1


class Exact(BaseModel):
    """A strict model."""

    model_config = ConfigDict(strict=True)
    colour: Colour
    line: Line
    at: datetime


class Hidden(BaseModel):
    """A model that keeps something for itself."""

    shown: int
    hidden: int = Field(exclude=True)


class Money(Decimal):
    """A subclass of a plain type."""


class Even(int):
    """A subclass of a plain type that refuses values."""

    def __new__(cls, value: int) -> Even:
        if value % 2:
            raise ValueError("odd")
        return super().__new__(cls, value)


class Size(StrEnum):
    """Text with names."""

    SMALL = "small"


class Extras(TypedDict, total=False):
    """Keyword arguments."""

    note: str
    day: Required[date]


MOMENT = datetime(2026, 7, 1, 12, tzinfo=UTC)
UID = UUID("12345678-1234-5678-1234-567812345678")
LINE = Line("a", Decimal(1))


def taking(annotation: Any) -> Arguments:
    def task(value):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    task.__annotations__ = {"value": annotation}
    return Arguments(task, "task")


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, True),
        (int, Level.ONE),
        (int, 2.0),
        (float, 1),
        (str, Word.HELLO),
        (bytes, "text"),
        (bytes, memoryview(b"x")),
        (Decimal, 1),
        (Decimal, 1.5),
        (Decimal, "12.50"),
        (datetime, "2026-07-01T12:00:00Z"),
        (date, MOMENT),
        (time, "12:00"),
        (timedelta, 90),
        (UUID, str(UID)),
        (Colour, "red"),
        (Literal["small", "large"], Size.SMALL),
        (int | None, None),
        (list[int], (1, 2)),
        (set[int], [1, 2]),
        (tuple[int, str], [1, "a"]),
        (dict[int, str], {"7": "x"}),
        (Sequence[Decimal], [Decimal(1), "2"]),
        (Line, {"sku": "a", "price": "1.50"}),
        (Line, Special("a", Decimal(1))),
        (list[Line], [LINE, {"sku": "a", "price": 1}]),
        (Point, (1,)),
        (Address, {"street": "s", "since": MOMENT, "unknown": 1}),
        (Customer, {"name": "Ann"}),
        (Open, Wide(name="a")),
        (Lax, Lax()),
        (Late, Late()),
        (Even, 4),
        (Money, "1.50"),
        (Money, Money(1)),
        (T, Opaque()),
        (Any, Opaque()),
    ],
)
def test_a_value_that_the_worker_takes_is_sent(annotation: Any, value: Any) -> None:
    taking(annotation).check((value,), {})


@pytest.mark.parametrize(
    ("annotation", "value", "sentence"),
    [
        (int, "seven", "value: expected int, got str 'seven'"),
        (int, 1.5, "value: expected int, got float 1.5"),
        (int, None, "value: expected int, got None"),
        (bool, 1, "value: expected bool, got int 1"),
        (float, Decimal(1), "value: expected float, got decimal.Decimal Decimal('1')"),
        (str, Colour.RED, "value: expected str, got tests.unit.samples.Colour <Colour.RED: 'red'>"),
        (str, b"x", "value: expected str, got bytes b'x'"),
        (Decimal, True, "value: expected Decimal, got bool True"),
        (datetime, date(2026, 7, 1), "value: expected datetime, got datetime.date"),
        (Colour, "green", "value: expected Colour (one of 'red', 'blue'), got str 'green'"),
        (list[int], {1, 2}, "value: expected list[int], got set {1, 2}"),
        (list[int], [1, "x"], "value[1]: expected int, got str 'x'"),
        (list[Line], [LINE, Line("a", "x")], "value[1].price: expected Decimal, got str 'x'"),  # type: ignore[arg-type]
        (Line, Gift("a", Decimal(1)), "value: expected Line, got its subclass Gift, whose field 'card' would be lost"),
        (Customer, Adult(name="Ann"), "value: expected Customer, got its subclass Adult, whose field 'age' would be"),
        (
            Seeded,
            Seeded(1, 2),
            "value: Seeded cannot be built again from its fields: its constructor also takes 'seed'",
        ),
        (Node, Node("a", [Node(5)]), "value.children[0].name: expected str, got int 5"),  # type: ignore[arg-type]
        (Page[int], Page(["x"]), "value.items[0]: expected int, got str 'x'"),
        (Point, Point(1, "x"), "value.y: expected Decimal, got str 'x'"),  # type: ignore[arg-type]
        (Node | None, Node("a", [5]), "value.children[0]: expected Node as a map of its fields, got int 5"),  # type: ignore[list-item]
        (Address, {}, "value: Address lacks 'street'"),
        (Customer, {"balance": 1}, "value: Customer refuses it: 1 validation error"),
        (
            Hidden,
            Hidden(shown=1, hidden=2),
            "value: Hidden cannot be built again from what is sent: its field 'hidden'",
        ),
        (Even, 3, "value: Even refuses int 3: ValueError: 'odd'"),
        (Even, "x", "value: expected Even as int, got str 'x'"),
        (Money, True, "value: expected Money as Decimal, got bool True"),
        (Opaque, 5, "value: expected Opaque, got int 5"),
    ],
)
def test_a_value_that_the_worker_would_refuse_is_refused(annotation: Any, value: Any, sentence: str) -> None:
    arguments = taking(annotation)
    for args, kwargs in (((value,), {}), ((), {"value": value})):
        with pytest.raises(BadArguments) as caught:
            arguments.check(args, kwargs)
        assert isinstance(caught.value, TypeError)
        assert str(caught.value).startswith(f"task: {sentence}")


def test_a_strict_model_is_rebuilt_from_what_travels() -> None:
    exact = Exact(colour=Colour.RED, line=LINE, at=MOMENT)
    arguments = taking(Exact)
    arguments.check((exact,), {})
    assert arguments.fit(tuple(unpack(pack([exact]))), {}) == ((exact,), {})
    assert convert(from_json(to_json(exact)), Exact) == exact


def test_the_same_call_is_refused_again_and_again() -> None:
    def task(a: int, b: list[int]) -> None: ...

    arguments = Arguments(task, "task")
    for _ in range(3):
        arguments.check((1, [2]), {})
        arguments.check((1,), {"b": [2]})
        with pytest.raises(BadArguments, match=r"b\[0\]: expected int"):
            arguments.check((1, ["x"]), {})
        with pytest.raises(BadArguments, match=r"a: expected int"):
            arguments.check(("1", [2]), {})
        with pytest.raises(BadArguments, match=r"a: expected int"):
            arguments.check((), {"a": None, "b": []})


def test_shapes_of_calls_are_remembered_within_bounds() -> None:
    def task(a: Any, *rest: int) -> None: ...

    arguments = Arguments(task, "task")
    for number in range(1000):
        arguments.check((type(f"Kind{number}", (), {})(),), {})
        arguments.check((1, *range(number)), {})
    assert len(arguments._known) <= 256


def test_every_kind_of_parameter_is_checked() -> None:
    def task(a: int, /, b: str = "", *rest: Decimal, key: date, more: int = None, **others: Line) -> None: ...  # type: ignore[assignment]  # noqa: RUF013

    arguments = Arguments(task, "task")
    day = date(2026, 1, 1)
    arguments.check((1, "x", Decimal(1)), {"key": day, "more": None, "line": LINE})
    for args, kwargs, place in (
        (("x",), {"key": day}, r"a"),
        ((1, 2), {"key": day}, r"b"),
        ((1, "x", 1, "y"), {"key": day}, r"rest\[1\]"),
        ((1,), {"key": 5}, r"key"),
        ((1,), {"key": day, "line": {"sku": 5, "price": 1}}, r"others\.line\.sku"),
    ):
        for way in (arguments.check, arguments.fit):
            with pytest.raises(BadArguments, match=rf"^task: {place}: expected"):
                way(args, kwargs)


def test_keyword_arguments_may_be_a_typed_dict() -> None:
    def task(**extras: Unpack[Extras]) -> None: ...

    arguments = Arguments(task, "task")
    arguments.check((), {"note": "x", "day": "2026-01-01"})
    assert arguments.fit((), {"day": "2026-01-01"}) == ((), {"day": date(2026, 1, 1)})
    with pytest.raises(BadArguments, match=r"extras\.note: expected str, got int 5"):
        arguments.check((), {"note": 5, "day": date(2026, 1, 1)})
    with pytest.raises(BadArguments, match=r"extras: Extras lacks 'day'"):
        arguments.check((), {})


def test_a_name_that_is_not_there_leaves_its_own_parameter_open() -> None:
    def task(a: Invisible, b: int) -> None: ...

    arguments = Arguments(task, "task")
    arguments.check((Opaque(), 1), {})
    with pytest.raises(BadArguments, match="b: expected int"):
        arguments.check((1, "x"), {})


def test_annotations_of_partials_and_callable_objects_count() -> None:
    def task(a: int, b: Line) -> None: ...

    class Callable_:
        def __call__(self, a: Line) -> Line:
            raise NotImplementedError

    with pytest.raises(BadArguments, match="b: expected Line"):
        Arguments(functools.partial(task, 1), "task").check((), {"b": 5})
    found = Arguments(Callable_(), "task")
    assert found.returns is Line
    with pytest.raises(BadArguments, match="a: expected Line"):
        found.check((5,), {})


def test_what_is_too_deep_is_left_to_the_encoder() -> None:
    node = Node("root")
    node.children.append(node)
    taking(Node).check((node,), {})


def test_an_argument_that_comes_later_fits_everywhere() -> None:
    def task(a: Decimal, b: str) -> None: ...

    arguments = Arguments(task, "task")
    arguments.check((COMING, "x"), {})
    with pytest.raises(BadArguments, match="b: expected str, got int 5"):
        arguments.check((COMING, 5), {})
    with pytest.raises(BadArguments, match="missing a required argument: 'b'"):
        arguments.check((COMING,), {})


# --- every way to send ---------------------------------------------------------------------------------------------


@pytest.fixture
def shop(app: App) -> App:
    """An App whose job server is not there: a call that gets as far as sending raises `ConnectFailed`."""

    @app.task
    def calculate(order_id: int, lines: list[Line] = []) -> Decimal:  # noqa: B006
        raise NotImplementedError

    @app.task
    def send(amount: Decimal, subject: str = "") -> str:
        raise NotImplementedError

    return app


WAYS: dict[str, Callable[[Any], Any]] = {
    "delay": lambda task: task.delay("seven"),
    "by name": lambda task: task.delay(order_id="seven"),
    "call": lambda task: task.call("seven"),
    "apply_async": lambda task: task.apply_async(("seven",)),
    "apply_async with names": lambda task: task.apply_async(kwargs={"order_id": "seven"}, countdown=1),
    "options": lambda task: task.options(timeout=1).delay("seven"),
    "options and call": lambda task: task.options(timeout=1).call("seven"),
    "signature": lambda task: task.s("seven").delay(),
    "its arguments later": lambda task: task.s().delay("seven"),
    "clone": lambda task: task.s().clone(("seven",)).delay(),
    "call of a signature": lambda task: task.s("seven").call(),
    "send_task": lambda task: task.app.send_task("calculate", ["seven"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_call_raises_before_anything_is_sent(shop: App, way: str) -> None:
    with pytest.raises(BadArguments, match=r"^calculate: order_id: expected int, got str 'seven'"):
        WAYS[way](shop.tasks["calculate"])
    with pytest.raises(ConnectFailed):
        shop.tasks["calculate"].delay(7)


@pytest.mark.anyio
async def test_a_wrong_call_raises_in_async_code_too(shop: App) -> None:
    task = shop.tasks["calculate"]
    ways: Iterator[Callable[[], Any]] = iter(
        [
            lambda: task.adelay("seven"),
            lambda: task.acall("seven"),
            lambda: task.aapply_async(("seven",)),
            lambda: task.s().adelay("seven"),
            lambda: task.options(timeout=1).acall("seven"),
            lambda: shop.asend_task("calculate", ["seven"]),
        ]
    )
    for way in ways:
        with pytest.raises(BadArguments, match=r"^calculate: order_id: expected int"):
            await way()


def test_a_partial_call_is_checked_as_far_as_it_is_known(shop: App) -> None:
    calculate, send = shop.tasks["calculate"], shop.tasks["send"]
    send.s("a subject")  # behind a step that gives the amount
    send.s(subject="a subject")
    for way in (
        lambda: send.s(subject=5),
        lambda: send.si(subject=5),
        lambda: send.signature(kwargs={"subject": 5}),
        lambda: send.options(timeout=1).s(subject=5),
        lambda: send.s(Decimal(1), 5),  # both are there, so nothing can come in front
    ):
        with pytest.raises(BadArguments, match=r"^send: subject: expected str, got int 5"):
            way()
    with pytest.raises(BadArguments, match="unexpected keyword argument 'sbject'"):
        send.s(sbject="x")
    with pytest.raises(BadArguments, match="too many positional arguments"):
        calculate.s(1, [], 3)


def test_what_is_put_together_is_checked_as_a_whole_before_any_of_it_is_sent(shop: App) -> None:
    calculate, send = shop.tasks["calculate"], shop.tasks["send"]

    @shop.task
    def add_up(amounts: list[Decimal], label: str = "") -> Decimal:
        raise NotImplementedError

    wrong: list[tuple[Any, str]] = [
        (calculate.s("seven") | send.s(), "calculate: order_id"),
        (calculate.s(7) | send.s(5), "send: subject"),
        (calculate.s(7) | send.s(Decimal(1), "y"), "send.* does not take these arguments: too many"),
        (calculate.s(7) | send.si("much"), "send: amount"),
        (chain(calculate.s(7), send.s("x"), calculate.si("x")), "calculate: order_id"),
        (group(calculate.s(7), calculate.s("seven")), "calculate: order_id"),
        (group([calculate.s(7), calculate.s(8) | send.s(5)]), "send: subject"),
        (chord([calculate.s("seven")], add_up.s()), "calculate: order_id"),
        (chord([calculate.s(7)], add_up.s(5)), "add_up: label"),
        (group(calculate.s(7), calculate.s(8)) | add_up.s("x") | send.s(5), "send: subject"),
        (calculate.s(7) | group(send.s("a"), send.s(5)), "send: subject"),
        (calculate.map([1, "seven"]), r"Item 1 of calculate\.map\(\): calculate: order_id"),
        (send.starmap([(Decimal(1), "x"), (Decimal(1), 5)]), r"Item 1 of send\.starmap\(\): send: subject"),
    ]
    for canvas, sentence in wrong:
        with pytest.raises(BadArguments, match=rf"^{sentence}"):
            canvas.delay()
        with pytest.raises(BadArguments, match=rf"^{sentence}"):
            canvas.apply_async(countdown=1)
    for way in (
        lambda: group(calculate.s(), calculate.s()).delay("seven"),
        lambda: calculate.s(7).link(calculate.s(8).set(priority="low") | send.s(5)),
        lambda: calculate.s(7).link(send.s(5)),
        lambda: calculate.s(7).link_error(send.si("much")),
        lambda: calculate.apply_async((7,), link=send.s(5)),
    ):
        with pytest.raises(BadArguments):
            way()
    with pytest.raises(ConnectFailed):  # what is not known yet is not held against anybody
        (calculate.s(7) | send.s("x") | calculate.s()).delay()


def test_a_stream_is_checked_before_it_is_asked_for(app: App) -> None:
    @app.task
    def export(rows: int) -> Iterator[Line]:
        yield LINE

    for way in (export.stream, export.astream, export.options(timeout=1).stream, export.s().stream, export.delay):
        with pytest.raises(BadArguments, match=r"^export: rows: expected int, got str 'many'"):
            way("many")
    assert export.arguments.returns == list[Line]
    assert export.arguments.items is Line


# --- the worker ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workload", "sentence"),
    [
        (b'{"order_id": "x"}', "pay: order: Order has no field 'order_id'; it has id, lines, placed, colour."),
        (b'"x"', "pay: order: expected Order as a map of its fields, got str 'x'"),
        (b'[{"id": 1}]', "pay: order: expected Order as a map of its fields, got list"),
        (b'{"id": 1, "lines": [{"sku": "a", "price": "1"}, {"sku": "b", "price": "x"}]}', "pay: order.lines[1].price:"),
        (b'{"gtask": 1, "args": [], "kwargs": {"order": {"id": "x"}}}', "pay: order.id: expected int, got str 'x'"),
        (b'{"gtask": 1, "args": [], "kwargs": {"ordr": {}}}', "does not take these arguments"),
    ],
)
def test_a_foreign_payload_that_does_not_fit_is_told_which_argument(app: App, workload: bytes, sentence: str) -> None:
    runs = []

    @app.task(autoretry_for=(Exception,), max_retries=3)
    def pay(order: Order) -> None:
        runs.append(order)

    # Not tried again: it would not fit then either.
    info = error_of(ending_of(app, foreign("pay", workload)))
    assert info.type == "gtask.errors.BadArguments"
    assert sentence in info.message
    assert runs == []


def test_a_json_object_is_one_positional_argument(app: App) -> None:
    @app.task
    def pay(order_id: int, amount: Decimal) -> None:
        raise NotImplementedError

    info = error_of(ending_of(app, foreign("pay", b'{"order_id": 7, "amount": "1.50"}')))
    assert "missing a required argument: 'amount'" in info.message


# --- switched off --------------------------------------------------------------------------------------------------


def test_a_task_may_take_whatever_quacks(app: App) -> None:
    seen: list[Any] = []

    @app.task(check_arguments=False)
    def feed(count: int, lines: list[Line]) -> None:
        seen.append((count, lines))

    submission = seal(app, feed.s("many", [{"sku": "a", "price": "1.50"}]))
    ending_of(app, submission)
    assert seen == [("many", [Line("a", Decimal("1.50"))])]
    ending_of(app, seal(app, feed.s(1, [{"sku": "a", "price": "x"}])))
    assert seen[1] == (1, [{"sku": "a", "price": "x"}])
    with pytest.raises(BadArguments, match="missing a required argument"):
        feed.delay(1)  # type: ignore[call-arg]


def test_then_a_result_that_does_not_fit_is_passed_on_too(app: App) -> None:
    @app.task(check_arguments=False)
    def answer(value: Any) -> Line:
        raise NotImplementedError

    kind = app.returns_of("answer")
    assert unpack(pack(LINE), kind) == LINE
    assert unpack(pack(["no line"]), kind) == ["no line"]
    assert taking(Line).returns is Any


def test_an_app_may_leave_the_types_to_its_tasks() -> None:
    lax = App("lax", results=None, check_arguments=False)

    @lax.task
    def loose(a: int) -> None: ...

    @lax.task(check_arguments=True)
    def strict(a: int) -> None: ...

    loose.s("x")
    with pytest.raises(BadArguments, match="strict: a: expected int"):
        strict.s("x")


def test_the_setting_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GTASK_CHECK_ARGUMENTS", "no")
    assert App("lax", results=None).settings.check_arguments is False
