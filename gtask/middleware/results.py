"""Results: writes down what a run led to, and has it stored where there is a store. Design, sections 4 and 6."""

from __future__ import annotations

import time
from typing import Any

from gtask.context import TaskContext
from gtask.errors import DecodeError, EncodeError
from gtask.failures import error_info
from gtask.flows import flow_of, rest_of, start
from gtask.middleware.base import Middleware, Next
from gtask.results.records import outcome_to_record
from gtask.states import Outcome, State


class Results(Middleware):
    """Makes the record of a background task's outcome; the worker hands it over before it ends the job.

    A result that cannot be encoded becomes a failure here, so that the chain stops and the caller is told.
    """

    async def executing(self, call_next: Next, context: TaskContext) -> Outcome:
        """Runs, completes the outcome, and encodes it."""
        started = time.time()
        outcome = await call_next(context)
        outcome.task = context.message.task
        outcome.retries = context.retries
        outcome.worker = context.worker
        outcome.started = started
        outcome.finished = time.time()
        outcome.parent = context.parent_id
        if keeps_result(context):
            outcome.children = _children(context.message.headers, outcome.state)
            try:
                record = outcome_to_record(outcome)
                check_size(len(record.body), context.task.app.settings.max_message)
            except EncodeError as error:
                outcome.state, outcome.value, outcome.error = State.FAILURE, None, error_info(error)
                outcome.children = _children(context.message.headers, outcome.state)
                record = outcome_to_record(outcome)
            context.records.append(record)
        return outcome


def keeps_result(context: TaskContext) -> bool:
    """Whether the outcome of this run is to be stored."""
    return context.keeps_result


def check_size(size: int, limit: int) -> None:
    """Raises `EncodeError` for a result of more bytes than the setting `max_message` allows."""
    if size > limit:
        raise EncodeError(
            f"The result has {size} bytes and max_message allows {limit}; store what is large elsewhere and return "
            "where, or raise the setting."
        )


def _children(headers: dict[str, Any], state: State) -> tuple[str, ...]:
    """The ids of the tasks that follow from a run that led to `state`."""
    if "chain" not in headers and "link" not in headers and "link_error" not in headers:
        return ()
    try:
        if state is State.SUCCESS:
            flows = [rest_of(headers), *map(flow_of, headers.get("link") or ())]
        elif state is State.FAILURE:
            flows = [*map(flow_of, headers.get("link_error") or ())]
        else:
            return ()
        firsts = [first for flow in flows if flow for first in start(flow[:1])]
    except DecodeError:
        return ()  # a broken message: what follows says so
    return tuple(first.step.id for first in firsts if first.step.id)
