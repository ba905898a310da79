"""A client's conversation against canned bytes: which answer belongs to which request."""

from __future__ import annotations

import pytest

from gtask.errors import LocalProtocolError, QueueFull, RemoteProtocolError, ServerError
from gtask.protocol.client import MAX_EPOCH, ClientProtocol, encode_submission
from gtask.protocol.codec import encode_response
from gtask.protocol.events import (
    Answered,
    JobCreated,
    Lost,
    Refused,
    WorkComplete,
    WorkData,
    WorkException,
    WorkFail,
    WorkRefused,
    WorkStatus,
    WorkWarning,
)
from gtask.protocol.packets import PacketType as T
from gtask.types import JobStatus, Priority, Submission

CREATED_1 = encode_response(T.JOB_CREATED, b"H:lap:1")
CREATED_2 = encode_response(T.JOB_CREATED, b"H:lap:2")


def foreground(function: str = "f", unique: str = "u") -> Submission:
    """A foreground job."""
    return Submission(function, b"data", unique, background=False)


def background(unique: str = "u") -> Submission:
    """A background job."""
    return Submission("f", b"data", unique)


# --- what goes out -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("submission", "expected"),
    [
        (Submission("f", b"d\0d", "u", background=False), b"\0REQ\0\0\0\x07\0\0\0\x07f\0u\0d\0d"),
        (Submission("f", b"d", "", background=False), b"\0REQ\0\0\0\x07\0\0\0\x04f\0\0d"),
        (Submission("f", b"d", "u", Priority.HIGH, False), b"\0REQ\0\0\0\x15\0\0\0\x05f\0u\0d"),
        (Submission("f", b"d", "u", Priority.LOW, False), b"\0REQ\0\0\0\x21\0\0\0\x05f\0u\0d"),
        (Submission("f", b"d", "u"), b"\0REQ\0\0\0\x12\0\0\0\x05f\0u\0d"),
        (Submission("f", b"d", "u", Priority.HIGH), b"\0REQ\0\0\0\x20\0\0\0\x05f\0u\0d"),
        (Submission("f", b"d", "u", Priority.LOW), b"\0REQ\0\0\0\x22\0\0\0\x05f\0u\0d"),
        (Submission("f", b"d", "u", when=1795474414), b"\0REQ\0\0\0\x24\0\0\0\x10f\0u\x001795474414\0d"),
        (Submission("f", b"d", "u", reducer="r"), b"\0REQ\0\0\0\x26\0\0\0\x08f\0u\0r\0\0d"),
        (Submission("f", b"d", "u", background=False, reducer="r"), b"\0REQ\0\0\0\x25\0\0\0\x08f\0u\0r\0\0d"),
        (Submission("größe", b"", "ü"), b"\0REQ\0\0\0\x12\0\0\0\x0bgr\xc3\xb6\xc3\x9fe\0\xc3\xbc\0"),
    ],
)
def test_each_submission_has_its_packet(submission: Submission, expected: bytes) -> None:
    """Priority, background, time and reducer choose the packet (protocol reference, section 2)."""
    assert encode_submission(submission) == expected


@pytest.mark.parametrize(
    ("submission", "why"),
    [
        (Submission("", b"", "u"), "name has 1 to 8000 bytes; this one has 0"),
        (Submission("f" * 8001, b"", "u"), "name has 1 to 8000 bytes; this one has 8001"),
        (Submission("f", b"", "u" * 64), "63 bytes at most; this one has 64"),
        (Submission("f", b"", "ü" * 32), "63 bytes at most; this one has 64"),
        (Submission("f", b"", ""), "background job needs a unique"),
        (Submission("f", b"", "", background=False, when=1), "background job needs a unique"),
        (Submission("f", b"", "u", when=-1), "-1 is no time"),
        (Submission("f", b"", "u", when=MAX_EPOCH + 1), "is no time"),
        (Submission("f\0", b"", "u"), "holds a NUL"),
    ],
)
def test_what_a_job_server_would_lose_is_not_sent(submission: Submission, why: str) -> None:
    """Nothing is put in line, and no answer is waited for."""
    protocol = ClientProtocol()

    with pytest.raises(LocalProtocolError, match=why):
        protocol.submit(submission)

    assert protocol.data_to_send() == b""
    assert repr(protocol) == "<ClientProtocol open, 0 unanswered, 0 jobs open>"


def test_requests_leave_in_order_and_once() -> None:
    """Everything put in line goes out with the next `data_to_send`."""
    protocol = ClientProtocol()
    protocol.set_client_id("my client")
    protocol.option()
    protocol.echo(b"\0")
    protocol.get_status(b"H:lap:1")
    protocol.get_status_unique("u")

    assert protocol.data_to_send() == (
        b"\0REQ\0\0\0\x16\0\0\0\x09my_client"
        b"\0REQ\0\0\0\x1a\0\0\0\x0aexceptions"
        b"\0REQ\0\0\0\x10\0\0\0\x01\0"
        b"\0REQ\0\0\0\x0f\0\0\0\x07H:lap:1"
        b"\0REQ\0\0\0\x29\0\0\0\x01u"
    )
    assert protocol.data_to_send() == b""


@pytest.mark.parametrize("handle", [b"", b"H" * 64])
def test_a_status_request_that_is_never_answered_is_not_sent(handle: bytes) -> None:
    """gearmand says nothing at all to an over-long handle (protocol reference, section 4)."""
    with pytest.raises(LocalProtocolError, match="1 to 63 bytes"):
        ClientProtocol().get_status(handle)


@pytest.mark.parametrize("unique", ["", "u" * 64])
def test_a_status_request_needs_a_unique_that_can_exist(unique: str) -> None:
    """1 to 63 bytes."""
    with pytest.raises(LocalProtocolError, match="1 to 63 bytes"):
        ClientProtocol().get_status_unique(unique)


# --- what comes back -----------------------------------------------------------------------------------------


def test_answers_belong_to_requests_in_their_order() -> None:
    """Submissions, echoes, options and status requests in one write, with a job's packets in between."""
    protocol = ClientProtocol()
    option = protocol.option(tag="option")
    first = protocol.submit(foreground(), tag="first")
    echo = protocol.echo(b"ping")
    second = protocol.submit(background())
    status = protocol.get_status(b"H:lap:1")
    unique = protocol.get_status_unique("u")

    found = protocol.receive_data(
        encode_response(T.OPTION_RES, b"exceptions")
        + CREATED_1
        + encode_response(T.WORK_DATA, b"H:lap:1", b"part")
        + encode_response(T.ECHO_RES, b"ping")
        + encode_response(T.ERROR, b"QUEUE_ERROR", b"Job queue is full")
        + encode_response(T.STATUS_RES, b"H:lap:1", b"1", b"1", b"7", b"100")
        + encode_response(T.WORK_COMPLETE, b"H:lap:1", b"done")
        + encode_response(T.STATUS_RES_UNIQUE, b"u", b"1", b"0", b"0", b"0", b"2")
    )

    refused = found[4]
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, QueueFull)
    assert (refused.error.code, refused.error.text) == ("QUEUE_ERROR", "Job queue is full")
    assert found == [
        Answered(option, b"exceptions"),
        JobCreated(first, b"H:lap:1"),
        WorkData(first, b"part"),
        Answered(echo, b"ping"),
        Refused(second, refused.error),
        Answered(status, JobStatus(True, True, 7, 100)),
        WorkComplete(first, b"done"),
        Answered(unique, JobStatus(True, False, 0, 0, 2)),
    ]
    assert (option.tag, first.tag) == ("option", "first")
    assert protocol.receive_eof() == []


def test_everything_a_job_may_send() -> None:
    """Data, warning and status while it runs; then its end, after which nothing of it is reported."""
    protocol = ClientProtocol()
    jobs = [protocol.submit(foreground(unique=f"u{number}")) for number in range(3)]
    protocol.receive_data(b"".join(encode_response(T.JOB_CREATED, b"H:%d" % number) for number in range(3)))

    assert protocol.receive_data(
        encode_response(T.WORK_WARNING, b"H:0", b"careful")
        + encode_response(T.WORK_STATUS, b"H:1", b"12.5", b"-1")
        + encode_response(T.WORK_FAIL, b"H:2")
        + encode_response(T.WORK_EXCEPTION, b"H:1", b"Boom")
        + encode_response(T.WORK_COMPLETE, b"H:0", b"")
        + encode_response(T.WORK_COMPLETE, b"H:0", b"a second time, after a cancel")
        + encode_response(T.WORK_DATA, b"H:1", b"late")
        + encode_response(T.WORK_FAIL, b"H:99")
    ) == [
        WorkWarning(jobs[0], b"careful"),
        WorkStatus(jobs[1], b"12.5", b"-1"),
        WorkFail(jobs[2]),
        WorkException(jobs[1], b"Boom"),
        WorkComplete(jobs[0], b""),
    ]
    assert protocol.error is None


def test_an_exception_that_became_a_failure_is_known_by_its_handle() -> None:
    """Its handle has a NUL at the end then (protocol reference, section 15)."""
    protocol = ClientProtocol()
    job = protocol.submit(foreground())

    assert protocol.receive_data(CREATED_1 + b"\0RES\0\0\0\x0e\0\0\0\x08H:lap:1\0") == [
        JobCreated(job, b"H:lap:1"),
        WorkFail(job),
    ]


def test_two_submissions_that_share_a_job_each_hear_everything_once() -> None:
    """A unique submitted twice over one connection: one handle, and every packet twice (section 11)."""
    protocol = ClientProtocol()
    first, second = protocol.submit(foreground()), protocol.submit(foreground())
    data = encode_response(T.WORK_DATA, b"H:lap:1", b"part")
    end = encode_response(T.WORK_COMPLETE, b"H:lap:1", b"done")

    found = protocol.receive_data(CREATED_1 + CREATED_1 + data + data + end + end)

    assert found[2:] == [
        WorkData(first, b"part"),
        WorkData(second, b"part"),
        WorkComplete(first, b"done"),
        WorkComplete(second, b"done"),
    ]


def test_a_background_job_is_done_with_its_handle() -> None:
    """What a job server says of it later concerns nobody here."""
    protocol = ClientProtocol()
    jobs = [protocol.submit(background()), protocol.submit(Submission("f", b"", "v", background=False, when=5))]

    assert protocol.receive_data(CREATED_1 + CREATED_2 + encode_response(T.WORK_FAIL, b"H:lap:1")) == [
        JobCreated(jobs[0], b"H:lap:1"),
        JobCreated(jobs[1], b"H:lap:2"),
    ]
    assert protocol.receive_eof() == []


def test_the_end_of_the_connection_is_told_to_all_who_wait() -> None:
    """Unanswered requests in their order, then the jobs that run; a second end says nothing."""
    protocol = ClientProtocol()
    running = protocol.submit(foreground())
    protocol.receive_data(CREATED_1)
    waiting = [protocol.submit(background()), protocol.echo(b"")]

    assert protocol.receive_eof() == [Lost(waiting[0]), Lost(waiting[1]), Lost(running)]
    assert protocol.receive_eof() == []
    assert protocol.data_to_send() == b""
    with pytest.raises(LocalProtocolError, match="has ended"):
        protocol.echo(b"")


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\0REQ\0\0\0\x08\0\0\0\x01H",
        encode_response(T.JOB_CREATED, b"H:lap:1"),  # an echo is due
        encode_response(T.NO_JOB),
        b"\0RES\0\0\0\x0c\0\0\0\x01H",
        b"\0RES\0\0\0\x11\xff\xff\xff\xff",
    ],
    ids=["http", "request", "order", "worker's", "arguments", "4 GiB"],
)
def test_nonsense_ends_the_conversation_with_a_reason(nonsense: bytes) -> None:
    """What came before it counts; everybody else is told; nothing is raised."""
    protocol = ClientProtocol()
    job, echo = protocol.submit(foreground()), protocol.echo(b"")

    assert protocol.receive_data(CREATED_1 + nonsense) == [JobCreated(job, b"H:lap:1"), Lost(echo), Lost(job)]
    assert isinstance(protocol.error, RemoteProtocolError)
    assert protocol.closed
    assert protocol.receive_data(CREATED_2) == []


def test_an_error_about_a_job_answers_no_request() -> None:
    """JOB_NOT_FOUND stands outside the order; a NOOP says nothing to a client."""
    protocol = ClientProtocol()
    echo = protocol.echo(b"x")

    found = protocol.receive_data(
        encode_response(T.ERROR, b"JOB_NOT_FOUND", b"Job given in work result not found")
        + encode_response(T.NOOP)
        + encode_response(T.ECHO_RES, b"x")
    )

    assert isinstance(found[0], WorkRefused)
    assert found[1:] == [Answered(echo, b"x")]


def test_an_error_that_nothing_caused_ends_the_conversation() -> None:
    """Otherwise it would be taken for the answer to the next request."""
    protocol = ClientProtocol()

    assert protocol.receive_data(encode_response(T.ERROR, b"INVALID_COMMAND", b"Command not expected")) == []
    assert "INVALID_COMMAND: Command not expected" in str(protocol.error)


def test_other_errors_are_told_as_they_came() -> None:
    """Code and text, whatever their bytes."""
    protocol = ClientProtocol()
    protocol.submit(background())

    [refused] = protocol.receive_data(encode_response(T.ERROR, b"QUEUE_ERROR", b"\xff"))

    assert isinstance(refused, Refused)
    assert type(refused.error) is ServerError
    assert (refused.error.code, refused.error.text) == ("QUEUE_ERROR", "\N{REPLACEMENT CHARACTER}")


def test_numbers_that_are_none_are_nought() -> None:
    """A worker may report any text as its progress (protocol reference, section 2)."""
    protocol = ClientProtocol()
    ticket = protocol.get_status(b"H:lap:1")

    assert protocol.receive_data(encode_response(T.STATUS_RES, b"H:lap:1", b"1", b"1", b"half", b"")) == [
        Answered(ticket, JobStatus(True, True, 0, 0))
    ]


def test_the_representations_say_how_things_stand() -> None:
    """For whoever reads a log or a debugger."""
    protocol = ClientProtocol()
    job = protocol.submit(foreground())
    assert repr(job) == "<Ticket f>"

    protocol.echo(b"")
    protocol.receive_data(CREATED_1)
    assert repr(job) == "<Ticket f H:lap:1>"
    assert repr(protocol) == "<ClientProtocol open, 1 unanswered, 1 jobs open>"

    protocol.receive_eof()
    assert repr(protocol) == "<ClientProtocol closed, 0 unanswered, 0 jobs open>"
