"""Handing out jobs: abilities, grabbing, sleeping. Pure. Protocol reference, sections 7 to 10 and 14."""

from __future__ import annotations

import sys
from typing import Final

from gtask.server import answers
from gtask.server.effects import Close, Send
from gtask.server.jobs import MAX_CLIENT_ID, RUNNING, Function, Job, Peer
from gtask.server.state import State
from gtask.server.submit import MAX_FUNCTION, read_integer

MAX_LIMIT: Final = 2**31 - 1
"""Milliseconds a CAN_DO_TIMEOUT may say; more means no limit."""


def can_do(state: State, peer: Peer, args: tuple[bytes, ...], limit: float = 0.0) -> None:
    """CAN_DO: registers a function. Unlike gearmand, a sleeper is woken when there is work for it already."""
    name = args[0]
    if len(name) > MAX_FUNCTION or b"\0" in name:
        state.effects.append(Send(peer, answers.NUL_IN_NAME if b"\0" in name else answers.TOO_LONG_FUNCTION))
        return
    if len(peer.functions) >= state.settings.max_abilities and name not in {one.name for one in peer.functions}:
        most = state.settings.max_abilities
        _send_away(state, peer, f"It offers more than {most} functions, which is the limit for one connection.")
        return
    if not state.has_room(name):
        _send_away(state, peer, "It offers another function, and there are as many as there may be (--max-functions).")
        return
    function = state.function(name)
    known = function in peer.abilities
    peer.abilities[function] = limit
    if known:
        return
    peer.functions.append(function)
    function.workers += 1
    if peer in state.woken:
        function.pending += 1
    elif peer.sleeping:
        function.sleepers[peer] = None
        if function.ready > function.pending:
            state.wake(function)


def _send_away(state: State, peer: Peer, reason: str) -> None:
    # An ERROR would be taken for the answer to something else: CAN_DO has none.
    state.effects.append(Close(peer, reason))
    state.spent = sys.maxsize  # what it has sent after that is not looked at


def can_do_timeout(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """CAN_DO_TIMEOUT: as CAN_DO, and a job that runs longer is failed. At least a second, as in gearmand."""
    milliseconds = read_integer(args[1])
    bounded = max(1000, milliseconds) / 1000 if 0 < milliseconds <= MAX_LIMIT else 0.0
    can_do(state, peer, args, bounded)


def cant_do(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """CANT_DO: no more jobs of this function. What runs stays with the connection; gearmand requeues it."""
    function = state.functions.get(args[0])
    if function is not None and function in peer.abilities:
        forget_ability(state, peer, function)


def reset_abilities(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """RESET_ABILITIES: CANT_DO for all functions."""
    for function in list(peer.functions):
        forget_ability(state, peer, function)


def forget_ability(state: State, peer: Peer, function: Function) -> None:
    """Takes one function off a peer; work that it was woken for goes to another."""
    if peer.sleeping:
        del function.sleepers[peer]
    del peer.abilities[function]
    peer.functions.remove(function)
    function.workers -= 1
    if peer in state.woken:
        function.pending -= 1
        if function.ready > function.pending and function.sleepers:
            state.wake(function)


def set_client_id(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """SET_CLIENT_ID: shown in ``workers``."""
    peer.client_id = args[0].partition(b"\0")[0][:MAX_CLIENT_ID]


def pre_sleep(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """PRE_SLEEP: NOOP at once when there is work, else the peer sleeps until there is."""
    functions = peer.functions
    state.spent += len(functions) >> 4
    if not state.draining:
        for function in functions:
            if function.ready:
                state.rouse(peer)
                state.effects.append(Send(peer, answers.NOOP))
                return
    if state.woken:
        state.settle(peer)
    if not peer.sleeping:
        peer.sleeping = True
        for function in functions:
            function.sleepers[peer] = None


def take(peer: Peer) -> Job | None:
    """Takes the best job for a peer: highest priority of all its functions, functions in turn."""
    functions = peer.functions
    if len(functions) == 1:
        only = functions[0]
        return only.pop() if only.ready else None
    count = len(functions)
    best, best_priority, best_index = None, 3, 0
    for index in range(peer.turn, peer.turn + count):
        function = functions[index % count]
        if function.ready:
            counts = function.counts
            priority = 0 if counts[0] else 1 if counts[1] else 2
            if priority < best_priority:
                best, best_priority, best_index = function, priority, index
                if not priority:
                    break
    if best is None:
        return None
    peer.turn = (best_index + 1) % count
    return best.pop()


def grab(state: State, peer: Peer) -> Job | None:
    """Hands out a job, or answers NO_JOB and returns None."""
    if peer.sleeping:
        state.unsleep(peer)
    state.spent += len(peer.functions) >> 4
    job = None if state.draining else take(peer)
    if job is None:
        state.effects.append(Send(peer, answers.NO_JOB))
        if state.woken:
            state.settle(peer)
        return None
    function = job.function
    job.state = RUNNING
    job.worker = peer
    peer.running[job.handle] = job
    function.running += 1
    state.running += 1
    limit = peer.abilities[function]
    if limit:
        state.limits.set(job, state.now + limit)
    return job


def grab_job(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """GRAB_JOB: the answer has handle, function and data."""
    if (job := grab(state, peer)) is not None:
        assign(state, peer, job, answers.packet(answers.ASSIGN, job.handle, job.function.name, job.data))


def grab_job_uniq(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """GRAB_JOB_UNIQ: the answer has the unique too."""
    if (job := grab(state, peer)) is not None:
        name = job.function.name
        assign(state, peer, job, answers.packet(answers.ASSIGN_UNIQ, job.handle, name, job.unique, job.data))


def grab_job_all(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """GRAB_JOB_ALL: the answer has the reducer too, if there is one."""
    job = grab(state, peer)
    if job is None:
        return
    if job.reducer is None:
        packet = answers.packet(answers.ASSIGN_UNIQ, job.handle, job.function.name, job.unique, job.data)
    else:
        name = job.function.name
        packet = answers.packet(answers.ASSIGN_ALL, job.handle, name, job.unique, job.reducer, job.data)
    assign(state, peer, job, packet)


def assign(state: State, peer: Peer, job: Job, packet: bytes) -> None:
    """Sends a job that was taken, then wakes others for what is left."""
    state.effects.append(Send(peer, packet, job if job.background else None))
    if state.woken:
        state.settle(peer)
