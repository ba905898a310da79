"""Rebuilds values as annotations say: what JSON and msgpack have no word for. Design, section 5.

An annotation is compiled once, into a `Rule`. A rule knows the exact types that pass unchanged, so that a long list of
plain values costs one look at their types.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from functools import lru_cache
from inspect import Parameter
from types import UnionType
from typing import Any, Final

from gtask.codecs import containers, structures
from gtask.codecs.extensions import is_model
from gtask.codecs.rules import SCALARS, Mismatch, Rule, apply, class_rule, enum_rule, key_rule, refuse
from gtask.codecs.wording import label
from gtask.errors import DecodeError

_WRAPPERS: Final = (typing.Annotated, typing.ClassVar, typing.Final, typing.Required, typing.NotRequired)


@dataclasses.dataclass(frozen=True)
class Leniently:
    """An annotation that is met where a value fits it; a value that does not stays as it came."""

    annotation: Any


def convert(value: Any, annotation: Any, where: str = "") -> Any:
    """Rebuilds a decoded value as its annotation says; returns it as it is where there is nothing to do.

    Dataclasses, pydantic models, TypedDicts and NamedTuples come from maps (NamedTuples from arrays too), Enums from
    their values, Decimal, datetime, date, time and UUID from text, timedelta from seconds, sets and tuples from
    arrays, bytes from text as UTF-8, numbers that are keys from JSON's text; inside containers, unions and aliases
    as well. What an annotation leaves open passes: Any, type variables, names that cannot be resolved.

    Raises `DecodeError`, which names the argument `where`, the path inside it, what was expected and what came.
    """
    if annotation is Any:
        return value
    try:
        rule = rule_for(annotation)
        return value if rule is None or type(value) in rule.exact else rule.call(value)
    except Mismatch as error:
        raise DecodeError(error.sentence(where)) from error.__cause__
    except RecursionError:
        raise DecodeError(f"{where or 'value'}: nested too deep to be rebuilt as {label(annotation)}.") from None


def rule_for(annotation: Any) -> Rule | None:
    """The rule of an annotation, from a bounded cache; None where every value passes."""
    try:
        return _cached(annotation)
    except TypeError:  # an annotation that cannot be hashed, such as Literal[[]]
        return _compile(annotation)


def _compile(annotation: Any) -> Rule | None:
    if annotation is Any or annotation is object or annotation is Parameter.empty:
        return None
    if isinstance(annotation, Leniently):
        return _lenient_rule(rule_for(annotation.annotation))
    if annotation is None:
        return SCALARS[type(None)]
    origin = typing.get_origin(annotation)
    if origin is not None:
        return _compile_generic(annotation, origin, typing.get_args(annotation))
    if isinstance(annotation, type):
        return SCALARS.get(annotation) or _compile_class(annotation, ())
    if isinstance(annotation, typing.NewType):
        return rule_for(annotation.__supertype__)
    if isinstance(annotation, typing.TypeVar):
        return rule_for(annotation.__bound__) if annotation.__bound__ is not None else None
    if hasattr(annotation, "__value__"):  # type Name = ..., which may hold itself
        return structures.lazy_rule(lambda: annotation.__value__, rule_for)
    return rule_for(str) if annotation is typing.LiteralString else None


def _compile_class(kind: Any, arguments: tuple[Any, ...]) -> Rule | None:
    if kind in containers.SEQUENCES:
        return containers.sequence_rule(kind, kind, None)
    if kind in containers.MAPPINGS:
        return containers.mapping_rule(kind, kind, None, None)
    if kind is tuple:
        return containers.open_tuple_rule(kind, None)
    if issubclass(kind, Enum):
        return enum_rule(kind)
    if typing.is_typeddict(kind):
        return structures.typed_dict_rule(kind, arguments, rule_for)
    if dataclasses.is_dataclass(kind):
        return structures.dataclass_rule(kind, arguments, rule_for)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return structures.named_tuple_rule(kind, arguments, rule_for)
    if is_model(kind):
        return structures.model_rule(kind)
    if kind is typing.NamedTuple or getattr(kind, "_is_protocol", False):
        return None
    return class_rule(kind)


def _compile_generic(annotation: Any, origin: Any, arguments: tuple[Any, ...]) -> Rule | None:
    if origin is typing.Union or origin is UnionType:
        return _union_rule(annotation, arguments)
    if origin is typing.Literal:
        return _literal_rule(annotation, arguments)
    if origin in _WRAPPERS:
        return rule_for(arguments[0])
    if origin is tuple:
        return _tuple_rule(annotation, arguments)
    if origin in containers.SEQUENCES:
        return containers.sequence_rule(annotation, origin, rule_for(arguments[0]) if arguments else None)
    if origin in containers.MAPPINGS:
        key, item = arguments if len(arguments) == 2 else (*arguments, int) if arguments else (Any, Any)
        return containers.mapping_rule(annotation, origin, key_rule(key, rule_for(key)), rule_for(item))
    if hasattr(origin, "__value__"):
        return structures.lazy_rule(lambda: origin.__value__[arguments], rule_for)
    if isinstance(origin, type) and origin is not type:
        return _compile_class(annotation if is_model(origin) else origin, arguments)
    return None


def _tuple_rule(annotation: Any, arguments: tuple[Any, ...]) -> Rule:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return containers.open_tuple_rule(annotation, rule_for(arguments[0]))
    if any(
        typing.get_origin(argument) is typing.Unpack or getattr(argument, "__unpacked__", False)
        for argument in arguments
    ):
        return containers.open_tuple_rule(annotation, None)
    return containers.tuple_rule(annotation, tuple(map(rule_for, arguments)))


def _union_rule(annotation: Any, members: tuple[Any, ...]) -> Rule | None:
    rules: list[Rule] = []
    for member in members:
        rule = rule_for(member)
        if rule is None:
            return None
        rules.append(rule)
    named = [rule for member, rule in zip(members, rules, strict=True) if member is not type(None)]

    def call(value: Any) -> Any:
        # A value that is of some member's type already is left alone before any other member rebuilds it.
        if len(named) == 1:
            return apply(named[0], value)
        for rule in rules:
            try:
                return apply(rule, value)
            except Mismatch as error:
                last = error
        if isinstance(value, Mapping) and last.path:
            raise last
        raise refuse(annotation, value)

    return Rule(call, frozenset().union(*(rule.exact for rule in rules)))


def _lenient_rule(rule: Rule | None) -> Rule | None:
    if rule is None:
        return None

    def call(value: Any) -> Any:
        try:
            return rule.call(value)
        except Mismatch:
            return value

    return Rule(call, rule.exact)


def _is_named(value: Any) -> bool:
    return isinstance(value, Enum) and isinstance(value, str | int)


def _literal_rule(annotation: Any, allowed: tuple[Any, ...]) -> Rule:
    def call(value: Any) -> Any:
        for member in allowed:
            # A text or a number with a name, such as a StrEnum's member, travels as the text or the number.
            if member == value and (
                type(member) is type(value) or (_is_named(value) and isinstance(value, type(member)))
            ):
                return member
        for member in allowed:
            if isinstance(member, Enum) and member.value == value:
                return member
        raise refuse(annotation, value)

    return Rule(call)


_cached: Final[Callable[[Any], Rule | None]] = lru_cache(maxsize=4096)(_compile)
