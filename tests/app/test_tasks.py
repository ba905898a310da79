"""`@app.task`: names, options, and what is refused where the function is defined."""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Any

import anyio
import pytest

from gtask import App, Priority, TaskContext, UnknownOption, UnknownTask
from gtask.errors import BadArguments, ConfigurationError, DuplicateTask
from gtask.middleware import Middleware
from gtask.options import CODECS
from gtask.task import AsyncTask, Task
from tests.app.helpers import NOWHERE


def test_a_task_is_the_function_it_was_made_of(app: App) -> None:
    @app.task
    def calculate(order_id: int) -> int:
        """The amount of an order."""
        return order_id * 2

    assert isinstance(calculate, Task)
    assert calculate.name == "calculate"
    assert calculate.__doc__ == "The amount of an order."
    assert calculate.__name__ == "calculate"
    assert calculate(7) == 14
    assert app.tasks == {"calculate": calculate}
    assert repr(calculate) == "<Task calculate>"


async def test_a_coroutine_function_stays_one(app: App) -> None:
    @app.task
    async def fetch(number: int) -> int:
        return number + 1

    class Fetcher:
        async def __call__(self, number: int) -> int:
            return number + 2

    assert isinstance(fetch, AsyncTask)
    assert await fetch(1) == 2
    other = app.task(name="other")(Fetcher())
    assert isinstance(other, AsyncTask)
    assert await other(1) == 3


test_a_coroutine_function_stays_one = pytest.mark.anyio(test_a_coroutine_function_stays_one)  # type: ignore[assignment]


def test_a_bound_task_gets_a_context_that_reports_to_nobody(app: App) -> None:
    @app.task(bind=True, max_retries=7)
    def who(ctx: TaskContext, number: int) -> tuple[str, int, int | None, bool]:
        return ctx.task.name, ctx.args[0], ctx.max_retries, ctx.progress(1, 2) or ctx.send_data(b"x") or ctx.warn("y")

    assert who(3) == ("who", 3, 7, False)


@pytest.mark.parametrize(
    ("option", "nearest"), [("max_retry", "max_retries"), ("prio", "priority"), ("autoretry", "autoretry_for")]
)
def test_an_unknown_option_is_refused_with_the_nearest(app: App, option: str, nearest: str) -> None:
    with pytest.raises(UnknownOption, match=rf"Task 'f'.*'{option}'.*did you mean '{nearest}'"):
        app.task(**{option: 1})(_function("f"))
    assert not app.tasks


@pytest.mark.parametrize(
    ("option", "match"),
    [("queue", "queue is its name"), ("acks_late", "always so"), ("retry_kwargs", "write max_retries=")],
)
def test_an_option_of_celery_is_told_what_it_is_here(app: App, option: str, match: str) -> None:
    with pytest.raises(UnknownOption, match=match):
        app.task(**{option: 1})(_function("f"))
    with pytest.raises(UnknownOption, match=match):
        app.task(_function("f")).s().set(**{option: 1})


def test_an_option_like_no_other_is_told_all_of_them(app: App) -> None:
    with pytest.raises(UnknownOption, match=r"autoretry_for, .*unique"):
        app.task(zzz=1)(_function("f"))  # type: ignore[call-overload]


def test_two_tasks_of_one_name_are_an_error(app: App) -> None:
    app.task(_function("f"))
    with pytest.raises(DuplicateTask, match="'shop' has a task 'f' already"):
        app.task(_function("f"))
    with pytest.raises(DuplicateTask):
        app.function("f")


@pytest.mark.parametrize("name", ["", " ", "a b", "a\n", "ä", "a/b", "a-b", "x" * 201])
def test_a_name_that_no_job_server_carries_is_refused(app: App, name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the name of a task"):
        app.task(name=name)(lambda: 1)


def test_a_function_without_a_name_of_its_own_needs_one(app: App) -> None:
    with pytest.raises(ConfigurationError, match=r"name='...'"):
        app.task(lambda: 1)
    with pytest.raises(ConfigurationError, match=r"name='...'"):
        app.task(functools.partial(int, "7"))
    assert app.task(name="seven")(functools.partial(int, "7"))() == 7


@pytest.mark.parametrize("name", ["gtask.later", "gtask.call", "gtask.x"])
def test_names_of_gtask_itself_are_refused(app: App, name: str) -> None:
    with pytest.raises(ConfigurationError, match="are gtask's own"):
        app.task(name=name)(_function("f"))
    with pytest.raises(ConfigurationError, match="are gtask's own"):
        app.function(name)


def test_a_namespace_stands_in_front_of_names() -> None:
    app = App("shop", NOWHERE, namespace="billing.")
    assert app.task(_function("f")).name == "billing.f"
    assert app.task(namespace="")(_function("f")).name == "f"
    assert app.task(namespace="other:")(_function("f")).name == "other:f"
    assert app.function("send").name == "send"
    with pytest.raises(ConfigurationError, match="namespace"):
        App("shop", NOWHERE, namespace="a b")


@pytest.mark.parametrize("func", [lambda: 1, lambda *, ctx: 1, lambda *args: 1])
def test_bind_needs_a_first_parameter(app: App, func: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"first parameter must be the context: def f\(ctx"):
        app.task(bind=True, name="f")(func)


def test_what_is_no_function_is_refused(app: App) -> None:
    with pytest.raises(ConfigurationError, match="no function"):
        app.task("calculate")  # type: ignore[call-overload]
    task = app.task(_function("f"))
    with pytest.raises(ConfigurationError, match="f is a task already"):
        app.task(task)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"priority": "urgent"}, "'high', 'normal' and 'low'"),
        ({"codec": "xml"}, "codec='xml'"),
        ({"time_limit": 0}, "time_limit=0"),
        ({"expires": -1}, "expires=-1"),
        ({"soft_time_limit": 5, "time_limit": 5}, "soft_time_limit must be less"),
        ({"throws": "ValueError"}, "exception classes"),
        ({"throws": (int,)}, "exception classes"),
        ({"autoretry_for": ValueError()}, "exception classes"),
        ({"max_retries": -1}, "max_retries=-1"),
        ({"max_retries": "3"}, "max_retries='3'"),
        ({"retry_backoff": "yes"}, "retry_backoff"),
        ({"default_retry_delay": -5}, "default_retry_delay=-5"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(app: App, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        app.task(**options)(_function("f"))


def test_options_are_read(app: App) -> None:
    task = app.task(
        priority="high",
        expires=timedelta(minutes=1),
        throws=KeyError,
        max_retries=None,
        autoretry_for=[OSError],
        retry_backoff=2,
        codec="json",
    )(_function("f"))
    config = task.config
    assert config.priority is Priority.HIGH
    assert config.expires == 60.0
    assert config.throws == (KeyError,)
    assert config.retry.max_retries is None
    assert config.retry.autoretry_for == (OSError,)
    assert config.retry.retry_backoff == 2
    assert config.codec in CODECS


def test_options_of_middleware_are_task_options_too() -> None:
    class Audit(Middleware):
        options = frozenset({"audit"})

    app = App("shop", NOWHERE, middleware=[Audit()])
    assert app.task(audit="all")(_function("f")).extra_options == {"audit": "all"}
    assert app.task(_function("g")).extra_options == {}
    with pytest.raises(UnknownOption, match="did you mean 'audit'"):
        app.task(audits=1)(_function("h"))  # type: ignore[call-overload]


@pytest.mark.parametrize("args", [7, "7", b"7", {"order_id": 7}, None])
def test_arguments_come_as_a_tuple_or_a_list(app: App, args: Any) -> None:
    @app.task
    def calculate(order_id: int) -> int:
        return order_id

    with pytest.raises(BadArguments, match=r"A call of calculate: args=.*; write a tuple or a list"):
        calculate.apply_async(args)
    with pytest.raises(BadArguments, match="write a tuple or a list"):
        anyio.run(calculate.aapply_async, args)


def test_a_functions_own_attributes_do_not_become_the_tasks(app: App) -> None:
    func = _function("f")
    func.name = "other"
    func.app = None
    task = app.task(func)
    assert (task.name, task.app) == ("f", app)
    assert task.__wrapped__ is func


def test_a_function_elsewhere_has_no_body_here(app: App) -> None:
    send = app.function("send", codec="text", priority="low", max_retries=1)
    assert send.config.priority is Priority.LOW
    with pytest.raises(TypeError, match=r"send lives in another worker; use send.call"):
        send(1)
    with pytest.raises(ConfigurationError, match="codec='auto'"):
        app.function("other", codec="auto")
    with pytest.raises(UnknownTask, match="has no task 'send'; it has send"):
        app.local_task("send")
    with pytest.raises(UnknownTask, match="has no task 'nothing'"):
        app.local_task("nothing")


def _function(name: str) -> Any:
    def func(*args: Any) -> Any:
        return args

    func.__name__ = name
    return func
