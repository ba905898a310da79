"""Sections 12 and 13: callers and workers that leave."""

from __future__ import annotations

from gtask.protocol.packets import PacketType as T
from tests.conformance.session import Session, script


@script("12")
def a_queued_job_leaves_with_its_last_caller(s: Session) -> None:
    a = s.peer()
    s.submit(a, b"gone", type=T.SUBMIT_JOB)
    s.target.close(a)
    assert s.drain(s.worker()) == []


@script("12")
def a_job_that_nobody_wants_is_forgotten_at_once(s: Session) -> None:
    a = s.peer()
    handle = s.submit(a, b"gone", type=T.SUBMIT_JOB)
    s.target.close(a)
    assert s.status() == (0, 0, 0)
    assert not s.known(handle)


@script("12")
def a_running_job_outlives_its_caller(s: Session) -> None:
    a, w = s.peer(), s.worker()
    handle = s.submit(a, type=T.SUBMIT_JOB)
    s.grab(w)
    s.target.close(a)
    w.send(T.WORK_DATA, handle, b"part")
    w.send(T.WORK_COMPLETE, handle, b"done")
    assert w.collect() == []
    assert not s.known(handle)


@script("12")
def a_running_job_that_nobody_wants_is_not_run_again(s: Session) -> None:
    a, w = s.peer(), s.worker()
    s.submit(a, type=T.SUBMIT_JOB)
    s.grab(w)
    s.target.close(a)
    s.target.close(w)
    assert s.drain(s.worker()) == []


@script("12")
def the_other_callers_still_get_their_answer(s: Session) -> None:
    a, b, w = s.peer(), s.peer(), s.worker()
    handle = s.submit(a, unique=b"key", type=T.SUBMIT_JOB)
    s.submit(b, unique=b"key", type=T.SUBMIT_JOB)
    s.target.close(a)
    s.drain(w)
    assert b.collect() == [(T.WORK_COMPLETE, (handle, b""))]


@script("12")
def a_background_job_does_not_need_its_caller(s: Session) -> None:
    a = s.peer()
    s.submit(a, b"durable")
    s.target.close(a)
    assert s.drain(s.worker()) == [b"durable"]


@script("12")
def a_half_closed_caller_is_gone(s: Session) -> None:
    a = s.peer()
    s.submit(a, type=T.SUBMIT_JOB)
    s.target.close(a, half=True)
    assert s.drain(s.worker()) == []


@script("13")
def a_dead_workers_job_goes_to_another(s: Session) -> None:
    c, w = s.peer(), s.worker()
    handle = s.submit(c, b"data", b"key", T.SUBMIT_JOB)
    s.grab(w)
    s.target.close(w)
    again = s.grab(s.worker())
    assert (again.handle, again.unique, again.data) == (handle, b"key", b"data")
    assert c.collect() == []


@script("13")
def a_dead_workers_job_goes_to_the_end_of_the_queue(s: Session) -> None:
    c, w = s.peer(), s.worker()
    s.submit(c, b"lost")
    s.submit(c, b"second")
    s.grab(w)
    s.target.close(w)
    assert s.drain(s.worker()) == [b"second", b"lost"]


@script("13")
def a_dead_workers_job_keeps_its_priority(s: Session) -> None:
    c, w = s.peer(), s.worker()
    s.submit(c, b"lost", type=T.SUBMIT_JOB_HIGH_BG)
    s.submit(c, b"normal")
    s.grab(w)
    s.target.close(w)
    assert s.drain(s.worker()) == [b"lost", b"normal"]


@script("13")
def a_dead_workers_progress_is_forgotten(s: Session) -> None:
    c, w = s.peer(), s.worker()
    handle = s.submit(c)
    s.grab(w)
    w.send(T.WORK_STATUS, handle, b"5", b"10")
    s.target.close(w)
    assert c.ask(T.GET_STATUS, handle)[1] == (handle, b"1", b"0", b"0", b"0")


@script("13")
def a_loss_is_counted(s: Session) -> None:
    w = s.worker()
    handle = s.submit(s.peer())
    s.grab(w)
    s.target.close(w)
    assert handle + b"\t1\t0\t1" in s.peer().listing(b"show jobs")


@script("13")
def a_requeued_job_wakes_a_sleeper(s: Session) -> None:
    w, other = s.worker(), s.worker()
    s.submit(s.peer())
    s.grab(w)
    s.sleep(other)
    s.target.close(w)
    assert other.collect() == [(T.NOOP, ())]


@script("13")
def a_worker_loses_all_its_jobs(s: Session) -> None:
    c, w = s.peer(), s.worker()
    for n in range(3):
        s.submit(c, b"%d" % n)
        s.grab(w)
    s.target.close(w)
    assert sorted(s.drain(s.worker())) == [b"0", b"1", b"2"]


@script("13", job_retries=1)
def one_attempt_means_one(s: Session) -> None:
    c, w = s.peer(), s.worker()
    c.ask(T.OPTION_REQ, b"exceptions")
    handle = s.submit(c, type=T.SUBMIT_JOB)
    s.grab(w)
    s.target.close(w)
    assert c.collect() == [(T.WORK_FAIL, (handle,))]
    assert s.drain(s.worker()) == []


@script("13", job_retries=2)
def two_attempts_mean_two(s: Session) -> None:
    c = s.peer()
    handle = s.submit(c, type=T.SUBMIT_JOB)
    for attempt in range(2):
        assert c.collect() == [], attempt
        w = s.worker()
        s.grab(w)
        s.target.close(w)
    assert c.collect() == [(T.WORK_FAIL, (handle,))]
    assert not s.known(handle)
