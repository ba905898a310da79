"""A client's conversation with one job server, without a socket.

The rule of the whole file: Gearman's answers carry no number of the request they belong to. JOB_CREATED, ECHO_RES,
OPTION_RES, STATUS_RES and ERROR answer the requests of a connection in the order in which they were sent; WORK_*
packets belong to a job by its handle, and come at any time after its JOB_CREATED (protocol reference, section 6).
So a request that was given up is still waited for here, or its answer would be taken for the next one's.

Two submissions of one unique over one connection share a handle, and each packet comes once for each of them: they
take turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from gtask.errors import LocalProtocolError, QueueFull, RemoteProtocolError, ServerError
from gtask.protocol import events
from gtask.protocol.codec import MAX_BODY, MAX_NAME, Decoder, encode_request
from gtask.protocol.events import Event, Ticket
from gtask.protocol.packets import RESPONSE_MAGIC, Packet, PacketType
from gtask.types import MAX_UNIQUE, JobStatus, Priority, Submission

_T = PacketType

_SUBMIT: Final = {
    (Priority.HIGH, False): _T.SUBMIT_JOB_HIGH,
    (Priority.NORMAL, False): _T.SUBMIT_JOB,
    (Priority.LOW, False): _T.SUBMIT_JOB_LOW,
    (Priority.HIGH, True): _T.SUBMIT_JOB_HIGH_BG,
    (Priority.NORMAL, True): _T.SUBMIT_JOB_BG,
    (Priority.LOW, True): _T.SUBMIT_JOB_LOW_BG,
}

MAX_EPOCH: Final = 2**63 - 1
"""Unix seconds beyond which gearmand never answers (protocol reference, section 16)."""


def encode_submission(submission: Submission) -> bytes:
    """Encodes the SUBMIT_JOB packet that a submission calls for (protocol reference, section 2).

    Raises `LocalProtocolError` for what a job server would refuse, lose or corrupt: a name that is empty or too
    long, a unique of over 63 bytes, a background job without a unique, a time that is out of range.
    """
    function, unique = submission.function.encode(), submission.unique.encode()
    if not 0 < len(function) <= MAX_NAME:
        raise LocalProtocolError(f"A function's name has 1 to {MAX_NAME} bytes; this one has {len(function)}.")
    if len(unique) > MAX_UNIQUE:
        raise LocalProtocolError(f"A unique has {MAX_UNIQUE} bytes at most; this one has {len(unique)}.")
    if not unique and (submission.background or submission.when is not None):
        raise LocalProtocolError("A background job needs a unique: job servers keep their queues by it.")
    if submission.when is not None:
        if not 0 <= submission.when <= MAX_EPOCH:
            raise LocalProtocolError(f"{submission.when} is no time in Unix seconds that a job server can keep.")
        return encode_request(_T.SUBMIT_JOB_EPOCH, function, unique, b"%d" % submission.when, submission.workload)
    if submission.reducer is not None:
        number = _T.SUBMIT_REDUCE_JOB_BACKGROUND if submission.background else _T.SUBMIT_REDUCE_JOB
        # gearmand wants four names here, where the published text has three: the aggregator stays empty.
        return encode_request(number, function, unique, submission.reducer.encode(), b"", submission.workload)
    return encode_request(_SUBMIT[submission.priority, submission.background], function, unique, submission.workload)


class ClientProtocol:
    """One connection's conversation, client's side: requests in, bytes out; bytes in, events out.

    Call `data_to_send()` after anything. After a broken packet `error` is set: every open ticket was reported `Lost`
    and the connection is of no more use.
    """

    def __init__(self, max_body: int = MAX_BODY) -> None:
        self._decoder = Decoder(RESPONSE_MAGIC, max_body)
        self._out: list[bytes] = []
        self._waiting: deque[Ticket] = deque()
        self._jobs: dict[bytes, deque[Ticket]] = {}
        self._events: list[Event] = []
        self._handlers = self._make_handlers()
        self.error: RemoteProtocolError | None = None
        self.closed = False

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<{type(self).__name__} {state}, {len(self._waiting)} unanswered, {len(self._jobs)} jobs open>"

    def set_client_id(self, id: str) -> None:
        """Names this connection in the answer to `workers`; blanks would break its columns and become ``_``."""
        self._tell(encode_request(_T.SET_CLIENT_ID, "_".join(id.split()).encode()[:127]))

    # --- what this side asks for -----------------------------------------------------------------------------

    def submit(self, submission: Submission, tag: Any = None) -> Ticket:
        """Submits a job. Reported as `JobCreated` or `Refused`; a foreground job then sends its WORK_* events.

        Raises `LocalProtocolError` when the submission cannot be sent (see `encode_submission`).
        """
        return self._request(encode_submission(submission), Ticket(_T.JOB_CREATED, submission, tag))

    def echo(self, data: bytes, tag: Any = None) -> Ticket:
        """Asks for `data` back: a sign of life, and a barrier behind everything sent before."""
        return self._request(encode_request(_T.ECHO_REQ, data), Ticket(_T.ECHO_RES, tag=tag))

    def option(self, name: str = "exceptions", tag: Any = None) -> Ticket:
        """Sets an option of the connection; `exceptions` is the only one there is (protocol reference, section 15)."""
        return self._request(encode_request(_T.OPTION_REQ, name.encode()), Ticket(_T.OPTION_RES, tag=tag))

    def get_status(self, handle: bytes, tag: Any = None) -> Ticket:
        """Asks how the job of this handle is; answered with a `JobStatus`."""
        if not 0 < len(handle) < 64:
            raise LocalProtocolError(f"A handle has 1 to 63 bytes; a job server never answers for {len(handle)}.")
        return self._request(encode_request(_T.GET_STATUS, handle), Ticket(_T.STATUS_RES, tag=tag))

    def get_status_unique(self, unique: str, tag: Any = None) -> Ticket:
        """Asks how the job of this unique is, whatever its function; answered with a `JobStatus`."""
        raw = unique.encode()
        if not 0 < len(raw) <= MAX_UNIQUE:
            raise LocalProtocolError(f"A unique has 1 to {MAX_UNIQUE} bytes; this one has {len(raw)}.")
        return self._request(encode_request(_T.GET_STATUS_UNIQUE, raw), Ticket(_T.STATUS_RES_UNIQUE, tag=tag))

    def _request(self, data: bytes, ticket: Ticket) -> Ticket:
        self._tell(data)
        self._waiting.append(ticket)
        return ticket

    def _tell(self, data: bytes) -> None:
        if self.closed:
            raise LocalProtocolError("This connection has ended; open a new one.")
        self._out.append(data)

    # --- bytes -----------------------------------------------------------------------------------------------

    def data_to_send(self) -> bytes:
        """The bytes to send now; each byte is given out once."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def receive_data(self, data: bytes) -> list[Event]:
        """Takes bytes from the job server and says what happened. Never raises for what came; see `error`."""
        if self.closed:
            return []
        found = self._events = []
        handlers = self._handlers
        try:
            for packet in self._decoder.feed(data):
                handler = handlers.get(packet.type)
                if handler is None:
                    raise RemoteProtocolError(f"The job server sent {packet.type.name}, which is no answer.")
                handler(packet)
            if self._decoder.error is not None:
                raise self._decoder.error
        except RemoteProtocolError as error:
            self.error = error
            self._close()
        return found

    def receive_eof(self) -> list[Event]:
        """Says that the connection has ended: every open ticket is reported `Lost`."""
        self._events = []
        self._close()
        return self._events

    def _close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._out.clear()
        self._events.extend(events.Lost(ticket) for ticket in self._waiting)
        self._events.extend(events.Lost(ticket) for tickets in self._jobs.values() for ticket in tickets)
        self._waiting.clear()
        self._jobs.clear()

    # --- what comes back -------------------------------------------------------------------------------------

    def _make_handlers(self) -> dict[PacketType, Callable[[Packet], None]]:
        return {
            _T.JOB_CREATED: self._on_created,
            _T.ECHO_RES: self._on_answer,
            _T.OPTION_RES: self._on_answer,
            _T.STATUS_RES: self._on_status,
            _T.STATUS_RES_UNIQUE: self._on_status,
            _T.ERROR: self._on_error,
            _T.WORK_DATA: self._on_work,
            _T.WORK_WARNING: self._on_work,
            _T.WORK_STATUS: self._on_work,
            _T.WORK_COMPLETE: self._on_end,
            _T.WORK_FAIL: self._on_end,
            _T.WORK_EXCEPTION: self._on_end,
            _T.NOOP: self._ignore,
        }

    def _take(self, packet: Packet) -> Ticket:
        waiting = self._waiting
        if not waiting or waiting[0].expects != packet.type:
            raise RemoteProtocolError(
                f"The job server sent {packet.type.name}, "
                + (f"where {PacketType(waiting[0].expects).name} was due." if waiting else "and nothing was asked.")
            )
        return waiting.popleft()

    def _on_created(self, packet: Packet) -> None:
        ticket = self._take(packet)
        ticket.handle = handle = packet.args[0]
        submission = ticket.submission
        if submission is not None and not submission.background and submission.when is None:
            self._jobs.setdefault(handle, deque()).append(ticket)
        self._events.append(events.JobCreated(ticket, handle))

    def _on_answer(self, packet: Packet) -> None:
        self._events.append(events.Answered(self._take(packet), packet.args[0]))

    def _on_status(self, packet: Packet) -> None:
        self._events.append(events.Answered(self._take(packet), _status(packet)))

    def _on_error(self, packet: Packet) -> None:
        code, text = (arg.decode(errors="replace") for arg in packet.args)
        error = _error(code, text, self._waiting[0].submission if self._waiting else None)
        # A report about a job has no answer when all is well, so its ERROR stands outside the order of requests.
        if code == "JOB_NOT_FOUND":
            self._events.append(events.WorkRefused(error))
        elif self._waiting:
            self._events.append(events.Refused(self._waiting.popleft(), error))
        else:
            self._on_stray_error(error)

    def _on_stray_error(self, error: ServerError) -> None:
        raise RemoteProtocolError(f"The job server sent an error that nothing had caused: {error}")

    def _on_work(self, packet: Packet) -> None:
        tickets = self._jobs.get(packet.args[0])
        if tickets is None:
            return
        ticket = tickets[0]
        if len(tickets) > 1:
            tickets.rotate(-1)
        if packet.type is _T.WORK_DATA:
            self._events.append(events.WorkData(ticket, packet.args[1]))
        elif packet.type is _T.WORK_WARNING:
            self._events.append(events.WorkWarning(ticket, packet.args[1]))
        else:
            self._events.append(events.WorkStatus(ticket, packet.args[1], packet.args[2]))

    def _on_end(self, packet: Packet) -> None:
        tickets = self._jobs.get(packet.args[0])
        if tickets is None:
            # A cancelled job is reported a second time when its worker ends it (protocol reference, section 17).
            return
        ticket = tickets.popleft()
        if not tickets:
            del self._jobs[packet.args[0]]
        if packet.type is _T.WORK_COMPLETE:
            self._events.append(events.WorkComplete(ticket, packet.args[1]))
        elif packet.type is _T.WORK_FAIL:
            self._events.append(events.WorkFail(ticket))
        else:
            self._events.append(events.WorkException(ticket, packet.args[1]))

    def _ignore(self, packet: Packet) -> None:
        """A NOOP to somebody who never slept says nothing."""


def _error(code: str, text: str, submission: Submission | None) -> ServerError:
    """The error of an ERROR packet. Of its queue a job server says no more than QUEUE_ERROR: section 20."""
    if text.startswith("Job queue is full"):
        of = "" if submission is None else f" of {submission.function}"
        # gtask's own server says more where it is not the function's limit that was reached.
        why = text if len(text) > len("Job queue is full") else f"the queue{of} has as many jobs as its limit allows"
        return QueueFull(
            code, text, f"The job server answered {code}, Job queue is full: {why}. Send it later, or raise the limit."
        )
    if code != "QUEUE_ERROR" or submission is None:
        return ServerError(code, text)
    if submission.when is not None:
        what = (
            "a job for a later time (countdown, eta, the delay of a retry). Its queue takes no times, as that of Redis "
            "and memcached, or its database is away: use the MySQL or the libsqlite3 queue"
        )
    else:
        what = f"a job of {submission.function}: the database of its queue is away, or takes no such job"
    return ServerError(code, text, f"The job server refused {what}. `gtask doctor` tells more ({code}: {text}).")


def _status(packet: Packet) -> JobStatus:
    known, running, numerator, denominator, *clients = (_number(arg) for arg in packet.args[1:])
    return JobStatus(bool(known), bool(running), numerator, denominator, clients[0] if clients else 0)


def _number(text: bytes) -> int:
    try:
        return int(text[:20])
    except ValueError:
        return 0
