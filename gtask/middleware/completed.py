"""Completed tasks: one whose outcome is in the store already is not run again. Design, section 6.

A job server may hand out a job once more that has run to its end: it did not hear of the end, or could not take the job
out of its queue. Whether a job may be such a one, and what the store has of it, `gtask.repeats` finds out beforehand.
"""

from __future__ import annotations

from gtask.context import TaskContext
from gtask.middleware.base import Middleware, Next
from gtask.states import Outcome


class Completed(Middleware):
    """Gives the outcome of the earlier run in place of another one; what follows from it is submitted again.

    Submitted again, since nobody knows whether the earlier run came so far; marked as such, so that a step that has run
    is recognised in its turn.
    """

    async def executing(self, call_next: Next, context: TaskContext) -> Outcome:
        """Runs what has not ended before."""
        return await call_next(context) if context.completed is None else context.completed
