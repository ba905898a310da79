"""Joins: the members of a chord hand in their outcomes, and whoever completes it sends the body. Design, section 4.

A member's worker seals the body's message beforehand, without the results, and hands it in with its outcome. So the
results service, which knows no App, only has to put the results in front of the body's arguments. Every member
brings the same body under the same unique: a join that is completed twice, after a crash, sends it twice under one id,
and its first result stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from gtask.errors import DecodeError
from gtask.message import SignatureData, decode_message, encode_message
from gtask.results.records import outcome_to_record, record_to_outcome
from gtask.signing import Keyring, refuse_signed
from gtask.states import Outcome, Record, State
from gtask.types import Priority, Submission


class Body(NamedTuple):
    """A chord's body, sealed without its results: the job to submit, and the task's id."""

    id: str
    function: str
    unique: str
    priority: str
    workload: bytes
    immutable: bool = False


class Join(NamedTuple):
    """One member's outcome for the chord `group`: the one at `position`, from 0, of `size` members."""

    group: str
    position: int
    size: int
    record: Record
    body: Body


def complete(
    body: Body, records: Sequence[Record], keys: Keyring | None = None, now: float = 0.0
) -> Submission | list[Record]:
    """What follows from a complete chord, whose members' records are in their order.

    The body's job, with the list of results in front of its arguments; or, when a member has failed, the records of
    the body and of the steps behind it, which fail with the first member's error. Where there are `keys` the body is
    verified and signed anew, `now` being the Unix time. Raises `DecodeError` when a record or the body cannot be read.
    """
    outcomes = [record_to_outcome(record) for record in records]
    failed = next((outcome for outcome in outcomes if outcome.state is not State.SUCCESS), None)
    sealed = body.workload
    if keys is not None:
        # How old it is does not matter: it came with a member's outcome, whose age was looked at.
        sealed = keys.open(body.function, sealed).workload
    else:
        refuse_signed(sealed)
    message = decode_message(body.function, sealed, fallback_id=body.id)
    if failed is not None:
        ids = [(message.id, message.task), *_steps(message.headers.get("chain"))]
        blank = Outcome("", failed.state, error=failed.error, finished=failed.finished, parent=failed.id)
        return [outcome_to_record(replace(blank, id=id, task=task)) for id, task in ids if id]
    args = message.args if body.immutable else ([outcome.value for outcome in outcomes], *message.args)
    workload = encode_message(replace(message, args=args))
    if keys is not None:
        workload = keys.sign(body.function, workload, now)
    return Submission(body.function, workload, body.unique, Priority(body.priority))


def _steps(chain: object) -> list[tuple[str, str]]:
    """The ids and names of the steps behind a body."""
    if chain is None:
        return []
    if not isinstance(chain, list):
        raise DecodeError("The chain behind a chord's body is no list.")
    steps = [SignatureData.from_list(step) for step in chain]
    return [(step.id, step.task) for step in steps]
