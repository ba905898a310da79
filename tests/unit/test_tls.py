"""Where the settings of TLS come from, and what they forbid."""

from __future__ import annotations

from pathlib import Path

import pytest

from gtask import TLS, App
from gtask.errors import ConfigurationError
from gtask.transport.tls import VARIABLES, check_tls, refuse_plaintext
from gtask.types import Server, is_loopback
from tests.pki import Certificates

HERE, THERE = Server("127.0.0.1"), Server("10.0.0.1")
SAFE = Server("10.0.0.1", tls=True)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in VARIABLES.values():
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_the_environment_sets_tls_up(environment: pytest.MonkeyPatch) -> None:
    assert App("a").settings.tls is None
    environment.setenv("GTASK_TLS_CAFILE", "ca.pem")
    environment.setenv("GTASK_TLS_CERTFILE", "cert.pem")
    environment.setenv("GTASK_TLS_KEYFILE", "")
    environment.setenv("GTASK_TLS_SERVER_HOSTNAME", "jobs")
    assert App("a").settings.tls == TLS("ca.pem", "cert.pem", None, "jobs")
    assert App("a", tls=TLS("other.pem")).settings.tls == TLS("other.pem")
    assert App("a", tls=None).settings.tls is None


def test_nothing_set_is_no_tls() -> None:
    assert TLS.from_environment({}) is None
    assert TLS.from_environment(dict.fromkeys(VARIABLES.values(), "")) is None


def test_a_key_alone_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"key\.pem is a key without a certificate"):
        TLS(keyfile="key.pem").context()


def test_files_are_read_early_where_they_are_needed(certificates: Certificates, tmp_path: Path) -> None:
    missing = TLS(str(tmp_path / "missing.pem"))
    with pytest.raises(ConfigurationError, match=r"TLS cannot be set up with .*missing\.pem: No such file"):
        check_tls([SAFE], missing)
    check_tls([SAFE], None)
    check_tls([SAFE], TLS(certificates.ca, certificates.client))
    check_tls([HERE], None)


@pytest.mark.parametrize("servers", [[HERE], [THERE], [SAFE, THERE], [HERE, THERE]])
def test_plain_text_is_refused_where_tls_is_set_up(servers: list[Server]) -> None:
    with pytest.raises(ConfigurationError, match=r"is plain text; write gearmans:// for TLS"):
        refuse_plaintext(servers, TLS())
    refuse_plaintext(servers, None)


def test_plain_text_to_this_machine_may_stand_beside_tls() -> None:
    refuse_plaintext([SAFE, HERE, Server("localhost"), Server("::1")], TLS())
    refuse_plaintext([SAFE], TLS())


@pytest.mark.parametrize(
    ("host", "yes"), [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
                      ("10.0.0.1", False), ("jobs.example", False), ("localhost.example", False)],
)  # fmt: skip
def test_what_is_this_machine(host: str, yes: bool) -> None:
    assert is_loopback(host) is yes
