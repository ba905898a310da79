"""A task's parameters: whether a call fits them, and how what came over the wire is made to fit. Design, section 5.

There is one rule for both sides. The sender refuses, before anything is sent, what the worker would refuse; what fits
is sent as it was given, and made what the annotations say by the worker. docs/types.md has the table.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import Any, Final, NoReturn

from gtask.codecs.annotations import Leniently, rule_for
from gtask.codecs.hints import function_hints
from gtask.codecs.rules import Mismatch, Rule, apply, optional
from gtask.codecs.wording import step
from gtask.errors import BadArguments, ConfigurationError

_ITERATORS: Final = (Iterator, Iterable, Generator, AsyncIterator, AsyncIterable, AsyncGenerator)
"""What a generator may be annotated to return."""

_PLAIN: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class _Coming:
    """Stands for an argument that is not known yet: the result of the step before."""

    def __repr__(self) -> str:
        return "..."


COMING: Final = _Coming()
"""In place of an argument that comes later; it fits every parameter."""


_Shape = tuple[Any, ...]
_MOST_KNOWN: Final = 256
"""Shapes of calls that are remembered for a task."""


def _shape(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Shape:
    """The types of a call's arguments, with the names of those that have one."""
    types = tuple(map(type, args))
    return (types, *kwargs, *map(type, kwargs.values())) if kwargs else types


class Arguments:
    """The parameters of one task, without the context that a bound one takes first.

    With `typed` false only their number and names are checked: the worker makes of each argument what its annotation
    says where it can, and passes it as it came where it cannot. Annotations are looked at when the first call comes,
    since they may name what is defined later.
    """

    def __init__(self, func: Callable[..., Any] | None, name: str, bind: bool = False, typed: bool = True) -> None:
        self._func = func
        self._name = name
        self._typed = typed
        self._signature: inspect.Signature | None = None
        self._hints: dict[str, Any] | None = None
        self._rules: dict[str, Rule | None] = {}
        self._unpacked: set[str] = set()
        self._known: set[_Shape] = set()
        self._compiled = False
        self._required = self._most = 0
        self._simple = False
        self._yields = inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func)
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
        self._most = sum(parameter.kind in _PLAIN for parameter in parameters)
        self._required = sum(parameter.default is parameter.empty for parameter in parameters)

    # --- for the sender --------------------------------------------------------------------------------------

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises `BadArguments`, a `TypeError`, when a call with these arguments would not fit; nothing is sent then.

        `COMING` in `args` stands for what is not known yet.
        """
        if self._signature is None or (_shape(args, kwargs) if kwargs else tuple(map(type, args))) in self._known:
            return
        parts = list(self._parts(self._bind(args, kwargs)))
        if self._typed:
            self._check_types(parts)
        if all(rule is None or type(value) in rule.exact for _, value, rule in parts):
            self._learn(args, kwargs)

    def check_part(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises `BadArguments` when no call with these arguments would fit, others put in front and names added."""
        if self._signature is None:
            return
        if not kwargs and self._simple and len(args) <= self._most:
            if self._typed and len(args) == self._most:
                self.check(args, kwargs)
            return
        try:
            bound = self._signature.bind_partial(**kwargs)
        except TypeError as error:
            self._refuse_call(error)
        if self._typed:
            self._check_types(self._parts(bound))
        if not args or not self._simple:
            return
        if len(args) > self._most:
            self._bind((*(COMING,) * max(0, self._required - len(args)), *args), {})
        if self._typed and len(args) == self._most and not kwargs:
            self.check(args, kwargs)

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        assert self._signature is not None
        try:
            return self._signature.bind(*args, **kwargs)
        except TypeError as error:
            self._refuse_call(error)

    def _refuse_call(self, error: TypeError) -> NoReturn:
        raise BadArguments(f"{self._name}{self._signature} does not take these arguments: {error}.") from None

    def _check_types(self, parts: Iterable[tuple[str, Any, Rule | None]]) -> None:
        for name, value, rule in parts:
            if value is not COMING and rule is not None and type(value) not in rule.exact:
                try:
                    rule.call(value)
                except Mismatch as error:
                    raise self._refused(error, name) from error.__cause__
                except RecursionError:
                    pass  # it is too deep to be sent too, and its encoder says where

    def _parts(self, bound: inspect.BoundArguments) -> Iterator[tuple[str, Any, Rule | None]]:
        """Each argument with the path that it is named by and its rule."""
        self._compile()
        assert self._signature is not None
        for name in self._unpacked.difference(bound.arguments):
            yield name, {}, self._rules[name]  # no keyword at all, where some may be required
        for name, value in bound.arguments.items():
            rule = self._rules[name]
            match self._signature.parameters[name].kind:
                case inspect.Parameter.VAR_POSITIONAL:
                    yield from ((f"{name}[{index}]", one, rule) for index, one in enumerate(value))
                case inspect.Parameter.VAR_KEYWORD if name not in self._unpacked:
                    yield from ((f"{name}{step(key)}", one, rule) for key, one in value.items())
                case _:
                    yield name, value, rule

    # --- for the worker --------------------------------------------------------------------------------------

    def fit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Makes arguments from the wire fit the annotations; raises `BadArguments` naming the one that does not."""
        if self._signature is None or (_shape(args, kwargs) if kwargs else tuple(map(type, args))) in self._known:
            return args, kwargs
        self._compile()
        if not kwargs and self._simple and self._required <= len(args) <= self._most:
            fitting, exact = list(args), True
            for place, (name, rule) in enumerate(islice(self._rules.items(), len(args))):
                if rule is not None and type(args[place]) not in rule.exact:
                    fitting[place], exact = self._convert(name, args[place], rule), False
            if exact:
                self._learn(args, kwargs)
            return tuple(fitting), kwargs
        bound = self._bind(args, kwargs)
        for name in self._unpacked.difference(bound.arguments):
            bound.arguments[name] = {}
        for name, value in bound.arguments.items():
            rule = self._rules[name]
            kind = self._signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(
                    self._convert(f"{name}[{index}]", one, rule) for index, one in enumerate(value)
                )
            elif kind is inspect.Parameter.VAR_KEYWORD and name not in self._unpacked:
                bound.arguments[name] = {
                    key: self._convert(f"{name}{step(key)}", one, rule) for key, one in value.items()
                }
            else:
                bound.arguments[name] = self._convert(name, value, rule)
        return bound.args, bound.kwargs

    def whole(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """All arguments by the names of their parameters, as the worker sees them, with the defaults of those left out.

        Raises `BadArguments` where they do not fit.
        """
        if self._signature is None:
            return {"args": args, "kwargs": kwargs}
        args, kwargs = self.fit(args, kwargs)
        bound = self._bind(args, kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)

    def _convert(self, name: str, value: Any, rule: Rule | None) -> Any:
        try:
            return apply(rule, value)
        except Mismatch as error:
            if self._typed:
                raise self._refused(error, name) from error.__cause__
        except RecursionError:
            if self._typed:
                raise BadArguments(f"{self._name}: {name}: nested too deep to be rebuilt; flatten it.") from None
        return value

    def _refused(self, error: Mismatch, name: str) -> BadArguments:
        return BadArguments(f"{self._name}: {error.sentence(name)}")

    # --- annotations -----------------------------------------------------------------------------------------

    def _compile(self) -> None:
        """Makes the rules of the parameters, once."""
        if self._compiled:
            return
        rules: dict[str, Rule | None] = {}
        for name, parameter in self._signature.parameters.items() if self._signature is not None else ():
            hint = self.hints.get(name, Any)
            if parameter.kind is parameter.VAR_KEYWORD and typing.get_origin(hint) is typing.Unpack:
                self._unpacked.add(name)
                hint = typing.get_args(hint)[0]
            rule = rule_for(hint)
            rules[name] = optional(rule) if parameter.default is None else rule
        self._rules, self._compiled = rules, True

    def _learn(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Remembers the types of a call that fits as it is: the next one like it is found with one look."""
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known.add(_shape(args, kwargs))

    @property
    def hints(self) -> dict[str, Any]:
        """The annotations, resolved when they are first needed; a name that cannot be found leaves its own open."""
        if self._hints is None:
            self._hints = {}
            if self._func is not None and self._signature is not None:
                self._hints = function_hints(self._func, self._signature)
        return self._hints

    @property
    def returns(self) -> Any:
        """The annotation of the result, `Any` without one; a lenient one where types are not checked."""
        found = list[self.items] if self._yields else self.hints.get("return", Any)  # type: ignore[name-defined]
        return found if self._typed or found is Any else Leniently(found)

    @property
    def items(self) -> Any:
        """The annotation of what a generator yields, `Any` without one; its result is the list of them."""
        found = self.hints.get("return", Any)
        return (typing.get_args(found) or (Any,))[0] if typing.get_origin(found) in _ITERATORS else Any
