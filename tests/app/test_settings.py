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


@pytest.mark.parametrize("url", ["german://", "results.db", "sqlite://", "redis://localhost"])
def test_a_store_that_there_is_not_is_refused_when_it_is_needed(url: str) -> None:
    with pytest.raises(ConfigurationError):
        _ = App("shop", NOWHERE, results=url).store
