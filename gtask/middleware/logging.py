"""What a worker says of its tasks: received, succeeded, failed, retried, with the task's id."""

from __future__ import annotations

import logging
import reprlib
import time
from typing import Final

from gtask.context import TaskContext
from gtask.middleware.base import Middleware, Next
from gtask.states import Outcome, State

log = logging.getLogger("gtask.task")

SHORTENED: Final = 200
"""Characters of a result or an error that a line shows."""

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = SHORTENED


class Logging(Middleware):
    """Writes a line when a task is received and one when it has ended.

    The lines carry the fields `task`, `task_id`, `state`, `runtime` (seconds) and `retries` for log handlers that
    keep fields apart, as ``--json-logs`` does.
    """

    async def executing(self, call_next: Next, context: TaskContext) -> Outcome:
        """Logs around the run."""
        name, task_id = context.task.name, context.id
        if log.isEnabledFor(logging.INFO):
            log.info("Task %s[%s] received", name, task_id, extra={"task": name, "task_id": task_id})
        started = time.perf_counter()
        outcome = await call_next(context)
        seconds = time.perf_counter() - started
        if context.completed is not None:
            log.info("Task %s[%s] is not run again: it has ended before (%s)", name, task_id, outcome.state)
            return outcome
        level = logging.INFO if outcome.state in (State.SUCCESS, State.RETRY, State.REVOKED) else logging.ERROR
        if not log.isEnabledFor(level):
            return outcome
        fields = {
            "task": name,
            "task_id": task_id,
            "state": str(outcome.state),
            "runtime": round(seconds, 6),
            "retries": context.retries,
        }
        error = outcome.error
        reason = "" if error is None else _short(f"{error.type}: {error.message}" if error.message else error.type)
        if outcome.state is State.SUCCESS:
            log.info("Task %s[%s] succeeded in %.3f s: %s", name, task_id, seconds, _short(outcome.value), extra=fields)
        elif outcome.state is State.RETRY:
            log.info("Task %s[%s] retried in %.1f s: %s", name, task_id, outcome.delay, reason, extra=fields)
        elif outcome.state is State.REVOKED:
            log.info("Task %s[%s] not run: %s", name, task_id, reason, extra=fields)
        else:
            trace = f"\n{error.traceback.rstrip()}" if error is not None and error.traceback else ""
            log.error("Task %s[%s] failed in %.3f s: %s%s", name, task_id, seconds, reason, trace, extra=fields)
        return outcome


def _short(value: object) -> str:
    try:
        text = value[: SHORTENED * 2] if isinstance(value, str) else _repr.repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    line = " ".join(text.split())
    return line if len(line) <= SHORTENED else line[: SHORTENED - 3] + "..."
