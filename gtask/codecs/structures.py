"""The rules of classes with fields: dataclasses, NamedTuples, TypedDicts, pydantic models.

Used by `gtask.codecs.annotations`, which passes its `rule_for` in. Fields are looked at when the first value comes,
so that a class may hold itself.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from gtask.codecs.containers import convert_each
from gtask.codecs.rules import Mismatch, Rule, apply, refuse
from gtask.codecs.wording import glimpse, step

RuleFor = Callable[[Any], Rule | None]


def hints_of(kind: Any, arguments: tuple[Any, ...] = ()) -> dict[str, Any]:
    """The annotations of a class' fields, with `arguments` in place of its type variables."""
    try:
        hints = typing.get_type_hints(kind)
    except Exception:  # a name that is imported for type checkers only: such fields pass as they are
        hints = {}
        for base in reversed(kind.__mro__):
            hints.update(inspect.get_annotations(base) if isinstance(base, type) else {})
    variables = getattr(kind, "__parameters__", ())
    if arguments and len(arguments) == len(variables):
        known = dict(zip(variables, arguments, strict=True))
        hints = {name: _substitute(hint, known) for name, hint in hints.items()}
    return hints


def _substitute(hint: Any, known: dict[Any, Any]) -> Any:
    if isinstance(hint, typing.TypeVar):
        return known.get(hint, Any)
    variables = getattr(hint, "__parameters__", ())
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        return hint  # a generic class without arguments has parameters too
    return hint[tuple(known.get(variable, Any) for variable in variables)] if variables else hint


def dataclass_rule(kind: Any, arguments: tuple[Any, ...], rule_for: RuleFor) -> Rule:
    """The rule of a dataclass: built from a map of its fields, by its constructor."""
    plan: dict[str, Rule | None] = {}
    computed: set[str] = set()

    def read_fields() -> None:
        hints = hints_of(kind, arguments)
        found = {field.name: rule_for(hints.get(field.name, Any)) for field in dataclasses.fields(kind) if field.init}
        computed.update(field.name for field in dataclasses.fields(kind) if not field.init)
        plan.update(found)

    def call(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            raise refuse(f"{kind.__name__} as a map of its fields", value)
        if not plan:
            read_fields()
        given: dict[str, Any] = {}
        for name, part in value.items():
            if name in plan:
                given[name] = _field(plan[name], part, name)
            elif name not in computed:
                raise _unknown(kind, name, plan)
        return construct(kind, given)

    return Rule(call, frozenset({kind}))


def _field(rule: Rule | None, value: Any, name: str) -> Any:
    if rule is None or type(value) in rule.exact:
        return value
    try:
        return rule.call(value)
    except Mismatch as error:
        raise error.under(step(name)) from error.__cause__


def _unknown(kind: Any, name: Any, known: Mapping[str, Any]) -> Mismatch:
    near = difflib.get_close_matches(str(name)[:100], known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none'}."
    return Mismatch(f"{kind.__name__} has no field {glimpse(name)}; {hint}")


def construct(kind: Any, given: dict[str, Any]) -> Any:
    """Calls a class of the user's; whatever it raises says that the value does not fit."""
    try:
        return kind(**given)
    except Exception as error:
        raise Mismatch(f"{kind.__name__} refuses it: {_short(error)}") from error


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, TypeError) else f"{type(error).__name__}: {text}"


def named_tuple_rule(kind: Any, arguments: tuple[Any, ...], rule_for: RuleFor) -> Rule:
    """The rule of a NamedTuple: built from an array, or from a map of its fields."""
    plan: dict[str, Rule | None] = {}

    def call(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        if not plan:
            hints = hints_of(kind, arguments)
            plan.update((name, rule_for(hints.get(name, Any))) for name in kind._fields)
        if isinstance(value, Mapping):
            for name in value:
                if name not in plan:
                    raise _unknown(kind, name, plan)
            return construct(kind, {name: _field(plan[name], part, name) for name, part in value.items()})
        if not isinstance(value, list | tuple):
            raise refuse(f"{kind.__name__} as an array or a map of its fields", value)
        if len(value) > len(plan):
            raise Mismatch(f"{kind.__name__} has {len(plan)} fields, and {len(value)} values came")
        return construct(kind, dict(zip(plan, convert_each(value, plan.values()), strict=False)))

    return Rule(call, frozenset({kind}))


def typed_dict_rule(kind: Any, arguments: tuple[Any, ...], rule_for: RuleFor) -> Rule:
    """The rule of a TypedDict: a dict whose known keys are converted; others stay, as the type allows them."""
    plan: dict[str, Rule | None] = {}
    required: set[str] = set()

    def call(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise refuse(kind, value)
        if not plan:
            plan.update((name, rule_for(hint)) for name, hint in hints_of(kind, arguments).items())
            required.update(_required_keys(kind))
        missing = [name for name in required if name not in value]
        if missing:
            raise Mismatch(f"{kind.__name__} lacks {', '.join(map(repr, missing))}")
        return {name: _field(plan.get(name), part, name) for name, part in value.items()}

    return Rule(call)


def _required_keys(kind: Any) -> set[str]:
    """The keys a TypedDict must have; it does not know itself where its annotations are kept as text."""
    required = set(kind.__required_keys__)
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except Exception:  # a name for type checkers only: nothing is known for sure, so nothing is asked for
        return set()
    for name, hint in hints.items():
        if typing.get_origin(hint) is typing.NotRequired:
            required.discard(name)
        elif typing.get_origin(hint) is typing.Required:
            required.add(name)
    return required


def model_rule(kind: Any) -> Rule:
    """The rule of a pydantic model: validated by the model itself, by field names and by aliases."""
    options: dict[str, Any] = {}
    if "by_name" in inspect.signature(kind.model_validate).parameters:
        options = {"by_name": True, "by_alias": True}

    def call(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        try:
            return kind.model_validate(value, **options)
        except Exception as error:
            raise Mismatch(f"{kind.__name__} refuses it: {' '.join(str(error).split())[:500]}") from error

    return Rule(call, frozenset({kind}))


def lazy_rule(find: Callable[[], Any], rule_for: RuleFor) -> Rule:
    """The rule of an alias that may hold itself: looked up when a value comes."""
    return Rule(lambda value: apply(rule_for(find()), value))
