"""Canvas: goes on from an outcome to the next step of a chain, to links, and to those who wait behind a failure.

What follows is submitted after the result is stored and before the job is ended, each confirmed before the next
(design, section 6), so a crash repeats a step and never loses the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gtask.context import TaskContext
from gtask.errors import ConfigurationError, SerializationError
from gtask.failures import error_info
from gtask.flows import Place, flow_of, place_of, rest_of, start
from gtask.message import SignatureData
from gtask.middleware.base import Middleware, Next
from gtask.results.joins import Body, Join, failed_of, records_behind
from gtask.results.records import outcome_to_record
from gtask.states import Outcome, State

if TYPE_CHECKING:
    from gtask.app import App


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
        rest, chord = rest_of(headers), headers.get("chord")
        if rest:
            self._start(context, rest, outcome.value, chord)
        elif chord is not None:
            self._hand_in(context, chord, outcome)
        for plain in headers.get("link") or []:
            self._start(context, flow_of(plain), outcome.value)

    def _fail(self, context: TaskContext, outcome: Outcome, headers: dict[str, Any]) -> None:
        # What was revoked, or came too late, has not failed: nobody is called for it.
        for plain in headers.get("link_error") or [] if outcome.state is State.FAILURE else ():
            error, (id, task) = outcome.error, _who_failed(context)
            what = {
                "id": id,
                "task": task,
                "type": error.type if error else "",
                "message": error.message if error else "",
                "traceback": error.traceback if error else None,
            }
            self._start(context, flow_of(plain), what)
        self._tell(context, outcome, headers)

    def _tell(self, context: TaskContext, outcome: Outcome, headers: dict[str, Any]) -> None:
        """Tells those behind a failure: the chord that the flow belongs to, and whoever waits for a later step."""
        if headers.get("chord") is not None:
            id, task = _who_failed(context)
            self._hand_in(context, headers["chord"], replace(outcome, id=id, task=task))
        # The steps that will never run fail with the same error, so that whoever waits for the last one is told.
        if context.task.app.store is not None:
            context.records += records_behind(replace(outcome, parent=context.id), headers)

    def _hand_in(self, context: TaskContext, chord: Any, outcome: Outcome) -> None:
        """Hands an outcome in to the chord that its message says it belongs to; with the chord's body, if it has it."""
        place = place_of(chord)
        body = None if place.body is None else self._sealed(context.task.app, place.body, place)
        context.joins.append(Join(place.id, place.position, place.size, outcome_to_record(outcome), body))

    def _sealed(self, app: App, step: SignatureData, place: Place) -> Body:
        """The body of a chord, whose results are still to be put in."""
        sealed = app.publisher.seal(app.publisher.prepare(step, app.now(), place.rest, sealed=True, chord=place.chord))
        if sealed.when is not None:
            raise ConfigurationError("The body of a chord runs when its members have; it takes no countdown or eta.")
        return Body(step.id, sealed.function, sealed.unique, str(sealed.priority), sealed.workload, step.immutable)

    def _start(self, context: TaskContext, flow: list[Any], value: Any, chord: Any = None) -> None:
        """Submits what a flow starts with, the value in front of its arguments."""
        app = context.task.app
        for first in start(flow, (value,), chord):
            step = first.step
            if context.completed is not None:
                step = replace(step, options=_replayed(step.options))
            context.following.append(
                app.publisher.seal(app.publisher.prepare(step, app.now(), first.rest, chord=first.chord))
            )


def _who_failed(context: TaskContext) -> tuple[str, str]:
    """The id and the name of the task that failed: this one, or the member of a chord for whose sake it fails."""
    fail = context.message.headers.get("fail")
    if fail is None:
        return context.id, context.message.task
    failed = failed_of(fail)
    return failed.id, failed.task


def _replayed(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a step that may have been sent before: the worker that gets it asks the store first."""
    return {**options, "headers": {**(options.get("headers") or {}), "replayed": True}}
