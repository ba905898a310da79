"""Flows: what starts when a node's turn comes, and that nothing is made of what is no flow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gtask.codecs import pack
from gtask.errors import DecodeError
from gtask.flows import MAX_NESTING, First, Place, flow_of, place_of, rest_of, signatures, start
from gtask.message import SignatureData
from gtask.results.joins import failed_of, records_behind
from gtask.states import ErrorInfo, Outcome, State


def step(name: str, *args: Any, immutable: bool = False, **options: Any) -> list[Any]:
    """A signature as it travels, whose id is its name."""
    return SignatureData(name, args, {}, options, immutable, name).to_list()


def side(*flows: list[Any]) -> dict[str, Any]:
    return {"group": list(flows)}


def names(firsts: list[First]) -> list[str]:
    return [first.step.id for first in firsts]


def test_a_signature_starts_with_the_value_and_takes_the_rest_along() -> None:
    (first,) = start([step("a", 2), step("b"), step("c")], (1,), {"id": "outer"})
    assert first.step.args == (1, 2)
    assert first.rest == [step("c"), step("b")]
    assert first.chord == {"id": "outer"}
    assert start([step("a", 2, immutable=True)], (1,))[0].step.args == (2,)


def test_a_group_that_is_followed_starts_as_a_chord() -> None:
    body = [step("body"), side([step("x")], [step("y")])]
    firsts = start([side([step("a"), step("a2")], [step("b")]), *body], (1,), {"id": "outer"})
    assert names(firsts) == ["a", "b"]
    assert [first.rest for first in firsts] == [[step("a2")], []]
    first, second = (place_of(one.chord) for one in firsts)
    assert (first.id, first.position, first.size) == ("body", 0, 2)
    assert first.body is not None
    assert (first.body.id, first.rest, first.chord) == ("body", [body[1]], {"id": "outer"})
    assert second == Place("body", 1, 2, None, [], None)


def test_what_follows_a_group_travels_with_its_first_member_alone() -> None:
    flow = [side(*([step("a")] for _ in range(50))), step("b"), side(*([step("c")] for _ in range(50))), step("d")]
    first, *others = (len(pack(one.chord)) for one in start(flow))
    assert first > 50 * len(pack(step("c")))
    assert max(others) < 50


def test_a_place_as_an_earlier_gtask_sends_it_is_read() -> None:
    """Whichever member it is of, the body is there, and is handed in."""
    place = place_of({"id": "body", "index": 1, "size": 2, "body": [step("body"), step("next")], "chord": {"id": "o"}})
    assert place.body is not None
    assert (place.position, place.body.id, place.rest, place.chord) == (1, "body", [step("next")], {"id": "o"})


def test_a_group_in_a_group_starts_as_a_chord_in_a_chord() -> None:
    firsts = start([side([side([step("a")], [step("b")]), step("inner")], [step("c")]), step("outer")])
    assert names(firsts) == ["a", "b", "c"]
    inner = firsts[0].chord
    assert inner is not None
    assert (inner["id"], inner["chord"]["id"], inner["chord"]["index"]) == ("inner", "outer", 0)
    outer = firsts[2].chord
    assert outer is not None
    assert (outer["id"], outer["index"], "chord" in outer) == ("outer", 1, False)
    assert [sorted(first.chord or {}) for first in firsts] == [
        ["body", "chord", "id", "index", "size"],
        ["id", "index", "size"],
        ["id", "index", "size"],
    ]


def test_a_group_at_the_end_goes_its_own_way() -> None:
    firsts = start([side([step("a")], [side([step("b"), step("b2")])])], (1,))
    assert [(first.step.id, first.step.args, first.chord) for first in firsts] == [("a", (1,), None), ("b", (1,), None)]


def test_links_are_flows() -> None:
    assert flow_of(step("a")) == [step("a")]
    assert flow_of(side([step("a")])) == [side([step("a")])]
    assert flow_of([step("a"), step("b")]) == [step("a"), step("b")]


def nested(depth: int) -> list[Any]:
    flow = [step("a")]
    for _ in range(depth):
        flow = [side(flow)]
    return flow


def test_nesting_has_an_end() -> None:
    assert names(start(nested(MAX_NESTING))) == ["a"]
    assert [one.id for one in signatures(nested(MAX_NESTING))] == ["a"]
    with pytest.raises(DecodeError, match="nested deeper"):
        start(nested(MAX_NESTING + 1))
    with pytest.raises(DecodeError, match="nested deeper"):
        list(signatures(nested(MAX_NESTING + 1)))


@pytest.mark.parametrize(
    "flow",
    [
        [],
        [5],
        [{}],
        [{"group": []}],
        [{"group": 5}],
        [{"group": [[]]}],
        [{"group": [5]}],
        [{"group": [[step("a")]], "more": 1}],
        [side([step("a")]), side([step("b")])],
        [side([side([step("a")])]), step("b")],
        [["a"]],
    ],
)
def test_what_is_no_flow_is_refused(flow: Any) -> None:
    with pytest.raises(DecodeError):
        start(flow)


@pytest.mark.parametrize(
    "change",
    [
        {"index": -1},
        {"index": 2},
        {"index": True},
        {"size": 0},
        {"size": 1 << 40},
        {"body": []},
        {"id": "other"},
        {"body": 1},
        {"body": None},
        {"body": None, "index": 1},
    ],
)
def test_what_is_no_place_is_refused(change: dict[str, Any]) -> None:
    good = {"id": "body", "index": 0, "size": 2, "body": [step("body")]}
    assert place_of(good).chord is None
    with pytest.raises(DecodeError):
        place_of({**good, **change})
    other = {"id": "body", "index": 1, "size": 2}
    assert place_of(other).body is None
    for bad in ({"index": 0}, {"index": True}, {"index": 2}, {"size": 0}, {"id": 5}):
        with pytest.raises(DecodeError):
            place_of({**other, **bad})


def test_what_stands_behind_fails_with_the_cause() -> None:
    rest = [side([step("d")], [step("c")]), step("b", ignore_result=True), step("a")]
    outcome = Outcome("x", State.FAILURE, error=ErrorInfo("ValueError", "no", None, "trace"))
    assert [record.id for record in records_behind(outcome, {"chain": rest})] == ["a", "d", "c"]
    many = records_behind(outcome, {"chain": [side(*([step(str(number))] for number in range(200)))]})
    assert len(many) == 200
    assert b"trace" not in many[0].body
    with pytest.raises(DecodeError):
        records_behind(outcome, {"chain": 5})


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from(["a", "FAILURE"]) | st.just(step("a")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["group", "id", "index", "size", "body", "chord", "state", "error", "task"]),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@given(plain)
@settings(max_examples=300, deadline=None)
def test_whatever_comes_is_read_or_refused(data: Any) -> None:
    flow = data if isinstance(data, list) else [data]
    for read in (start, lambda one: list(signatures(one))):
        try:
            read(flow)
        except DecodeError:
            pass
    for check in (place_of, failed_of, flow_of, lambda one: rest_of({"chain": one})):
        try:
            check(data)
        except DecodeError:
            pass
