"""Nested canvases through a worker: what comes out, which handles there are, and who is told of a failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gtask import App, AsyncResult, GroupResult, Retry, TaskContext, chain, chord, group, group_result
from gtask.errors import (
    BadArguments,
    ConfigurationError,
    DecodeError,
    ResultError,
    ResultTimeout,
    TaskExpired,
    TaskFailed,
)
from gtask.layout import _handle, lay_out_canvas
from gtask.message import CANVAS, Message, encode_message
from gtask.results import SqliteStore
from gtask.sendable import Canvas
from gtask.signatures import lay_out
from gtask.states import State
from gtask.testing.embedded import EmbeddedServer
from gtask.testing.programs import wait_until
from gtask.types import Submission
from tests.app.helpers import LIMIT, working


class Shop:
    """An App with a worker, and what its tasks have heard."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.heard: list[Any] = []
        self.sizes: list[int] = []
        self.add = app.task(name="add")(lambda a, b=0: a + b)
        self.total = app.task(name="total")(_total)
        self.same = app.task(name="same")(lambda value: value)
        self.divide = app.task(name="divide")(lambda a, b: a // b)
        self.hear = app.task(name="hear")(self.heard.append)
        self.limited = app.task(name="limited", time_limit=5, autoretry_for=(ArithmeticError,))(_total)
        self.flaky = app.task(name="flaky", bind=True, max_retries=3)(_flaky)
        self.rows = app.task(name="rows")(_rows)
        self.weigh = app.task(name="weigh", bind=True)(self._weigh)

    def _weigh(self, context: TaskContext, value: Any = None) -> int:
        self.sizes.append(len(context.workload))
        return 1


def _total(values: Any, more: int = 0) -> int:
    return sum(_total(value) if isinstance(value, list) else value for value in values) + more


def _flaky(context: TaskContext, value: int) -> int:
    if not context.retries:
        raise Retry(delay=0.05)
    return value + context.retries


def _rows(count: int) -> Iterator[int]:
    yield from range(count)


@pytest.fixture(scope="module", params=[None, {"k1": "a secret of sixteen bytes"}], ids=["plain", "signed"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One worker for all tests of this module, without keys and with some."""
    store = SqliteStore(tmp_path_factory.mktemp("shop") / "results.db")
    options: dict[str, Any] = {} if request.param is None else {"signing_keys": request.param}
    with EmbeddedServer() as server, App("shop", server.url, store, dead_letters=False, **options) as app:
        made = Shop(app)
        with working(app, slots=4):
            yield made


@pytest.fixture(autouse=True)
def nothing_heard(shop: Shop) -> None:
    shop.heard.clear()


def get(canvas: Canvas) -> Any:
    return canvas.delay().get(timeout=LIMIT)


# --- values --------------------------------------------------------------------------------------------------


def test_groups_nest_as_lists(shop: Shop) -> None:
    add = shop.add
    assert get(group(group(add.s(1), add.s(2)), add.s(3))) == [[1, 2], 3]
    assert get(group(group(add.s(1), add.s(2)), add.s(3)) | shop.same) == [[1, 2], 3]
    assert get(group(group(group(add.s(1))))) == [[[1]]]
    assert get(group(add.s(1), add.s(2)) | group(shop.total.s(), shop.total.s(10))) == [3, 13]


def test_groups_nest_as_deep_as_they_may(shop: Shop) -> None:
    canvas, expected = shop.add.s(1), 1
    for _ in range(31):
        canvas, expected = group(canvas), [expected]  # type: ignore[assignment]
    assert get(canvas | shop.same.s()) == expected
    assert get(shop.add.s(0) | canvas) == expected


def test_a_chord_stands_wherever_a_task_does(shop: Shop) -> None:
    add, total = shop.add, shop.total
    five = chord([add.s(2), add.s(3)], total.s())
    assert get(five | add.s(1)) == 6
    assert get(chain(add.s(1), group(add.s(2), add.s(3)) | total.s())) == 7
    assert get(group(five, five | add.s(1)) | total.s()) == 11
    assert get(chord([chord([five, five], total.s()), five], total.s())) == 15


def test_arguments_go_to_all_that_starts(shop: Shop) -> None:
    add = shop.add
    canvas = group(add.s(1), group(add.s(2), add.si(7)) | shop.total.s(), add.s(3) | add.s(4))
    assert canvas.delay(100).get(timeout=LIMIT) == [101, 109, 107]
    assert canvas.apply_async((100,), priority="high").get(timeout=LIMIT) == [101, 109, 107]


@pytest.mark.anyio
async def test_the_async_face_sends_the_same(shop: Shop) -> None:
    add = shop.add
    canvas = chain(add.s(1), group(add.s(2), group(add.s(3), add.s(4)) | shop.total.s()))
    handle = await canvas.adelay()
    assert await handle.aget(timeout=LIMIT) == [3, 9]
    assert [await one.aget(timeout=0) async for one in handle.aiterate(LIMIT)] == [3, 9]
    assert await handle.acompleted_count() == 2
    assert await handle.astate() is State.SUCCESS
    assert await (await group(add.s(1)).aapply_async(priority="low")) == [1]
    await shop.app.aclose()


# --- handles -------------------------------------------------------------------------------------------------


def test_a_chain_that_ends_with_a_group_has_its_handles(shop: Shop) -> None:
    add = shop.add
    handle = chain(add.s(1), group(add.s(2), chain(add.s(3), add.s(4)))).delay()
    assert isinstance(handle, GroupResult)
    assert handle.get(timeout=LIMIT) == [3, 8]
    assert handle.parent is handle[0].parent
    assert isinstance(handle.parent, AsyncResult)
    assert handle.parent.get(timeout=LIMIT) == 1
    inner = handle[1].parent
    assert isinstance(inner, AsyncResult)
    assert (inner.get(timeout=LIMIT), inner.parent) == (4, handle.parent)
    assert [child.id for child in handle.parent.children] == [handle[0].id, inner.id]


def test_a_nested_group_has_a_nested_handle(shop: Shop) -> None:
    add = shop.add
    handle = group(group(add.s(1), add.s(2)), add.s(3)).delay()
    inner = handle[0]
    assert isinstance(inner, GroupResult)
    assert handle.wait(LIMIT)
    assert (len(handle), handle.completed_count(), inner.completed_count()) == (2, 2, 2)
    assert {id(one) for one in handle.iterate(LIMIT)} == {id(inner), id(handle[1])}
    assert (handle.ready(), handle.successful(), handle.failed(), handle.state) == (True, True, False, State.SUCCESS)
    assert (handle.progress.done, handle.progress.total) == (2, 2)
    assert len(handle.leaves()) == 3
    handle.forget()
    assert not handle.ready()


def test_the_parent_of_a_body_is_its_group(shop: Shop) -> None:
    handle = (group(shop.add.s(1), group(shop.add.s(2), shop.add.s(3))) | shop.total | shop.add.s(1)).delay()
    assert handle.get(timeout=LIMIT) == 7
    body = handle.parent
    assert isinstance(body, AsyncResult)
    members = body.parent
    assert isinstance(members, GroupResult)
    assert members.get(timeout=LIMIT) == [1, [2, 3]]
    assert {before.id for before in body._before} == {leaf.id for leaf in members.leaves()}


def test_between_two_groups_stands_a_handle_of_the_list(shop: Shop) -> None:
    handle = (group(shop.add.s(1), shop.add.s(2)) | group(shop.total.s(), shop.total.s(1))).delay()
    assert handle.get(timeout=LIMIT) == [3, 4]
    between = handle.parent
    assert isinstance(between, AsyncResult)
    assert between.get(timeout=LIMIT) == [1, 2]
    assert isinstance(between.parent, GroupResult)


def test_a_group_waits_no_longer_than_it_is_told(shop: Shop) -> None:
    never = shop.app.signature("nobody_serves_this")
    handle = group(shop.add.s(1), group(never)).delay()
    with pytest.raises(ResultTimeout, match="Not all of the group's 2 results"):
        handle.get(timeout=0.2)
    assert not handle.wait(0)
    assert handle.state is State.PENDING
    assert not handle.ready()
    handle.revoke()
    assert handle.wait(LIMIT)
    assert handle[1].state is State.REVOKED


def test_a_group_does_not_wait_for_what_nobody_knows(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_result, "LOOK", 0.05)
    done = shop.add.delay(1)
    assert done.wait(LIMIT)
    lost: GroupResult[Any] = GroupResult(
        shop.app, [done, GroupResult(shop.app, [shop.app.AsyncResult("0" * 32, "add")])]
    )
    with pytest.raises(ResultError, match=r"add 0{32} in a group: Nobody knows this id"):
        lost.get()


@pytest.mark.anyio
async def test_nor_does_the_async_face(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_result, "LOOK", 0.05)
    lost: GroupResult[Any] = GroupResult(shop.app, [shop.app.AsyncResult("0" * 32, "add")])
    with pytest.raises(ResultError, match="Nobody knows this id"):
        await lost
    await shop.app.aclose()


def test_a_body_that_nobody_knows_is_asked_about_once_for_each_before_it(shop: Shop) -> None:
    """However many ways lead back from it."""
    canvas: Canvas = group(shop.add.s(1), shop.add.s(2))
    for _ in range(6):
        canvas = canvas | shop.total.s() | group(shop.add.s(1), shop.add.s(2))
    nodes = lay_out((canvas | shop.total.s()).flow)
    handle = _handle(shop.app, nodes, None, (), {})
    assert isinstance(handle, AsyncResult)
    assert handle._unknown(LIMIT)


# --- failures ------------------------------------------------------------------------------------------------


def test_a_failure_reaches_all_that_stands_behind(shop: Shop) -> None:
    """Steps, groups, the outer chord and what follows it; each with the cause."""
    add, total = shop.add, shop.total
    inner = chain(shop.divide.s(1, 0), group(add.s(1), add.s(2)), total.s(), group(add.s(3), add.s(4)))
    handle = (group(inner, add.s(5)) | total.s() | add.s(1)).delay()
    with pytest.raises(ZeroDivisionError):
        handle.get(timeout=LIMIT)
    pending: list[Any] = [handle]
    failed = succeeded = 0
    while pending:
        one = pending.pop()
        pending += one._before
        assert one.wait(LIMIT)
        failed += one.failed()
        succeeded += one.successful()
    assert succeeded >= 1
    assert failed >= 9


@pytest.mark.parametrize("bad", ["step", "member", "inner", "body"])
def test_the_errback_of_a_chain_is_called_once(shop: Shop, bad: str) -> None:
    """With the error and the name of the task that failed, whichever it is."""
    fail = shop.divide.si(1, 0)
    good = shop.add.si(1)
    steps = {name: fail if name == bad else good for name in ("step", "member", "inner", "body")}
    canvas = chain(
        steps["step"],
        group(steps["member"], good, chain(good, group(steps["inner"], steps["inner"]))),
        steps["body"],
        shop.same.s(),
    ).on_error(shop.hear)
    with pytest.raises(ZeroDivisionError):
        get(canvas)
    wait_until(lambda: shop.heard, LIMIT, "the errback")
    ((what),) = shop.heard
    assert (what["task"], what["type"]) == ("divide", "ZeroDivisionError")
    assert "divide" not in what["id"]
    assert "ZeroDivisionError" in what["traceback"]
    assert shop.app.AsyncResult(what["id"]).failed()


def test_the_errback_of_a_chord_is_called_once_for_its_members_too(shop: Shop) -> None:
    fail = shop.divide.s(1, 0)
    handle = chord([fail, shop.add.s(1), fail], shop.total.s()).link_error(shop.hear.s()).delay()
    with pytest.raises(ZeroDivisionError):
        handle.get(timeout=LIMIT)
    wait_until(lambda: shop.heard, LIMIT, "the errback")
    assert len(shop.heard) == 1
    assert handle.failed()


def test_a_body_that_fails_for_a_member_is_not_held_to_its_own_options(shop: Shop) -> None:
    """It is not retried, and no limit of it is looked at: it is not run."""
    canvas = group(shop.divide.s(1, 0), shop.add.s(1)) | shop.limited.s().set(soft_time_limit=3)
    with pytest.raises(ZeroDivisionError):
        get(canvas.on_error(shop.hear))
    wait_until(lambda: shop.heard, LIMIT, "the errback")
    assert [what["task"] for what in shop.heard] == ["divide"]


def test_a_chord_that_is_delayed_waits_with_its_members(shop: Shop) -> None:
    handle = chord([shop.add.s(1), shop.add.s(2)], shop.total).apply_async(countdown=0.1, priority="high")
    assert handle.get(timeout=LIMIT) == 3


def test_a_body_in_an_outer_chord_hands_its_members_failure_on(shop: Shop) -> None:
    inner = chord([shop.divide.s(1, 0), shop.add.s(1)], shop.total.s()).link_error(shop.hear.s())
    handle = (group(inner, shop.add.s(1)) | shop.total.s()).link_error(shop.hear.s()).delay()
    with pytest.raises(ZeroDivisionError):
        handle.get(timeout=LIMIT)
    wait_until(lambda: len(shop.heard) == 2, LIMIT, "both errbacks")
    assert {what["task"] for what in shop.heard} == {"divide"}
    assert len({what["id"] for what in shop.heard}) == 1


def chord_in_a_group(shop: Shop, late: int, bad: int | None = None) -> Canvas:
    """A group of three chords of three, and two more steps; the members at a place end late, and one fails."""
    members = [shop.add.s(place) if place != bad else shop.divide.s(1, 0) for place in range(3)]
    members[late] = members[late].set(countdown=0.1)
    inner = [group(members) | shop.total.s(more) for more in range(3)]
    inner[late] |= shop.flaky.s()
    return group(inner) | group(shop.total.s(), shop.total.s(100)) | shop.total.s()


@pytest.mark.parametrize("late", range(3))
def test_a_chord_ends_whichever_member_is_the_last(shop: Shop, late: int) -> None:
    """The first one, which brings what follows, or another that waits for it."""
    assert get(chord_in_a_group(shop, late)) == 2 * (3 + 4 + 5 + 1) + 100


@pytest.mark.parametrize(("late", "bad"), [(0, 0), (0, 2), (2, 0), (2, 2)])
def test_a_failure_is_told_whichever_member_is_the_last(shop: Shop, late: int, bad: int) -> None:
    handle = chord_in_a_group(shop, late, bad).link_error(shop.hear.s()).delay()
    with pytest.raises(ZeroDivisionError):
        handle.get(timeout=LIMIT)
    wait_until(lambda: shop.heard, LIMIT, "the errback")
    assert get(shop.add.s(1)) == 1
    assert [what["task"] for what in shop.heard] == ["divide"]


@pytest.mark.parametrize("which", [slice(None), slice(None, None, 2), slice(-1, None)])
def test_messages_of_an_earlier_gtask_are_read(shop: Shop, which: slice) -> None:
    """Their members all bring what follows; among others that do not, and twice, as a job server may hand them out."""
    layout = lay_out_canvas(shop.app, chord_in_a_group(shop, 2))
    places = [place for sending in layout.sendings for place in _places(sending.message.headers["chord"])]
    whole = {place["id"]: place for place in places if "body" in place}
    for sending in layout.sendings[which]:
        for place in _places(sending.message.headers["chord"]):
            follows = whole[place["id"]]
            place.update({name: follows[name] for name in ("body", "chord") if name in follows})
    jobs = [shop.app.publisher.seal(sending) for sending in layout.sendings]
    shop.app._sender.client.submit_many([*jobs, *jobs])
    assert isinstance(layout.handle, AsyncResult)
    assert layout.handle.get(timeout=LIMIT) == 126


def _places(chord: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A place in a chord, and those of the chords around it."""
    while chord is not None:
        yield chord
        chord = chord.get("chord")


def test_a_retry_is_no_failure(shop: Shop) -> None:
    canvas = (group(shop.flaky.s(1), shop.add.s(2) | shop.flaky.s()) | shop.total.s()).link_error(shop.hear.s())
    assert get(canvas) == 5
    assert shop.heard == []


def test_what_comes_too_late_calls_no_errback(shop: Shop) -> None:
    """And what waits for it is told, an outer chord too."""
    late = shop.add.s(1).set(countdown=0.2, expires=0.01)
    inner = group(late, shop.add.s(2)) | shop.total.s()
    handle = (group(inner, shop.add.s(3)) | shop.total.s()).link_error(shop.hear.s()).delay()
    with pytest.raises(TaskExpired):
        handle.get(timeout=LIMIT)
    assert handle.state is State.REVOKED
    assert get(shop.add.s(1)) == 1
    assert shop.heard == []


def test_links_follow_the_end_of_the_whole(shop: Shop) -> None:
    add, total, hear = shop.add, shop.total, shop.hear
    get(chain(add.s(1), add.s(2)).link(hear))
    wait_until(lambda: shop.heard == [3], LIMIT, "the link of a chain")
    get(chord([add.s(1), add.s(3)], total).link(chain(add.s(10), hear.s())))
    wait_until(lambda: shop.heard == [3, 14], LIMIT, "the link of a chord, which is a chain")
    get(group(add.s(1), add.s(1)).link(group(add.s(4), add.s(5)) | total | hear))
    wait_until(lambda: shop.heard == [3, 14, 11, 11], LIMIT, "the links of a group, which are chords")
    add.apply_async((1,), link=hear.s(), link_error=hear.s()).get(timeout=LIMIT)
    wait_until(lambda: shop.heard == [3, 14, 11, 11, 1], LIMIT, "the link of a call")


@pytest.mark.parametrize(
    ("args", "headers"),
    [
        ((), {}),
        ((1, 2), {}),
        ((1,), {"fail": 5}),
        ((), {"fail": {"state": "SUCCESS", "error": ["a", "b", None, None], "id": "x", "task": "y"}}),
        ((), {"fail": {"state": "FAILURE", "error": [], "id": "x", "task": "y"}}),
        ((1,), {"chain": [{"group": 5}]}),
        ((1,), {"chord": {"id": "x", "index": 0, "size": 1, "body": [5]}}),
    ],
)
def test_a_hostile_job_of_canvas_fails_and_nothing_else(shop: Shop, args: Any, headers: dict[str, Any]) -> None:
    task_id = shop.app.new_id(CANVAS)
    workload = encode_message(Message(task_id, CANVAS, args, {}, headers))
    if (keys := shop.app.settings.signing_keys) is not None:
        workload = keys.sign(CANVAS, workload, shop.app.now())
    shop.app._sender.client.submit(Submission(CANVAS, workload, task_id))
    with pytest.raises(DecodeError):
        shop.app.AsyncResult(task_id).get(timeout=LIMIT)
    assert get(group(shop.add.s(1)) | group(shop.total.s())) == [1]


def test_a_shared_result_has_no_place_in_a_chord(shop: Shop) -> None:
    once = shop.add.s(1).set(unique="once")
    for canvas in (once | shop.add, group(group(once)) | shop.total, shop.add.s(1) | group(once)):
        with pytest.raises(ConfigurationError, match="has unique=, so it cannot be"):
            canvas.delay()
    handle = group(once, group(once, shop.add.s(2))).delay()
    assert handle.get(timeout=LIMIT) == [1, [1, 2]]


def test_what_cannot_be_sent_is_refused_beforehand(shop: Shop) -> None:
    add = shop.add
    for canvas in (add.s(1) | shop.divide, group(shop.divide.s()), add.s(1) | shop.divide.si(1)):
        with pytest.raises(BadArguments):
            canvas.delay()
    with pytest.raises(ConfigurationError, match="takes no countdown or eta"):
        (group(add.s(1)) | shop.total.s().set(countdown=5)).delay()
    with pytest.raises(ConfigurationError, match="task_id is the id of one task"):
        group(add.s(1), add.s(2)).apply_async(task_id="mine")
    deep: Canvas = add.s(1)
    for _ in range(40):
        deep = group(deep)
    with pytest.raises(ConfigurationError, match="nested deeper than 32"):
        (deep | shop.same.s()).delay()


# --- lists ---------------------------------------------------------------------------------------------------


def test_a_task_runs_over_a_list(shop: Shop) -> None:
    add = shop.add
    assert get(add.map(range(3))) == [0, 1, 2]
    assert get(add.starmap([(1, 2), (3, 4)])) == [3, 7]
    assert get(shop.same.s([1, 2]) | add.map()) == [1, 2]
    assert get(add.s(1) | add.map([5]) | shop.total) == 5
    assert add.starmap([(1, 2)]).call() == [3]
    chunks = add.chunks(zip(range(5), range(5), strict=True), 2)
    assert get(chunks) == [[0, 2], [4, 6], [8]]
    assert get(chunks.group()) == [[0, 2], [4, 6], [8]]
    assert get(chunks | shop.total) == 20


def test_an_item_that_fails_is_named(shop: Shop) -> None:
    handle = shop.divide.starmap([(1, 1), (1, 0)]).delay()
    with pytest.raises(ZeroDivisionError) as error:
        handle.get(timeout=LIMIT)
    assert "item 1 of divide.starmap()" in str(handle.traceback)
    remote = error.value.__cause__
    assert isinstance(remote, TaskFailed)
    assert "item 1 of divide.starmap()" in str(remote.traceback)


def test_items_that_do_not_fit_are_refused_before_anything_is_sent(shop: Shop) -> None:
    with pytest.raises(BadArguments, match=r"Item 1 of divide.starmap\(\)"):
        shop.divide.starmap([(1, 1), (1,)]).delay()
    with pytest.raises(BadArguments, match="a task that streams has no single result"):
        shop.rows.map([1, 2]).delay()
    with pytest.raises(BadArguments, match="takes one list, and here are 0"):
        shop.add.map().delay()
    with pytest.raises(BadArguments, match=r"Item 0 of divide.starmap\(\) is 1; it is a list of positional"):
        shop.divide.starmap([1]).delay()  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"divide.map\(\) takes a list; 3 is none"):
        shop.divide.map(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"chunks\(\) of divide takes a list; 3 is none"):
        shop.divide.chunks(3, 3)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="lives in a worker of another language"):
        shop.app.function("php").map([1]).delay()
    with pytest.raises(ConfigurationError, match="above zero"):
        shop.add.chunks([(1, 2)], 0)
    with pytest.raises(ConfigurationError, match="one item at least"):
        shop.add.chunks([], 3)


@pytest.mark.parametrize("items", [5, {"a": 1}])
def test_what_is_no_list_fails_the_task_that_was_to_run_over_it(shop: Shop, items: Any) -> None:
    with pytest.raises(BadArguments, match="takes one list"):
        get(shop.same.s(items) | shop.add.map())
    with pytest.raises(BadArguments, match=r"Item 0 of add.starmap\(\)"):
        get(shop.same.s([items]) | shop.add.starmap())


# --- sizes, and a trip ---------------------------------------------------------------------------------------


def test_five_chords_of_ten_in_a_chain_stay_small(shop: Shop) -> None:
    """Measured where each job arrives."""
    weigh = shop.weigh
    shop.sizes.clear()
    canvas = chain(*(step for _ in range(5) for step in (group(weigh.s() for _ in range(10)), weigh.s())))
    assert get(canvas) == 1
    assert len(shop.sizes) == 55
    print(f"five chords of ten: largest {max(shop.sizes)} bytes, all {sum(shop.sizes)}")
    assert max(shop.sizes) < 8 * 1024


def test_a_message_grows_with_what_is_to_come_and_no_faster(shop: Shop) -> None:
    weigh = shop.weigh
    shop.sizes.clear()
    largest = []
    for length in (10, 20, 40, 80):
        shop.sizes.clear()
        get(chain([weigh.s()] * length))
        largest.append(max(shop.sizes))
    steps = [(after - before) / count for before, after, count in zip(largest, largest[1:], (10, 20, 40), strict=False)]
    print(f"chains of 10 to 80: {largest} bytes")
    assert max(steps) - min(steps) < 4
    assert largest[0] < 2000


def test_what_follows_a_group_travels_once(shop: Shop) -> None:
    """With the first member, and to the second group with its own first."""
    weigh, count = shop.weigh, 100
    shop.sizes.clear()
    assert get(group(weigh.s() for _ in range(count)) | group(weigh.s() for _ in range(count)) | weigh) == 1
    first, second = sorted(shop.sizes[:count]), sorted(shop.sizes[count : 2 * count])
    print(f"a group of {count} before another: {first[0]} to {first[-1]} bytes, then {second[0]} to {second[-1]}")
    assert (len(shop.sizes), len(second)) == (2 * count + 1, count)
    assert 30 * count < first[-1] < 80 * count
    assert first[-2] < 400
    # Their argument is the list of the first group's results.
    assert second[-2] < 400 + count
    assert second[-1] < 500 + count


def test_a_canvas_makes_a_trip_as_json(shop: Shop) -> None:
    add, total, hear = shop.add, shop.total, shop.hear
    canvas = chain(
        add.s(1).set(priority="high", expires=60),
        group(add.s(2) | add.si(3), chord([add.s(4)], total.s(1)), group(add.s(5)), add.starmap([[1, 2]])),
        group(total.s(), total.s(2)),
        total.s().link(hear.s()).link_error(chain(hear, hear)),
    )
    again = shop.app.signature(json.loads(json.dumps(dict(canvas))))
    assert again == canvas
    assert hash(again) == hash(canvas)
    assert repr(again) == repr(canvas)
    assert again.delay().get(timeout=LIMIT) == canvas.delay().get(timeout=LIMIT)


def test_groups_nested_too_deep_are_refused(shop: Shop) -> None:
    deep: Any = group(shop.add.s(1, 1))
    for _ in range(500):
        deep = group(deep)
    with pytest.raises(ConfigurationError, match="nested deeper than 32"):
        deep.delay()
