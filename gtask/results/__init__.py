"""Result stores: where the outcomes of tasks are kept, and how callers get them. Design, sections 3 and 4."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final, overload

from gtask.errors import ConfigurationError
from gtask.results.base import DEFAULT_TTL, Carriage, Mark, Marks, ResultStore, Weakness
from gtask.results.gearman import GearmanStore
from gtask.results.sqlite import SqliteStore
from gtask.transport import TLS
from gtask.types import Server, parse_server

__all__ = [
    "DEFAULT_TTL",
    "Carriage",
    "GearmanStore",
    "Mark",
    "Marks",
    "ResultStore",
    "SqliteStore",
    "Weakness",
    "open_store",
]

_SQL: Final = ("mysql+pymysql", "postgresql+psycopg", "sqlite+pysqlite")
_SCHEMES: Final = ("gearman", "gearmans", "sqlite", "redis", "rediss", *_SQL)
_DRIVERS: Final = {
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
}
"""What is meant by the name of a database alone."""


@overload
def open_store(
    url: str | ResultStore,
    servers: str | Server | Iterable[str | Server] | None = None,
    tls: TLS | None = None,
) -> ResultStore: ...
@overload
def open_store(
    url: None,
    servers: str | Server | Iterable[str | Server] | None = None,
    tls: TLS | None = None,
) -> None: ...
@overload
def open_store(
    url: str | ResultStore | None,
    servers: str | Server | Iterable[str | Server] | None = None,
    tls: TLS | None = None,
) -> ResultStore | None: ...
def open_store(
    url: str | ResultStore | None,
    servers: str | Server | Iterable[str | Server] | None = None,
    tls: TLS | None = None,
) -> ResultStore | None:
    """Makes the store that a URL names; nothing is opened before it is used.

    ``gearman://`` is the results service on `servers`, the App's own; ``gearman://host:port`` (or several, separated
    by commas) is that of other job servers. ``sqlite:///file.db`` is a file in the current folder, and
    ``sqlite:////path/file.db`` one elsewhere. ``redis://`` and ``rediss://`` name a Redis server (the extra ``redis``),
    ``mysql+pymysql://`` and ``postgresql+psycopg://`` a database (the extra ``sql``). None is no store; a `ResultStore`
    is returned as it is. `tls` is for ``gearmans://`` addresses. Raises `ConfigurationError` for any other URL, and
    where the packages for it are not installed.
    """
    if url is None or isinstance(url, ResultStore):
        return url
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _SCHEMES:
        nearest = [_DRIVERS[scheme]] if scheme in _DRIVERS else get_close_matches(scheme, _SCHEMES, 1, 0.5)
        hint = (
            f"; did you mean {nearest[0]}://?"
            if nearest
            else f"; there are {', '.join(map('{}://'.format, _SCHEMES))}."
        )
        raise ConfigurationError(f"{_masked(url)!r} is no result store's URL{hint}")
    if scheme in ("redis", "rediss", *_SQL):
        return _optional(scheme, url)
    if scheme == "sqlite":
        return SqliteStore(_path(url, rest))
    if rest in ("", "/"):
        return GearmanStore(servers, tls=tls)
    return GearmanStore([parse_server(part) for part in url.replace(",", " ").split()], tls=tls)


def _optional(scheme: str, url: str) -> ResultStore:
    """A store whose packages may be absent."""
    extra = "sql" if scheme in _SQL else "redis"
    try:
        if extra == "sql":
            from gtask.results.sql import SqlStore

            return SqlStore(url)
        from gtask.results.redis import RedisStore

        return RedisStore(url)
    except ImportError as error:
        raise ConfigurationError(
            f"Results cannot be kept in {scheme}:// here: {error}. Install what it needs: pip install 'gtask[{extra}]'."
        ) from error


def _masked(url: str) -> str:
    """A URL without its password, for messages."""
    head, separator, host = url.rpartition("@")
    user = head.rpartition("//")[2].partition(":")[0]
    return f"{head.partition('//')[0]}//{user}:***@{host}" if separator and ":" in head.rpartition("//")[2] else url


def _path(url: str, rest: str) -> str:
    path = rest[1:]
    if not rest.startswith("/") or path in ("", ":memory:") or path.endswith("/"):
        raise ConfigurationError(
            f"{url!r} names no file; write sqlite:///results.db, or sqlite:////var/lib/gtask/results.db with four "
            "slashes for a path from the root."
        )
    return path
