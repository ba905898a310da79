"""Finds the App that a command line names: `app:app`, imported from the current folder.

What is wrong with the name is one sentence with the nearest thing that exists; what is wrong inside the user's module
is shown with the user's own frames.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from gtask.app import App
from gtask.cli.failures import CliError
from gtask.cli.tls import set_up_tls
from gtask.types import parse_servers

USAGE = 2

_OWN = str(Path(__file__).resolve().parents[1]) + os.sep


def load_app(where: str, servers: str | Sequence[str] | None = None, include: Iterable[str] = ()) -> App:
    """Imports the App at `where`: ``module:attribute``, or ``module`` alone for its attribute `app`.

    `servers`, if given, replaces the App's own. `include` names modules to import besides, for the tasks they define.
    Raises `CliError`: exit code 2 when there is no such module or attribute, 1 when the module itself raises.
    """
    name, attribute = _parse(where)
    if sys.path[0] not in ("", os.getcwd()):
        sys.path.insert(0, os.getcwd())
    module = _import(name, where)
    app = _find(module, attribute, where)
    for other in include:
        _import(other, other)
    if servers:
        app.servers = parse_servers(servers)
    return set_up_tls(app)


def _parse(where: str) -> tuple[str, str]:
    name, _, attribute = where.partition(":")
    attribute = attribute or "app"
    if name.endswith(".py") or os.sep in name:
        dotted = name.removesuffix(".py").removeprefix(f".{os.sep}").strip(os.sep).replace(os.sep, ".")
        raise CliError(f"{where!r} names a file; name the module and the App in it: {dotted}:{attribute}.", USAGE)
    parts = [*name.split("."), *attribute.split(".")]
    if not all(part.isidentifier() for part in parts) or where.count(":") > 1:
        raise CliError(f"{where!r} names no App; write MODULE:ATTRIBUTE, for instance app:app.", USAGE)
    return name, attribute


def _import(name: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise CliError(_no_module(name, missing, where), USAGE) from None
        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def _no_module(name: str, missing: str, where: str) -> str:
    folder = Path.cwd()
    *parents, last = missing.split(".")
    sentence = f"There is no module {missing!r} in {folder} or installed (for {where!r})."
    near = difflib.get_close_matches(last, _modules(folder.joinpath(*parents)), 1, 0.6)
    if near and near[0] != last:
        return f"{sentence} Did you mean {'.'.join([*parents, near[0]])}?"
    below = sorted(path.parent.name for path in folder.glob(f"*/{name}.py") if path.parent.name.isidentifier())
    if below:
        return f"{sentence} It is in the folder {below[0]}: go there, or write {below[0]}.{name}."
    return f"{sentence} Run this in the folder where {name.replace('.', os.sep)}.py is."


def _modules(folder: Path) -> list[str]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return []
    names = [entry.name.removesuffix(".py") for entry in entries if entry.name.endswith(".py") or entry.is_dir()]
    return [name for name in names if name.isidentifier()]


def _broken(name: str, error: BaseException) -> CliError:
    if isinstance(error, SystemExit):
        return CliError(
            f"Module {name!r} ended the program when it was imported (exit code {error.code}); put what it does as a "
            "program below `if __name__ == '__main__':`."
        )
    what = " ".join(traceback.format_exception_only(error)[-1].split())
    return CliError(f"Module {name!r} cannot be imported: {what}", details=own_traceback(error))


def own_traceback(error: BaseException) -> str:
    """The traceback of an exception without the frames of gtask and of Python's import system."""
    found = traceback.TracebackException.from_exception(error, compact=True)
    one: traceback.TracebackException | None = found
    for _ in range(100):  # causes of causes; bounded, since a chain may be a circle
        if one is None:
            break
        one.stack = traceback.StackSummary.from_list([frame for frame in one.stack if _is_users(frame)])
        one = one.__cause__ or one.__context__
    return "".join(found.format())


def _is_users(frame: traceback.FrameSummary) -> bool:
    return not frame.filename.startswith(("<frozen importlib", _OWN)) and not (
        frame.filename.endswith(os.path.join("importlib", "__init__.py"))
    )


def _find(module: ModuleType, attribute: str, where: str) -> App:
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise CliError(
                f"Module {module.__name__!r} has no {attribute!r} (for {where!r}).{_hint(module, part)}", USAGE
            )
        found = getattr(found, part)
    if not isinstance(found, App):
        raise CliError(
            f"{module.__name__}:{attribute} is a {type(found).__name__}, no gtask App.{_hint(module, attribute)}", USAGE
        )
    return found


def _hint(module: ModuleType, attribute: str) -> str:
    apps = [name for name, value in vars(module).items() if isinstance(value, App)]
    near = difflib.get_close_matches(attribute, apps, 1, 0.0) or apps[:1]
    if not near:
        return " Nothing in it is an App; make one with app = App('name')."
    return f" Did you mean {module.__name__}:{near[0]}?"
