"""Fixtures of the clients' tests: each kind of client in turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from anyio.from_thread import start_blocking_portal

from tests.client.helpers import Faces


@pytest.fixture(params=["blocking", "asyncio", "trio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Faces]:
    """Makes clients: blocking ones, then asynchronous ones on each loop behind the same face."""
    if request.param == "blocking":
        faces = Faces(None)
        try:
            yield faces
        finally:
            faces.close()
    else:
        with start_blocking_portal(request.param) as portal:
            faces = Faces(portal)
            try:
                yield faces
            finally:
                faces.close()
