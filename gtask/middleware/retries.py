"""Retries: turns what a task raised into an outcome. Design, section 6a.

A background retry is a new job under the same task id, delayed on the job server and not in the worker's memory. A
foreground retry waits inside the worker without a slot: its caller is waiting on this very job.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from random import random

import anyio

from gtask.context import TaskContext
from gtask.errors import (
    BadArguments,
    MaxRetriesExceeded,
    StreamBroken,
    TaskExpired,
    TaskRevoked,
    TimeLimitExceeded,
    WorkerLost,
)
from gtask.failures import error_info
from gtask.letters import HISTORY_ROOM, add_attempt, read_history
from gtask.middleware.base import Middleware, Next
from gtask.middleware.dead_letters import parks
from gtask.retry import Retry, RetryPolicy
from gtask.states import ErrorInfo, Outcome, State


class Retries(Middleware):
    """Decides after each run that raised whether there is another one."""

    async def executing(self, call_next: Next, context: TaskContext) -> Outcome:
        """Runs, and makes an outcome of an exception."""
        try:
            return await call_next(context)
        except (TaskRevoked, TaskExpired) as error:
            return Outcome(context.id, State.REVOKED, error=error_info(error))
        except (BadArguments, WorkerLost, TimeLimitExceeded) as error:
            # What does not fit will not fit later; what kills its process, or has to be killed, would do it again.
            return Outcome(context.id, State.FAILURE, error=error_info(error))
        except Exception as error:
            return self._decide(context, error)
        except (SystemExit, KeyboardInterrupt, asyncio.CancelledError) as error:
            # A task's own `sys.exit()`, or a cancelled future it awaited, ends the task and not the worker.
            if isinstance(error, asyncio.CancelledError) and _is_worker_cancelled():
                raise
            return self._decide(context, error)

    def _decide(self, context: TaskContext, error: BaseException) -> Outcome:
        policy: RetryPolicy = context.task.config.retry
        if "max_retries" in context.message.headers and not (
            isinstance(error, Retry) and error.max_retries is not None
        ):
            policy = replace(policy, max_retries=context.max_retries)
        delay = policy.decide(error, context.retries, random)
        # The caller wants the reason for a retry, not the wish; a bare Retry is its own reason.
        info = error_info((error.reason or error) if isinstance(error, Retry) else error)
        if delay is not None and context.streamed:
            # Its reader has had a part: another run would send it that part again.
            if isinstance(error, Retry) and error.reason is None:
                info = error_info(StreamBroken("The task wants to be run again, and its stream has begun already."))
            return Outcome(context.id, State.FAILURE, error=info)
        if delay is None:
            if isinstance(error, Retry) and error.reason is None:
                info = error_info(
                    MaxRetriesExceeded(
                        f"The task asked to be run again, and its {context.retries} retries are used up."
                    )
                )
            return Outcome(context.id, State.FAILURE, error=info)
        _remember(context, info)
        return Outcome(context.id, State.RETRY, error=info, delay=delay)


def _remember(context: TaskContext, error: ErrorInfo) -> None:
    """Has the next run carry the error of this one along, for the dead letter that it may end in."""
    if parks(context) and len(context.workload) + HISTORY_ROOM <= context.task.app.settings.max_message:
        headers = context.message.headers
        headers["history"] = add_attempt(read_history(headers.get("history")), error, context.task.app.now())


def _is_worker_cancelled() -> bool:
    """Whether the event loop's own tasks are being cancelled, rather than something that a task waited for."""
    try:
        return anyio.current_effective_deadline() == -math.inf
    except RuntimeError:  # not in an event loop
        return False
