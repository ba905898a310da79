"""The options that say how ``gearmans://`` addresses are reached: ``--tls-ca``, ``--tls-cert``, ``--tls-key``.

They go beside ``--servers``, and over what the app and the environment say. No command handles them itself: what was
given is kept in click's context, and taken from there where job servers are looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from gtask.app import App
    from gtask.transport.tls import TLS

Command = TypeVar("Command", bound=Callable[..., Any])

_GIVEN: Final = "gtask.tls"
_OPTIONS: Final = {
    "--tls-ca": (
        "cafile",
        "The authority that signed the certificates of gearmans:// servers.  [default: the system's]",
    ),
    "--tls-cert": ("certfile", "The certificate to show to job servers that ask for one."),
    "--tls-key": ("keyfile", "Its key, unless it is in the same file."),
}


def tls_options(command: Command) -> Command:
    """The three options."""
    for name, (field, text) in reversed(_OPTIONS.items()):
        command = click.option(
            name, field, type=click.Path(), metavar="FILE", help=text, expose_value=False, callback=_remember
        )(command)
    return command


def _remember(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.meta.setdefault(_GIVEN, {})[param.name] = value


def tls_of(otherwise: TLS | None) -> TLS | None:
    """What the options say, over what is `otherwise` so; raises `click.UsageError` for a key without a certificate."""
    from gtask.transport.tls import TLS

    context = click.get_current_context(silent=True)
    given: dict[str, str] = context.meta.get(_GIVEN, {}) if context is not None else {}
    if not given:
        return otherwise
    found = replace(otherwise or TLS(), **given)
    if found.keyfile and not found.certfile:
        raise click.UsageError("--tls-key is the key of a certificate; name that as well, with --tls-cert.")
    return found


def set_up_tls(app: App) -> App:
    """Has an app go by the options, and finds out whether its job servers can be reached so; returns it.

    Raises `ConfigurationError` for a file that is no good, and for plain text where TLS is set up.
    """
    from gtask.transport.tls import check_tls

    tls = tls_of(app.settings.tls)
    if tls is not app.settings.tls:
        app.settings = replace(app.settings, tls=tls)
    check_tls(app.servers, tls)
    return app
