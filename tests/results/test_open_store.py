"""Which store a URL names."""

from __future__ import annotations

from pathlib import Path

import pytest

from gtask.errors import ConfigurationError
from gtask.results import GearmanStore, SqliteStore, open_store
from gtask.types import Server


def test_no_store_and_a_store_of_the_users_own() -> None:
    assert open_store(None) is None
    store = SqliteStore("own.db")
    assert open_store(store) is store


def test_gearman_means_the_servers_of_the_app() -> None:
    store = open_store("gearman://", ["gearman://one", "two:5000"])
    assert isinstance(store, GearmanStore)
    assert store.servers == (Server("one"), Server("two", 5000))


@pytest.mark.parametrize("url", ["gearman://results:5000", "gearman://results:5000,gearmans://other"])
def test_gearman_with_a_host_means_that_one(url: str) -> None:
    store = open_store(url, ["gearman://one"])
    assert isinstance(store, GearmanStore)
    assert store.servers[0] == Server("results", 5000)
    assert len(store.servers) == url.count("://")


def test_sqlite_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative, absolute = open_store("sqlite:///some results.db"), open_store("sqlite:////var/lib/results.db")
    assert isinstance(relative, SqliteStore)
    assert relative.path == str(tmp_path / "some results.db")
    assert isinstance(absolute, SqliteStore)
    assert absolute.path == "/var/lib/results.db"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("german://", "did you mean gearman://"),
        ("sqllite:///x.db", "did you mean sqlite://"),
        ("results.db", "there are gearman://"),
        ("amqp://host", "no result store's URL"),
        ("", "no result store's URL"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite://results.db", "names no file"),
        ("redis://host:port", "has no port"),
        ("redis://host/db", "names none"),
        ("redis://host/0?colour=red", "unexpected keyword argument 'colour'"),
        ("mysql://root:secret@localhost/x", r"did you mean mysql\+pymysql"),
        ("postgresql://localhost/x", r"did you mean postgresql\+psycopg"),
        ("gearman://host:port", "no job server's address"),
    ],
)
def test_everything_else_is_refused_with_a_hint(url: str, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        open_store(url)


def test_redis_without_a_host_is_that_of_this_one() -> None:
    pytest.importorskip("redis")
    store = open_store("redis://")
    assert "localhost:6379" in repr(store)
    store.close()
