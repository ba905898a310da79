"""What annotations mean, names given as text resolved: those of a class' fields and of a function's parameters.

A name that cannot be found, such as one that is imported for type checkers only, leaves its own field or parameter
open (`Any`) and no other.
"""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any


def hints_of(kind: Any, arguments: tuple[Any, ...] = (), extras: bool = False) -> dict[str, Any]:
    """The annotations of a class' fields, with `arguments` in place of its type variables.

    `extras` keeps the wrappers ``Annotated``, ``Required`` and ``NotRequired``.
    """
    try:
        hints = typing.get_type_hints(kind, include_extras=extras)
    except Exception:  # a name that is not there, or whatever the annotation's own code raises
        hints = {}
        for base in reversed(kind.__mro__):
            names = getattr(sys.modules.get(base.__module__), "__dict__", {})
            own = inspect.get_annotations(base)
            hints.update(_each(own, names, dict(vars(base)), extras))
    variables = getattr(kind, "__parameters__", ())
    if arguments and len(arguments) == len(variables):
        known = dict(zip(variables, arguments, strict=True))
        hints = {name: _substitute(hint, known) for name, hint in hints.items()}
    return hints


def function_hints(func: Callable[..., Any], signature: inspect.Signature) -> dict[str, Any]:
    """The annotations of the parameters in `signature`, and of ``return``, as far as there are any."""
    given = {name: one.annotation for name, one in signature.parameters.items() if one.annotation is not one.empty}
    if signature.return_annotation is not signature.empty:
        given["return"] = signature.return_annotation
    names = _globals(func)
    try:
        return typing.get_type_hints(SimpleNamespace(__annotations__=given), names)
    except Exception:
        return _each(given, names, {}, extras=False)


def _each(given: Mapping[str, Any], names: dict[str, Any], local: dict[str, Any], extras: bool) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    for name, annotation in given.items():
        one: Any = SimpleNamespace(__annotations__={name: annotation})
        try:
            hints.update(typing.get_type_hints(one, names, local, include_extras=extras))
        except Exception:
            hints[name] = Any
    return hints


def _globals(func: Any) -> dict[str, Any]:
    """The names of the module in which a function, or what lies behind it, was written."""
    while isinstance(func, functools.partial):
        func = func.func
    func = inspect.unwrap(func)
    found = getattr(func, "__globals__", None) or getattr(type(func).__call__, "__globals__", None)
    return found or getattr(sys.modules.get(getattr(func, "__module__", "") or ""), "__dict__", {})


def _substitute(hint: Any, known: dict[Any, Any]) -> Any:
    if isinstance(hint, typing.TypeVar):
        return known.get(hint, Any)
    variables = getattr(hint, "__parameters__", ())
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        return hint  # a generic class without arguments has parameters too
    return hint[tuple(known.get(variable, Any) for variable in variables)] if variables else hint
