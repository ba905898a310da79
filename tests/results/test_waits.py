"""The questions that are held, with a clock that the tests move."""

from __future__ import annotations

from gtask.results.waits import LINGER, Waits


def test_a_question_is_due_at_its_time_or_when_something_is_ready() -> None:
    waits: Waits[str] = Waits()
    assert waits.hold("first", ("a",), 10.0) == []
    assert waits.hold("second", ("b", "a"), 20.0) == []
    assert waits.next_due() == 10.0
    assert waits.due(9.9) == []
    waits.ready(["c", "b"], 5.0)
    (held,) = waits.due(5.1)
    assert (held.key, held.found) == ("second", ["b"])
    (held,) = waits.due(10.0)
    assert (held.key, held.found) == ("first", [])
    assert len(waits) == 0
    assert list(waits.ids) == []
    assert waits.next_due() is None


def test_two_wait_for_the_same() -> None:
    waits: Waits[int] = Waits()
    for key in range(3):
        waits.hold(key, ("a",), 10.0)
    waits.ready(["a"], 1.0)
    assert {held.key for held in waits.due(1.0)} == {0, 1, 2}


def test_a_question_about_many_waits_a_moment_for_more() -> None:
    """So that its caller does not ask again for each of a thousand results."""
    waits: Waits[str] = Waits()
    ids = tuple(map(str, range(5000)))
    waits.hold("many", ids, 60.0)
    waits.ready(ids[:1], 1.0)
    assert waits.due(1.0) == []
    waits.ready(ids[1:100], 1.0 + LINGER / 2)
    assert waits.next_due() == 1.0 + LINGER
    (held,) = waits.due(1.0 + LINGER)
    assert held.found == list(ids[:100])
    assert list(waits.ids) == []


def test_the_moment_ends_with_the_time_of_the_question() -> None:
    waits: Waits[str] = Waits()
    waits.hold("many", tuple(map(str, range(5000))), 1.01)
    waits.ready(["7"], 1.0)
    (held,) = waits.due(1.01)
    assert held.found == ["7"]


def test_the_oldest_gives_way() -> None:
    waits: Waits[int] = Waits(max_waits=2, max_ids=5)
    assert [held.key for held in waits.hold(1, ("a", "b"), 10.0)] == []
    assert [held.key for held in waits.hold(2, ("a", "c"), 10.0)] == []
    assert [held.key for held in waits.hold(3, ("a",), 10.0)] == [1]
    assert [held.key for held in waits.hold(4, ("d", "e", "f", "g"), 10.0)] == [2]
    assert [held.key for held in waits.hold(5, tuple("123456789"), 10.0)] == [3, 4]
    assert len(waits) == 1
    assert set(waits.ids) == set("123456789")


def test_what_was_answered_does_not_pile_up() -> None:
    """Thousands are held and answered within the time of the first: memory stays where it is."""
    waits: Waits[int] = Waits()
    for key in range(20_000):
        waits.hold(key, (str(key),), 60.0)
        waits.ready([str(key)], 1.0)
        assert [held.key for held in waits.due(1.0)] == [key]
    assert len(waits._due) < 2000
    waits.hold(-1, ("a",), 60.0)
    assert [held.key for held in waits.due(60.0)] == [-1]


def test_dropping_twice_is_dropping_once() -> None:
    waits: Waits[str] = Waits()
    waits.hold("first", ("a", "b"), 10.0)
    (held,) = waits
    waits.drop(held)
    waits.drop(held)
    waits.ready(["a"], 1.0)
    assert waits.due(20.0) == []
