"""What can be imported from where (design, section 2), and what importing it costs."""

from __future__ import annotations

import ast
import importlib
import importlib.resources
import json
import pkgutil
import subprocess
import sys

import pytest

import gtask
import gtask.errors

NAMES = {"App", "AsyncResult", "Retry", "TaskContext", "chain", "group", "signature"}
"""The names of design section 2, but for `chord`, which is not built yet; `gtask` may offer more, never fewer."""

# Loaded by a command, a fixture or an option, never by `import gtask`.
HEAVY = (
    *(
        "click",
        "rich",
        "trio",
        "uvloop",
        "pytest",
        "pydantic",
        "sqlalchemy",
        "redis",
        "opentelemetry.sdk",
        "xlsxwriter",
    ),
    *("gtask.cli", "gtask.dashboard", "gtask.testing", "gtask.server"),
)

ERRORS = sorted(
    name
    for name, value in vars(gtask.errors).items()
    if isinstance(value, type) and issubclass(value, gtask.errors.GtaskError)
)

PACKAGES = sorted(
    module.name
    for module in pkgutil.walk_packages(gtask.__path__, "gtask.")
    if module.ispkg and "._" not in module.name
)


def test_the_front_door_has_the_names_of_the_design() -> None:
    assert set(gtask.__all__) >= NAMES


def test_every_name_of_the_front_door_is_there() -> None:
    for name in gtask.__all__:
        assert getattr(gtask, name) is not None


def test_no_name_is_given_twice() -> None:
    assert len(gtask.__all__) == len(set(gtask.__all__))


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_that_the_front_door_offers_is_the_one_of_the_tree(name: str) -> None:
    if name in gtask.__all__:
        assert getattr(gtask, name) is getattr(gtask.errors, name)


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_explains_itself_without_a_message(name: str) -> None:
    """`raise QueueFull()` has to say something; the first line of the docstring does."""
    text = str(getattr(gtask.errors, name)())

    assert text.endswith((".", ": "))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_offers_exactly_what_it_lists(package: str) -> None:
    module = importlib.import_module(package)
    listed = list(getattr(module, "__all__", []))
    assert len(listed) == len(set(listed))
    for name in listed:
        assert hasattr(module, name), f"{package}.__all__ lists {name}, which is not there."

    assert module.__file__ is not None
    assert defined_names(module.__file__) <= set(listed), f"{package} defines more than its __all__ lists."


def defined_names(file: str) -> set[str]:
    """The public names that an ``__init__.py`` defines itself; what it imports and does not list, ruff finds."""
    found: set[str] = set()
    with open(file) as source:
        tree = ast.parse(source.read())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in found if not name.startswith("_")}


def test_importing_gtask_loads_no_command_line_and_nothing_optional() -> None:
    code = "import sys, json, gtask; json.dump(sorted(sys.modules), sys.stdout)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = json.loads(done.stdout)

    unwanted = [name for name in loaded if any(name == one or name.startswith(f"{one}.") for one in HEAVY)]

    assert not unwanted


def test_the_package_is_typed() -> None:
    assert importlib.resources.files("gtask").joinpath("py.typed").is_file()
