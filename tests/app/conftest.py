"""Apps for the tests: one that sends nothing, one with a store, and one with a job server and a worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gtask import App
from gtask.results import SqliteStore
from gtask.testing.embedded import EmbeddedServer
from tests.app.helpers import NOWHERE


@pytest.fixture
def app() -> App:
    """An App without a store, on a job server that is not there."""
    return App("shop", servers=NOWHERE, results=None)


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[App]:
    """An App with a store, on a job server that is not there."""
    with App("shop", servers=NOWHERE, results=SqliteStore(tmp_path / "results.db")) as app:
        yield app


@pytest.fixture
def served(tmp_path: Path, gtask_server: EmbeddedServer) -> Iterator[App]:
    """An App with a store, on an embedded job server; `tests.app.helpers.working` runs its tasks."""
    with App("shop", servers=gtask_server.url, results=SqliteStore(tmp_path / "results.db")) as app:
        yield app
