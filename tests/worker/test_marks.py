"""The table of revoked tasks that the processes of a worker share."""

from __future__ import annotations

import os

from gtask.worker.ledger import Ledger, Running
from gtask.worker.marks import MAX_ID, Heard, MarkTable
from gtask.worker.watch import TOLD, Watch


def test_nothing_is_marked_before_it_was() -> None:
    table = MarkTable()
    assert table.heard is Heard.NOT_YET
    assert not table.clear
    table.hear(Heard.ALL)
    assert table.clear
    assert "a" not in table
    assert "" not in table


def test_marks_are_found_by_the_whole_id() -> None:
    table = MarkTable()
    table.hear(Heard.ALL)
    for id in ("abc", "x" * MAX_ID, "\u00e9"):
        table.add(id, terminate=False)
        assert id in table
    for id in ("ab", "abcd", "bc", "x" * (MAX_ID - 1), "x" * (MAX_ID + 1), ""):
        assert id not in table
    assert not table.clear
    assert table.count == 3
    assert not table.stops("abc")
    assert table.terminations == 0


def test_a_mark_can_be_made_to_stop_what_runs() -> None:
    table = MarkTable()
    table.add("a", terminate=False)
    table.add("a", terminate=True)
    table.add("a", terminate=True)
    table.add("a", terminate=False)
    assert table.stops("a")
    assert (table.count, table.terminations) == (1, 1)


def test_many_are_kept_and_the_oldest_make_room() -> None:
    table = MarkTable()
    ids = [f"{number:032x}" for number in range(50_000)]
    for id in ids:
        table.add(id, terminate=False)
    assert sum(id in table for id in ids) > 49_900
    assert all(id in table for id in ids[-1000:])
    for number in range(50_000, 300_000):
        table.add(f"{number:032x}", terminate=False)
    assert f"{299_999:032x}" in table
    assert ids[0] not in table


def test_it_is_shared_with_forked_processes() -> None:
    table = MarkTable()
    pid = os.fork()
    if not pid:
        table.add("from the child", terminate=True)
        os._exit(0)
    os.waitpid(pid, 0)
    assert table.stops("from the child")


def test_a_supervisor_ends_what_was_revoked() -> None:
    ledger, table = Ledger(3), MarkTable()
    watch = Watch(ledger, table)
    ledger.begin(0, "a" * 32, "f")
    ledger.begin(1, "b" * 34, "f")
    ledger.begin(2, "c" * 32, "f")
    ledger.note(2, "c" * 32, "c" * 32, "whole")
    table.add("a" * 32, terminate=False)
    assert watch.due(0.0) == []
    table.add("b" * 32, terminate=True)
    table.add("whole", terminate=True)
    assert [due.job for due in watch.due(0.0)] == [Running(1, "b" * 34, "f"), Running(2, "c" * 32, "f")]
    assert watch.due(0.0) == []


def test_a_late_job_is_ended_when_others_were_told() -> None:
    ledger = Ledger(1)
    watch = Watch(ledger)
    ledger.begin(0, "a" * 32, "f", deadline=10.0)
    assert watch.due(9.0) == []
    ledger.tells = True
    assert watch.due(10.0) == []
    assert watch.next(10.0, 0.25) < 10.1
    ((blame, _),) = ledger.untold()
    ledger.told(blame)
    assert [due.late for due in watch.due(10.1)] == [True]
    ledger.end(0)
    assert watch.due(10.2) == []
    assert watch.next(10.2, 0.25) > 10.4
    ledger.begin(0, "b" * 32, "f", deadline=20.0)
    assert watch.due(20.0) == []
    assert [due.late for due in watch.due(20.1 + TOLD)] == [True]


def test_without_anybody_who_tells_a_late_job_is_ended_at_once() -> None:
    ledger = Ledger(1)
    ledger.begin(0, "a" * 32, "f", deadline=10.0)
    assert [due.late for due in Watch(ledger).due(10.0)] == [True]
    assert ledger.blamed("a" * 32).late
