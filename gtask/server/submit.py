"""Submitting jobs: the rules for uniques, limits and times. Pure. Protocol reference, sections 2, 3, 11 and 16."""

from __future__ import annotations

from typing import Final

from gtask.server import answers
from gtask.server.effects import Persist, Send
from gtask.server.jobs import DASH, HIGH, LOW, NORMAL, Function, Job, Peer
from gtask.server.state import State
from gtask.types import MAX_UNIQUE

MAX_FUNCTION: Final = 255
"""Bytes a function's name may have: what the SQL queues of gearmand carry (protocol reference, section 3)."""

MAX_REDUCER: Final = 64
"""Bytes a reducer's name may have (protocol reference, section 2)."""

MAX_TIME: Final = 2**63 - 1

MAX_CALLERS: Final = 5000
"""Submissions that may wait for one job; the tuple of them is copied for each."""

SPARE: Final = 4
"""What a peer that runs a job may submit over `max_memory`, as a part of it: results and next steps, without which jobs
would not end, and memory never be free again."""

EMPTY_KEY: Final = b"~"
DASH_KEY: Final = b"-"


def refuse_names(name: bytes, unique: bytes) -> bytes | None:
    """The ERROR for names that are too long, or None."""
    if len(unique) > MAX_UNIQUE:
        return answers.TOO_LONG_UNIQUE
    if len(name) > MAX_FUNCTION:
        return answers.TOO_LONG_FUNCTION
    return None


def submit(
    state: State,
    peer: Peer,
    name: bytes,
    unique: bytes,
    data: bytes,
    priority: int,
    background: bool,
    when: int = 0,
    reducer: bytes | None = None,
) -> None:
    """Takes a job, or joins it to the one that already has its unique, and answers JOB_CREATED or ERROR."""
    if len(unique) > MAX_UNIQUE or len(name) > MAX_FUNCTION:
        state.effects.append(Send(peer, refuse_names(name, unique) or b""))
        return
    function = state.functions.get(name)
    if function is None:
        if not state.has_room(name):
            state.effects.append(Send(peer, answers.TOO_MANY_FUNCTIONS))
            return
        function = state.function(name)
    if unique:
        job = function.find(unique, data)
        if job is not None:
            join(state, peer, job, background)
            return
    if function.limits is not None and is_full(function, priority):
        state.effects.append(Send(peer, answers.QUEUE_FULL))
        return
    most = state.settings.max_memory
    if state.held + len(data) > most and (not peer.running or state.held + len(data) > most + most // SPARE):
        state.effects.append(Send(peer, answers.MEMORY_FULL))
        return
    job = state.new_job(function, unique, data, priority)
    job.when = when
    job.reducer = reducer
    if background:
        job.background = True
        if not unique or unique == DASH:
            job.key = make_key(job)
        state.effects.append(Persist(job))
        state.effects.append(Send(peer, answers.created(job.handle), job))
    else:
        job.clients = (peer,)
        peer.waiting[job] = None
        state.effects.append(Send(peer, answers.created(job.handle)))
    state.enqueue(job)


def is_full(function: Function, priority: int) -> bool:
    """Whether `maxqueue` forbids another job of this priority; running jobs count too."""
    limit = function.limits[priority] if function.limits is not None else 0
    return 0 < limit <= function.total


def make_key(job: Job) -> bytes:
    """The key of a job whose unique cannot be one: `unique_of` reads the unique from it again."""
    return (DASH_KEY if job.unique else EMPTY_KEY) + job.handle


def unique_of(key: bytes) -> bytes:
    """The unique of a stored job: its key, unless `make_key` made it."""
    if key.startswith(EMPTY_KEY + b"H:"):
        return b""
    if key.startswith(DASH_KEY + b"H:"):
        return DASH
    return key


def join(state: State, peer: Peer, job: Job, background: bool) -> None:
    """Answers a submission whose unique is taken: the first one's data, priority and time stand.

    Unlike gearmand, a background submission makes a foreground job a durable one, so what was accepted as
    background survives its callers.
    """
    if not background:
        if len(job.clients) >= MAX_CALLERS:
            state.effects.append(Send(peer, answers.TOO_MANY_CALLERS))
            return
        job.clients = (*job.clients, peer)
        peer.waiting[job] = None
    elif not job.background:
        job.background = True
        if not job.unique or job.unique == DASH:
            job.key = make_key(job)
        state.effects.append(Persist(job, upgrade=True))
    state.effects.append(Send(peer, answers.created(job.handle), job if job.background else None, background))


# --- one function for each packet ----------------------------------------------------------------------------


def submit_job(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """SUBMIT_JOB."""
    submit(state, peer, args[0], args[1], args[2], NORMAL, False)


def submit_job_bg(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """SUBMIT_JOB_BG."""
    submit(state, peer, args[0], args[1], args[2], NORMAL, True)


def submit_job_high(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """SUBMIT_JOB_HIGH."""
    submit(state, peer, args[0], args[1], args[2], HIGH, False)


def submit_job_high_bg(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """SUBMIT_JOB_HIGH_BG."""
    submit(state, peer, args[0], args[1], args[2], HIGH, True)


def submit_job_low(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """SUBMIT_JOB_LOW."""
    submit(state, peer, args[0], args[1], args[2], LOW, False)


def submit_job_low_bg(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """SUBMIT_JOB_LOW_BG."""
    submit(state, peer, args[0], args[1], args[2], LOW, True)


def submit_job_epoch(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """SUBMIT_JOB_EPOCH: background and of normal priority; a time that has passed means now."""
    name, unique, epoch, data = args
    when = read_integer(epoch)
    if when > MAX_TIME:
        state.effects.append(Send(peer, answers.BAD_TIME))
        return
    submit(state, peer, name, unique, data, NORMAL, True, when=max(0, when))


def submit_reduce(state: State, peer: Peer, args: tuple[bytes, ...], background: bool = False) -> None:
    """SUBMIT_REDUCE_JOB: four names before the data, as libgearman sends it; the fourth is not used."""
    name, unique, reducer, _, data = args
    if len(reducer) > MAX_REDUCER:
        state.effects.append(Send(peer, answers.TOO_LONG_REDUCER))
        return
    submit(state, peer, name, unique, data, NORMAL, background, reducer=reducer)


def submit_reduce_bg(state: State, peer: Peer, args: tuple[bytes, ...]) -> None:
    """SUBMIT_REDUCE_JOB_BACKGROUND."""
    submit_reduce(state, peer, args, background=True)


def read_integer(text: bytes) -> int:
    """A decimal number as C's strtoll reads it: blanks, a sign, leading digits; 0 for anything else."""
    text = text.lstrip()
    sign = -1 if text.startswith(b"-") else 1
    digits = text[1:] if text[:1] in (b"-", b"+") else text
    count = 0
    while count < len(digits) and count < 20 and 48 <= digits[count] <= 57:
        count += 1
    return sign * int(digits[:count] or b"0")
