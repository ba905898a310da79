"""What all tests share. The job servers' fixtures come from gtask's own pytest plugin, `gtask.testing.plugin`."""

from __future__ import annotations

import os

import pytest

from tests import pki

SLOW = ("faults", "limits", "results", "e2e", "benchmarks", "cli", "client", "foreign", "queues", "server")
"""Folders whose tests mostly wait, the slowest first: begun first, so that no process is left alone with them."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes (pytest-xdist) the slow folders come first; a file's tests stay together and in order."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        places = {name: place for place, name in enumerate(SLOW)}
        items.sort(key=lambda item: places.get(item.path.parent.name, len(places)))


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The event loop under which a test with `pytest.mark.anyio` runs: each in turn."""
    backend: str = request.param
    return backend


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> pki.Certificates:
    """Certificates made for this run."""
    return pki.make(tmp_path_factory.mktemp("pki"))
