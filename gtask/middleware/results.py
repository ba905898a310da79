"""Results: writes down what a run led to, and has it stored where there is a store. Design, sections 4 and 6."""

from __future__ import annotations

import time

from gtask.context import TaskContext
from gtask.errors import EncodeError
from gtask.failures import error_info
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
            try:
                record = outcome_to_record(outcome)
            except EncodeError as error:
                outcome.state, outcome.value, outcome.error = State.FAILURE, None, error_info(error)
                record = outcome_to_record(outcome)
            context.records.append(record)
        return outcome


def keeps_result(context: TaskContext) -> bool:
    """Whether the outcome of this run is to be stored."""
    return (
        bool(context.id)
        and not context.foreground
        and not context.message.headers.get("ignore_result")
        and context.task.app.store is not None
    )
