"""A task's parameters: whether a call fits them, and how what came over the wire is made to fit. Design, section 5."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final, get_type_hints

from gtask.codecs import convert
from gtask.errors import ConfigurationError, DecodeError

_PLAIN: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Arguments:
    """The parameters of one task, without the context that a bound one takes first."""

    def __init__(self, func: Callable[..., Any] | None, name: str, bind: bool = False) -> None:
        self._func = func
        self._name = name
        self._signature: inspect.Signature | None = None
        self._hints: dict[str, Any] | None = None
        self._required = self._most = 0
        self._simple = False
        if func is None:
            return
        try:
            signature = inspect.signature(func)
        except ValueError:  # a builtin, some of which do not say what they take
            return
        parameters = list(signature.parameters.values())
        if bind:
            if not parameters or parameters[0].kind not in _PLAIN:
                raise ConfigurationError(
                    f"Task {name!r} has bind=True, so its first parameter must be the context: def {name}(ctx, ...)."
                )
            parameters = parameters[1:]
        self._signature = signature.replace(parameters=parameters)
        self._simple = all(parameter.kind in _PLAIN for parameter in parameters)
        self._most = len(parameters)
        self._required = sum(parameter.default is parameter.empty for parameter in parameters)
        self._names = [parameter.name for parameter in parameters]

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises `TypeError` when a call with these arguments would not fit, before anything is sent."""
        if self._signature is None or (not kwargs and self._simple and self._required <= len(args) <= self._most):
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._name}{self._signature} does not take these arguments: {error}.") from None

    def fit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Makes arguments from the wire fit the annotations; raises `TypeError` naming the argument that does not."""
        if self._signature is None:
            return args, kwargs
        self.check(args, kwargs)
        hints = self.hints
        if not hints:
            return args, kwargs
        if not kwargs and self._simple:
            return tuple(map(self._convert, self._names, args)), kwargs
        bound = self._signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            kind = self._signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(self._convert(name, one) for one in value)
            elif kind is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = {key: self._convert(name, one) for key, one in value.items()}
            else:
                bound.arguments[name] = self._convert(name, value)
        return bound.args, bound.kwargs

    def _convert(self, name: str, value: Any) -> Any:
        hint = self.hints.get(name, Any)
        if hint is Any or type(value) is hint:
            return value
        try:
            return convert(value, hint, name)
        except DecodeError as error:
            raise TypeError(f"{self._name}: {error}") from error

    @property
    def hints(self) -> dict[str, Any]:
        """The annotations, resolved when they are first needed, since they may name what is defined later."""
        if self._hints is None:
            try:
                self._hints = get_type_hints(self._func) if self._func is not None else {}
            except Exception:
                # A name that exists only for type checkers: such a task goes without conversion.
                self._hints = {}
        return self._hints

    @property
    def returns(self) -> Any:
        """The annotation of the result, `Any` without one."""
        return self.hints.get("return", Any)
