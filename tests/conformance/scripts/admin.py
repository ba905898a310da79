"""Section 17: the text protocol."""

from __future__ import annotations

import re

from gtask.protocol.packets import PacketType as T
from tests.conformance.session import Session, script

OK = b"OK\r\n"
INCOMPLETE = b"ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+%b\r\n"


@script("17")
def facts_are_one_line_with_a_bare_lf(s: Session) -> None:
    c = s.peer()
    for command in (b"version", b"verbose", b"VERSION", b"verbose more words"):
        assert re.fullmatch(rb"OK [^\r\n]+\n", c.line(command))
    assert re.fullmatch(rb"OK \d+\n", c.line(b"getpid"))


@script("17")
def a_line_may_end_in_lf_or_crlf(s: Session) -> None:
    c = s.peer()
    assert c.line(b"getpid", b"\n") == c.line(b"getpid", b"\r\n")


@script("17")
def status_counts_jobs_and_workers(s: Session) -> None:
    c, w = s.peer(), s.worker()
    for _ in range(3):
        s.submit(c)
    s.grab(w)
    assert s.f + b"\t3\t1\t1" in c.listing(b"status")


@script("17")
def status_remembers_a_function_without_jobs(s: Session) -> None:
    s.submit(s.peer())
    s.drain(s.worker())
    assert s.status() is not None


@script("17")
def prioritystatus_counts_queued_jobs_by_priority(s: Session) -> None:
    c, w = s.peer(), s.worker()
    for type, count in ((T.SUBMIT_JOB_HIGH_BG, 2), (T.SUBMIT_JOB_BG, 3), (T.SUBMIT_JOB_LOW_BG, 1)):
        for _ in range(count):
            s.submit(c, type=type)
    s.grab(w)
    assert s.f + b"\t1\t3\t1\t1" in c.listing(b"prioritystatus")


@script("17")
def workers_shows_connections_and_abilities_newest_first(s: Session) -> None:
    a, b = s.f + b"-a", s.f + b"-b"
    w, plain = s.worker(a, b), s.peer()
    w.send(T.SET_CLIENT_ID, b"id-of-" + s.f)
    plain.send(T.SET_CLIENT_ID, b"plain-" + s.f)
    assert w.collect() == plain.collect() == []
    lines = s.peer().listing(b"workers")
    assert any(re.fullmatch(rb"\d+ 127\.0\.0\.1 id-of-%b : %b %b" % (s.f, b, a), line) for line in lines)
    assert any(re.fullmatch(rb"\d+ 127\.0\.0\.1 plain-%b :" % s.f, line) for line in lines)


@script("3")
def a_client_id_is_cut_at_127_bytes(s: Session) -> None:
    w = s.peer()
    w.send(T.SET_CLIENT_ID, s.f + b"i" * 200)
    assert w.collect() == []
    ids = [line.split(b" ")[2] for line in s.peer().listing(b"workers")]
    assert (s.f + b"i" * 200)[:127] in ids


@script("17")
def show_jobs_has_four_columns(s: Session) -> None:
    c = s.peer()
    kept, plain = s.submit(c), s.submit(c, type=T.SUBMIT_JOB)
    lines = c.listing(b"show jobs")
    assert kept + b"\t0\t0\t1" in lines
    assert plain + b"\t0\t0\t0" in lines


@script("17")
def show_unique_jobs_has_the_uniques(s: Session) -> None:
    c = s.peer()
    s.submit(c, unique=b"unique-of-" + s.f)
    assert b"unique-of-" + s.f in c.listing(b"show unique jobs")


@script("17")
def show_with_other_words_is_refused(s: Session) -> None:
    c = s.peer()
    for words in (b"show x", b"show jobs x", b"show unique", b"show unique x"):
        assert c.line(words) == b"ERR UNKNOWN_SHOW_ARGUMENTS\r\n"


@script("17")
def unknown_commands_are_repeated(s: Session) -> None:
    c = s.peer()
    for words, repeated in (
        (b"", b""),
        (b"show", b"show"),
        (b"cancel", b"cancel"),
        (b"cancel job", b"cancel"),
        (b"shutdown", b"shutdown"),
        (b"shutdown graceful", b"shutdown"),
        (b"hello world", b"hello"),
        (b"Hello", b"Hello"),
    ):
        assert c.line(words) == b"ERR UNKNOWN_COMMAND Unknown+server+command" + repeated + b"\r\n"


@script("17")
def too_many_words_are_refused(s: Session) -> None:
    c = s.peer()
    assert c.line(b"maxqueue a 1 2 3 4").startswith(b"ERR ")
    assert c.line(b"verbose").startswith(b"OK ")


@script("17")
def commands_are_answered_in_order(s: Session) -> None:
    c = s.peer()
    c.raw(b"verbose\r\nshow x\r\nmaxqueue\r\n")
    assert c.until(b"\n").startswith(b"OK ")
    assert c.until(b"\n") == b"ERR UNKNOWN_SHOW_ARGUMENTS\r\n"
    assert c.until(b"\n") == INCOMPLETE % b"maxqueue"


@script("17")
def incomplete_commands_are_named(s: Session) -> None:
    c = s.peer()
    for words in (b"create", b"create function", b"create x a", b"create function a b"):
        assert c.line(words) == INCOMPLETE % b"create"
    for words in (b"drop", b"drop function", b"drop x a"):
        assert c.line(words) == INCOMPLETE % b"drop"


@script("17")
def maxqueue_limits_what_is_queued_and_running(s: Session) -> None:
    c, w = s.peer(), s.worker()
    assert c.line(b"maxqueue %b 2" % s.f) == OK
    s.submit(c)
    s.submit(c)
    s.grab(w)
    assert c.ask(T.SUBMIT_JOB_BG, s.f, b"", b"x") == (T.ERROR, (b"QUEUE_ERROR", b"Job queue is full"))
    s.drain(w)
    s.submit(c)


@script("17")
def maxqueue_may_differ_by_priority(s: Session) -> None:
    c = s.peer()
    s.worker()
    assert c.line(b"maxqueue %b 3 2 1" % s.f) == OK
    s.submit(c)
    assert c.ask(T.SUBMIT_JOB_LOW_BG, s.f, b"", b"x")[0] == T.ERROR
    s.submit(c)
    assert c.ask(T.SUBMIT_JOB_BG, s.f, b"", b"x")[0] == T.ERROR
    s.submit(c, type=T.SUBMIT_JOB_HIGH_BG)
    assert c.ask(T.SUBMIT_JOB_HIGH_BG, s.f, b"", b"x")[0] == T.ERROR


@script("17")
def maxqueue_is_taken_back(s: Session) -> None:
    c = s.peer()
    s.worker()
    for command in (b"maxqueue %b", b"maxqueue %b 0", b"maxqueue %b -1", b"maxqueue %b many"):
        assert c.line(b"maxqueue %b 1" % s.f) == OK
        assert c.line(command % s.f) == OK
        s.submit(c)
        s.submit(c)


@script("17")
def maxqueue_counts_for_a_function_that_is_new(s: Session) -> None:
    c = s.peer()
    assert c.line(b"maxqueue %b 1" % s.f) == OK
    s.submit(c)
    assert c.ask(T.SUBMIT_JOB_BG, s.f, b"", b"x")[0] == T.ERROR


@script("17")
def a_function_can_be_created(s: Session) -> None:
    assert s.peer().line(b"create function " + s.f) == OK
    assert s.status() == (0, 0, 0)


@script("17")
def a_function_can_be_created_with_a_bare_lf(s: Session) -> None:
    assert s.peer().line(b"create function " + s.f, b"\n") == OK
    assert s.status() == (0, 0, 0)


@script("17")
def a_function_can_be_dropped(s: Session) -> None:
    c = s.peer()
    assert c.line(b"create function " + s.f) == OK
    assert c.line(b"drop function " + s.f) == OK
    assert s.status() is None
    assert c.line(b"drop function " + s.f) == b"ERR function not found\r\n"


@script("17")
def a_function_with_workers_is_not_dropped(s: Session) -> None:
    s.worker()
    answer = s.peer().line(b"drop function " + s.f)
    assert answer == b"ERR there are still connected workers or executing clients\r\n"


@script("17", own=1)
def a_function_with_jobs_is_not_dropped(s: Session) -> None:
    c = s.peer()
    s.submit(c, b"kept")
    assert c.line(b"drop function " + s.f).startswith(b"ERR ")
    assert s.drain(s.worker()) == [b"kept"]


@script("17")
def cancelling_a_queued_job_fails_it_for_its_callers(s: Session) -> None:
    c = s.peer()
    handle = s.submit(c, type=T.SUBMIT_JOB)
    assert s.peer().line(b"cancel job " + handle) == OK
    assert c.collect() == [(T.WORK_FAIL, (handle,))]
    assert s.drain(s.worker()) == []


@script("17")
def a_cancelled_queued_job_is_forgotten_at_once(s: Session) -> None:
    c = s.peer()
    handle = s.submit(c)
    assert c.line(b"cancel job " + handle) == OK
    assert not s.known(handle)
    assert c.line(b"cancel job " + handle) == b"ERR UNKNOWN_JOB\r\n"


@script("17")
def a_cancelled_job_swallows_no_new_one(s: Session) -> None:
    c = s.peer()
    handle = s.submit(c, b"old", b"key")
    assert c.line(b"cancel job " + handle) == OK
    s.submit(c, b"new", b"key")
    assert s.drain(s.worker()) == [b"new"]


@script("17")
def cancelling_a_running_job_fails_it_once(s: Session) -> None:
    c, w = s.peer(), s.worker()
    handle = s.submit(c, type=T.SUBMIT_JOB)
    s.grab(w)
    assert s.peer().line(b"cancel job " + handle) == OK
    w.send(T.WORK_COMPLETE, handle, b"late")
    assert w.collect() == []
    assert c.collect() == [(T.WORK_FAIL, (handle,))]


@script("17")
def a_cancelled_running_job_is_not_run_again(s: Session) -> None:
    w = s.worker()
    handle = s.submit(s.peer())
    s.grab(w)
    assert s.peer().line(b"cancel job " + handle) == OK
    s.target.close(w)
    assert s.drain(s.worker()) == []


@script("17")
def other_cancels_are_refused(s: Session) -> None:
    c = s.peer()
    assert c.line(b"cancel job H:none:1") == b"ERR UNKNOWN_JOB\r\n"
    assert c.line(b"cancel foo x") == b"ERR UNKNOWN_ERROR\r\n"
    assert c.line(b"cancel job a b") == b"ERR UNKNOWN_ERROR\r\n"
