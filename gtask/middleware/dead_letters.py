"""Dead letters: parks what failed for good, so that somebody can look at it and send it again. Design, section 6.

The letter is submitted together with what else follows from the task, after its result is stored and before its job is
ended. Nothing hangs on it but a look afterwards: where the job server goes on refusing it, it is let go.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from gtask.context import TaskContext
from gtask.errors import BadArguments, EncodeError
from gtask.failures import type_name
from gtask.letters import Letter, dead_function, encode_letter, read_history
from gtask.message import is_own_unique, wire_unique
from gtask.middleware.base import Middleware, Next
from gtask.options import priority_of
from gtask.signing import Keyring
from gtask.states import ErrorInfo, Outcome, State
from gtask.types import Submission
from gtask.worker.job import Job

if TYPE_CHECKING:
    from gtask.app import App

log = logging.getLogger("gtask.worker")


class DeadLetters(Middleware):
    """Parks a background task's final FAILURE in ``<task>.dead``; it stands outside of all that may fail a task.

    The setting `dead_letters` turns it off for an App, the task option of the same name for a task.
    """

    options = frozenset({"dead_letters"})

    async def executing(self, call_next: Next, context: TaskContext) -> Outcome:
        """Runs, and parks what failed for good."""
        outcome = await call_next(context)
        if outcome.state is State.FAILURE:
            park(context, outcome)
        return outcome


def parks(context: TaskContext) -> bool:
    """Whether the task is to be parked when it fails for good: nobody else would be told of it."""
    wanted = context.task.extra_options.get("dead_letters", context.task.app.settings.dead_letters)
    # A chord's body that fails for the sake of a member was never run: the member is what is parked.
    return bool(wanted) and not context.foreground and "fail" not in context.message.headers


def park(context: TaskContext, outcome: Outcome) -> None:
    """Adds the letter about a failure to what is submitted before the job is ended."""
    bare = _misfits(context, outcome)
    if not bare and not parks(context):
        return
    message, headers = context.message, context.message.headers
    runs = context.retries + int(headers.get("runs", 0))
    chance = context.task.app.random_bytes(16).hex()
    letter = Letter(
        id=wire_unique(context.id, runs) if context.id else chance,
        task=message.task,
        task_id=context.id,
        function=context.function,
        unique=wire_unique(context.id, runs),
        message=context.workload,
        error=outcome.error or ErrorInfo("", "The task failed without saying why."),
        failed_at=outcome.finished or context.task.app.now(),
        worker=outcome.worker or context.worker,
        priority=str(priority_of(headers.get("priority", "normal"))),
        retries=context.retries,
        history=read_history(headers.get("history")),
        stored=_stored(context),
        refused=bare,  # it is sent again as it came
    )
    context.letters.extend(seal_letter(letter, chance, context.task.app.settings.signing_keys))


def _misfits(context: TaskContext, outcome: Outcome) -> bool:
    """Whether this is a bare value, such as PHP sends, that does not fit the task.

    It is parked as bytes are that cannot be read: whether its caller waits to be told cannot be seen.
    """
    wanted = context.task.extra_options.get("dead_letters", context.task.app.settings.dead_letters)
    bare = not context.message.form.is_envelope
    return bool(wanted) and bare and outcome.error is not None and outcome.error.type == _MISFIT


_MISFIT: Final = type_name(BadArguments)


def _stored(context: TaskContext) -> str:
    """Where a result is kept of the task, or of a step behind it that will never run."""
    store, headers = context.task.app.store, context.message.headers
    kept = context.id and (not headers.get("ignore_result") or headers.get("chain"))
    return type(store).__name__ if store is not None and kept else ""


def park_refused(
    app: App, job: Job, error: ErrorInfo, worker: str, task_id: str = "", stored: bool = False
) -> tuple[Submission, ...]:
    """The letter of a job that cannot be decoded, with its bytes; none where letters are turned off.

    Whether a caller waits for it cannot be told, so it is parked in any case.
    """
    task = app.tasks.get(job.function)
    options = {} if task is None else task.extra_options
    if not options.get("dead_letters", app.settings.dead_letters):
        return ()
    chance = app.random_bytes(16).hex()
    letter = Letter(
        id=job.unique if is_own_unique(job.function, job.unique) else chance,
        task=job.function,
        task_id=task_id,
        function=job.function,
        unique=job.unique,
        message=job.workload,
        error=error,
        failed_at=app.now(),
        worker=worker,
        stored=type(app.store).__name__ if stored else "",
        refused=True,
    )
    return seal_letter(letter, chance, app.settings.signing_keys)


def seal_letter(letter: Letter, chance: str, keys: Keyring | None = None) -> tuple[Submission, ...]:
    """The job that parks a letter, under a unique by chance; none when it is too large for a job server.

    With `keys` it is signed. That says who parked it, and nothing of the message inside, which is as it came.
    """
    function = dead_function(letter.task)
    try:
        workload = encode_letter(letter)
        if keys is not None:
            workload = keys.sign(function, workload, letter.failed_at)
        return (Submission(function, workload, chance),)
    except EncodeError as error:
        log.error("Task %s[%s] failed for good and cannot be parked: %s", letter.task, letter.task_id, error)
        return ()
