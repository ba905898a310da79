"""The job server's brain: requests in, effects out, in the order in which they must happen. Pure.

No socket, no clock, no disk: the listener has those, and tests run this very engine in memory (design, section 8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from gtask.protocol.admin import Command
from gtask.protocol.packets import Packet, PacketType
from gtask.protocol.server import Request, Violation
from gtask.server import answers, grab, submit, work
from gtask.server.admin import answer
from gtask.server.effects import Close, Effect, Forget, Persist, Send
from gtask.server.jobs import ENDED, LOW, RUNNING, Job, Peer
from gtask.server.state import Settings, State
from gtask.server.store import Row

TURN: Final = 10_000
"""How much the requests of one turn may spend (`State.spent`): some milliseconds."""

LINE: Final = 16
"""Bytes of an answer to a text command that are made in a microsecond, or about that."""

Handler = Callable[[State, Peer, tuple[bytes, ...]], None]

_T = PacketType
_HANDLERS: Final[dict[PacketType, Handler]] = {
    _T.CAN_DO: grab.can_do,
    _T.CAN_DO_TIMEOUT: grab.can_do_timeout,
    _T.CANT_DO: grab.cant_do,
    _T.RESET_ABILITIES: grab.reset_abilities,
    _T.SET_CLIENT_ID: grab.set_client_id,
    _T.PRE_SLEEP: grab.pre_sleep,
    _T.GRAB_JOB: grab.grab_job,
    _T.GRAB_JOB_UNIQ: grab.grab_job_uniq,
    _T.GRAB_JOB_ALL: grab.grab_job_all,
    _T.SUBMIT_JOB: submit.submit_job,
    _T.SUBMIT_JOB_BG: submit.submit_job_bg,
    _T.SUBMIT_JOB_HIGH: submit.submit_job_high,
    _T.SUBMIT_JOB_HIGH_BG: submit.submit_job_high_bg,
    _T.SUBMIT_JOB_LOW: submit.submit_job_low,
    _T.SUBMIT_JOB_LOW_BG: submit.submit_job_low_bg,
    _T.SUBMIT_JOB_EPOCH: submit.submit_job_epoch,
    _T.SUBMIT_REDUCE_JOB: submit.submit_reduce,
    _T.SUBMIT_REDUCE_JOB_BACKGROUND: submit.submit_reduce_bg,
    _T.WORK_COMPLETE: work.work_complete,
    _T.WORK_FAIL: work.work_fail,
    _T.WORK_EXCEPTION: work.work_exception,
    _T.WORK_DATA: work.work_data,
    _T.WORK_WARNING: work.work_warning,
    _T.WORK_STATUS: work.work_status,
    _T.GET_STATUS: work.get_status,
    _T.GET_STATUS_UNIQUE: work.get_status_unique,
    _T.ECHO_REQ: work.echo,
    _T.OPTION_REQ: work.option,
    _T.ALL_YOURS: work.refuse,
    _T.SUBMIT_JOB_SCHED: work.refuse,
}


class Engine:
    """All jobs, functions and peers of one job server.

    Every method takes `now`, in seconds of any clock that does not jump, and returns the effects in order. A
    `Persist` comes before the JOB_CREATED it belongs to; where rows are committed in groups, all sends wait for the
    commit, and `refused` rewrites the effects when a row could not be stored.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._state = State(settings or Settings())

    # --- facts -----------------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Jobs that wait: in a queue or for their time."""
        return len(self._state.jobs) - self._state.running

    @property
    def running(self) -> int:
        """Jobs that workers hold."""
        return self._state.running

    @property
    def held(self) -> int:
        """Bytes that all jobs take, or about that: what `Settings.max_memory` bounds."""
        return self._state.held

    def jobs(self) -> Iterable[Job]:
        """All jobs that are known, oldest first; to be read, not changed."""
        return self._state.jobs.values()

    def limit(self, function: str, most: int) -> None:
        """Refuses jobs of a function beyond so many, queued and running, as `maxqueue` does; 0 is no limit."""
        self._state.function(function.encode()).limits = (most, most, most) if most else None

    # --- peers -----------------------------------------------------------------------------------------------

    def connected(self, peer: Peer, now: float) -> list[Effect]:
        """Takes a new connection."""
        self._state.peers[peer] = None
        peer.exceptions = peer.exceptions or self._state.settings.exceptions
        return []

    def disconnected(self, peer: Peer, now: float) -> list[Effect]:
        """The connection is gone: its running jobs go to others, its waiting foreground jobs are dropped."""
        state = self._state
        if state.peers.pop(peer, self) is self:
            return []
        state.now = now
        grab.reset_abilities(state, peer, ())
        peer.sleeping = False
        state.woken.pop(peer, None)
        for job in list(peer.waiting):
            state.leave(peer, job)
        peer.waiting.clear()
        for job in list(peer.running.values()):
            state.lose(job)
        return self._take()

    def handle(self, peer: Peer, request: Request, now: float) -> list[Effect]:
        """Does what one request of a peer asks for."""
        return self.handle_all(peer, (request,), now)

    def handle_all(self, peer: Peer, requests: Sequence[Request], now: float) -> list[Effect]:
        """As `handle`, for several; nothing after a fatal violation is looked at."""
        effects, handled = self.handle_some(peer, requests, now)
        while handled < len(requests):
            requests = requests[handled:]
            more, handled = self.handle_some(peer, requests, now)
            effects += more
        return effects

    def handle_some(self, peer: Peer, requests: Sequence[Request], now: float) -> tuple[list[Effect], int]:
        """As `handle_all`, for one turn: returns how many were handled as well, those behind a fatal one included.

        A few bytes can ask for much (``show jobs``), and thousands of such requests fit into one read: what is left
        over is to be handled in a later turn, after others have had theirs and the answers have been read.
        """
        state = self._state
        state.now = now
        state.spent = 0
        handled = 0
        for request in requests:
            handled += 1
            if type(request) is Packet:
                _HANDLERS[request.type](state, peer, request.args)
            elif isinstance(request, Command):
                text = answer(state, request)
                state.effects.append(Send(peer, text))
                state.spent += 1 + len(text) // LINE
            elif isinstance(request, Violation):
                if error := request.answer():
                    state.effects.append(Send(peer, error))
                if request.fatal:
                    state.effects.append(Close(peer, request.reason))
                    handled = len(requests)
                    break
            if state.spent > TURN:
                break
        return self._take(), handled

    # --- time ------------------------------------------------------------------------------------------------

    def set_epoch(self, epoch: float) -> None:
        """Says the Unix time at which the caller's clock showed 0; epoch jobs are due by it."""
        self._state.epoch = epoch

    def next_deadline(self) -> float | None:
        """When `tick` has something to do, by the caller's clock, or None."""
        state = self._state
        deadline = next(iter(state.woken.values()), None)
        if (limit := state.limits.next()) is not None and (deadline is None or limit < deadline):
            deadline = limit
        if (when := state.later.next()) is not None and (deadline is None or when - state.epoch < deadline):
            deadline = when - state.epoch
        return deadline

    def tick(self, now: float) -> list[Effect]:
        """Queues epoch jobs that are due, fails jobs over their time limit, re-sends lost wake-ups."""
        state = self._state
        state.now = now
        for job in state.later.due(now + state.epoch):
            job.function.waiting -= 1
            state.enqueue(job)
        for job in state.limits.due(now):
            state.fail(job)
        while state.woken:
            peer, deadline = next(iter(state.woken.items()))
            if deadline > now:
                break
            state.settle(peer)
        return self._take()

    def drain(self) -> None:
        """From now on no job is handed out, so that what runs can end before the server stops."""
        self._state.draining = True

    # --- the store -------------------------------------------------------------------------------------------

    def restore(self, rows: Iterable[Row], now: float) -> int:
        """Queues what was stored before a restart and returns how many jobs that is."""
        state = self._state
        state.now = now
        count = 0
        for row in rows:
            function = state.function(row.function)
            priority = row.priority if 0 <= row.priority <= LOW else LOW
            job = state.new_job(function, submit.unique_of(row.unique), row.data, priority)
            job.key = row.unique
            job.when = row.when
            job.background = True
            state.enqueue(job)
            count += 1
        state.effects = []
        return count

    def refused(self, effects: Sequence[Effect], failed: Iterable[Job], now: float) -> list[Effect]:
        """Rewrites the effects of a round in which some jobs could not be stored.

        Those who submitted them get ERROR QUEUE_ERROR instead of JOB_CREATED, a worker that grabbed one in the same
        round gets NO_JOB. Nothing of `effects` may have left yet.
        """
        state = self._state
        state.now = now
        refused = set(failed)
        rewritten: list[Effect] = []
        new = {effect.job for effect in effects if type(effect) is Persist and not effect.upgrade} & refused
        for effect in effects:
            if (type(effect) is Persist and effect.job in refused) or (type(effect) is Forget and effect.job in new):
                continue
            if type(effect) is Send and (effect.job in new or (effect.durable and effect.job in refused)):
                # Whoever waits in the foreground for a job that was there before goes on waiting for it.
                rewritten.append(Send(effect.peer, _refusal(effect.data)))
            else:
                rewritten.append(effect)
        for job in refused:
            job.background = False
            if job.state != ENDED and (job in new or (job.ignored and job.state != RUNNING)):
                state.end(job)
        return rewritten + self._take()

    def _take(self) -> list[Effect]:
        effects = self._state.effects
        if effects:
            self._state.effects = []
        return effects


def _refusal(packet: bytes) -> bytes:
    return answers.QUEUE_ERROR if packet[7] == answers.CREATED else answers.NO_JOB
