"""`Rule`, what an annotation becomes, and the rules of single values. Used by `gtask.codecs.annotations`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final, NamedTuple
from uuid import UUID

from gtask.codecs.wording import glimpse, got, label


class Rule(NamedTuple):
    """How one annotation is met: values of the `exact` types pass as they are, others go through `call`.

    `call` returns what the value becomes, or raises `Mismatch`.
    """

    call: Callable[[Any], Any]
    exact: frozenset[type] = frozenset()


class Mismatch(Exception):
    """A value does not fit its annotation; the way to it is collected while this goes up."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str] = []

    def under(self, step: str) -> Mismatch:
        """The same, one step further out."""
        self.path.append(step)
        return self

    def sentence(self, where: str) -> str:
        """What is wrong, behind the path that starts with `where`."""
        path = (where + "".join(reversed(self.path))).removeprefix(".")
        return f"{path}: {self.reason}" if path else self.reason


def apply(rule: Rule | None, value: Any) -> Any:
    """The value as the rule wants it; None lets everything pass."""
    return value if rule is None or type(value) in rule.exact else rule.call(value)


def optional(rule: Rule | None) -> Rule | None:
    """A rule that takes None too: a default of None says so, whatever the annotation beside it."""
    if rule is None or type(None) in rule.exact:
        return rule
    return Rule(lambda value: None if value is None else rule.call(value), rule.exact | {type(None)})


def refuse(expected: Any, value: Any, hint: str = "") -> Mismatch:
    """The `Mismatch` that says what was expected and what came."""
    text = expected if isinstance(expected, str) else label(expected)
    return Mismatch(f"expected {text}, got {got(value)}{hint and '; ' + hint}")


def class_rule(kind: type) -> Rule | None:
    """The rule of a class that nothing is rebuilt into: only its instances pass."""
    try:
        isinstance(None, kind)
    except TypeError:  # a Protocol that cannot be checked at run time
        return None
    for plain in _REBUILT_FROM:
        if issubclass(kind, plain):
            return _subclass_rule(kind, plain)

    def call(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        raise refuse(kind, value)

    return Rule(call, frozenset({kind}))


_REBUILT_FROM: Final = (str, int, float, bytes, Decimal, list, dict, set, frozenset, tuple)


def _subclass_rule(kind: Any, plain: type) -> Rule:
    """The rule of a user's subclass of a plain type, which travels as the plain type and is built again from it."""

    def call(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        accepted = (list, tuple) if plain in (list, tuple) else (plain, str) if plain is Decimal else plain
        if not isinstance(value, accepted) or isinstance(value, bool):
            raise refuse(f"{kind.__name__} as {plain.__name__}", value)
        try:
            return kind(value)
        except Exception as error:
            raise Mismatch(
                f"{kind.__name__} refuses {got(value)}: {type(error).__name__}: {glimpse(str(error), 300)}"
            ) from error

    return Rule(call, frozenset({kind}))


def enum_rule(kind: type[Enum]) -> Rule:
    """The rule of an Enum: members come from their values."""

    def call(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        try:
            return kind(value)
        except Exception:  # ValueError, or whatever a `_missing_` of the user's raises
            pass
        # A member's value may have lost its type on the way through JSON: "12.50" stands for Decimal("12.50").
        for member in kind:
            rule = SCALARS.get(type(member.value))
            try:
                if rule is not None and type(value) is not type(member.value) and apply(rule, value) == member.value:
                    return member
            except Mismatch:
                continue
        values = ", ".join(repr(member.value)[:40] for member in list(kind)[:10])
        raise refuse(f"{kind.__name__} (one of {values})", value)

    return Rule(call, frozenset({kind}))


def key_rule(annotation: Any, rule: Rule | None) -> Rule | None:
    """The rule of a map's keys: JSON has text only, so numbers are read from it."""
    if annotation is not int and annotation is not float:
        return rule

    def call(value: Any) -> Any:
        if isinstance(value, str):
            try:
                return annotation(value)
            except ValueError:
                pass
        return apply(rule, value)

    return Rule(call, frozenset({annotation}))


# --- the rules of plain classes ------------------------------------------------------------------------------


def _int(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int):
        return value
    raise refuse(int, value)


def _decimal(value: Any) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            # A float's shortest text, not its binary expansion: 19.99 in JSON means 19.99.
            return Decimal(repr(value) if isinstance(value, float) else value)
        except ArithmeticError:
            pass
    raise refuse(Decimal, value, 'write it as text, such as "12.50"')


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise refuse(bytes, value)


def _timedelta(value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return timedelta(seconds=value)
        except (OverflowError, ValueError):
            pass
    raise refuse(timedelta, value, "write it as a number of seconds")


def _from_text(kind: Any, parse: Callable[[str], Any], example: str) -> Rule:
    def call(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        if isinstance(value, str):
            try:
                return parse(value)
            except ValueError:
                pass
        raise refuse(kind, value, f'write it as text, such as "{example}"')

    return Rule(call, frozenset({kind}))


def _only(kind: type, *also: type) -> Rule:
    def call(value: Any) -> Any:
        if isinstance(value, (kind, *also)):
            return value
        raise refuse(kind, value)

    return Rule(call, frozenset({kind, *also}))


SCALARS: Final[dict[type, Rule]] = {
    type(None): _only(type(None)),
    bool: _only(bool),
    int: Rule(_int, frozenset({int, bool})),
    float: _only(float, int),
    str: _only(str),
    bytes: Rule(_bytes, frozenset({bytes})),
    bytearray: Rule(lambda value: bytearray(_bytes(value)), frozenset({bytearray})),
    Decimal: Rule(_decimal, frozenset({Decimal})),
    timedelta: Rule(_timedelta, frozenset({timedelta})),
    datetime: _from_text(datetime, datetime.fromisoformat, "2024-07-01T12:00:00+02:00"),
    date: _from_text(date, date.fromisoformat, "2024-07-01"),
    time: _from_text(time, time.fromisoformat, "12:00:00"),
    UUID: _from_text(UUID, UUID, "12345678-1234-5678-1234-567812345678"),
}
"""The rules of the classes that stand for one value."""
