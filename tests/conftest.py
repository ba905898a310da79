"""What all tests share. The job servers' fixtures come from gtask's own pytest plugin, `gtask.testing.plugin`."""

from __future__ import annotations

import pytest

from tests import pki


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The event loop under which a test with `pytest.mark.anyio` runs: each in turn."""
    backend: str = request.param
    return backend


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> pki.Certificates:
    """Certificates made for this run."""
    return pki.make(tmp_path_factory.mktemp("pki"))
