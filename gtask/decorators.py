"""What ``@app.task(...)`` is to a type checker; when it runs, it is a plain function. Design, section 2."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from gtask.context import TaskContext
from gtask.task import AsyncStreamTask, AsyncTask, StreamTask, Task

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Decorator:
    """The type of ``@app.task(...)``."""

    @overload
    def __call__(self, func: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, func: Callable[P, AsyncIterator[T]], /) -> AsyncStreamTask[P, T]: ...
    @overload
    def __call__(self, func: Callable[P, Iterator[T]], /) -> StreamTask[P, T]: ...
    @overload
    def __call__(self, func: Callable[P, R], /) -> Task[P, R]: ...
    def __call__(self, func: Any, /) -> Any:
        raise NotImplementedError


class BoundDecorator:
    """The type of ``@app.task(bind=True, ...)``: the context is no parameter of the task's calls."""

    @overload
    def __call__(self, func: Callable[Concatenate[TaskContext, P], Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, func: Callable[Concatenate[TaskContext, P], AsyncIterator[T]], /) -> AsyncStreamTask[P, T]: ...
    @overload
    def __call__(self, func: Callable[Concatenate[TaskContext, P], Iterator[T]], /) -> StreamTask[P, T]: ...
    @overload
    def __call__(self, func: Callable[Concatenate[TaskContext, P], R], /) -> Task[P, R]: ...
    def __call__(self, func: Any, /) -> Any:
        raise NotImplementedError
