"""Canvases from plain data: what ``dict(signature)`` gave, in this process or another. Design, section 2.

Whoever wrote the data is not believed: it is checked before anything is made of it, and tasks are named, not imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, cast

from gtask.canvas import chain, combine, group
from gtask.errors import ConfigurationError
from gtask.flows import MAX_NESTING
from gtask.options import CallOptions
from gtask.sendable import Canvas
from gtask.signatures import LINKS, Signature

if TYPE_CHECKING:
    from gtask.app import App

_KINDS: Final = ("task", "chain", "group", "chord")


def from_plain(app: App, data: Any, depth: int = 0) -> Canvas:
    """Makes anew what `data` is the plain data of: ``dict(canvas)``, also after a trip as JSON.

    Raises `ConfigurationError` that says where it is none.
    """
    if depth > 2 * MAX_NESTING:
        raise ConfigurationError("This signature is nested too deep.")
    kind = next((kind for kind in _KINDS if isinstance(data, Mapping) and kind in data), None)
    if kind is None:
        raise ConfigurationError(f"{data!r:.80} is no signature as dict(signature) gives it: it has none of {_KINDS}.")
    if kind == "task":
        return _read_signature(app, data, depth)
    parts = data[kind]
    if not isinstance(parts, list | tuple) or not parts:
        raise ConfigurationError(f"The {kind!r} of this signature is {parts!r:.80}; it is a list of signatures.")
    made = [from_plain(app, part, depth + 1) for part in parts]
    if kind == "chain":
        return cast("Canvas", chain(*made))
    if kind == "group":
        return group(*made)
    body = chain(from_plain(app, data.get("body"), depth + 1))
    return cast("Canvas", combine(group(*made), body))


def _read_signature(app: App, data: Mapping[str, Any], depth: int) -> Signature[Any]:
    name, args, kwargs = data["task"], data.get("args", ()), data.get("kwargs", {})
    options, over = data.get("options", {}), data.get("over")
    fits = isinstance(name, str) and isinstance(args, list | tuple) and over in (None, "map", "starmap")
    named = all(isinstance(one, Mapping) and all(isinstance(key, str) for key in one) for one in (kwargs, options))
    if not (fits and named):
        raise ConfigurationError(
            f"The signature of {name!r:.80} is none as dict(signature) gives it: task is text, args a list, kwargs and "
            "options are maps, over is 'map' or 'starmap'."
        )
    given = dict(options)
    for link in LINKS:
        if given.get(link):
            given[link] = [from_plain(app, one, depth + 1) for one in given[link]]
    if isinstance(given.get("eta"), str):
        given["eta"] = datetime.fromisoformat(given["eta"])
    made: Signature[Any] = Signature(
        app.task_named(name), tuple(args), dict(kwargs), {}, bool(data.get("immutable")), over
    )
    return made.set(**cast("CallOptions", given)) if given else made
