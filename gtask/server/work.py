"""What workers report and clients ask. Pure. Protocol reference, sections 2, 5 and 15."""

from __future__ import annotations

from typing import Final

from gtask.protocol.packets import PacketType
from gtask.server import answers
from gtask.server.effects import Send
from gtask.server.jobs import RUNNING, Function, Job, Peer
from gtask.server.state import State
from gtask.server.submit import read_integer
from gtask.types import MAX_UNIQUE

MAX_HANDLE: Final = 63
"""Bytes a handle may have (protocol reference, section 3)."""

_STATUS: Final = int(PacketType.WORK_STATUS)
_COMPLETE: Final = int(PacketType.WORK_COMPLETE)
_EXCEPTION: Final = int(PacketType.WORK_EXCEPTION)
_DATA: Final = int(PacketType.WORK_DATA)
_WARNING: Final = int(PacketType.WORK_WARNING)


def forward(state: State, job: Job, type: int, *args: bytes) -> None:
    """Sends a packet to everybody who waits for the job."""
    packet = answers.packet(type, *args)
    for client in job.clients:
        state.effects.append(Send(client, packet))


def work_complete(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """WORK_COMPLETE: forwarded, then the job is gone."""
    job = peer.running.get(args[0])
    if job is None:
        state.effects.append(Send(peer, answers.RESULT_NOT_FOUND))
        return
    if job.clients:
        forward(state, job, _COMPLETE, *args)
    state.end(job)


def work_fail(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """WORK_FAIL: forwarded, then the job is gone; the server retries nothing that a worker reports as failed."""
    job = peer.running.get(args[0])
    if job is None:
        state.effects.append(Send(peer, answers.RESULT_NOT_FOUND))
        return
    state.fail(job)


def work_exception(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """WORK_EXCEPTION: to those who set the option, WORK_FAIL to the others; then the job is gone."""
    job = peer.running.get(args[0])
    if job is None:
        state.effects.append(Send(peer, answers.EXCEPTION_NOT_FOUND))
        return
    if job.clients:
        exception, failure = answers.packet(_EXCEPTION, *args), answers.fail(job.handle)
        for client in job.clients:
            state.effects.append(Send(client, exception if client.exceptions else failure))
    state.end(job)


def work_data(state: State, peer: Peer, args: tuple[bytes, ...], type: int = _DATA) -> None:
    """WORK_DATA: forwarded."""
    job = peer.running.get(args[0])
    if job is None:
        state.effects.append(Send(peer, answers.JOB_NOT_FOUND))
    elif job.clients:
        forward(state, job, type, *args)


def work_warning(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """WORK_WARNING: forwarded."""
    work_data(state, peer, args, _WARNING)


def work_status(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """WORK_STATUS: forwarded as it came and kept for GET_STATUS."""
    job = peer.running.get(args[0])
    if job is None:
        state.effects.append(Send(peer, answers.RESULT_NOT_FOUND))
        return
    job.numerator = read_integer(args[1]) & 0xFFFFFFFF
    job.denominator = read_integer(args[2]) & 0xFFFFFFFF
    if job.clients:
        forward(state, job, _STATUS, *args)


def status_fields(job: Job | None) -> tuple[bytes, bytes, bytes, bytes]:
    """Known, running, numerator, denominator."""
    if job is None:
        return b"0", b"0", b"0", b"0"
    running = b"1" if job.state == RUNNING else b"0"
    return b"1", running, b"%d" % job.numerator, b"%d" % job.denominator


def get_status(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """GET_STATUS. Unlike gearmand, a handle that is too long is answered."""
    handle = args[0]
    if len(handle) > MAX_HANDLE or b"\0" in handle:
        state.effects.append(Send(peer, answers.TOO_LONG_HANDLE if b"\0" not in handle else answers.NUL_IN_NAME))
        return
    fields = status_fields(state.jobs.get(handle))
    state.effects.append(Send(peer, answers.packet(PacketType.STATUS_RES, handle, *fields)))


def get_status_unique(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """GET_STATUS_UNIQUE: the first job that has the unique, whatever its function."""
    unique = args[0]
    if len(unique) > MAX_UNIQUE or b"\0" in unique:
        state.effects.append(Send(peer, answers.TOO_LONG_UNIQUE if b"\0" not in unique else answers.NUL_IN_NAME))
        return
    state.spent += len(state.functions) >> 3
    job = next((found for function in state.functions.values() if (found := _with_unique(function, unique))), None)
    clients = b"%d" % len(job.clients) if job is not None else b"0"
    state.effects.append(Send(peer, answers.packet(PacketType.STATUS_RES_UNIQUE, unique, *status_fields(job), clients)))


def _with_unique(function: Function, unique: bytes) -> Job | None:
    if unique in function.uniques:
        return function.uniques[unique]
    return next(iter(function.dashes.values()), None) if unique == b"-" else None


def echo(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """ECHO_REQ."""
    state.effects.append(Send(peer, answers.packet(PacketType.ECHO_RES, args[0])))


def option(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """OPTION_REQ: the one option is ``exceptions``, in any case of letters."""
    if args[0].lower() == b"exceptions":
        peer.exceptions = True
        state.effects.append(Send(peer, answers.packet(PacketType.OPTION_RES, args[0])))
    else:
        state.effects.append(Send(peer, answers.UNKNOWN_OPTION))


def refuse(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """ALL_YOURS and SUBMIT_JOB_SCHED: known, and served by no job server."""
    state.effects.append(Send(peer, answers.NOT_EXPECTED))
