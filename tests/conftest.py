"""What all tests share. The job servers' fixtures come from gtask's own pytest plugin, `gtask.testing.plugin`."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The event loop under which a test with `pytest.mark.anyio` runs: each in turn."""
    backend: str = request.param
    return backend
