"""The rules of arrays and maps, built from the rules of what they hold. Used by `gtask.codecs.annotations`."""

from __future__ import annotations

import collections
from collections import abc, deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from gtask.codecs.rules import Mismatch, Rule, apply, refuse
from gtask.codecs.wording import glimpse, label, step

_ARRAYS: Final = (list, tuple, deque)
_GROUPS: Final = (list, tuple, deque, set, frozenset)

SEQUENCES: Final[dict[Any, tuple[type | None, tuple[type, ...]]]] = {
    list: (list, _ARRAYS),
    deque: (deque, _ARRAYS),
    set: (set, _GROUPS),
    frozenset: (frozenset, _GROUPS),
    abc.Set: (frozenset, _GROUPS),
    abc.MutableSet: (set, _GROUPS),
    abc.MutableSequence: (list, _ARRAYS),
    # What promises less than a list is kept as it came.
    abc.Sequence: (None, (*_ARRAYS, str, bytes)),
    abc.Collection: (None, (*_GROUPS, str, bytes, dict)),
    abc.Iterable: (None, (*_GROUPS, str, bytes, dict)),
    abc.Container: (None, (*_GROUPS, str, bytes, dict)),
    abc.Reversible: (None, (*_ARRAYS, str, bytes, dict)),
}
"""What is built for an annotation (None: the value's own kind), and from which types."""

MAPPINGS: Final[dict[Any, Callable[[dict[Any, Any]], Any]]] = {
    dict: dict,
    abc.Mapping: dict,
    abc.MutableMapping: dict,
    collections.OrderedDict: collections.OrderedDict,
    collections.Counter: collections.Counter,
    collections.defaultdict: lambda value: collections.defaultdict(None, value),
}


def sequence_rule(annotation: Any, origin: Any, item: Rule | None) -> Rule:
    """The rule of list, set, deque and their abstract kin, with elements that follow `item`."""
    build, accepted = SEQUENCES[origin]

    def call(value: Any) -> Any:
        if not isinstance(value, accepted):
            raise refuse(annotation, value)
        if build is None and isinstance(value, str | bytes | dict):
            # Kept as it came, so what its elements would have to be made of first does not fit.
            same = type(value) is str and item is not None and str in item.exact
            if not same and any(one is not given for one, given in zip(convert_items(value, item), value, strict=True)):
                raise refuse(annotation, value)
            return value
        items = convert_items(value, item)
        kind = build or type(value)
        if items is value and type(value) is kind:
            return value
        try:
            return kind(items)
        except TypeError as error:  # an element that cannot be hashed
            raise Mismatch(f"expected {label(annotation)}: {error}") from error

    return Rule(call, frozenset({build}) if item is None and build else frozenset())


def convert_items(value: Any, item: Rule | None) -> Any:
    """The elements as `item` wants them: the same object where nothing changes, else a new list."""
    if item is None or item.exact.issuperset(map(type, value)):
        return value
    converted: list[Any] = []
    index = 0
    call, exact = item
    try:
        for index, part in enumerate(value):  # noqa: B007 - the index is for the path below
            converted.append(part if type(part) in exact else call(part))
    except Mismatch as error:
        raise error.under(f"[{index}]") from error.__cause__
    return converted


def tuple_rule(annotation: Any, items: tuple[Rule | None, ...]) -> Rule:
    """The rule of a tuple of fixed length."""

    def call(value: Any) -> Any:
        if not isinstance(value, _ARRAYS):
            raise refuse(annotation, value)
        if len(value) != len(items):
            raise Mismatch(f"expected {label(annotation)}, got {len(value)} elements")
        return tuple(convert_each(value, items))

    return Rule(call)


def open_tuple_rule(annotation: Any, item: Rule | None) -> Rule:
    """The rule of ``tuple[T, ...]``."""

    def call(value: Any) -> Any:
        if not isinstance(value, _ARRAYS):
            raise refuse(annotation, value)
        return tuple(convert_items(value, item))

    return Rule(call, frozenset({tuple}) if item is None else frozenset())


def convert_each(values: Iterable[Any], rules: Iterable[Rule | None]) -> list[Any]:
    """Each value by the rule of its place."""
    converted: list[Any] = []
    try:
        for value, rule in zip(values, rules, strict=False):
            converted.append(apply(rule, value))
    except Mismatch as error:
        raise error.under(f"[{len(converted)}]") from error.__cause__
    return converted


def mapping_rule(annotation: Any, origin: Any, key: Rule | None, item: Rule | None) -> Rule:
    """The rule of dict and its kin, with keys that follow `key` and values that follow `item`."""
    build = MAPPINGS[origin]

    def call(value: Any) -> Any:
        if not isinstance(value, abc.Mapping):
            raise refuse(annotation, value)
        keys = convert_keys(value, key)
        items = convert_values(value, item)
        if keys is None and items is None:
            return value if build is dict else build(dict(value))
        try:
            return build(dict(zip(keys or value, items or value.values(), strict=True)))
        except TypeError as error:  # a key that cannot be hashed
            raise Mismatch(f"expected {label(annotation)}: {error}") from error

    return Rule(call, frozenset({dict}) if key is None and item is None and build is dict else frozenset())


def convert_keys(value: abc.Mapping[Any, Any], rule: Rule | None) -> list[Any] | None:
    """A map's keys as `rule` wants them; None where nothing changes."""
    if rule is None or rule.exact.issuperset(map(type, value)):
        return None
    keys: list[Any] = []
    for key in value:
        try:
            keys.append(apply(rule, key))
        except Mismatch as error:
            raise error.under(f" (key {glimpse(key)})") from error.__cause__
    return keys


def convert_values(value: abc.Mapping[Any, Any], rule: Rule | None) -> list[Any] | None:
    """A map's values as `rule` wants them; None where nothing changes."""
    if rule is None or rule.exact.issuperset(map(type, value.values())):
        return None
    items: list[Any] = []
    key: Any = None
    try:
        for key, item in value.items():  # noqa: B007 - the key is for the path below
            items.append(apply(rule, item))
    except Mismatch as error:
        raise error.under(step(key)) from error.__cause__
    return items
