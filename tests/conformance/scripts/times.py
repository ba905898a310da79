"""Sections 14 and 16: jobs for later, and jobs that take too long."""

from __future__ import annotations

from gtask.protocol.packets import PacketType as T
from tests.conformance.session import RESULT_NOT_FOUND, Session, script


def submit_at(s: Session, when: bytes | int, data: bytes = b"later", unique: bytes = b"") -> bytes:
    """Submits an epoch job and returns its handle."""
    epoch = b"%d" % when if isinstance(when, int) else when
    answer = s.peer().ask(T.SUBMIT_JOB_EPOCH, s.f, unique, epoch, data)
    assert answer[0] == T.JOB_CREATED, answer
    return answer[1][0]


def soon(s: Session) -> int:
    """A second that has not begun, but will in a moment."""
    return int(s.target.unix_time()) + 2


@script("16")
def a_time_that_has_passed_means_now(s: Session) -> None:
    for when in (b"0", b"-5", b"abc", b"", b"1000000", b"1000000.5"):
        submit_at(s, when, when)
    assert s.drain(s.worker()) == [b"0", b"-5", b"abc", b"", b"1000000", b"1000000.5"]


@script("16")
def a_job_for_later_is_not_handed_out(s: Session) -> None:
    handle = submit_at(s, int(s.target.unix_time()) + 1000)
    assert s.worker().ask(T.GRAB_JOB) == (T.NO_JOB, ())
    assert s.known(handle)
    assert s.status() == (1, 0, 1)


@script("16")
def a_job_for_later_wakes_a_sleeper_when_it_is_due(s: Session) -> None:
    w = s.worker()
    s.sleep(w)
    when = soon(s)
    submit_at(s, when, b"due")
    assert w.collect() == []
    assert w.receive() == (T.NOOP, ())
    assert s.target.unix_time() >= when
    assert s.grab(w).data == b"due"


@script("16")
def a_job_for_later_hides_no_low_job(s: Session) -> None:
    submit_at(s, int(s.target.unix_time()) + 1000)
    s.submit(s.peer(), b"low", b"", T.SUBMIT_JOB_LOW_BG)
    w = s.worker()
    assert s.drain(w) == [b"low"]
    s.sleep(w)


@script("16")
def a_job_for_later_does_not_wake_anybody_before(s: Session) -> None:
    w = s.worker()
    s.sleep(w)
    submit_at(s, int(s.target.unix_time()) + 1000)
    assert w.collect() == []


@script("16")
def a_job_for_later_counts_for_the_limit(s: Session) -> None:
    c = s.peer()
    submit_at(s, int(s.target.unix_time()) + 1000)
    assert c.line(b"maxqueue %b 1" % s.f) == b"OK\r\n"
    assert c.ask(T.SUBMIT_JOB_BG, s.f, b"", b"x")[0] == T.ERROR


@script("16")
def a_job_for_later_is_a_normal_one(s: Session) -> None:
    submit_at(s, int(s.target.unix_time()) + 1000)
    assert s.f + b"\t0\t1\t0\t0" in s.peer().listing(b"prioritystatus")


@script("16")
def who_joins_a_job_for_later_waits_for_its_time(s: Session) -> None:
    handle = submit_at(s, int(s.target.unix_time()) + 1000, b"later", b"key")
    assert s.submit(s.peer(), b"now", b"key") == handle
    assert s.drain(s.worker()) == []


@script("16")
def a_job_for_later_can_be_cancelled(s: Session) -> None:
    when = soon(s)
    handle = submit_at(s, when)
    other = submit_at(s, when, b"other")
    assert s.peer().line(b"cancel job " + handle) == b"OK\r\n"
    w = s.worker()
    s.sleep(w)
    assert w.receive() == (T.NOOP, ())
    assert s.grab(w).handle == other
    assert w.ask(T.GRAB_JOB) == (T.NO_JOB, ())


@script("16")
def a_time_beyond_all_numbers_is_answered(s: Session) -> None:
    answer = s.peer().ask(T.SUBMIT_JOB_EPOCH, s.f, b"", b"9" * 30, b"x")
    assert answer[0] == T.ERROR


@script("14")
def a_job_over_its_time_limit_fails(s: Session) -> None:
    c, w = s.peer(), s.peer()
    w.send(T.CAN_DO_TIMEOUT, s.f, b"1000")
    handle = s.submit(c, type=T.SUBMIT_JOB)
    s.grab(w)
    assert c.receive() == (T.WORK_FAIL, (handle,))
    assert not s.known(handle)
    w.send(T.WORK_COMPLETE, handle, b"too late")
    assert w.collect() == [RESULT_NOT_FOUND]


@script("14")
def sleeping_does_not_stop_the_time_limit(s: Session) -> None:
    c, w = s.peer(), s.peer()
    w.send(T.CAN_DO_TIMEOUT, s.f, b"1000")
    handle = s.submit(c, type=T.SUBMIT_JOB)
    s.grab(w)
    s.sleep(w)
    assert c.receive() == (T.WORK_FAIL, (handle,))


@script("14")
def a_time_limit_belongs_to_its_job(s: Session) -> None:
    c, w = s.peer(), s.peer()
    w.send(T.CAN_DO_TIMEOUT, s.f, b"1000")
    done = s.submit(c, type=T.SUBMIT_JOB)
    s.grab(w)
    w.send(T.WORK_COMPLETE, done, b"")
    slow = s.submit(s.peer(), b"slow")
    assert c.receive() == (T.WORK_COMPLETE, (done, b""))
    s.grab(w)
    other = s.submit(c, b"other", b"", T.SUBMIT_JOB)
    s.grab(w)
    assert c.receive() == (T.WORK_FAIL, (other,))
    assert not s.known(slow)


@script("14")
def a_job_within_its_time_limit_completes(s: Session) -> None:
    c, w = s.peer(), s.peer()
    w.send(T.CAN_DO_TIMEOUT, s.f, b"60000")
    handle = s.submit(c, type=T.SUBMIT_JOB)
    s.grab(w)
    w.send(T.WORK_COMPLETE, handle, b"in time")
    assert w.collect() == []
    assert c.collect() == [(T.WORK_COMPLETE, (handle, b"in time"))]


@script("14")
def no_time_limit_is_none(s: Session) -> None:
    for milliseconds in (b"0", b"-1", b"abc"):
        w = s.peer()
        w.send(T.CAN_DO_TIMEOUT, s.f, milliseconds)
        s.submit(s.peer(), milliseconds)
        assert s.drain(w) == [milliseconds]
