"""Options that several commands share, and the kinds of values they take."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from gtask.cli.tls import set_up_tls, tls_of, tls_options

if TYPE_CHECKING:
    from gtask.app import App
    from gtask.transport.tls import TLS
    from gtask.types import Server

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS: Final = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def read_size(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """The callback of an option that is a number of bytes: ``64M`` is 67108864."""
    found = re.fullmatch(r"(\d+)\s*([KMG]?)(?:i?B)?", value.strip(), re.IGNORECASE)
    if not found or not int(found[1]):
        raise click.BadParameter(f"{value!r} is no number of bytes; write for instance 64M.", ctx, param)
    return int(found[1]) * _UNITS[found[2].upper()]


def read_prefetch(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    """The callback of an option that is ``auto`` (None) or a number of jobs."""
    if value == "auto":
        return None
    if not value.isdecimal():
        raise click.BadParameter(f"{value!r}; write auto or a number of jobs.", ctx, param)
    return int(value)


def read_list(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """The callback of an option that may be given several times, each time with several values."""
    return tuple(part for value in values for part in value.replace(",", " ").split())


def servers_option(command: Command) -> Command:
    """The option ``--servers``, which may be given several times, each for several, and those of TLS beside it."""
    return click.option(
        "--servers",
        multiple=True,
        callback=read_list,
        metavar="URL[,URL...]",
        help="Job servers: gearman://host:port, or gearmans:// for TLS.  [default: the app's, else $GTASK_SERVERS, "
        "else 127.0.0.1:4730]",
    )(tls_options(command))


def app_option(command: Command) -> Command:
    """The option ``--app``."""
    return click.option(
        "--app", metavar="APP", help="The app (as in app:app) whose job servers, result store and TLS settings to use."
    )(command)


def json_option(command: Command) -> Command:
    """The option ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def an_app(where: str | None, servers: tuple[str, ...]) -> App:
    """The App of ``--app``, or one without tasks when it is not given; `servers` replaces its own."""
    from gtask.app import App
    from gtask.cli.loader import load_app

    return load_app(where, servers) if where else set_up_tls(App("gtask", servers or None))


def servers_of(where: str | None, servers: tuple[str, ...]) -> tuple[tuple[Server, ...], TLS | None]:
    """The job servers that ``--app`` and ``--servers`` mean, and how those with TLS are reached."""
    from gtask.transport.tls import TLS, check_tls
    from gtask.types import parse_servers

    if not where:
        addresses, tls = parse_servers(servers), tls_of(TLS.from_environment())
        check_tls(addresses, tls)
        return addresses, tls
    app = an_app(where, servers)
    return app.servers, app.settings.tls
