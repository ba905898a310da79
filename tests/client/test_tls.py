"""Both clients over TLS, against the embedded job server; Debian's gearmand is built without it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from gtask.client import AdminClient
from gtask.errors import ConfigurationError, ConnectFailed, NetworkError
from gtask.testing.embedded import EmbeddedServer
from gtask.transport import TLS
from gtask.types import Server, Submission
from tests.client.helpers import PATIENCE, Faces, closed_port
from tests.pki import Certificates


def test_calls_go_over_tls(connect: Faces, certificates: Certificates) -> None:
    """Also large ones, and many at once over one connection."""
    with EmbeddedServer(tls=certificates.for_server(ask=True)) as server:
        address = Server(server.host, server.port, tls=True)
        tls = certificates.for_client(certificates.client)
        client = connect(address, tls=tls)

        with ThreadPoolExecutor(8) as pool:
            payloads = [bytes([number]) * 300_000 for number in range(16)]
            assert list(pool.map(client.echo, payloads, timeout=PATIENCE * 2)) == payloads
        assert len(client.submit_many(Submission("nobody", bytes(10_000)) for _ in range(2000))) == 2000
        assert client.call_many([]) == []
        assert repr(client) == "<Client 1 server, 1 connected, 0 jobs open>"
        with AdminClient(address, tls=tls) as admin:
            assert admin.status()[0].total == 2000


def test_a_client_without_the_right_certificate_is_told_so(connect: Faces, certificates: Certificates) -> None:
    """It trusts nobody that it was not told to, and is not trusted without a certificate where one is asked for."""
    with EmbeddedServer(tls=certificates.for_server(ask=True)) as server:
        address = Server(server.host, server.port, tls=True)
        with pytest.raises(ConnectFailed, match="its certificate is not accepted"):
            connect(address).submit(Submission("f", b""))
        with pytest.raises(NetworkError, match="certificate"):
            connect(address, tls=certificates.for_client()).submit(Submission("f", b""))


def test_tls_settings_for_an_address_without_tls_are_a_mistake(connect: Faces, certificates: Certificates) -> None:
    """Nobody is to believe that such a connection is protected."""
    with pytest.raises(ConfigurationError, match="is plain text; write gearmans:// for TLS"):
        connect(closed_port(), tls=TLS(certificates.ca))
