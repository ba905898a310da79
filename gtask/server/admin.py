"""The admin commands of the job server. Pure. Protocol reference, section 17."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gtask.protocol import admin as text
from gtask.protocol.admin import Command, JobRow, PriorityRow, Refusal, StatusRow, WorkerRow, to_bytes, to_text
from gtask.server.jobs import RUNNING
from gtask.server.state import State
from gtask.server.submit import MAX_FUNCTION, read_integer


def answer(state: State, command: Command) -> bytes:
    """Does what the command says and returns its answer."""
    if isinstance(command, Refusal):
        return command.answer
    return _COMMANDS[command.name](state, command.args)


def _version(state: State, args: tuple[str, ...]) -> bytes:
    return text.format_line(state.settings.version)


def _getpid(state: State, args: tuple[str, ...]) -> bytes:
    return text.format_line(str(state.settings.pid))


def _verbose(state: State, args: tuple[str, ...]) -> bytes:
    return text.format_line(state.settings.verbosity)


def _status(state: State, args: tuple[str, ...]) -> bytes:
    functions = state.functions.values()
    return text.format_table(StatusRow(to_text(f.name), f.total, f.running, f.workers) for f in functions)


def _prioritystatus(state: State, args: tuple[str, ...]) -> bytes:
    rows = []
    for function in state.functions.values():
        high, normal, low = function.counts
        # A job that waits for its time is a normal one.
        rows.append(PriorityRow(to_text(function.name), high, normal + function.waiting, low, function.workers))
    return text.format_table(rows)


def _workers(state: State, args: tuple[str, ...]) -> bytes:
    rows = []
    for peer in state.peers:
        names = tuple(to_text(function.name) for function in reversed(peer.functions))
        rows.append(WorkerRow(peer.descriptor, peer.address, to_text(peer.client_id), names))
    return text.format_workers(rows)


def _show_jobs(state: State, args: tuple[str, ...]) -> bytes:
    jobs = state.jobs.values()
    return text.format_table(JobRow(to_text(job.handle), job.retries, job.ignored, job.background) for job in jobs)


def _show_unique_jobs(state: State, args: tuple[str, ...]) -> bytes:
    return text.format_uniques(job.unique for job in state.jobs.values())


def _cancel_job(state: State, args: tuple[str, ...]) -> bytes:
    job = state.jobs.get(to_bytes(args[0]))
    if job is None:
        return text.UNKNOWN_JOB
    if job.state == RUNNING:
        # Its worker runs on and may report as if nothing had happened; nobody hears of it.
        state.abandon(job)
    else:
        state.fail(job)
    return text.OK


def _maxqueue(state: State, args: tuple[str, ...]) -> bytes:
    name = to_bytes(args[0])
    if len(name) > MAX_FUNCTION:
        return text.incomplete("maxqueue")
    numbers = [max(0, read_integer(to_bytes(arg))) for arg in args[1:]]
    if len(numbers) < 2:
        high = normal = low = numbers[0] if numbers else 0
    else:
        high, normal, low = [*numbers, 0][:3]
    if not state.has_room(name):
        return text.NO_ROOM
    state.function(name).limits = (high, normal, low) if high or normal or low else None
    return text.OK


def _create_function(state: State, args: tuple[str, ...]) -> bytes:
    name = to_bytes(args[0])
    if len(name) > MAX_FUNCTION:
        return text.incomplete("create")
    if not state.has_room(name):
        return text.NO_ROOM
    state.function(name).created = True
    return text.OK


def _drop_function(state: State, args: tuple[str, ...]) -> bytes:
    function = state.functions.get(to_bytes(args[0]))
    if function is None:
        return text.NO_FUNCTION
    if function.workers or function.total:
        # gearmand drops a function with queued jobs, and strands them.
        return text.FUNCTION_BUSY
    del state.functions[function.name]
    return text.OK


_COMMANDS: Final[dict[str, Callable[[State, tuple[str, ...]], bytes]]] = {
    "version": _version,
    "getpid": _getpid,
    "verbose": _verbose,
    "status": _status,
    "prioritystatus": _prioritystatus,
    "workers": _workers,
    "show jobs": _show_jobs,
    "show unique jobs": _show_unique_jobs,
    "cancel job": _cancel_job,
    "maxqueue": _maxqueue,
    "create function": _create_function,
    "drop function": _drop_function,
}
