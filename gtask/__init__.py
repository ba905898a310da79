"""gtask: tasks for Python on Gearman.

Each name is loaded from its home when it is first asked for: the command line imports this package too, and has to be
there at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from gtask.app import App
    from gtask.canvas import Chain, Chord, Group, GroupChain, chain, chord, group, signature
    from gtask.context import TaskContext, current_task
    from gtask.errors import (
        BadArguments,
        ConfigurationError,
        ConnectFailed,
        ConnectionLost,
        GtaskError,
        MaxRetriesExceeded,
        NetworkError,
        QueueFull,
        ResultError,
        ResultsUnavailable,
        ResultTimeout,
        SerializationError,
        ServerError,
        SignatureError,
        SoftTimeLimitExceeded,
        StoreRequired,
        StreamBroken,
        TaskError,
        TaskExpired,
        TaskFailed,
        TaskRevoked,
        TimeLimitExceeded,
        UnknownOption,
        UnknownTask,
        WaitInTask,
        WorkerLost,
    )
    from gtask.group_result import GroupResult
    from gtask.progress import Progress
    from gtask.result import AsyncResult
    from gtask.retry import Retry
    from gtask.signatures import Signature
    from gtask.states import State
    from gtask.streams import AsyncStream, Stream
    from gtask.task import Task
    from gtask.transport.tls import TLS
    from gtask.types import Priority

__all__ = [
    # tasks
    "App",
    "Priority",
    "Retry",
    "TLS",
    "Task",
    "TaskContext",
    "current_task",
    # canvas
    "Chain",
    "Chord",
    "Group",
    "GroupChain",
    "Signature",
    "chain",
    "chord",
    "group",
    "signature",
    # results
    "AsyncResult",
    "AsyncStream",
    "GroupResult",
    "Progress",
    "State",
    "Stream",
    # errors
    "BadArguments",
    "ConfigurationError",
    "ConnectFailed",
    "ConnectionLost",
    "GtaskError",
    "MaxRetriesExceeded",
    "NetworkError",
    "QueueFull",
    "ResultError",
    "ResultTimeout",
    "ResultsUnavailable",
    "SerializationError",
    "ServerError",
    "SignatureError",
    "StoreRequired",
    "SoftTimeLimitExceeded",
    "StreamBroken",
    "TaskError",
    "TaskExpired",
    "TaskFailed",
    "TaskRevoked",
    "WaitInTask",
    "TimeLimitExceeded",
    "UnknownOption",
    "UnknownTask",
    "WorkerLost",
]

_ERRORS: Final = "gtask.errors"
_HOMES: Final = {  # names that are in none of these are errors
    "gtask.app": "App",
    "gtask.canvas": "Chain Chord Group GroupChain chain chord group signature",
    "gtask.context": "TaskContext current_task",
    "gtask.group_result": "GroupResult",
    "gtask.progress": "Progress",
    "gtask.result": "AsyncResult",
    "gtask.retry": "Retry",
    "gtask.signatures": "Signature",
    "gtask.states": "State",
    "gtask.streams": "AsyncStream Stream",
    "gtask.task": "Task",
    "gtask.transport.tls": "TLS",
    "gtask.types": "Priority",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = next((module for module, names in _HOMES.items() if name in names.split()), _ERRORS)
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
