"""The house of design section 8, held by `ast`: floors, cycles, forbidden imports, sizes, docstrings.

A new file is added to FLOORS below. Where a rule is in the way, the file is usually on the wrong floor.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Module (or package, for all that is in it) and its floor; the longest name that fits counts.
FLOORS: dict[str, int] = {
    "gtask.errors": 0,
    "gtask.types": 0,
    "gtask.protocol": 1,
    "gtask.transport": 2,
    "gtask.server": 2,  # the engine and what it is made of; what touches sockets and files is named below
    "gtask.server.__init__": 3,
    "gtask.server.connection": 3,
    "gtask.server.crowd": 3,
    "gtask.server.door": 3,
    "gtask.server.host": 3,
    "gtask.server.listener": 3,
    "gtask.server.sqlite": 3,
    "gtask.server.tls": 3,
    "gtask.client": 3,
    "gtask.worker": 3,
    "gtask.answers": 4,
    "gtask.arguments": 4,
    "gtask.chunks": 4,
    "gtask.codecs": 4,
    "gtask.failures": 4,
    "gtask.flows": 4,
    "gtask.letters": 4,
    "gtask.message": 4,
    "gtask.results": 4,
    "gtask.progress": 4,
    "gtask.retry": 4,
    "gtask.schedule": 4,
    "gtask.signing": 4,
    "gtask.states": 4,
    "gtask.timers": 4,
    "gtask.app": 5,
    "gtask.canvas": 5,
    "gtask.context": 5,
    "gtask.decorators": 5,
    "gtask.middleware": 5,
    "gtask.known": 5,
    "gtask.layout": 5,
    "gtask.options": 5,
    "gtask.over": 5,
    "gtask.plain": 5,
    "gtask.plans": 5,
    "gtask.publish": 5,
    "gtask.group_result": 5,
    "gtask.result": 5,
    "gtask.revoking": 5,
    "gtask.sendable": 5,
    "gtask.sending": 5,
    "gtask.settings": 5,
    "gtask.signatures": 5,
    "gtask.streams": 5,
    "gtask.task": 5,
    "gtask.unique": 5,
    "gtask.waiting": 5,
    "gtask.beat": 6,
    "gtask.cluster": 6,
    "gtask.dead": 6,
    "gtask.guard": 6,
    "gtask.housekeeper": 6,
    "gtask.limits": 6,
    "gtask.mover": 6,
    "gtask.producer": 6,
    "gtask.repeats": 6,
    "gtask.reporting": 6,
    "gtask.revocation": 6,
    "gtask.runner": 6,
    "gtask.workers": 6,
    "gtask.__main__": 7,
    "gtask.cli": 7,
    "gtask.dashboard": 7,
    "gtask.testing": 7,
    "gtask.__init__": 8,
}

# Neighbours on one floor that do not know each other.
STRANGERS = ("gtask.client", "gtask.worker", "gtask.server")

IMPURE = frozenset(
    "anyio asyncio concurrent fcntl io logging multiprocessing os pathlib queue random secrets select selectors "
    "shutil signal socket sqlite3 ssl subprocess tempfile threading time trio uuid uvloop".split()
)
PURE = ("gtask.protocol", "gtask.retry", "gtask.schedule", "gtask.signing")  # and the server's files on floor 2

# Facts, sentences and bytes: these floors have no business with an event loop.
NO_LOOP = (
    "gtask.errors",
    "gtask.types",
    "gtask.server",
    "gtask.message",
    "gtask.codecs",
    "gtask.states",
    "gtask.failures",
)

# Third-party packages that may be absent: imported where they are used.
OPTIONAL = frozenset(
    "openpyxl psycopg pydantic pymysql pytest redis sqlalchemy starlette trio uvicorn uvloop watchfiles "
    "xlsxwriter".split()
)
# A command, a fixture or a store loads what only it needs.
LAZY = ("gtask.cli", "gtask.testing", "gtask.__main__", "gtask.results.__init__")

MAX_FILE = 400
MAX_FUNCTION = 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """One import statement's target; whether it stands inside a function, and whether only type checkers run it."""

    name: str
    line: int
    inside: bool
    typing: bool

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class Module:
    """One source file; `name` ends in ``__init__`` for a package's own file."""

    name: str
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def path(self) -> str:
        return self.name.replace(".", "/") + ".py"

    @property
    def package(self) -> str:
        return self.name.rpartition(".")[0]

    @cached_property
    def imports(self) -> list[Import]:
        """Everything it imports, wherever the statement stands; `from x import y` counts as `x.y`."""
        found: list[Import] = []
        for node, inside, typing in walk(self.tree):
            if isinstance(node, ast.Import):
                found += [Import(alias.name, node.lineno, inside, typing) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                parent = ".".join(self.name.split(".")[: -node.level]) if node.level else ""
                base = ".".join(part for part in (parent, node.module) if part)
                found += [Import(f"{base}.{alias.name}", node.lineno, inside, typing) for alias in node.names]
        return found


def walk(node: ast.AST, inside: bool = False, typing: bool = False) -> Iterator[tuple[ast.AST, bool, bool]]:
    """All nodes below, each with whether it is inside a function, and inside ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        yield child, inside, typing
        only_types = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
        yield from walk(child, inside or isinstance(child, Function | ast.Lambda), typing or only_types)


def load() -> list[Module]:
    return [
        Module(".".join(path.relative_to(ROOT).with_suffix("").parts), path.read_text())
        for path in sorted((ROOT / "gtask").rglob("*.py"))
    ]


def under(name: str, prefixes: Iterable[str]) -> str | None:
    """The longest of the prefixes that `name` is or is inside of."""
    fitting = [prefix for prefix in prefixes if name == prefix or name.startswith(f"{prefix}.")]
    return max(fitting, key=len, default=None)


def floor(name: str) -> int | None:
    found = under(name, FLOORS)
    return None if found is None else FLOORS[found]


def resolve(target: str, names: frozenset[str]) -> str | None:
    """The module of gtask that an imported name is, or is in."""
    while target:
        for name in (target, f"{target}.__init__"):
            if name in names:
                return name
        target = target.rpartition(".")[0]
    return None


def edges(modules: list[Module], typing: bool = True) -> dict[str, set[str]]:
    """Who imports whom inside gtask; without `typing`, imports that only type checkers run are left out."""
    names = frozenset(module.name for module in modules)
    found: dict[str, set[str]] = {}
    for module in modules:
        own = [one for one in module.imports if one.top == "gtask" and (typing or not one.typing)]
        targets = {resolve(imported.name, names) for imported in own}
        found[module.name] = {target for target in targets if target is not None and target != module.name}
    return found


def is_pure(module: Module) -> bool:
    return bool(under(module.name, PURE)) or (bool(under(module.name, ["gtask.server"])) and floor(module.name) == 2)


# --- the rules: each yields a sentence for every offence -----------------------------------------------------


def files_have_a_floor(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        if floor(module.name) is None:
            yield f"{module.path} is on no floor; add {module.name!r} to FLOORS in tests/test_architecture.py."


def nobody_imports_a_higher_floor(modules: list[Module]) -> Iterator[str]:
    for name, targets in edges(modules).items():
        for target in sorted(targets):
            here, there = floor(name), floor(target)
            if here is not None and there is not None and there > here:
                yield f"{name} (F{here}) imports {target} (F{there}): a floor imports itself and what is below it."


def neighbours_are_strangers(modules: list[Module]) -> Iterator[str]:
    for name, targets in edges(modules).items():
        own = under(name, STRANGERS)
        for target in sorted(targets):
            if own and under(target, STRANGERS) not in (None, own):
                yield f"{name} imports {target}: {', '.join(STRANGERS)} do not know each other; share it lower down."


def there_is_no_cycle(modules: list[Module]) -> Iterator[str]:
    try:
        TopologicalSorter(edges(modules, typing=False)).prepare()
    except CycleError as error:
        yield f"Import cycle (imports inside functions count): {' <- '.join(error.args[1])}."


def pure_modules_stay_pure(modules: list[Module]) -> Iterator[str]:
    for module in filter(is_pure, modules):
        for imported in module.imports:
            if imported.top in IMPURE:
                yield f"{module.path}:{imported.line} imports {imported.top}; pure files have no socket, clock or log."


def facts_know_no_event_loop(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        for imported in module.imports:
            if under(module.name, NO_LOOP) and imported.top in ("anyio", "asyncio", "trio"):
                yield f"{module.path}:{imported.line} imports {imported.top}; event loops live in the async faces."


def only_tracing_imports_opentelemetry(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        for imported in module.imports:
            if imported.top == "opentelemetry" and module.name != "gtask.middleware.tracing":
                yield f"{module.path}:{imported.line} imports opentelemetry; only middleware/tracing.py does."


def faces_name_no_packet(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        if module.name in ("gtask.client.blocking", "gtask.client.aio"):
            named = [imported.name for imported in module.imports]
            named += [node.id for node in ast.walk(module.tree) if isinstance(node, ast.Name)]
            named += [node.attr for node in ast.walk(module.tree) if isinstance(node, ast.Attribute)]
            if any("PacketType" in name or name.startswith("gtask.protocol.packets") for name in named):
                yield f"{module.path} names a packet type; that logic belongs into client/base.py or protocol/."


def nothing_is_unpickled_or_imported_by_name(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        # Names from a command line, or from a table in the file itself: not from the wire.
        at_hand = bool(under(module.name, ["gtask.cli", "gtask.testing", "gtask.__init__"]))
        for imported in module.imports:
            if imported.top in ("pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "runpy", "imp"):
                yield f"{module.path}:{imported.line} imports {imported.top}; bytes from the wire never become code."
            if imported.top == "importlib" and not at_hand and not imported.name.startswith("importlib.metadata"):
                yield f"{module.path}:{imported.line} imports importlib; nothing is imported by a name from the wire."
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("eval", "exec", "__import__"):
                yield f"{module.path}:{node.lineno} calls {ast.unparse(node.func)}()."


def functions_import_only_what_is_optional(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        for imported in module.imports:
            if imported.inside and imported.top not in OPTIONAL and not under(module.name, LAZY):
                yield f"{module.path}:{imported.line} imports {imported.name} inside a function; move it to the top."


def files_are_short(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        if (length := len(module.source.splitlines())) > MAX_FILE:
            yield f"{module.path} has {length} lines, more than {MAX_FILE}; split it by what changes together."


def functions_are_short(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        lines = module.source.splitlines()
        for node in ast.walk(module.tree):
            if isinstance(node, Function) and (length := code_lines(node, lines)) > MAX_FUNCTION:
                yield f"{module.path}:{node.lineno} {node.name}() has {length} lines of code, more than {MAX_FUNCTION}."


def code_lines(function: Function, lines: list[str]) -> int:
    first, *_ = function.body
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and ast.get_docstring(function)
    docstring = range(first.lineno, (first.end_lineno or 0) + 1) if is_docstring else range(0)
    numbers = range(function.lineno, (function.end_lineno or function.lineno) + 1)
    text = [lines[number - 1].strip() for number in numbers if number not in docstring]
    return sum(1 for line in text if line and not line.startswith("#"))


def public_names_have_docstrings(modules: list[Module]) -> Iterator[str]:
    classes = {
        node.name: node for module in modules for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)
    }
    for module in modules:
        if any(part.startswith("_") and not part.startswith("__") for part in module.name.split(".")):
            continue
        if not ast.get_docstring(module.tree):
            yield f"{module.path} has no docstring."
        for node, owner in public_definitions(module.tree):
            if not ast.get_docstring(node) and not inherits_docstring(node.name, owner, classes):
                yield f"{module.path}:{node.lineno} {owner.name + '.' if owner else ''}{node.name} has no docstring."


def public_definitions(
    tree: ast.Module | ast.ClassDef, owner: ast.ClassDef | None = None
) -> Iterator[tuple[Function | ast.ClassDef, ast.ClassDef | None]]:
    for node in tree.body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        if not any(ast.unparse(one).endswith(("overload", ".setter", ".deleter")) for one in node.decorator_list):
            yield node, owner
        if isinstance(node, ast.ClassDef):
            yield from public_definitions(node, node)


def inherits_docstring(name: str, owner: ast.ClassDef | None, classes: dict[str, ast.ClassDef]) -> bool:
    """Whether a base class of gtask documents the method, as `inspect.getdoc` would find it."""
    for base in owner.bases if owner else []:
        text = ast.unparse(base).partition("[")[0].rpartition(".")[2]
        parent = classes.get(text)
        if parent is None or parent is owner:
            continue
        if any(isinstance(node, Function) and node.name == name and ast.get_docstring(node) for node in parent.body):
            return True
        if inherits_docstring(name, parent, classes):
            return True
    return False


Rule = Callable[[list[Module]], Iterable[str]]

RULES: list[Rule] = [
    files_have_a_floor,
    nobody_imports_a_higher_floor,
    neighbours_are_strangers,
    there_is_no_cycle,
    pure_modules_stay_pure,
    facts_know_no_event_loop,
    only_tracing_imports_opentelemetry,
    faces_name_no_packet,
    nothing_is_unpickled_or_imported_by_name,
    functions_import_only_what_is_optional,
    files_are_short,
    functions_are_short,
    public_names_have_docstrings,
]


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    return load()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps(rule: Rule, modules: list[Module]) -> None:
    offences = list(rule(modules))
    assert not offences, "\n" + "\n".join(offences)


DOC = '"""Says."""\n'

# What each rule is there to catch: without this, a rule that never fails would look like a rule that is kept.
OFFENCES: list[tuple[Rule, dict[str, str]]] = [
    (files_have_a_floor, {"gtask.novelty": ""}),
    (nobody_imports_a_higher_floor, {"gtask.errors": "from gtask.app import App", "gtask.app": ""}),
    (nobody_imports_a_higher_floor, {"gtask.app": "def f():\n    from gtask import App", "gtask.__init__": ""}),
    (neighbours_are_strangers, {"gtask.client.base": "from gtask.worker import x", "gtask.worker.__init__": "x = 1"}),
    (there_is_no_cycle, {"gtask.app": "from gtask import task", "gtask.task": "def f():\n    import gtask.app"}),
    (nobody_imports_a_higher_floor, {"gtask.states": "if TYPE_CHECKING:\n    import gtask.app", "gtask.app": ""}),
    (there_is_no_cycle, {"gtask.app": "from .task import Task", "gtask.task": "from .app import App"}),
    (pure_modules_stay_pure, {"gtask.protocol.codec": "import time"}),
    (pure_modules_stay_pure, {"gtask.server.engine": "def f():\n    from os import urandom"}),
    (facts_know_no_event_loop, {"gtask.message": "import anyio.to_thread"}),
    (only_tracing_imports_opentelemetry, {"gtask.app": "from opentelemetry import trace"}),
    (faces_name_no_packet, {"gtask.client.aio": "from gtask.protocol.packets import PacketType as P"}),
    (faces_name_no_packet, {"gtask.client.blocking": "x = protocol.PacketType.NOOP"}),
    (nothing_is_unpickled_or_imported_by_name, {"gtask.codecs": "import pickle"}),
    (nothing_is_unpickled_or_imported_by_name, {"gtask.failures": "from importlib import import_module"}),
    (nothing_is_unpickled_or_imported_by_name, {"gtask.failures": "x = eval('1')"}),
    (functions_import_only_what_is_optional, {"gtask.app": "def f():\n    import json"}),
    (files_are_short, {"gtask.app": "x = 1\n" * (MAX_FILE + 1)}),
    (functions_are_short, {"gtask.app": "def f():\n" + "    x = 1\n" * (MAX_FUNCTION + 1)}),
    (public_names_have_docstrings, {"gtask.app": DOC + "def f():\n    pass"}),
    (public_names_have_docstrings, {"gtask.app": DOC + f"class A:\n    {DOC}\n    def f(self):\n        pass"}),
]


@pytest.mark.parametrize(("rule", "sources"), OFFENCES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_rule_catches_what_it_is_for(rule: Rule, sources: dict[str, str]) -> None:
    assert list(rule([Module(name, source) for name, source in sources.items()]))


def test_the_standard_library_names_are_known() -> None:
    """A slip in IMPURE would forbid nothing."""
    assert IMPURE - sys.stdlib_module_names <= {"anyio", "trio", "uvloop"}
