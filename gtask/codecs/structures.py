"""The rules of classes with fields: dataclasses, NamedTuples, TypedDicts, pydantic models.

Used by `gtask.codecs.annotations`, which passes its `rule_for` in. Fields are looked at when the first value comes,
so that a class may hold itself. An instance is taken as it is where its fields would be taken once they have travelled,
since it travels as these and is built again.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from gtask.codecs.containers import convert_each
from gtask.codecs.extensions import fields_of
from gtask.codecs.hints import hints_of
from gtask.codecs.rules import Mismatch, Rule, apply, optional, refuse
from gtask.codecs.wording import glimpse, step

RuleFor = Callable[[Any], Rule | None]


def dataclass_rule(kind: Any, arguments: tuple[Any, ...], rule_for: RuleFor) -> Rule:
    """The rule of a dataclass: built from a map of its fields, by its constructor."""
    plan: dict[str, Rule | None] = {}
    computed: set[str] = set()
    wanted: list[str] = []

    def read_fields() -> None:
        hints = hints_of(kind, arguments)
        fields = dataclasses.fields(kind)
        computed.update(field.name for field in fields if not field.init)
        rules = [(field, rule_for(hints.get(field.name, Any))) for field in fields if field.init]
        wanted.extend(_wanted_besides(kind, {field.name for field, _ in rules}))
        plan.update((field.name, optional(rule) if field.default is None else rule) for field, rule in rules)

    def call(value: Any) -> Any:
        if not plan:
            read_fields()
        if isinstance(value, kind):
            if wanted:
                raise Mismatch(
                    f"{kind.__name__} cannot be built again from its fields: its constructor also takes {wanted[0]!r}"
                )
            _check_fields(kind, value, fields_of(value), plan, computed)
            return value
        if not isinstance(value, Mapping):
            raise refuse(f"{kind.__name__} as a map of its fields", value)
        given: dict[str, Any] = {}
        for name, part in value.items():
            if name in plan:
                given[name] = _field(plan[name], part, name)
            elif name not in computed:
                raise _unknown(kind, name, plan)
        return construct(kind, given)

    return Rule(call)


def _wanted_besides(kind: Any, fields: set[str]) -> list[str]:
    """What a class' constructor must be given that is no field, such as an `InitVar`."""
    try:
        parameters = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):
        return []
    return [
        one.name
        for one in parameters
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) and one.name not in fields
    ]


def _check_fields(
    kind: Any, value: Any, fields: Mapping[str, Any], plan: Mapping[str, Rule | None], computed: set[str]
) -> None:
    """Raises `Mismatch` where an instance would not be built again from its fields."""
    for name, part in fields.items():
        if name in plan:
            _field(plan[name], part, name)
        elif name not in computed:
            raise _more_than(kind, type(value), name)


def _more_than(kind: Any, given: type, name: str) -> Mismatch:
    return Mismatch(
        f"expected {kind.__name__}, got its subclass {given.__name__}, whose field {name!r} would be lost on the way; "
        f"name {given.__name__} in the annotation"
    )


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
        if not plan:
            hints, defaults = hints_of(kind, arguments), kind._field_defaults
            for name in kind._fields:
                rule = rule_for(hints.get(name, Any))
                plan[name] = optional(rule) if defaults.get(name, ...) is None else rule
        if isinstance(value, kind):
            for name, part in zip(plan, value, strict=True):
                _field(plan[name], part, name)
            return value
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

    return Rule(call)


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
    for name, hint in hints_of(kind, extras=True).items():
        if typing.get_origin(hint) is typing.NotRequired:
            required.discard(name)
        elif typing.get_origin(hint) is typing.Required:
            required.add(name)
        elif hint is Any and isinstance(kind.__annotations__.get(name), typing.ForwardRef):
            required.discard(name)  # a name that is not there may stand in a NotRequired[...]
    return required


def model_rule(kind: Any) -> Rule:
    """The rule of a pydantic model: validated by the model itself, by field names and by aliases.

    A strict model is not strict here: what travels is plain, and has lost its Enums and dataclasses on the way.
    """
    options: dict[str, Any] = {"strict": False} if kind.model_config.get("strict") else {}
    if "by_name" in inspect.signature(kind.model_validate).parameters:
        options |= {"by_name": True, "by_alias": True}
    unsent = [name for name, field in kind.model_fields.items() if field.exclude and field.is_required()]

    def call(value: Any) -> Any:
        if isinstance(value, kind):
            if type(value) is not kind and kind.model_config.get("extra") != "allow":
                for name in type(value).model_fields:
                    if name not in kind.model_fields:
                        raise _more_than(kind, type(value), name)
            if unsent:
                raise Mismatch(
                    f"{kind.__name__} cannot be built again from what is sent: its field {unsent[0]!r} has exclude=True"
                )
            return value
        try:
            return kind.model_validate(value, **options)
        except Exception as error:
            raise Mismatch(f"{kind.__name__} refuses it: {' '.join(str(error).split())[:500]}") from error

    return Rule(call, frozenset() if unsent else frozenset({kind}))


def lazy_rule(find: Callable[[], Any], rule_for: RuleFor) -> Rule:
    """The rule of an alias that may hold itself: looked up when a value comes."""
    return Rule(lambda value: apply(rule_for(find()), value))
