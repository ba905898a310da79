"""gtask: tasks for Python on Gearman."""

from __future__ import annotations

from gtask.app import App
from gtask.canvas import Chain, Chord, Group, Signature, chain, chord, group, signature
from gtask.context import TaskContext, current_task
from gtask.errors import (
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    GtaskError,
    NetworkError,
    QueueFull,
    ResultError,
    ResultsUnavailable,
    ResultTimeout,
    SerializationError,
    ServerError,
    StoreRequired,
    TaskError,
    TaskExpired,
    TaskFailed,
    TaskRevoked,
    UnknownOption,
    UnknownTask,
)
from gtask.result import AsyncResult, GroupResult
from gtask.retry import Retry
from gtask.states import State
from gtask.task import Task
from gtask.types import Priority

__all__ = [
    # tasks
    "App",
    "Priority",
    "Retry",
    "Task",
    "TaskContext",
    "current_task",
    # canvas
    "Chain",
    "Chord",
    "Group",
    "Signature",
    "chain",
    "chord",
    "group",
    "signature",
    # results
    "AsyncResult",
    "GroupResult",
    "State",
    # errors
    "ConfigurationError",
    "ConnectFailed",
    "ConnectionLost",
    "GtaskError",
    "NetworkError",
    "QueueFull",
    "ResultError",
    "ResultTimeout",
    "ResultsUnavailable",
    "SerializationError",
    "ServerError",
    "StoreRequired",
    "TaskError",
    "TaskExpired",
    "TaskFailed",
    "TaskRevoked",
    "UnknownOption",
    "UnknownTask",
]
