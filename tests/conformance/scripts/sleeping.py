"""Sections 7, 8 and 9: grabbing, sleeping, waking, abilities."""

from __future__ import annotations

from gtask.protocol.packets import PacketType as T
from tests.conformance.session import Session, script

NOOP = (T.NOOP, ())
NO_JOB = (T.NO_JOB, ())


@script("7")
def grabbing_without_abilities_gives_nothing(s: Session) -> None:
    s.submit(s.peer())
    w = s.peer()
    for type in (T.GRAB_JOB, T.GRAB_JOB_UNIQ, T.GRAB_JOB_ALL):
        assert w.ask(type) == NO_JOB


@script("7")
def a_sleeper_is_woken_by_a_job(s: Session) -> None:
    c, w = s.peer(), s.worker()
    s.sleep(w)
    s.submit(c)
    assert w.receive() == NOOP
    s.grab(w)


@script("7")
def a_sleeper_is_woken_once(s: Session) -> None:
    c, w = s.peer(), s.worker()
    s.sleep(w)
    for _ in range(3):
        s.submit(c)
    assert w.collect() == [NOOP]


@script("7")
def who_wants_to_sleep_while_there_is_work_is_woken_at_once(s: Session) -> None:
    s.submit(s.peer())
    w = s.worker()
    w.send(T.PRE_SLEEP)
    assert w.collect() == [NOOP]


@script("7")
def who_does_not_sleep_is_not_woken(s: Session) -> None:
    c, w = s.peer(), s.worker()
    s.submit(c)
    assert w.collect() == []


@script("7")
def a_grab_ends_the_sleep(s: Session) -> None:
    c, w = s.peer(), s.worker()
    s.sleep(w)
    assert w.ask(T.GRAB_JOB) == NO_JOB
    s.submit(c)
    assert w.collect() == []


@script("7")
def a_sleeper_is_not_woken_by_anothers_function(s: Session) -> None:
    c, w = s.peer(), s.worker()
    s.sleep(w)
    s.submit(c, f=s.f + b"-other")
    assert w.collect() == []


@script("7")
def a_worker_may_sleep_while_it_holds_a_job(s: Session) -> None:
    c, w = s.peer(), s.worker()
    first = s.submit(c)
    s.grab(w)
    s.sleep(w)
    second = s.submit(c)
    assert w.receive() == NOOP
    assert s.grab(w).handle == second
    w.send(T.WORK_COMPLETE, first, b"")
    w.send(T.WORK_COMPLETE, second, b"")
    assert w.collect() == []


@script("7")
def a_worker_that_sleeps_again_without_grabbing_is_woken_again(s: Session) -> None:
    c, w, other = s.peer(), s.worker(), s.worker()
    s.sleep(w)
    s.submit(c)
    assert w.receive() == NOOP
    s.drain(other)
    s.sleep(w)
    s.submit(c)
    assert w.collect() == [NOOP]


@script("7")
def an_ability_that_comes_during_sleep_wakes(s: Session) -> None:
    s.submit(s.peer())
    w = s.worker(s.f + b"-other")
    s.sleep(w)
    w.send(T.CAN_DO, s.f)
    assert w.collect() == [NOOP]


@script("7")
def one_job_wakes_one_worker(s: Session) -> None:
    c, workers = s.peer(), [s.worker() for _ in range(5)]
    for w in workers:
        s.sleep(w)
    s.submit(c)
    assert sum(len(w.collect()) for w in workers) == 1


@script("7")
def several_jobs_wake_several_workers(s: Session) -> None:
    c, workers = s.peer(), [s.worker() for _ in range(3)]
    for w in workers:
        s.sleep(w)
    for _ in range(3):
        s.submit(c)
    assert [w.collect() for w in workers] == [[NOOP]] * 3


@script("7")
def a_woken_worker_that_does_not_grab_is_replaced(s: Session) -> None:
    c, first, second = s.peer(), s.worker(), s.worker()
    s.sleep(first)
    s.sleep(second)
    s.submit(c)
    assert first.receive() == NOOP
    assert second.collect() == []
    assert second.receive() == NOOP
    s.grab(second)


@script("7")
def a_woken_worker_that_leaves_is_replaced(s: Session) -> None:
    c, first, second = s.peer(), s.worker(), s.worker()
    s.sleep(first)
    s.sleep(second)
    s.submit(c)
    assert first.receive() == NOOP
    s.target.close(first)
    assert second.collect() == [NOOP]


@script("7")
def a_worker_that_takes_other_work_passes_the_wake_up_on(s: Session) -> None:
    other = s.f + b"-other"
    c, both, one = s.peer(), s.worker(s.f, other), s.worker()
    s.sleep(both)
    s.sleep(one)
    s.submit(c)
    assert both.receive() == NOOP
    s.submit(c, b"urgent", b"", T.SUBMIT_JOB_HIGH_BG, other)
    assert s.grab(both).data == b"urgent"
    assert one.collect() == [NOOP]


@script("8")
def the_same_ability_counts_once(s: Session) -> None:
    w = s.worker(s.f, s.f)
    assert s.status() == (0, 0, 1)
    w.send(T.CANT_DO, s.f)
    assert w.collect() == []
    assert s.status() == (0, 0, 0)


@script("8")
def abilities_leave_with_their_connection(s: Session) -> None:
    w = s.worker()
    assert s.status() == (0, 0, 1)
    s.target.close(w)
    assert s.status() == (0, 0, 0)


@script("8")
def a_function_that_cannot_be_done_any_more_is_not_handed_out(s: Session) -> None:
    s.submit(s.peer())
    w = s.worker()
    w.send(T.CANT_DO, s.f)
    assert w.ask(T.GRAB_JOB) == NO_JOB
    w.send(T.CAN_DO, s.f)
    s.grab(w)


@script("8")
def reset_forgets_all_abilities(s: Session) -> None:
    c = s.peer()
    names = (s.f + b"-a", s.f + b"-b")
    w = s.worker(*names)
    for f in names:
        s.submit(c, f=f)
    w.send(T.RESET_ABILITIES)
    assert w.ask(T.GRAB_JOB) == NO_JOB


@script("2")
def a_function_with_a_nul_at_its_end_is_that_function(s: Session) -> None:
    s.submit(s.peer())
    w = s.peer()
    body = s.f + b"\0"
    w.raw(b"\0REQ" + T.CAN_DO.to_bytes(4, "big") + len(body).to_bytes(4, "big") + body)
    s.grab(w)


@script("9")
def giving_up_an_ability_leaves_the_running_job(s: Session) -> None:
    c, w = s.peer(), s.worker()
    handle = s.submit(c, type=T.SUBMIT_JOB)
    s.grab(w)
    w.send(T.CANT_DO, s.f)
    w.send(T.RESET_ABILITIES)
    w.send(T.WORK_COMPLETE, handle, b"done")
    assert w.collect() == []
    assert c.collect() == [(T.WORK_COMPLETE, (handle, b"done"))]
