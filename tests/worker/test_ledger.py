"""The ledger: what runs where, and who is blamed."""

from __future__ import annotations

import os

from gtask.worker.ledger import BUCKETS, NO_BLAME, PLACES, Ledger, Running


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


def blame(ledger: Ledger, unique: str, timed_out: bool = False) -> int:
    return ledger.blame(Running(0, unique, "f"), timed_out)


def test_blame_is_counted_for_each_job() -> None:
    ledger = Ledger(1)
    assert ledger.blamed("a") == NO_BLAME
    assert [blame(ledger, "a"), blame(ledger, "a"), blame(ledger, "b")] == [1, 2, 1]
    assert [ledger.blamed(unique).crashes for unique in "abc"] == [2, 1, 0]
    assert not ledger.blamed("a").late
    blame(ledger, "a", timed_out=True)
    assert ledger.blamed("a")[1:4] == ("a", 2, True)


def test_the_oldest_blame_makes_room() -> None:
    ledger = Ledger(1)
    for number in range(4 * BUCKETS * PLACES):
        blame(ledger, f"job{number}")
    assert ledger.blamed("job0").crashes == 0
    known = sum(ledger.blamed(f"job{number}").crashes for number in range(4 * BUCKETS * PLACES))
    assert known == BUCKETS * PLACES
    assert ledger.blamed(f"job{4 * BUCKETS * PLACES - 1}").crashes == 1


def test_a_task_of_the_same_name_is_not_blamed() -> None:
    ledger = Ledger(1)
    ledger.blame(Running(0, "a" * 32, "bcd"))
    assert ledger.blamed("bcd") == NO_BLAME


def test_what_was_not_told_of_is_told_once() -> None:
    ledger = Ledger(1)
    ledger.begin(0, "a" * 32, "f")
    blame(ledger, "a" * 32)
    changes = ledger.changes
    ((found, told),) = ledger.untold()
    assert (found.id, found.function, found.crashes, told) == ("a" * 32, "f", 1, 0)
    assert not ledger.is_told(found)
    ledger.told(found)
    assert ledger.is_told(found)
    assert list(ledger.untold()) == []
    blame(ledger, "a" * 32, timed_out=True)
    assert ledger.changes != changes
    ((found, told),) = ledger.untold()
    assert (found.crashes, found.late, told) == (1, True, 1)


def test_a_note_says_whose_job_runs_as_long_as_it_runs() -> None:
    ledger = Ledger(2)
    ledger.begin(1, "a" * 34, "f")
    (job,) = ledger.running(range(2))
    assert ledger.ids(job) == ("a" * 32,)
    ledger.note(1, "a" * 34, "mine", "whole")
    assert ledger.ids(job) == ("mine", "whole")
    ledger.end(1)
    ledger.begin(1, "short", "f")
    assert ledger.ids(*ledger.running(range(2))) == ()


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
