"""Settings: keyword arguments, then the environment, then defaults."""

from __future__ import annotations

from typing import Any

import pytest

from gtask import App, UnknownOption
from gtask.errors import ConfigurationError
from gtask.types import Server
from tests.app.helpers import NOWHERE


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GTASK_SERVERS", raising=False)
    app = App("shop")
    assert app.servers == (Server("127.0.0.1", 4730),)
    assert app.settings.namespace == ""
    assert app.settings.result_expires == 86400.0
    assert not app.settings.ignore_result
    assert "<App shop, 0 tasks, gearman://127.0.0.1:4730>" in repr(app)


def test_the_environment_stands_in_for_what_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GTASK_SERVERS", "one:1, gearmans://two")
    monkeypatch.setenv("GTASK_NAMESPACE", "env.")
    monkeypatch.setenv("GTASK_RESULT_EXPIRES", "60")
    monkeypatch.setenv("GTASK_MAX_MESSAGE", "1000")
    monkeypatch.setenv("GTASK_IGNORE_RESULT", "yes")
    settings = App("shop", result_expires=5.0, namespace="own.").settings
    assert (settings.namespace, settings.result_expires) == ("own.", 5.0)
    assert (settings.max_message, settings.ignore_result) == (1000, True)
    assert App("shop").servers == (Server("one", 1), Server("two", 4730, True))
    assert App("shop", "three").servers == (Server("three", 4730),)
    assert App("shop").settings.namespace == "env."


@pytest.mark.parametrize(
    ("variable", "text"),
    [("GTASK_RESULT_EXPIRES", "soon"), ("GTASK_MAX_MESSAGE", "1.5"), ("GTASK_IGNORE_RESULT", "perhaps")],
)
def test_a_variable_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigurationError, match=rf"\${variable} is '{text}'"):
        App("shop", NOWHERE)


def test_a_setting_of_celery_is_told_what_it_is_here() -> None:
    with pytest.raises(UnknownOption, match=r"no option 'broker'; write servers="):
        App("shop", broker="amqp://")


def test_an_unknown_setting_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownOption, match="App 'shop': there is no option 'result_expire'; did you mean"):
        App("shop", NOWHERE, result_expire=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "settings", [{"result_expires": 0}, {"request_timeout": -1}, {"max_message": "1"}, {"connect_timeout": None}]
)
def test_a_value_that_makes_no_sense_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="is a number above zero"):
        App("shop", NOWHERE, **settings)


@pytest.mark.parametrize("servers", ["http://x", "gearman://", ["gearman://ok", "x:port"], "a/b"])
def test_what_is_no_address_is_refused(servers: Any) -> None:
    with pytest.raises(ConfigurationError, match="is no job server's address"):
        App("shop", servers)


@pytest.mark.parametrize("url", ["german://", "results.db", "sqlite://", "memcached://localhost"])
def test_a_store_that_there_is_not_is_refused_when_it_is_needed(url: str) -> None:
    with pytest.raises(ConfigurationError):
        _ = App("shop", NOWHERE, results=url).store


def test_signing_keys_are_read_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert App("shop", NOWHERE).settings.signing_keys is None
    given = App("shop", NOWHERE, signing_keys={"k1": "a very secret secret"}, signing_max_age=60)
    monkeypatch.setenv("GTASK_SIGNING_KEYS", "k2:another secret of many,k1:a very secret secret")
    monkeypatch.setenv("GTASK_SIGNING_MAX_AGE", "60")
    read = App("shop", NOWHERE)
    for app in (given, read):
        keys = app.settings.signing_keys
        assert keys is not None
        assert keys.max_age == 60
        shown = f"{app!r} {app.settings!r} {app.__dict__} {keys!r}"
        assert "secret" not in shown
    assert read.settings.signing_keys is not None
    assert given.settings.signing_keys is not None
    frame = given.settings.signing_keys.sign("add", b"x", 0.0)
    assert read.settings.signing_keys.open("add", frame).workload == b"x"
    assert App("shop", NOWHERE, signing_keys=None, signing_max_age=None).settings.signing_keys is None


@pytest.mark.parametrize(
    ("variable", "says"),
    [("", "1 to 16 keys"), ("only-a-secret-of-many-bytes", "id:secret"), ("k1:too short", "'k1' has 9 bytes")],
)
def test_signing_keys_that_make_no_sense_stop_the_app(
    monkeypatch: pytest.MonkeyPatch, variable: str, says: str
) -> None:
    """An empty variable too: whoever meant to set it would otherwise run without signatures."""
    monkeypatch.setenv("GTASK_SIGNING_KEYS", variable)
    with pytest.raises(ConfigurationError, match=f"App 'shop': .*{says}") as caught:
        App("shop", NOWHERE)
    assert "too short" not in str(caught.value)
    assert "only-a-secret" not in str(caught.value)


def test_signing_max_age_is_for_keys() -> None:
    with pytest.raises(ConfigurationError, match="signing_max_age is for signing_keys"):
        App("shop", NOWHERE, signing_max_age=60)
