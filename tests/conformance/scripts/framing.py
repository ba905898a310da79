"""Sections 1 to 4: packets, text, limits and errors."""

from __future__ import annotations

import struct

from gtask.protocol.packets import PacketType as T
from tests.conformance.session import Session, error, script

NOT_EXPECTED = error(b"INVALID_COMMAND", b"Command not expected")


def header(type: int, length: int, magic: bytes = b"\0REQ") -> bytes:
    """A header that says whatever it is told to."""
    return magic + struct.pack(">II", type, length)


def alive(s: Session) -> None:
    """The server still answers."""
    assert s.peer().ask(T.ECHO_REQ, b"alive") == (T.ECHO_RES, (b"alive",))


@script("2")
def echo_returns_any_bytes(s: Session) -> None:
    c = s.peer()
    for data in (b"", b"x", b"\0a\0\0b\0", bytes(range(256)), b"m" * 1024 * 1024):
        assert c.ask(T.ECHO_REQ, data) == (T.ECHO_RES, (data,))


@script("6")
def answers_come_in_the_order_of_requests(s: Session) -> None:
    c = s.peer()
    c.send(T.ECHO_REQ, b"1")
    c.send(T.SUBMIT_JOB_BG, s.f, b"", b"a")
    c.send(T.GET_STATUS, b"H:none:1")
    c.send(T.OPTION_REQ, b"nonsense")
    c.send(T.ECHO_REQ, b"2")
    assert [c.receive()[0] for _ in range(5)] == [T.ECHO_RES, T.JOB_CREATED, T.STATUS_RES, T.ERROR, T.ECHO_RES]


@script("1")
def text_and_packets_mix(s: Session) -> None:
    c = s.peer()
    c.raw(b"verbose\n" + b"\0REQ\0\0\0\x10\0\0\0\x01a" + b"verbose\r\n" + b"\0REQ\0\0\0\x10\0\0\0\x01b")
    assert c.until(b"\n").startswith(b"OK ")
    assert c.receive() == (T.ECHO_RES, (b"a",))
    assert c.until(b"\n").startswith(b"OK ")
    assert c.receive() == (T.ECHO_RES, (b"b",))


@script("1")
def an_answers_magic_is_refused_and_the_connection_stays(s: Session) -> None:
    c = s.peer()
    c.raw(header(T.ECHO_REQ, 1, b"\0RES") + b"x")
    assert c.receive() == error(b"INVALID_MAGIC", b"Request magic expected")
    assert c.collect() == []


@script("1")
def another_magic_ends_the_connection(s: Session) -> None:
    c = s.peer()
    c.raw(header(T.ECHO_REQ, 0, b"\0XXX"))
    assert c.ended() == []
    alive(s)


@script("1")
def type_0_ends_the_connection(s: Session) -> None:
    c = s.peer()
    c.raw(header(0, 0))
    c.ended()
    alive(s)


@script("1")
def type_43_ends_the_connection(s: Session) -> None:
    c = s.peer()
    c.raw(header(43, 0))
    c.ended()
    alive(s)


@script("1", own=1)
def a_huge_type_does_not_kill_the_server(s: Session) -> None:
    c = s.peer()
    c.raw(header(2**31, 0))
    c.ended()
    alive(s)


@script("1")
def a_body_where_none_belongs_is_swallowed(s: Session) -> None:
    c = s.peer()
    c.raw(header(T.GRAB_JOB, 5) + b"extra")
    assert c.receive() == (T.NO_JOB, ())
    assert c.collect() == []


@script("1")
def missing_arguments_are_an_error(s: Session) -> None:
    c = s.peer()
    c.raw(header(T.SUBMIT_JOB, 3) + b"abc")
    type, args = c.receive()
    assert (type, args[0]) == (T.ERROR, b"INVALID_PACKET")
    assert c.collect() == []


@script("21")
def a_result_may_be_left_away(s: Session) -> None:
    """Perl's Gearman::Worker sends an empty one as a handle alone."""
    c, w = s.peer(), s.worker()
    handle = s.submit(c, type=T.SUBMIT_JOB)
    assert s.grab(w).handle == handle
    w.raw(header(T.WORK_COMPLETE, len(handle)) + handle)
    assert w.collect() == []
    assert c.receive() == (T.WORK_COMPLETE, (handle, b""))


@script("2")
def answers_sent_as_requests_are_refused(s: Session) -> None:
    c = s.peer()
    for type in (T.NOOP, T.NO_JOB):
        c.raw(header(type, 0))
        assert c.receive() == NOT_EXPECTED
    for type in (T.JOB_CREATED, T.ECHO_RES, T.OPTION_RES):
        c.raw(header(type, 1) + b"x")
        assert c.receive() == NOT_EXPECTED
    assert c.collect() == []


@script("2")
def type_5_is_refused(s: Session) -> None:
    c = s.peer()
    c.raw(header(5, 0))
    assert c.receive() == NOT_EXPECTED


@script("2")
def all_yours_and_sched_are_refused(s: Session) -> None:
    c = s.peer()
    assert c.ask(T.ALL_YOURS) == NOT_EXPECTED
    assert c.ask(T.SUBMIT_JOB_SCHED, s.f, b"u", b"0", b"1", b"2", b"3", b"4", b"data") == NOT_EXPECTED


@script("1")
def a_packet_larger_than_the_limit_is_an_error(s: Session) -> None:
    c = s.peer()
    c.raw(header(T.ECHO_REQ, 0xFFFFFFF0))
    type, args = c.receive()
    assert (type, args[0]) == (T.ERROR, b"ARGUMENT_TOO_LARGE")
    assert c.ended() == []


@script("2")
def requests_without_an_answer_have_none(s: Session) -> None:
    c = s.peer()
    c.send(T.CAN_DO, s.f)
    c.send(T.CANT_DO, s.f)
    c.send(T.RESET_ABILITIES)
    c.send(T.SET_CLIENT_ID, b"me")
    c.send(T.CAN_DO_TIMEOUT, s.f, b"5000")
    assert c.collect() == []


@script("2")
def the_exceptions_option_is_confirmed_as_it_was_written(s: Session) -> None:
    c = s.peer()
    assert c.ask(T.OPTION_REQ, b"exceptions") == (T.OPTION_RES, (b"exceptions",))
    assert c.ask(T.OPTION_REQ, b"EXCEPTIONS") == (T.OPTION_RES, (b"EXCEPTIONS",))


@script("4")
def another_option_is_unknown(s: Session) -> None:
    c = s.peer()
    for option in (b"bogus", b"", b"x" * 70):
        assert c.ask(T.OPTION_REQ, option) == error(b"UNKNOWN_OPTION", b"Server does not recognize given option")


@script("3")
def a_unique_of_63_bytes_travels_whole(s: Session) -> None:
    unique = b"u" * 63
    s.submit(s.peer(), b"data", unique)
    job = s.grab(s.worker())
    assert (job.unique, job.data) == (unique, b"data")


@script("3")
def a_unique_of_64_bytes_is_refused(s: Session) -> None:
    answer = s.peer().ask(T.SUBMIT_JOB_BG, s.f, b"u" * 64, b"data")
    assert answer == error(b"ARGUMENT_TOO_LARGE", b"Unique value too large")


@script("3")
def a_unique_of_65_bytes_is_refused(s: Session) -> None:
    answer = s.peer().ask(T.SUBMIT_JOB, s.f, b"u" * 65, b"data")
    assert answer == error(b"ARGUMENT_TOO_LARGE", b"Unique value too large")
    assert s.drain(s.worker()) == []


@script("3")
def a_function_of_255_bytes_works(s: Session) -> None:
    name = s.f + b"x" * (255 - len(s.f))
    s.submit(s.peer(), b"data", f=name)
    assert s.grab(s.worker(name)).function == name


@script("3")
def a_function_of_256_bytes_is_refused(s: Session) -> None:
    name = s.f + b"x" * (256 - len(s.f))
    type, args = s.peer().ask(T.SUBMIT_JOB_BG, name, b"", b"data")
    assert (type, args[0]) == (T.ERROR, b"ARGUMENT_TOO_LARGE")


@script("3")
def names_may_hold_any_byte_but_nul(s: Session) -> None:
    for suffix in (b" space", b"\ttab", b"\nline", "ü".encode(), b"\xff\xfe"):
        name = s.f + suffix
        s.submit(s.peer(), b"data", b"u" + suffix, f=name)
        job = s.grab(s.worker(name))
        assert (job.function, job.unique) == (name, b"u" + suffix)


@script("3")
def an_endless_text_line_ends_the_connection(s: Session) -> None:
    c = s.peer()
    c.raw(b"x" * 8300)
    assert c.ended() == []
    alive(s)


@script("3")
def payloads_travel_unchanged(s: Session) -> None:
    c, w = s.peer(), s.worker()
    for data in (b"", b"\0", bytes(range(256)), b"\0a\0\0b\0", b"m" * 1024 * 1024):
        s.submit(c, data)
        assert s.grab(w).data == data
