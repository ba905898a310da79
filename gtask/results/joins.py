"""Joins: the members of a chord hand in their outcomes, and whoever completes it sends the body. Design, section 4.

The first member's worker seals the body's message beforehand, without the results, and hands it in with its outcome.
So the results service, which knows no App, only has to put the results in front of the body's arguments. The store
keeps the body until all members are in, whichever of them comes last; the members of an earlier gtask bring it all, and
the first to come stands. A join that is completed twice, after a crash, sends the body twice under one id and unique,
and its first result stands.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from gtask.answers import error_from_plain, error_to_plain
from gtask.errors import DecodeError, SerializationError
from gtask.failures import error_info
from gtask.flows import rest_of, signatures
from gtask.message import CANVAS, Message, decode_message, encode_message
from gtask.protocol.codec import MAX_BODY
from gtask.results.records import outcome_to_record, record_to_outcome
from gtask.signing import Keyring, refuse_signed
from gtask.states import ErrorInfo, Outcome, Record, State
from gtask.types import Priority, Submission

log = logging.getLogger("gtask.results")

MAX_WORKLOAD: Final = MAX_BODY - 1024
"""Bytes of workload that fit into one packet beside the names."""

MAX_TRACED: Final = 100
"""Steps behind a failure whose records have its traceback, when there are more of them."""


class Body(NamedTuple):
    """A chord's body, sealed without its results: the job to submit, and the task's id."""

    id: str
    function: str
    unique: str
    priority: str
    workload: bytes
    immutable: bool = False


class Join(NamedTuple):
    """One member's outcome for the chord `group`: the one at `position`, from 0, of `size` members.

    The `body` is brought by the one at 0, and may be by others.
    """

    group: str
    position: int
    size: int
    record: Record
    body: Body | None


class Failed(NamedTuple):
    """What a job of `CANVAS` is to fail with: the header ``fail``, checked. `id` and `task` are of who failed."""

    state: State
    error: ErrorInfo
    id: str
    task: str


def complete(
    body: Body, records: Sequence[Record], keys: Keyring | None = None, now: float = 0.0
) -> Submission | list[Record]:
    """What follows from a complete chord, whose members' records are in their order.

    The body's job, with the list of results in front of its arguments. When a member has failed, the records of the
    body and of the steps behind it, which fail with the first member's error; or, where a `link_error` or another chord
    hangs on the body, a job of `CANVAS` that fails in its place and so tells all of them. So it is as well when the
    results cannot be read, or are too large together for one job. Where there are `keys` the body is verified and
    signed anew, `now` being the Unix time. Never raises.
    """
    try:
        message = _opened(body, keys)
    except SerializationError as error:
        log.error("The body %s of a chord cannot be read: %s", body.id, error)
        return [outcome_to_record(Outcome(body.id, State.FAILURE, error=error_info(error)))]
    try:
        outcomes = [record_to_outcome(record) for record in records]
        cause = next((outcome for outcome in outcomes if outcome.state is not State.SUCCESS), None)
        if cause is None:
            args = message.args if body.immutable else ([outcome.value for outcome in outcomes], *message.args)
            return _job(body, body.function, replace(message, args=args), keys, now)
    except SerializationError as error:
        log.error("The chord of %s cannot be completed: %s", body.id, error)
        cause = Outcome(body.id, State.FAILURE, error=error_info(error), task=message.task)
    try:
        return _failed(body, message, cause, keys, now)
    except SerializationError as error:
        log.error("What stands behind the chord of %s cannot be told of its failure: %s", body.id, error)
        return [outcome_to_record(replace(cause, id=body.id, task=message.task))]


def _opened(body: Body, keys: Keyring | None) -> Message:
    sealed = body.workload
    if keys is not None:
        # How old it is does not matter: it came with a member's outcome, whose age was looked at.
        sealed = keys.open(body.function, sealed).workload
    else:
        refuse_signed(sealed)
    return decode_message(body.function, sealed, fallback_id=body.id)


def _job(body: Body, function: str, message: Message, keys: Keyring | None, now: float) -> Submission:
    workload = encode_message(message)
    if keys is not None:
        workload = keys.sign(function, workload, now)
    if len(workload) > MAX_WORKLOAD:
        raise SerializationError(
            f"The results of a chord's members have {len(workload)} bytes together, too many for the one packet that "
            "takes them to the body; let the members store what is large, and return where."
        )
    return Submission(function, workload, body.unique, Priority(body.priority))


def _failed(
    body: Body, message: Message, cause: Outcome, keys: Keyring | None, now: float
) -> Submission | list[Record]:
    headers = message.headers
    if headers.get("chord") is not None or (headers.get("link_error") and cause.state is State.FAILURE):
        error = error_to_plain(cause.error or ErrorInfo("", "A member of a chord failed without saying why."))
        fail = {"state": str(cause.state), "error": error, "id": cause.id, "task": cause.task}
        failing = replace(message, args=(), kwargs={}, headers={**headers, "task": message.task, "fail": fail})
        return _job(body, CANVAS, failing, keys, now)
    blank = Outcome("", cause.state, error=cause.error, finished=cause.finished, parent=cause.id)
    own = [] if headers.get("ignore_result") else [outcome_to_record(replace(blank, id=message.id, task=message.task))]
    return [*own, *records_behind(blank, headers)]


def records_behind(outcome: Outcome, headers: dict[str, Any]) -> list[Record]:
    """The records of the steps that follow a task and will never run, which all fail as `outcome` says."""
    steps = [step for step in signatures(rest_of(headers)) if step.id and not step.options.get("ignore_result")]
    if len(steps) > MAX_TRACED and outcome.error is not None:
        outcome = replace(outcome, error=replace(outcome.error, traceback=None))
    return [outcome_to_record(replace(outcome, id=step.id, task=step.task, value=None)) for step in steps]


def failed_of(fail: Any) -> Failed:
    """Reads the header ``fail``; raises `DecodeError` where it is none as gtask sends it."""
    match fail:
        case {"state": "FAILURE" | "REVOKED" as state, "error": error, "id": str(id), "task": str(task)}:
            return Failed(State(state), error_from_plain(error), id, task)
    raise DecodeError(f"The header 'fail' is none as gtask sends it: {fail!r:.100}.")
