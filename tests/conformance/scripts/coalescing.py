"""Section 11: who shares a job with whom."""

from __future__ import annotations

from gtask.protocol.packets import PacketType as T
from tests.conformance.session import Session, script


@script("11")
def an_empty_unique_joins_nothing(s: Session) -> None:
    c = s.peer()
    assert s.submit(c, b"same") != s.submit(c, b"same")
    assert s.drain(s.worker()) == [b"same", b"same"]


@script("11")
def a_dash_joins_what_has_the_same_data(s: Session) -> None:
    c = s.peer()
    first = s.submit(c, b"same", b"-")
    assert s.submit(c, b"same", b"-") == first
    assert s.submit(c, b"other", b"-") != first
    w = s.worker()
    assert s.grab(w).unique == b"-"
    assert s.grab(w).data == b"other"


@script("11")
def a_dash_without_data_joins_nothing(s: Session) -> None:
    c = s.peer()
    assert s.submit(c, b"", b"-") != s.submit(c, b"", b"-")


@script("11")
def a_hash_is_an_ordinary_unique(s: Session) -> None:
    c = s.peer()
    assert s.submit(c, b"one", b"#") == s.submit(c, b"two", b"#")
    assert s.drain(s.worker()) == [b"one"]


@script("11")
def the_first_submissions_data_and_priority_stand(s: Session) -> None:
    c = s.peer()
    first = s.submit(c, b"first", b"key", T.SUBMIT_JOB_LOW_BG)
    s.submit(c, b"between")
    assert s.submit(c, b"second", b"key", T.SUBMIT_JOB_HIGH_BG) == first
    assert s.drain(s.worker()) == [b"between", b"first"]


@script("11")
def one_unique_in_two_functions_is_two_jobs(s: Session) -> None:
    c, other = s.peer(), s.f + b"-other"
    assert s.submit(c, b"a", b"key") != s.submit(c, b"b", b"key", f=other)
    assert s.drain(s.worker()) == [b"a"]
    assert s.drain(s.worker(other)) == [b"b"]


@script("11")
def all_callers_hear_everything(s: Session) -> None:
    a, b, w = s.peer(), s.peer(), s.worker()
    handle = s.submit(a, b"first", b"key", T.SUBMIT_JOB)
    assert s.submit(b, b"second", b"key", T.SUBMIT_JOB) == handle
    assert s.grab(w).data == b"first"
    w.send(T.WORK_DATA, handle, b"part")
    w.send(T.WORK_COMPLETE, handle, b"done")
    assert w.collect() == []
    expected = [(T.WORK_DATA, (handle, b"part")), (T.WORK_COMPLETE, (handle, b"done"))]
    assert a.collect() == expected
    assert b.collect() == expected


@script("11")
def who_joins_late_hears_only_what_comes_after(s: Session) -> None:
    a, b, w = s.peer(), s.peer(), s.worker()
    handle = s.submit(a, unique=b"key", type=T.SUBMIT_JOB)
    s.grab(w)
    w.send(T.WORK_DATA, handle, b"early")
    assert w.collect() == []
    assert s.submit(b, unique=b"key", type=T.SUBMIT_JOB) == handle
    w.send(T.WORK_COMPLETE, handle, b"done")
    assert w.collect() == []
    assert b.collect() == [(T.WORK_COMPLETE, (handle, b"done"))]


@script("11")
def who_submits_twice_hears_everything_twice(s: Session) -> None:
    c, w = s.peer(), s.worker()
    handle = s.submit(c, unique=b"key", type=T.SUBMIT_JOB)
    assert s.submit(c, unique=b"key", type=T.SUBMIT_JOB) == handle
    s.grab(w)
    w.send(T.WORK_COMPLETE, handle, b"done")
    assert w.collect() == []
    assert c.collect() == [(T.WORK_COMPLETE, (handle, b"done"))] * 2


@script("11")
def two_background_submissions_are_one_run(s: Session) -> None:
    c = s.peer()
    assert s.submit(c, b"a", b"key") == s.submit(c, b"b", b"key")
    assert s.drain(s.worker()) == [b"a"]


@script("11")
def a_background_submission_joins_a_running_job(s: Session) -> None:
    c, w = s.peer(), s.worker()
    handle = s.submit(c, b"a", b"key")
    s.grab(w)
    assert s.submit(c, b"b", b"key") == handle
    w.send(T.WORK_COMPLETE, handle, b"")
    assert s.drain(w) == []


@script("11")
def a_foreground_caller_joins_a_background_job(s: Session) -> None:
    c, w = s.peer(), s.worker()
    handle = s.submit(c, unique=b"key")
    assert s.submit(c, unique=b"key", type=T.SUBMIT_JOB) == handle
    s.grab(w)
    w.send(T.WORK_COMPLETE, handle, b"done")
    assert w.collect() == []
    assert c.collect() == [(T.WORK_COMPLETE, (handle, b"done"))]


@script("11")
def a_unique_is_free_again_when_its_job_has_ended(s: Session) -> None:
    c, w = s.peer(), s.worker()
    first = s.submit(c, b"1", b"key")
    s.drain(w)
    assert s.submit(c, b"2", b"key") != first
    assert s.drain(w) == [b"2"]


@script("11")
def an_abandoned_foreground_job_swallows_no_background_one(s: Session) -> None:
    a, w = s.peer(), s.worker()
    s.submit(a, b"old", b"key", T.SUBMIT_JOB)
    s.target.close(a)
    s.submit(s.peer(), b"new", b"key")
    assert s.drain(w) == [b"new"]


@script("11")
def an_abandoned_foreground_job_swallows_no_foreground_one(s: Session) -> None:
    a, b, w = s.peer(), s.peer(), s.worker()
    s.submit(a, b"old", b"key", T.SUBMIT_JOB)
    s.target.close(a)
    handle = s.submit(b, b"new", b"key", T.SUBMIT_JOB)
    assert s.drain(w) == [b"new"]
    assert b.collect() == [(T.WORK_COMPLETE, (handle, b""))]


@script("11")
def who_joins_an_abandoned_running_job_keeps_it_alive(s: Session) -> None:
    a, b, w = s.peer(), s.peer(), s.worker()
    handle = s.submit(a, b"data", b"key", T.SUBMIT_JOB)
    s.grab(w)
    s.target.close(a)
    assert s.submit(b, b"data", b"key", T.SUBMIT_JOB) == handle
    s.target.close(w)
    assert s.drain(s.worker()) == [b"data"]
    assert b.collect() == [(T.WORK_COMPLETE, (handle, b""))]


@script("11")
def a_foreground_caller_that_leaves_does_not_take_a_background_job_along(s: Session) -> None:
    a = s.peer()
    s.submit(s.peer(), b"durable", b"key")
    s.submit(a, b"", b"key", T.SUBMIT_JOB)
    s.target.close(a)
    assert s.drain(s.worker()) == [b"durable"]


@script("11")
def a_background_submission_makes_a_foreground_job_durable(s: Session) -> None:
    a = s.peer()
    handle = s.submit(a, b"data", b"key", T.SUBMIT_JOB)
    assert s.submit(s.peer(), b"data", b"key") == handle
    s.target.close(a)
    assert s.drain(s.worker()) == [b"data"]


@script("11")
def a_full_queue_may_still_be_joined(s: Session) -> None:
    c = s.peer()
    handle = s.submit(c, b"1", b"key")
    assert c.line(b"maxqueue %b 1" % s.f) == b"OK\r\n"
    assert c.ask(T.SUBMIT_JOB_BG, s.f, b"other", b"2")[1] == (b"QUEUE_ERROR", b"Job queue is full")
    assert s.submit(c, b"3", b"key") == handle
