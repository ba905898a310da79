"""A worker's conversation with one job server, without a socket.

Who may do what, and when (protocol reference, section 7):

* GRAB_JOB is answered at once, by a job or by NO_JOB; several may be under way, each gets one answer, in order.
* PRE_SLEEP only when no grab is under way and the last one found nothing. The job server answers with NOOP: at once
  when work has come meanwhile, else when work comes.
* After a NOOP a grab must come before the next PRE_SLEEP, or the job server never wakes this connection again.
* NOOP and ERROR may come at any time, also in front of a grab's answer.
* A job belongs to the connection that grabbed it. Exactly one of COMPLETE, FAIL and EXCEPTION ends it.
* CANT_DO gives back what runs of that function, so it is refused here while a job of it is held or may be on its way.

A worker's connection may submit jobs as well: results and continuations then travel on the connection that holds
the job they come from, and are confirmed before the job is ended (design, section 6).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gtask.errors import LocalProtocolError, RemoteProtocolError, ServerError
from gtask.protocol import events
from gtask.protocol.client import ClientProtocol
from gtask.protocol.codec import MAX_BODY, encode_request
from gtask.protocol.packets import Packet, PacketType

_T = PacketType
_GRAB: Final = encode_request(_T.GRAB_JOB_UNIQ)
_GRAB_ALL: Final = encode_request(_T.GRAB_JOB_ALL)
_PRE_SLEEP: Final = encode_request(_T.PRE_SLEEP)


class WorkerProtocol(ClientProtocol):
    """One connection's conversation, worker's side.

    `outstanding` counts the grabs under way, `held` names the function of each job held by its handle, `asleep` is
    true from PRE_SLEEP to the NOOP that ends it, and `must_grab` from a NOOP to the next grab.
    """

    def __init__(self, max_body: int = MAX_BODY, reducers: bool = False) -> None:
        super().__init__(max_body)
        self._grab = _GRAB_ALL if reducers else _GRAB
        self.outstanding = 0
        self.held: dict[bytes, str] = {}
        self.functions: list[str] = []
        self.asleep = False
        self.must_grab = False

    def __repr__(self) -> str:
        state = "closed" if self.closed else "asleep" if self.asleep else f"{self.outstanding} grabs"
        return f"<WorkerProtocol {state}, {len(self.functions)} functions, {len(self.held)} jobs held>"

    # --- what this worker offers -----------------------------------------------------------------------------

    def can_do(self, function: str) -> None:
        """Offers to run a function. A second offer of the same one is left out: it would count as a second worker."""
        if function not in self.functions:
            self._tell(encode_request(_T.CAN_DO, function.encode()))
            self.functions.append(function)
            self.must_grab = True

    def cant_do(self, function: str) -> None:
        """Takes an offer back.

        Raises `LocalProtocolError` while a job of the function is held, or a grab is under way that may bring one:
        the job server would hand that job to somebody else, and it would run twice (protocol reference, section 9).
        """
        if self.outstanding or function in self.held.values():
            raise LocalProtocolError(f"{function} cannot be taken back while a job of it is held or being grabbed.")
        if function in self.functions:
            self._tell(encode_request(_T.CANT_DO, function.encode()))
            self.functions.remove(function)

    def prefer(self, function: str) -> None:
        """Makes the job server look for this function first, by offering it anew; raises as `cant_do` does.

        gearmand 1.1 serves the last function offered first and starves the others (protocol reference, section 8).
        """
        self.cant_do(function)
        self.can_do(function)

    # --- getting jobs ----------------------------------------------------------------------------------------

    def grab(self, count: int = 1) -> None:
        """Asks for `count` jobs; each is answered by `JobAssigned` or `NoJob`."""
        self._tell(self._grab * count)
        self.outstanding += count
        self.asleep = self.must_grab = False

    def pre_sleep(self) -> None:
        """Asks to be woken by `Noop` when there is work; raises `LocalProtocolError` when a grab is due first."""
        if self.outstanding or self.must_grab:
            raise LocalProtocolError("A worker grabs until it is told NO_JOB before it sleeps.")
        if not self.asleep:
            self._tell(_PRE_SLEEP)
            self.asleep = True

    # --- reporting on jobs -----------------------------------------------------------------------------------

    def complete(self, handle: bytes, data: bytes) -> None:
        """Ends a job with its result."""
        self._end(handle, encode_request(_T.WORK_COMPLETE, handle, data))

    def fail(self, handle: bytes) -> None:
        """Ends a job as failed; the job server never tries it again."""
        self._end(handle, encode_request(_T.WORK_FAIL, handle))

    def exception(self, handle: bytes, data: bytes) -> None:
        """Ends a job with an exception; a caller who did not ask for exceptions sees it fail."""
        self._end(handle, encode_request(_T.WORK_EXCEPTION, handle, data))

    def send_data(self, handle: bytes, data: bytes) -> None:
        """Sends a piece of a job's output to its callers."""
        self._report(handle, encode_request(_T.WORK_DATA, handle, data))

    def send_warning(self, handle: bytes, data: bytes) -> None:
        """Sends a warning to a job's callers."""
        self._report(handle, encode_request(_T.WORK_WARNING, handle, data))

    def send_status(self, handle: bytes, numerator: int, denominator: int) -> None:
        """Says how far a job is; the job server keeps it for status requests."""
        self._report(handle, encode_request(_T.WORK_STATUS, handle, b"%d" % numerator, b"%d" % denominator))

    def _end(self, handle: bytes, packet: bytes) -> None:
        self._report(handle, packet)
        del self.held[handle]

    def _report(self, handle: bytes, packet: bytes) -> None:
        if handle not in self.held:
            raise LocalProtocolError(f"Job {handle.decode(errors='replace')} is not held by this connection.")
        self._tell(packet)

    # --- what comes back -------------------------------------------------------------------------------------

    def _make_handlers(self) -> dict[PacketType, Callable[[Packet], None]]:
        return super()._make_handlers() | {
            _T.JOB_ASSIGN: self._on_assign,
            _T.JOB_ASSIGN_UNIQ: self._on_assign,
            _T.JOB_ASSIGN_ALL: self._on_assign,
            _T.NO_JOB: self._on_no_job,
            _T.NOOP: self._on_noop,
        }

    def _on_assign(self, packet: Packet) -> None:
        self._answered(packet)
        handle, name, *more = packet.args
        function = name.decode(errors="surrogateescape")
        unique = more[0].decode(errors="surrogateescape") if len(more) > 1 else ""
        reducer = more[1].decode(errors="surrogateescape") if len(more) > 2 else ""
        self.held[handle] = function
        self._events.append(events.JobAssigned(handle, function, unique, more[-1], reducer))

    def _on_no_job(self, packet: Packet) -> None:
        self._answered(packet)
        self._events.append(events.NoJob())

    def _answered(self, packet: Packet) -> None:
        if not self.outstanding:
            raise RemoteProtocolError(f"The job server sent {packet.type.name}, and nothing had been grabbed.")
        self.outstanding -= 1

    def _on_noop(self, packet: Packet) -> None:
        # While a grab is under way its answer says all there is to say; the next PRE_SLEEP asks again.
        if not self.outstanding:
            self.asleep = False
            self.must_grab = True
            self._events.append(events.Noop())

    def _on_stray_error(self, error: ServerError) -> None:
        # Most of what a worker says has no answer when all is well, so an ERROR may be about any of it.
        self._events.append(events.WorkRefused(error))

    def _close(self) -> None:
        super()._close()
        self.outstanding = 0
        self.held.clear()
        self.asleep = False
