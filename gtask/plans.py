"""What a call of one task sends, and the handle it gives: everything but the sending itself."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Final, NoReturn

from gtask.answers import FOREIGN, Form, decode_answer, decode_failure
from gtask.errors import (
    GtaskError,
    JobException,
    JobFailed,
    QueueFull,
    ResultTimeout,
    ServerError,
    SignatureError,
    StoreRequired,
    TaskFailed,
)
from gtask.failures import rebuild
from gtask.message import wire_unique
from gtask.protocol import WorkData, WorkStatus, WorkWarning
from gtask.protocol.codec import MAX_BODY
from gtask.publish import Sending
from gtask.result import AsyncResult
from gtask.signatures import Signature
from gtask.signing import Kind, proof_of
from gtask.states import ErrorInfo, State
from gtask.types import JobStatus, Submission
from gtask.unique import START, Asking, claiming, ends_at_start
from gtask.waiting import NO_STORE

if TYPE_CHECKING:
    from gtask.app import App
    from gtask.group_result import GroupResult

log = logging.getLogger("gtask.client")

LOOKED_AT: Final = 8
"""Runs of a task whose jobs are looked for on the job servers, when its store knows nothing: its first four, and as
many after it was sent again from its dead letter."""


@dataclass(frozen=True)
class Plan:
    """A call to make: what is sent first, and the handle of what comes out in the end."""

    sending: Sending
    handle: AsyncResult[Any]

    def under(self, task_id: str) -> Plan:
        """This call under the id that a store's claim has led to: its own, or that of one under way."""
        if task_id == self.handle.id:
            return self
        message = replace(self.sending.message, id=task_id)
        handle: AsyncResult[Any] = AsyncResult(self.handle.app, task_id, self.handle.task)
        return Plan(replace(self.sending, message=message), handle)


def make_plan(app: App, step: Signature[Any], foreground: bool = False) -> Plan:
    """The plan of one step; `foreground` for one to be called."""
    data = step.data(step.new_id())
    handle = handle_of(app, data.task, data.id, data.options)
    plan = Plan(app.publisher.prepare(data, app.now(), foreground=foreground), handle)
    handle._due = plan.sending.due
    return plan


def handle_of(
    app: App,
    task: str,
    task_id: str,
    options: Mapping[str, Any],
    parent: AsyncResult[Any] | GroupResult[Any] | None = None,
) -> AsyncResult[Any]:
    """The handle of a step, from its task's name, its id and its options as they travel."""
    handle: AsyncResult[Any] = AsyncResult(app, task_id, task, parent, bool(options.get("ignore_result")))
    handle._many = "over" in options
    return handle


def plan_unique(app: App, step: Signature[Any], key: str) -> Asking[tuple[Plan, bool]]:
    """The plan of a call with a key, and whether it is to be submitted: see `gtask.unique.claiming`.

    Its result is kept whatever `ignore_result` says, since a task's record is what ends its claim.
    """
    if app.store is None:
        raise StoreRequired(f"unique= ({key}) is decided by the result store. {NO_STORE}")
    until_start = ends_at_start(step)
    plan = make_plan(app, step.set(ignore_result=False))
    headers = plan.sending.message.headers
    headers["unique"] = key
    if until_start:
        headers["unique_until"] = START
    task_id, to_submit = yield from claiming(app, key, plan.handle.id)
    return plan.under(task_id), to_submit


class Call:
    """A foreground call: its submission, how to listen to it, and how to read its end."""

    def __init__(self, app: App, step: Signature[Any], hooks: ExitStack) -> None:
        self.app = app
        self.step = step
        self.sending = make_plan(app, step, foreground=True).sending
        self.submission = app.publisher.enter(self.sending, hooks)
        self.timeout = step.options.get("timeout")
        keys = app.settings.signing_keys
        self._keys = None if self.sending.plain else keys
        self._proof = b"" if self._keys is None else proof_of(self.submission.workload)

    def listener(self) -> Callable[[WorkData | WorkWarning | WorkStatus], None] | None:
        """What hears the job's packets, None when the caller gave nothing to hear them."""
        options = self.step.options
        on_progress, on_data, on_warning = (options.get(name) for name in ("on_progress", "on_data", "on_warning"))
        if not (on_progress or on_data or on_warning):
            return None

        def listen(event: WorkData | WorkWarning | WorkStatus) -> None:
            if isinstance(event, WorkStatus):
                if on_progress:
                    on_progress(_whole(event.numerator), _whole(event.denominator))
            elif isinstance(event, WorkData):
                if on_data and (data := self._heard(event.data, Kind.DATA)) is not None:
                    on_data(data)
            elif on_warning and (data := self._heard(event.data, Kind.WARNING)) is not None:
                on_warning(data)

        return listen

    def _heard(self, data: bytes, kind: Kind) -> bytes | None:
        """A piece of data or a warning; None for one whose signature is wrong, which is left out."""
        try:
            return self._opened(data, kind)
        except SignatureError as error:
            log.error("%s", error)
            return None

    def _opened(self, data: bytes, kind: Kind) -> bytes:
        """What is behind the signature of something that came back."""
        if self._keys is None:
            return data
        return self._keys.open(self.sending.function, data, kind=kind, proof=self._proof).workload

    def value(self, data: bytes) -> Any:
        """Decodes the answer."""
        data = self._opened(data, Kind.ANSWER)
        form = Form.ENVELOPE if self.sending.codec is None else FOREIGN[self.sending.codec]
        returns: Any = self.step.task.arguments.returns
        return decode_answer(data, form, returns if self.step.over is None else GenericAlias(list, returns))

    def failure(self, error: JobException) -> ErrorInfo:
        """Decodes a failure; raises `SignatureError` for one that is not by a worker with the same keys."""
        try:
            return decode_failure(self._opened(error.data, Kind.FAILURE))
        except SignatureError as refused:
            raise SignatureError(
                f"{self.step.task.name} failed, and why is not believed: {refused} A worker that does not know the key "
                "of a call refuses it so."
            ) from None

    def error(self, error: GtaskError) -> BaseException:
        """Makes the exception to raise of the one that the client raised."""
        if isinstance(error, JobException):
            try:
                return rebuild(self.failure(error), self.app.throws_of(self.step.task.name))
            except SignatureError as refused:
                return refused
        if isinstance(error, JobFailed):
            return TaskFailed("", f"{self.step.task.name} failed, and its worker did not say why (WORK_FAIL).")
        if isinstance(error, ResultTimeout):
            within = "in time" if self.timeout is None else f"within {self.timeout:g} s"
            return ResultTimeout(
                f"{self.step.task.name} did not answer {within}. Is a worker running for it? See `gtask status`."
            )
        return error


def _whole(text: bytes) -> int:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return 0


def seal_all(app: App, sendings: Iterable[Sending], hooks: ExitStack) -> list[Submission]:
    """Encodes what is sent first."""
    return [app.publisher.enter(sending, hooks) for sending in sendings]


def check_all(answers: Sequence[object], sendings: Sequence[Sending], unsent: int = 0) -> None:
    """Raises `QueueFull` or another `ServerError` when jobs of a canvas were refused, and says which went in.

    `answers` are those to `sendings`; `unsent` are members with `unique=` that would have been sent after them.
    """
    refused = {place: answer for place, answer in enumerate(answers) if isinstance(answer, ServerError)}
    if not refused:
        return
    first = next(iter(refused.values()))
    ids = [sending.message.id for sending in sendings]
    names = Counter(sendings[place].message.task for place in refused)
    told = ", ".join(f"{count} of {name}" for name, count in names.items())
    parts = [
        f"The job server refused {len(refused)} of {len(answers)} jobs that were sent together ({told}): {first}",
        "The others run (their ids: error.taken); a chord that one of the refused belongs to never ends.",
    ]
    if unsent:
        parts.append(f"{unsent} with unique= were not sent.")
    kind = QueueFull if all(isinstance(answer, QueueFull) for answer in refused.values()) else ServerError
    raise kind(
        first.code,
        first.text,
        " ".join(parts),
        taken=tuple(id for place, id in enumerate(ids) if place not in refused),
        refused=tuple(ids[place] for place in refused),
    )


def looked_at(task_id: str) -> list[str]:
    """The uniques under which a task's jobs may be known to the job servers."""
    return [wire_unique(task_id, retries, later) for retries in range(LOOKED_AT) for later in (False, True)]


def state_of(statuses: Sequence[JobStatus]) -> State:
    """The state that the job servers' answers for `looked_at` amount to: PROGRESS where a run has said some."""
    running = [status for status in statuses[::2] if status.running]
    if running:
        return State.PROGRESS if any(status.numerator or status.denominator for status in running) else State.STARTED
    return State.PENDING if any(status.known for status in statuses) else State.UNKNOWN


def in_background(step: Signature[Any]) -> bool:
    """Whether a call goes to the background."""
    return bool(step.options.get("background", step.task.config.background))


def client_options(app: App) -> dict[str, Any]:
    """What the App's settings say for its clients."""
    settings = app.settings
    return {
        "request_timeout": settings.request_timeout,
        "connect_timeout": settings.connect_timeout,
        "max_body": max(MAX_BODY, settings.max_message + 64 * 1024),
        "tls": settings.tls,
    }


def raise_made(made: BaseException, error: GtaskError) -> NoReturn:
    """Raises an exception made from the client's own."""
    if made is error:
        raise error
    raise made from (made.__cause__ or error)
