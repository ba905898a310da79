"""Fixtures of the transports' tests."""

from __future__ import annotations

import pytest

from gtask.testing.requirements import require
from tests.transport.helpers import Certificates, make_certificates


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates made once; without the `openssl` program the test is skipped."""
    require("openssl", package="openssl")
    return make_certificates(tmp_path_factory.mktemp("certificates"))
