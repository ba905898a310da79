"""Every exception gtask raises, in one tree under `GtaskError`.

A message says what is wrong and what to do next. A class's docstring starts with the sentence that is used when
no message is given, so that even a bare ``raise QueueFull()`` tells its reader what to do.
"""

from __future__ import annotations


class GtaskError(Exception):
    """Something in gtask went wrong."""

    def __str__(self) -> str:
        return super().__str__() or (type(self).__doc__ or "").partition("\n")[0]


# --- the wire ------------------------------------------------------------------------------------------------


class ProtocolError(GtaskError):
    """The Gearman protocol was not followed."""


class LocalProtocolError(ProtocolError):
    """This side tried to send something the protocol does not allow; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The other side sent bytes that are not Gearman; the connection is to be closed."""


class ServerError(GtaskError):
    """The job server refused a request.

    `code` and `text` are those of its ERROR packet (protocol reference, section 4). Where several jobs were sent
    together, as those of a group, `taken` and `refused` are the ids of their tasks, in the order of the group.
    """

    def __init__(
        self,
        code: str = "",
        text: str = "",
        message: str = "",
        taken: tuple[str, ...] = (),
        refused: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message or f"The job server answered {code or 'ERROR'}: {text or 'no reason given'}.")
        self.code = code
        self.text = text
        self.taken = taken
        self.refused = refused


class QueueFull(ServerError):
    """The queue of this function is full (`maxqueue` on the job server); call again later or raise the limit."""


class NetworkError(GtaskError, OSError):
    """The network failed between here and the job server."""


class ConnectFailed(NetworkError):
    """No job server could be reached; check that one runs at the configured address (`gtask server` starts one)."""


class ConnectionLost(NetworkError):
    """The connection to the job server was cut; call again, it reconnects by itself."""


class RequestTimeout(NetworkError, TimeoutError):
    """The job server did not answer in time; its connection was closed, and the next call opens a new one."""


# --- settings ------------------------------------------------------------------------------------------------


class ConfigurationError(GtaskError):
    """A setting is wrong."""


class UnknownOption(ConfigurationError, TypeError):
    """No option has this name."""


class UnknownTask(ConfigurationError, LookupError):
    """No task of this name is registered in the app."""


class DuplicateTask(ConfigurationError):
    """Two tasks of one app have the same name; give one of them `name=`."""


class StoreRequired(ConfigurationError):
    """This needs a result store; create the App with `results="gearman://"` or another store's URL."""


# --- bytes and values ----------------------------------------------------------------------------------------


class SerializationError(GtaskError):
    """A value does not survive the trip."""


class EncodeError(SerializationError, TypeError):
    """This value cannot be sent; use plain values, datetime, Decimal, UUID, Enum or dataclasses."""


class DecodeError(SerializationError, ValueError):
    """These bytes are not a message gtask can read."""


class SignatureError(DecodeError):
    """This message is not signed with a key that is known here; give both sides the same `signing_keys`."""


class BadArguments(GtaskError, TypeError):
    """This call does not fit the task's parameters or their annotations; it was not sent, or not run."""


# --- tasks ---------------------------------------------------------------------------------------------------


class TaskError(GtaskError):
    """A task did not succeed."""


class TaskFailed(TaskError):
    """A task raised an exception that is not one of those rebuilt by name.

    `type` is the name of the exception's class where it was raised, `message` its text, `traceback` the remote
    traceback as text, or None where the other side sent none.
    """

    def __init__(self, type: str = "", message: str = "", traceback: str | None = None) -> None:
        super().__init__(f"{type}: {message}" if type and message else type or message)
        self.type = type
        self.message = message
        self.traceback = traceback


class TaskRevoked(TaskError):
    """The task was revoked before it finished."""


class TaskExpired(TaskError):
    """The task was not started before its `expires` time, so it was not run."""


class TimeLimitExceeded(TaskError, TimeoutError):
    """The task ran longer than its `time_limit`; its process was ended and the job is not run again."""


class SoftTimeLimitExceeded(TaskError, TimeoutError):
    """The task ran longer than its `soft_time_limit`; raised inside the task, which may catch it to clean up."""


class MaxRetriesExceeded(TaskError):
    """The task asked to be run again, for no error that it named, and all of its retries are used up."""


class WorkerLost(TaskError):
    """The task's process died each time it was run (`max_crashes` times), so it is not run again."""


# --- results -------------------------------------------------------------------------------------------------


class ResultError(GtaskError):
    """A result could not be had."""


class ResultTimeout(ResultError, TimeoutError):
    """The result was not there in time; the task may still be waiting or running: call `get()` again."""


class WaitInTask(ResultError, RuntimeError):
    """A task waited for another one, which could stop its pool for ever; write a chain or a chord instead."""


class ResultsUnavailable(ResultError):
    """No results service answers; start `gtask results`, or choose another store for the App."""


class StreamBroken(ResultError):
    """A stream ended before its time: its worker was lost on the way, or a part of it; call it again."""


class JobFailed(TaskError):
    """The worker reported that the job failed, without saying why (WORK_FAIL)."""


class JobException(TaskError):
    """The worker reported an exception (WORK_EXCEPTION); `data` holds its bytes."""

    def __init__(self, data: bytes = b"") -> None:
        super().__init__(f"The worker reported an exception: {data[:500].decode(errors='replace')}")
        self.data = data
