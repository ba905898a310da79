"""The ledger: what runs where, and who is blamed."""

from __future__ import annotations

import os

from gtask.worker.ledger import BLAMED, Ledger


def uniques(ledger: Ledger, slots: range) -> list[str]:
    return [job.unique for job in ledger.running(slots)]


def test_slots_begin_and_end() -> None:
    ledger = Ledger(4)
    assert ledger.running(range(4)) == []
    ledger.begin(1, "a" * 32, "f")
    ledger.begin(3, "b" * 63, "f")
    assert uniques(ledger, range(4)) == ["a" * 32, "b" * 63]
    assert uniques(ledger, range(2)) == ["a" * 32]
    ledger.end(1)
    assert uniques(ledger, range(4)) == ["b" * 63]
    ledger.clear(range(4))
    assert ledger.running(range(4)) == []


def test_a_shorter_unique_leaves_nothing_of_a_longer_one() -> None:
    ledger = Ledger(1)
    ledger.begin(0, "a" * 63, "f")
    ledger.begin(0, "b", "f")
    assert uniques(ledger, range(1)) == ["b"]


def test_what_is_overdue() -> None:
    ledger = Ledger(3)
    ledger.begin(0, "a", "f", deadline=10.0)
    ledger.begin(1, "b", "f")
    ledger.begin(2, "c", "f")
    ledger.set_deadline(2, 20.0)
    assert ledger.overdue(9.0) == []
    assert [(one.slot, one.unique) for one in ledger.overdue(10.0)] == [(0, "a")]
    assert [(one.slot, one.unique) for one in ledger.overdue(30.0)] == [(0, "a"), (2, "c")]
    ledger.end(0)
    assert [(one.slot, one.unique) for one in ledger.overdue(30.0)] == [(2, "c")]


def test_blame_is_counted_for_each_job() -> None:
    ledger = Ledger(1)
    assert ledger.crashes("a") == 0
    assert [ledger.blame("a"), ledger.blame("a"), ledger.blame("b")] == [1, 2, 1]
    assert (ledger.crashes("a"), ledger.crashes("b"), ledger.crashes("c")) == (2, 1, 0)
    assert not ledger.timed_out("a")
    ledger.blame("a", timed_out=True)
    assert ledger.timed_out("a")
    assert ledger.crashes("a") == 2


def test_the_oldest_blame_makes_room() -> None:
    ledger = Ledger(1)
    for number in range(BLAMED + 5):
        ledger.blame(f"job{number}")
    assert ledger.crashes("job0") == ledger.crashes("job4") == 0
    assert ledger.crashes("job5") == ledger.crashes(f"job{BLAMED + 4}") == 1


def test_a_job_that_another_slot_still_names_is_seen() -> None:
    ledger = Ledger(4)
    ledger.begin(0, "abc", "f")
    assert ledger.runs_elsewhere("abc", range(2, 4))
    assert not ledger.runs_elsewhere("abc", range(2))
    assert not ledger.runs_elsewhere("ab", range(2, 4))
    assert not ledger.runs_elsewhere("", range(2, 4))
    ledger.end(0)
    assert not ledger.runs_elsewhere("abc", range(2, 4))


def test_it_is_shared_with_forked_processes() -> None:
    ledger = Ledger(2)
    pid = os.fork()
    if not pid:
        ledger.begin(1, "from the child", "f")
        os._exit(0)
    os.waitpid(pid, 0)
    assert uniques(ledger, range(2)) == ["from the child"]
