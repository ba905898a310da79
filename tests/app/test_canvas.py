"""Signatures, chains, groups and chords as values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from gtask import App, Chain, Chord, Group, UnknownOption, chain, chord, group, signature
from gtask.errors import ConfigurationError, StoreRequired
from gtask.task import Task
from tests.app.helpers import NOWHERE


@pytest.fixture
def add(app: App) -> Task[..., int]:
    @app.task
    def add(a: int, b: int = 0, c: int = 0) -> int:
        return a + b + c

    return add


def test_a_signature_is_frozen(add: Task[..., int]) -> None:
    given = {"c": 3}
    step = add.s(1, **given)
    with pytest.raises(AttributeError):
        step.args = (2,)  # type: ignore[misc]
    given["c"] = 4
    assert step.kwargs == {"c": 3}
    assert repr(step) == "add(1, c=3)"


def test_set_and_clone_give_copies(add: Task[..., int]) -> None:
    step = add.s(2)
    urgent = step.set(priority="high").set(expires=5)
    assert (step.options, urgent.options) == ({}, {"priority": "high", "expires": 5})
    more = urgent.clone((1,), {"c": 3}, priority="low")
    assert (more.args, more.kwargs, more.options["priority"]) == ((1, 2), {"c": 3}, "low")
    assert (urgent.args, urgent.kwargs) == ((2,), {})


def test_a_signature_may_be_part_of_the_arguments(add: Task[..., int]) -> None:
    partial = add.s(b=2)
    assert partial.clone((1,)).args == (1,)
    with pytest.raises(TypeError, match="missing a required argument: 'a'"):
        partial.delay()


def test_si_takes_no_result(add: Task[..., int]) -> None:
    assert not add.s(1).immutable
    assert add.si(1).immutable
    assert signature(add, (1,), {"b": 2}, immutable=True, priority="low") == add.signature(
        (1,), {"b": 2}, True, priority="low"
    )
    assert signature(add.si(1)).immutable


def test_an_unknown_call_option_is_refused(add: Task[..., int]) -> None:
    with pytest.raises(UnknownOption, match=r"A call of add: .*'countdwn'; did you mean 'countdown'"):
        add.s(1).set(countdwn=1)  # type: ignore[call-arg]
    with pytest.raises(UnknownOption):
        add.apply_async((1,), prio="high")  # type: ignore[call-arg]
    with pytest.raises(UnknownOption):
        add.options(time=1).s(1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"countdown": "10"}, "countdown='10'"),
        ({"countdown": float("nan")}, "countdown=nan"),
        ({"eta": 10}, "eta=10; write a datetime"),
        ({"expires": "soon"}, "expires='soon'"),
        ({"priority": "urgent"}, "'high', 'normal' or 'low'"),
        ({"headers": [1]}, "headers"),
        ({"headers": {1: 2}}, "headers"),
        ({"max_retries": -1}, "max_retries=-1"),
        ({"max_retries": True}, "max_retries=True"),
        ({"time_limit": 0}, "time_limit=0"),
        ({"timeout": "5"}, "timeout='5'"),
        ({"countdown": 1, "eta": datetime.now(UTC)}, "give one of them"),
        ({"task_id": "a b"}, "cannot be a task's id"),
        ({"task_id": "x" * 56}, "cannot be a task's id"),
    ],
)
def test_a_call_option_that_makes_no_sense_is_refused_at_once(
    add: Task[..., int], options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ConfigurationError, match=match):
        add.s(1).set(**options)


def test_a_bar_chains_tasks_and_signatures(add: Task[..., int]) -> None:
    for made in (add | add, add.s() | add, add | add.s(), chain(add, add.s())):
        assert isinstance(made, Chain)
        assert len(made.steps) == 2
    three = add.s(1) | add.s(2) | add.si(3)
    assert repr(three) == "add(1) | add(2) | add(3)"
    assert [step.args for step in three.steps] == [(1,), (2,), (3,)]
    assert len((three | three).steps) == 6
    assert three.set(priority="high").steps[-1].options == {"priority": "high"}
    assert three.steps[0].options == {}


def test_only_tasks_and_signatures_are_chained(add: Task[..., int]) -> None:
    with pytest.raises(TypeError, match="neither a task nor a signature"):
        add.s(1) | 3  # type: ignore[operator]
    with pytest.raises(TypeError, match="neither a task nor a signature"):
        chain(add.s(1), 5)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="one step at least"):
        chain()


def test_links_are_copies_too(add: Task[..., int]) -> None:
    step = add.s(1)
    linked = step.link(add.s(2)).link(add.s(3)).link_error(add.s())
    assert step.options == {}
    assert [one.args for one in linked.options["link"]] == [(2,), (3,)]
    assert len(linked.options["link_error"]) == 1
    with pytest.raises(TypeError, match="neither a task nor a signature"):
        step.link(5)  # type: ignore[arg-type]
    data = linked.data("x").options
    ids = [plain[5] for plain in data["link"] + data["link_error"]]
    assert len({*ids}) == 3
    assert all(len(task_id) == 32 for task_id in ids)


def test_a_group_takes_members_or_an_iterable(add: Task[..., int]) -> None:
    for made in (group(add.s(1), add.s(2)), group(add.s(n) for n in (1, 2)), group([add.s(1), add.s(2)])):
        assert isinstance(made, Group)
        assert len(made) == 2
        assert repr(made) == "group(add(1), add(2))"
    assert len(list(group(add.s(1) | add.s(2), add.s(3)))) == 2
    with pytest.raises(ConfigurationError, match="one member at least"):
        group([])
    with pytest.raises(TypeError, match="neither a task nor a signature"):
        group(add.s(1), 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="neither a task nor a signature"):
        group(5)  # type: ignore[call-overload]


def test_a_chord_is_a_group_and_a_body(add: Task[..., int]) -> None:
    header = [add.s(1), add.s(2)]
    for made in (chord(header, add.s()), group(header) | add, chord(group(header), add)):
        assert isinstance(made, Chord)
        assert repr(made) == "chord([add(1), add(2)], add())"
    longer = chord(header, add.s()) | add.s(1)
    assert isinstance(longer, Chord)
    assert len(longer.body.steps) == 2


def test_a_chord_needs_a_store(add: Task[..., int]) -> None:
    with pytest.raises(StoreRequired, match="gtask results"):
        chord([add.s(1)], add.s()).delay()


def test_unique_needs_a_store_and_a_call_of_its_own(add: Task[..., int]) -> None:
    with pytest.raises(StoreRequired, match=r"unique= \(add:order\)"):
        add.apply_async((1,), unique="order")
    with pytest.raises(ConfigurationError, match="cannot be a step of a chain"):
        (add.s(1).set(unique="order") | add).delay()


def test_a_chord_takes_no_member_whose_result_is_shared(stored: App) -> None:
    @stored.task(unique=lambda n: f"{n}")
    def once(n: int) -> int:
        return n

    with pytest.raises(ConfigurationError, match="cannot be a member of a chord"):
        chord([once.s(1)], once.s()).delay()


@pytest.mark.parametrize("key", [5, ""])
def test_a_key_is_a_text(stored: App, key: Any) -> None:
    @stored.task(unique=lambda n: key)
    def once(n: int) -> int:
        return n

    with pytest.raises(ConfigurationError, match=r"unique= of once is a text"):
        once.delay(1)


def test_tasks_of_two_apps_keep_theirs(add: Task[..., int]) -> None:
    other = App("other", NOWHERE, results=None)
    assert add.s(1).app is add.app
    assert other.function("f").s(1).app is other
