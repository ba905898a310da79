"""From a call to a job: what is put into the message, and which function of the job server it goes to.

Pure but for the clock and chance, which come from the App. Three ways (design, sections 5 and 6a):

* a call of a gtask task is a job of the task's own function;
* a call with a time is a job of `gtask.later` or one of its kin, which any gtask worker moves into the task's queue
  when it is due;
* a call of a function that lives in another language is a job of that function, or of `gtask.call` where a result
  or a next step hangs on it, since a foreign worker knows nothing of these.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from gtask.codecs import pack, unpack
from gtask.context import current_task
from gtask.errors import ConfigurationError, DecodeError, EncodeError
from gtask.message import Message, SignatureData, encode_foreign, encode_message, new_task_id, wire_unique
from gtask.middleware.base import Stack
from gtask.options import TASK_NAME, Options, moment_of, priority_of, seconds_of
from gtask.settings import Settings
from gtask.signing import Keyring
from gtask.types import MAX_UNIQUE, Priority, Submission

LATER: Final = "gtask.later"
"""Holds the jobs that are due within minutes, with their time: it is looked through about once a second."""

SOON: Final = "gtask.later.soon"
"""Holds the jobs that are due in a moment, as ordinary jobs without a time: whoever moves them is woken for them."""

FAR: Final = "gtask.later.far"
"""Holds the jobs that are due much later, with a time shortly before their own: it is looked through now and then."""

DELAYED: Final = (SOON, LATER, FAR)
"""The functions of delayed jobs. gearmand looks through all that wait for their time in a function whenever a worker
grabs from it (protocol reference, section 16), so those that are far away are not to stand before those that are near.
"""

CALL: Final = "gtask.call"

SOON_WITHIN: Final = 2.0
FAR_BEYOND: Final = 300.0
"""Seconds of delay up to which a job goes to `SOON`, and beyond which to `FAR`."""

AHEAD: Final = 3.0
FAR_AHEAD: Final = 120.0
"""Seconds before it is due that a job of `LATER`, and one of `FAR`, is handed out: time enough for a look at it."""

LONGEST_DELAY: Final = 10 * 366 * 86400
"""Seconds into the future that a call may be delayed: a longer one is a slip of a unit."""


LATEST: Final = 1e12
"""Unix seconds beyond which no delayed job is taken for one."""

_UNIQUE: Final = re.compile(rf"[!-~]{{1,{MAX_UNIQUE}}}")


class Later(NamedTuple):
    """What a delayed job carries: the job to submit when it is due, at `due` in Unix seconds."""

    function: str
    unique: str
    priority: str
    due: float
    workload: bytes


def pack_later(later: Later) -> bytes:
    """The workload of a delayed job."""
    return pack(list(later))


def unpack_later(workload: bytes) -> Later:
    """Reads the workload of a delayed job; raises `DecodeError` when it is none."""
    found = unpack(workload)
    if not isinstance(found, list) or len(found) != 5:
        raise DecodeError(
            "This is no delayed job of gtask's; it holds five values: function, unique, priority, due, job."
        )
    function, unique, priority, due, inner = found
    if not (isinstance(function, str) and isinstance(unique, str) and isinstance(inner, bytes)):
        raise DecodeError("A delayed job's function and unique are text and its workload is bytes.")
    if not TASK_NAME.fullmatch(function) or not _UNIQUE.fullmatch(unique):
        raise DecodeError("A delayed job's function and unique are none that a job server carries.")
    if not isinstance(due, int | float) or isinstance(due, bool) or not -LATEST < due < LATEST:
        raise DecodeError("A delayed job's due time is a Unix time in seconds.")
    if priority not in tuple(Priority):
        raise DecodeError("A delayed job's priority is high, normal or low.")
    return Later(function, unique, priority, float(due), inner)


def later_submission(
    later: Later, unique: str, now: float, keys: Keyring | None = None, pause: float = 0.0
) -> Submission:
    """The job that waits for its time on the job server, in one of `DELAYED`; `now` is in Unix seconds.

    It is handed out a little before it is due: a job server counts whole seconds, and gearmand 1.1 wakes nobody. One
    that has to wait for another reason waits for `pause` seconds, whether it is due or not.
    """
    ready = max(later.due, now + pause)
    left = ready - now
    when: int | None = None
    if left <= SOON_WITHIN:
        function = SOON
    elif left <= FAR_BEYOND:
        function, when = LATER, int(ready - AHEAD)
    else:
        function, when = FAR, int(ready - FAR_AHEAD)
    workload = pack_later(later)
    if keys is not None:
        workload = keys.sign(function, workload, max(now, later.due))
    return Submission(function, workload, unique, when=when)


@dataclass(slots=True)
class Sending:
    """One call on its way out: the message and everything about its job that is not in the message.

    `due` is the Unix time before which it must not run, None for at once. `codec` is set for what is submitted without
    an envelope; `plain` for what goes to a function in another language, which knows no signatures.
    """

    message: Message
    function: str
    priority: Priority
    foreground: bool = False
    due: float | None = None
    codec: str | None = None
    plain: bool = False


class Tasks(Protocol):
    """What a publisher asks of an App: the options of a task, by name."""

    def options_of(self, name: str) -> tuple[Options, str | None]:
        """The options of a task and, for a function in another language, its codec."""


class Publisher:
    """Makes sendings of steps and submissions of sendings, for one App."""

    def __init__(self, tasks: Tasks, settings: Settings, stack: Stack, stores: bool) -> None:
        self._tasks = tasks
        self._settings = settings
        self._stack = stack
        self._stores = stores

    def prepare(
        self,
        step: SignatureData,
        now: float,
        rest: Sequence[Any] = (),
        foreground: bool = False,
        sealed: bool = False,
        chord: Any = None,
    ) -> Sending:
        """Makes the sending of one step and of `rest` behind it (nodes, next one last), whose end counts in `chord`.

        A `sealed` one is to be opened again before it is sent, so it is an envelope wherever it goes.
        """
        options, codec = self._tasks.options_of(step.task)
        codec = step.codec or codec
        plain = codec is not None
        if codec is None and foreground and options.codec == "raw":
            # A raw task takes whatever comes for bytes, unless it knows from the job's unique that gtask sent it.
            codec = "raw"
        given = step.options
        priority = priority_of(given.get("priority") or options.priority)
        due = self._due(given, now)
        headers = dict(given.get("headers") or {})
        headers["task"] = step.task
        headers["sent"] = now
        headers["origin"] = origin()
        if priority is not Priority.NORMAL:
            headers["priority"] = str(priority)
        expires = given.get("expires", options.expires)
        if expires is not None:
            headers["expires"] = moment_of(expires, now)
        if due is not None:
            headers["eta"] = due
        if "max_retries" in given:
            headers["max_retries"] = given["max_retries"]
        for name in ("time_limit", "soft_time_limit"):
            if name in given:
                headers[name] = None if given[name] is None else seconds_of(given[name])
        if given.get("ignore_result", options.ignore_result or self._settings.ignore_result):
            headers["ignore_result"] = True
        for name in ("link", "link_error"):
            if given.get(name):
                headers[name] = list(given[name])
        if rest:
            headers["chain"] = list(rest)
        if chord is not None:
            headers["chord"] = chord
        if given.get("over"):
            headers["over"] = given["over"]
        if foreground:
            self._check_foreground(step, due, headers)
            headers["fg"] = True
        context = current_task()
        task_id = step.id or new_task_id(step.task, os.urandom(12))
        if context is not None:
            headers.setdefault("parent", context.id)
            headers.setdefault("root", context.root_id)
        message = Message(task_id, step.task, tuple(step.args), dict(step.kwargs), headers)
        if codec is None:
            return Sending(message, step.task, priority, foreground, due)
        sending = self._foreign(message, codec, priority, foreground, due, sealed)
        sending.plain = plain and sending.codec is not None
        return sending

    def _due(self, given: Mapping[str, Any], now: float) -> float | None:
        countdown, eta = given.get("countdown"), given.get("eta")
        if countdown is not None and eta is not None:
            raise ConfigurationError("countdown and eta both say when the task is to run; give one of them.")
        if countdown is None and eta is None:
            return None
        due = moment_of(eta if countdown is None else countdown, now)  # type: ignore[arg-type]
        if due > now + LONGEST_DELAY:
            raise ConfigurationError("The task is to run in more than ten years; countdown is in seconds.")
        return due if due > now else None

    def _check_foreground(self, step: SignatureData, due: float | None, headers: Mapping[str, Any]) -> None:
        refused = [name for name in ("chain", "link", "link_error") if headers.get(name)]
        if step.options.get("unique") is not None:
            refused.append("unique")
        if due is not None:
            refused.append("countdown or eta")
        if refused:
            raise ConfigurationError(
                f"call() of {step.task} cannot have {' and '.join(refused)}: a foreground call is a single task that "
                "runs at once. Use delay() or apply_async() for the rest."
            )

    def _foreign(
        self, message: Message, codec: str, priority: Priority, foreground: bool, due: float | None, sealed: bool
    ) -> Sending:
        headers = message.headers
        wanted = sealed or (self._stores and not headers.get("ignore_result"))
        if foreground or not (wanted or any(headers.get(name) for name in ("chain", "chord", "link", "link_error"))):
            return Sending(message, message.task, priority, foreground, due, codec)
        headers["foreign"] = codec
        return Sending(message, CALL, priority, False, due)

    def seal(self, sending: Sending) -> Submission:
        """Encodes a sending, inside the `publishing` hooks; raises `EncodeError` when it cannot be sent."""
        with ExitStack() as hooks:
            return self.enter(sending, hooks)

    def enter(self, sending: Sending, hooks: ExitStack) -> Submission:
        """As `seal`, but leaves the hooks open in `hooks`, for a caller who wants them to see the sending as well."""
        message = sending.message
        for middleware in self._stack.publishing:
            manager = middleware.publishing(message)
            # Most have nothing to leave again.
            message = manager.enter_result if isinstance(manager, nullcontext) else hooks.enter_context(manager)
        if sending.codec is None:
            workload = encode_message(message)
        else:
            workload = encode_foreign(message.args, message.kwargs, sending.codec)
            if not workload and not sending.foreground:
                raise EncodeError(
                    f"A background job of {message.task} without a single byte is not sent: gearmand with the "
                    "libsqlite3 queue would never start again. Use call(), or send something."
                )
        keys = self._settings.signing_keys
        if keys is not None and not sending.plain:
            workload = keys.sign(sending.function, workload, max(time.time(), sending.due or 0.0))
        if len(workload) > self._settings.max_message:
            raise EncodeError(
                f"The message of {message.task} has {len(workload)} bytes and max_message allows "
                f"{self._settings.max_message}; send a reference to large data instead, or raise the setting."
            )
        if sending.foreground:
            return Submission(sending.function, workload, "", sending.priority, background=False)
        retries = int(message.headers.get("retries", 0)) + int(message.headers.get("runs", 0))
        unique = wire_unique(message.id, retries)
        if sending.due is None:
            return Submission(sending.function, workload, unique, sending.priority)
        later = Later(sending.function, unique, str(sending.priority), sending.due, workload)
        return later_submission(later, wire_unique(message.id, retries, later=True), time.time(), keys)

    def pack(self, function: str, items: Sequence[bytes]) -> bytes:
        """The workload of a job of `function` that carries `items`, one after the other."""
        workload, keys = b"".join(items), self._settings.signing_keys
        return workload if keys is None else keys.sign(function, workload, time.time())

    def again(self, message: Message, function: str, due: float) -> Submission:
        """The next run of a task, as a job of its own under the same id (design, section 6a)."""
        headers = {**message.headers, "retries": int(message.headers.get("retries", 0)) + 1, "eta": due}
        following = Message(message.id, message.task, message.args, message.kwargs, headers)
        priority = priority_of(headers.get("priority", Priority.NORMAL))
        return self.seal(Sending(following, function, priority, due=due))


_origin = (0, "")


def origin() -> str:
    """Who sends: host and process, as `host:pid`."""
    global _origin
    pid = os.getpid()
    if _origin[0] != pid:
        _origin = (pid, f"{socket.gethostname()}:{pid}")
    return _origin[1]
