"""Canvas: goes on from an outcome to the next step of a chain, to links, and to those who wait behind a failure.

What follows is submitted after the result is stored and before the job is ended, each confirmed before the next
(design, section 6), so a crash repeats a step and never loses the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gtask.context import TaskContext
from gtask.errors import ConfigurationError, DecodeError, SerializationError
from gtask.failures import error_info
from gtask.message import SignatureData
from gtask.middleware.base import Middleware, Next
from gtask.results.joins import Body, Join
from gtask.results.records import outcome_to_record
from gtask.states import Outcome, State


class Canvas(Middleware):
    """Submits what follows a task."""

    async def executing(self, call_next: Next, context: TaskContext) -> Outcome:
        """Runs, then adds what follows to `context.following`."""
        outcome = await call_next(context)
        if context.foreground:
            return outcome
        own = len(context.records)
        try:
            self._follow(context, outcome, context.message.headers)
        except (SerializationError, ConfigurationError) as error:
            # What follows cannot be sent, which fails this task too: those who wait behind it are told.
            outcome.state, outcome.value, outcome.error = State.FAILURE, None, error_info(error)
            outcome.children = ()
            context.following.clear()
            context.joins.clear()
            del context.records[own:]
            if context.records:
                context.records[-1] = outcome_to_record(outcome)
            self._tell(context, outcome, context.message.headers)
        return outcome

    def _follow(self, context: TaskContext, outcome: Outcome, headers: dict[str, Any]) -> None:
        if outcome.state is State.RETRY:
            due = context.task.app.now() + outcome.delay
            context.following.append(context.task.app.publisher.again(context.message, context.function, due))
        elif outcome.state is State.SUCCESS:
            self._go_on(context, outcome, headers)
        else:
            self._fail(context, outcome, headers)

    def _go_on(self, context: TaskContext, outcome: Outcome, headers: dict[str, Any]) -> None:
        rest = headers.get("chain") or []
        if rest:
            self._submit(context, rest[-1], outcome.value, rest[:-1])
        else:
            self._hand_in(context, headers.get("chord"), outcome)
        for plain in headers.get("link") or []:
            self._submit(context, plain, outcome.value)

    def _fail(self, context: TaskContext, outcome: Outcome, headers: dict[str, Any]) -> None:
        error = outcome.error
        # What was revoked, or came too late, has not failed: nobody is called for it.
        for plain in headers.get("link_error") or [] if outcome.state is State.FAILURE else ():
            what = {
                "id": context.id,
                "task": context.message.task,
                "type": error.type if error else "",
                "message": error.message if error else "",
                "traceback": error.traceback if error else None,
            }
            self._submit(context, plain, what)
        self._tell(context, outcome, headers)

    def _tell(self, context: TaskContext, outcome: Outcome, headers: dict[str, Any]) -> None:
        """Tells those behind a failure: the chord that the chain belongs to, and whoever waits for a later step."""
        rest = headers.get("chain") or []
        last = SignatureData.from_list(rest[0]).options.get("headers") or {} if rest else headers
        self._hand_in(context, last.get("chord"), outcome)
        # The steps that will never run fail with the same error, so that whoever waits for the last one is told.
        if context.task.app.store is None:
            return
        for plain in reversed(rest):
            step = SignatureData.from_list(plain)
            if step.id and not step.options.get("ignore_result"):
                failed = replace(outcome, id=step.id, task=step.task, value=None, parent=context.id)
                context.records.append(outcome_to_record(failed))

    def _hand_in(self, context: TaskContext, where: Any, outcome: Outcome) -> None:
        """Hands an outcome in to the chord that its message says it belongs to, with the chord's body, sealed."""
        if where is None:
            return
        match where:
            case {"id": str(chord), "index": int(index), "size": int(size), "body": [first, *rest]}:
                step = SignatureData.from_list(first)
            case _:
                raise DecodeError(f"The chord of {context.id} is none as gtask sends it: {where!r:.100}.")
        app = context.task.app
        sealed = app.publisher.seal(app.publisher.prepare(step, app.now(), list(reversed(rest)), sealed=True))
        if sealed.when is not None:
            raise ConfigurationError("The body of a chord runs when its members have; it takes no countdown or eta.")
        body = Body(step.id, sealed.function, sealed.unique, str(sealed.priority), sealed.workload, step.immutable)
        context.joins.append(Join(chord, index, size, outcome_to_record(outcome), body))

    def _submit(self, context: TaskContext, plain: Any, value: Any, rest: Any = ()) -> None:
        step = SignatureData.from_list(plain)
        if not step.immutable:
            step = replace(step, args=(value, *step.args))
        if context.completed is not None:
            step = replace(step, options=_replayed(step.options))
        app = context.task.app
        context.following.append(app.publisher.seal(app.publisher.prepare(step, app.now(), rest)))


def _replayed(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a step that may have been sent before: the worker that gets it asks the store first."""
    return {**options, "headers": {**(options.get("headers") or {}), "replayed": True}}
