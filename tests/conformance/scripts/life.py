"""Sections 2, 5, 10, 13 and 15: from the submission to the answer."""

from __future__ import annotations

from gtask.protocol.packets import PacketType as T
from tests.conformance.session import RESULT_NOT_FOUND, Session, error, script

SUBMISSIONS = (
    T.SUBMIT_JOB,
    T.SUBMIT_JOB_HIGH,
    T.SUBMIT_JOB_LOW,
    T.SUBMIT_JOB_BG,
    T.SUBMIT_JOB_HIGH_BG,
    T.SUBMIT_JOB_LOW_BG,
)


@script("2")
def every_submission_is_answered_with_a_handle(s: Session) -> None:
    c = s.peer()
    handles = {s.submit(c, b"data", b"", type) for type in SUBMISSIONS}
    assert len(handles) == len(SUBMISSIONS)
    assert all(handle.startswith(b"H:") and len(handle) <= 63 for handle in handles)


@script("2")
def grab_job_gives_handle_function_and_data(s: Session) -> None:
    handle = s.submit(s.peer(), b"data", b"key")
    assert s.worker().ask(T.GRAB_JOB) == (T.JOB_ASSIGN, (handle, s.f, b"data"))


@script("2")
def grab_job_uniq_gives_the_unique_too(s: Session) -> None:
    handle = s.submit(s.peer(), b"data", b"key")
    assert s.worker().ask(T.GRAB_JOB_UNIQ) == (T.JOB_ASSIGN_UNIQ, (handle, s.f, b"key", b"data"))


@script("2")
def grab_job_all_gives_the_unique_when_there_is_no_reducer(s: Session) -> None:
    handle = s.submit(s.peer(), b"data", b"key")
    assert s.worker().ask(T.GRAB_JOB_ALL) == (T.JOB_ASSIGN_UNIQ, (handle, s.f, b"key", b"data"))


@script("2")
def an_empty_unique_is_empty_for_the_worker(s: Session) -> None:
    s.submit(s.peer(), b"data", b"")
    assert s.grab(s.worker()).unique == b""


@script("2")
def a_reduce_job_comes_with_its_reducer(s: Session) -> None:
    c = s.peer()
    for type in (T.SUBMIT_REDUCE_JOB, T.SUBMIT_REDUCE_JOB_BACKGROUND):
        created = c.ask(type, s.f, b"", b"reducer", b"aggregator", b"da\0ta")
        assert created[0] == T.JOB_CREATED
        expected = (T.JOB_ASSIGN_ALL, (created[1][0], s.f, b"", b"reducer", b"da\0ta"))
        assert s.worker().ask(T.GRAB_JOB_ALL) == expected


@script("2")
def a_plain_grab_drops_the_reducer(s: Session) -> None:
    c, w = s.peer(), s.worker()
    c.ask(T.SUBMIT_REDUCE_JOB, s.f, b"key", b"reducer", b"", b"data")
    job = s.grab(w)
    assert (job.unique, job.data) == (b"key", b"data")


@script("2")
def a_reduce_job_of_three_arguments_is_an_error(s: Session) -> None:
    c = s.peer()
    body = b"\0".join((s.f, b"key", b"reducer", b"data"))
    c.raw(b"\0REQ" + T.SUBMIT_REDUCE_JOB.to_bytes(4, "big") + len(body).to_bytes(4, "big") + body)
    assert c.receive()[0] == T.ERROR
    assert c.collect() == []


@script("2")
def a_reducer_of_65_bytes_is_refused(s: Session) -> None:
    answer = s.peer().ask(T.SUBMIT_REDUCE_JOB, s.f, b"", b"r" * 65, b"", b"data")
    assert answer[1][0] == b"ARGUMENT_TOO_LARGE"


@script("5")
def a_foreground_job_comes_back_to_its_caller(s: Session) -> None:
    c, w = s.peer(), s.worker()
    handle = s.submit(c, b"question", b"", T.SUBMIT_JOB)
    assert s.grab(w).handle == handle
    w.send(T.WORK_DATA, handle, b"pa\0rt")
    w.send(T.WORK_WARNING, handle, b"careful")
    w.send(T.WORK_STATUS, handle, b"1", b"2")
    w.send(T.WORK_COMPLETE, handle, b"ans\0wer")
    assert w.collect() == []
    assert c.collect() == [
        (T.WORK_DATA, (handle, b"pa\0rt")),
        (T.WORK_WARNING, (handle, b"careful")),
        (T.WORK_STATUS, (handle, b"1", b"2")),
        (T.WORK_COMPLETE, (handle, b"ans\0wer")),
    ]


@script("5")
def a_failure_comes_back(s: Session) -> None:
    c, w = s.peer(), s.worker()
    handle = s.submit(c, type=T.SUBMIT_JOB)
    s.grab(w)
    w.send(T.WORK_FAIL, handle)
    assert w.collect() == []
    assert c.collect() == [(T.WORK_FAIL, (handle,))]
    assert s.drain(w) == []


@script("5")
def a_failures_handle_is_sent_on_without_its_nul(s: Session) -> None:
    c, w = s.peer(), s.worker()
    handle = s.submit(c, type=T.SUBMIT_JOB)
    s.grab(w)
    body = handle + b"\0"
    w.raw(b"\0REQ" + T.WORK_FAIL.to_bytes(4, "big") + len(body).to_bytes(4, "big") + body)
    assert w.collect() == []
    assert c.collect() == [(T.WORK_FAIL, (handle,))]


@script("5")
def a_background_jobs_answer_goes_nowhere(s: Session) -> None:
    c, w = s.peer(), s.worker()
    handle = s.submit(c)
    s.grab(w)
    for type in (T.WORK_DATA, T.WORK_WARNING, T.WORK_COMPLETE):
        w.send(type, handle, b"x")
    assert w.collect() == []
    assert c.collect() == []


@script("5")
def a_second_ending_is_not_found(s: Session) -> None:
    w = s.worker()
    handle = s.submit(s.peer())
    s.grab(w)
    w.send(T.WORK_COMPLETE, handle, b"")
    w.send(T.WORK_COMPLETE, handle, b"")
    w.send(T.WORK_FAIL, handle)
    assert w.collect() == [RESULT_NOT_FOUND, RESULT_NOT_FOUND]


@script("4")
def each_report_on_an_unknown_job_has_its_own_words(s: Session) -> None:
    w = s.peer()
    unknown = b"H:none:1"
    w.send(T.WORK_COMPLETE, unknown, b"")
    w.send(T.WORK_FAIL, unknown)
    w.send(T.WORK_STATUS, unknown, b"1", b"2")
    w.send(T.WORK_DATA, unknown, b"")
    w.send(T.WORK_WARNING, unknown, b"")
    w.send(T.WORK_EXCEPTION, unknown, b"")
    data = error(b"JOB_NOT_FOUND", b"Job does not exist on server")
    exception = error(b"JOB_NOT_FOUND", b"An exception was received for a job that does not exist")
    assert w.collect() == [RESULT_NOT_FOUND, RESULT_NOT_FOUND, RESULT_NOT_FOUND, data, data, exception]


@script("5")
def a_job_that_was_not_grabbed_cannot_be_ended(s: Session) -> None:
    w = s.worker()
    handle = s.submit(s.peer())
    w.send(T.WORK_COMPLETE, handle, b"")
    assert w.collect() == [RESULT_NOT_FOUND]
    assert s.grab(w).handle == handle


@script("5")
def only_the_connection_that_grabbed_may_report(s: Session) -> None:
    c, w, other = s.peer(), s.worker(), s.worker()
    handle = s.submit(c, type=T.SUBMIT_JOB)
    s.grab(w)
    other.send(T.WORK_COMPLETE, handle, b"stolen")
    assert other.collect() == [RESULT_NOT_FOUND]
    w.send(T.WORK_COMPLETE, handle, b"right")
    assert w.collect() == []
    assert c.collect() == [(T.WORK_COMPLETE, (handle, b"right"))]


@script("2")
def one_connection_may_play_both_parts(s: Session) -> None:
    p = s.worker()
    handle = s.submit(p, b"mine", b"", T.SUBMIT_JOB)
    assert s.grab(p).handle == handle
    p.send(T.WORK_COMPLETE, handle, b"done")
    assert p.collect() == [(T.WORK_COMPLETE, (handle, b"done"))]


@script("6")
def answers_come_in_the_order_of_completion(s: Session) -> None:
    c, w = s.peer(), s.worker()
    handles = [s.submit(c, b"%d" % n, b"", T.SUBMIT_JOB) for n in range(4)]
    for _ in handles:
        s.grab(w)
    for handle in reversed(handles):
        w.send(T.WORK_COMPLETE, handle, b"")
    assert w.collect() == []
    assert [args[0] for _, args in c.collect()] == handles[::-1]


@script("7")
def many_grabs_may_be_on_the_way(s: Session) -> None:
    c, w = s.peer(), s.worker()
    for n in range(3):
        s.submit(c, b"%d" % n)
    for _ in range(4):
        w.send(T.GRAB_JOB_UNIQ)
    answers = w.collect()
    assert [args[3] for type, args in answers if type == T.JOB_ASSIGN_UNIQ] == [b"0", b"1", b"2"]
    assert answers[3] == (T.NO_JOB, ())


@script("10")
def priorities_are_served_high_to_low_and_in_order(s: Session) -> None:
    c = s.peer()
    for data, type in (
        (b"low 1", T.SUBMIT_JOB_LOW_BG),
        (b"normal 1", T.SUBMIT_JOB_BG),
        (b"high 1", T.SUBMIT_JOB_HIGH_BG),
        (b"low 2", T.SUBMIT_JOB_LOW_BG),
        (b"high 2", T.SUBMIT_JOB_HIGH_BG),
        (b"normal 2", T.SUBMIT_JOB_BG),
    ):
        s.submit(c, data, b"", type)
    assert s.drain(s.worker()) == [b"high 1", b"high 2", b"normal 1", b"normal 2", b"low 1", b"low 2"]


@script("10")
def priority_counts_across_functions(s: Session) -> None:
    a, b = s.f + b"-a", s.f + b"-b"
    c = s.peer()
    for f in (a, b):
        s.submit(c, b"low", b"", T.SUBMIT_JOB_LOW_BG, f)
        s.submit(c, b"high", b"", T.SUBMIT_JOB_HIGH_BG, f)
    assert s.drain(s.worker(a, b)) == [b"high", b"high", b"low", b"low"]


@script("8")
def functions_take_turns(s: Session) -> None:
    names = [s.f + suffix for suffix in (b"-a", b"-b", b"-c")]
    c = s.peer()
    for f in names:
        for _ in range(3):
            s.submit(c, f[-1:], b"", f=f)
    order = s.drain(s.worker(*names))
    assert [set(order[n : n + 3]) for n in (0, 3, 6)] == [{b"a", b"b", b"c"}] * 3


# --- exceptions ----------------------------------------------------------------------------------------------


@script("15")
def an_exception_reaches_who_asked_for_it(s: Session) -> None:
    c, w = s.peer(), s.worker()
    c.ask(T.OPTION_REQ, b"exceptions")
    handle = s.submit(c, type=T.SUBMIT_JOB)
    s.grab(w)
    w.send(T.WORK_EXCEPTION, handle, b"tr\0ace")
    assert w.collect() == []
    assert c.collect() == [(T.WORK_EXCEPTION, (handle, b"tr\0ace"))]


@script("15")
def an_exception_is_a_failure_for_the_others(s: Session) -> None:
    c, w = s.peer(), s.worker()
    handle = s.submit(c, type=T.SUBMIT_JOB)
    s.grab(w)
    w.send(T.WORK_EXCEPTION, handle, b"trace")
    assert w.collect() == []
    assert c.collect() == [(T.WORK_FAIL, (handle,))]


@script("15")
def an_exception_ends_the_job(s: Session) -> None:
    w = s.worker()
    handle = s.submit(s.peer())
    s.grab(w)
    w.send(T.WORK_EXCEPTION, handle, b"trace")
    w.send(T.WORK_FAIL, handle)
    assert w.collect() == [RESULT_NOT_FOUND]
    assert not s.known(handle)


@script("15")
def the_exceptions_option_counts_when_the_answer_is_sent(s: Session) -> None:
    late, without, w = s.peer(), s.peer(), s.worker()
    handle = s.submit(late, unique=b"shared", type=T.SUBMIT_JOB)
    assert s.submit(without, unique=b"shared", type=T.SUBMIT_JOB) == handle
    late.ask(T.OPTION_REQ, b"exceptions")
    s.grab(w)
    w.send(T.WORK_EXCEPTION, handle, b"trace")
    assert w.collect() == []
    assert late.collect() == [(T.WORK_EXCEPTION, (handle, b"trace"))]
    assert [type for type, _ in without.collect()] == [T.WORK_FAIL]


@script("15", exceptions=1)
def exceptions_may_be_on_for_all(s: Session) -> None:
    c, w = s.peer(), s.worker()
    handle = s.submit(c, type=T.SUBMIT_JOB)
    s.grab(w)
    w.send(T.WORK_EXCEPTION, handle, b"trace")
    assert w.collect() == []
    assert c.collect() == [(T.WORK_EXCEPTION, (handle, b"trace"))]


# --- status --------------------------------------------------------------------------------------------------


@script("2")
def status_follows_the_job(s: Session) -> None:
    c, w = s.peer(), s.worker()
    handle = s.submit(c, unique=b"status-key")
    assert c.ask(T.GET_STATUS, handle) == (T.STATUS_RES, (handle, b"1", b"0", b"0", b"0"))
    s.grab(w)
    w.send(T.WORK_STATUS, handle, b"3", b"10")
    assert w.collect() == []
    assert c.ask(T.GET_STATUS, handle) == (T.STATUS_RES, (handle, b"1", b"1", b"3", b"10"))
    w.send(T.WORK_COMPLETE, handle, b"")
    assert w.collect() == []
    assert c.ask(T.GET_STATUS, handle) == (T.STATUS_RES, (handle, b"0", b"0", b"0", b"0"))


@script("2")
def status_by_unique_starts_with_the_unique_and_counts_callers(s: Session) -> None:
    key = s.f + b"-key"
    c, other, w = s.peer(), s.peer(), s.worker()
    assert c.ask(T.GET_STATUS_UNIQUE, key) == (T.STATUS_RES_UNIQUE, (key, b"0", b"0", b"0", b"0", b"0"))
    handle = s.submit(c, unique=key, type=T.SUBMIT_JOB)
    s.submit(other, unique=key, type=T.SUBMIT_JOB)
    assert c.ask(T.GET_STATUS_UNIQUE, key) == (T.STATUS_RES_UNIQUE, (key, b"1", b"0", b"0", b"0", b"2"))
    s.grab(w)
    w.send(T.WORK_STATUS, handle, b"1", b"4")
    assert w.collect() == []
    assert c.receive()[0] == T.WORK_STATUS
    assert c.ask(T.GET_STATUS_UNIQUE, key) == (T.STATUS_RES_UNIQUE, (key, b"1", b"1", b"1", b"4", b"2"))


@script("2")
def status_numbers_are_sent_on_as_they_came(s: Session) -> None:
    c, w = s.peer(), s.worker()
    handle = s.submit(c, type=T.SUBMIT_JOB)
    s.grab(w)
    w.send(T.WORK_STATUS, handle, b"12.5", b"-1")
    assert w.collect() == []
    assert c.receive() == (T.WORK_STATUS, (handle, b"12.5", b"-1"))
    assert c.ask(T.GET_STATUS, handle) == (T.STATUS_RES, (handle, b"1", b"1", b"12", b"4294967295"))


@script("2")
def an_unknown_handle_is_unknown(s: Session) -> None:
    answer = s.peer().ask(T.GET_STATUS, b"H:none:9")
    assert answer == (T.STATUS_RES, (b"H:none:9", b"0", b"0", b"0", b"0"))


@script("3")
def a_handle_that_is_too_long_is_answered(s: Session) -> None:
    c = s.peer()
    assert c.ask(T.GET_STATUS, b"h" * 200)[0] == T.ERROR
    assert c.collect() == []
