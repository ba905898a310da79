"""Result stores: where the outcomes of tasks are kept, and how callers get them. Design, sections 3 and 4."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from gtask.errors import ConfigurationError
from gtask.results.base import DEFAULT_TTL, Carriage, ResultStore
from gtask.results.gearman import GearmanStore
from gtask.results.sqlite import SqliteStore
from gtask.transport import TLS
from gtask.types import Server, parse_server

__all__ = ["DEFAULT_TTL", "Carriage", "GearmanStore", "ResultStore", "SqliteStore", "open_store"]

_LATER: Final = ("redis", "rediss", "mysql+pymysql", "postgresql+psycopg")
_SCHEMES: Final = ("gearman", "gearmans", "sqlite", *_LATER)


def open_store(
    url: str | ResultStore | None,
    servers: str | Server | Iterable[str | Server] | None = None,
    tls: TLS | None = None,
) -> ResultStore | None:
    """Makes the store that a URL names; nothing is opened before it is used.

    ``gearman://`` is the results service on `servers`, the App's own; ``gearman://host:port`` (or several, separated
    by commas) is that of other job servers. ``sqlite:///file.db`` is a file in the current folder, and
    ``sqlite:////path/file.db`` one elsewhere. None is no store; a `ResultStore` is returned as it is. `tls` is for
    ``gearmans://`` addresses. Raises `ConfigurationError` for any other URL.
    """
    if url is None or isinstance(url, ResultStore):
        return url
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _SCHEMES:
        nearest = get_close_matches(scheme, _SCHEMES, 1, 0.5)
        hint = f"; did you mean {nearest[0]}://?" if nearest else "; there are gearman:// and sqlite:///."
        raise ConfigurationError(f"{url!r} is no result store's URL{hint}")
    if scheme in _LATER:
        raise ConfigurationError(
            f"Results cannot be kept in {scheme}:// yet; use gearman:// with `gtask results`, or sqlite:///results.db."
        )
    if scheme == "sqlite":
        return SqliteStore(_path(url, rest))
    if rest in ("", "/"):
        return GearmanStore(servers, tls=tls)
    return GearmanStore([parse_server(part) for part in url.replace(",", " ").split()], tls=tls)


def _path(url: str, rest: str) -> str:
    path = rest[1:]
    if not rest.startswith("/") or path in ("", ":memory:") or path.endswith("/"):
        raise ConfigurationError(
            f"{url!r} names no file; write sqlite:///results.db, or sqlite:////var/lib/gtask/results.db with four "
            "slashes for a path from the root."
        )
    return path
