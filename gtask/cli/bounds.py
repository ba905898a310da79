"""The options of `gtask server` that bound what its peers may take, and those of TLS: see `docs/security.md`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from gtask.cli.options import read_size

Command = TypeVar("Command", bound=Callable[..., Any])

_PEM = click.Path(dir_okay=False)


def tls_options(command: Command) -> Command:
    """``--tls-cert``, ``--tls-key`` and ``--tls-client-ca``."""
    for name, text in reversed(
        (
            ("--tls-cert", "Speak TLS, and nothing without it: the certificate to show, with its chain (PEM)."),
            ("--tls-key", "Its key, unless it is in the same file. SIGHUP reads all three files again."),
            ("--tls-client-ca", "Take only peers that show a certificate which this authority has signed."),
        )
    ):
        command = click.option(name, type=_PEM, metavar="FILE", help=text)(command)
    return command


_COUNT: Final = {"type": click.IntRange(1), "metavar": "N", "show_default": True}
_SIZE: Final = {"callback": read_size, "metavar": "SIZE", "show_default": True}
_SECONDS: Final = {"type": click.FloatRange(0), "metavar": "SECONDS", "show_default": True}

_BOUNDS: Final[tuple[tuple[str, Mapping[str, Any], Any, str], ...]] = (
    ("--max-body", _SIZE, "64M", "The most bytes one packet may have, for instance 64M."),
    ("--max-memory", _SIZE, "1G", "The most bytes all jobs may take; further ones are refused with QUEUE_ERROR."),
    ("--max-functions", _COUNT, 20_000, "The most functions there may be."),
    ("--max-connections", _COUNT, 10_000, "The most connections; the limit of open files has to be above it."),
    (
        "--max-connections-per-peer",
        _COUNT,
        None,
        "The most from one address.  [default: half of all, and any number from this machine]",
    ),
    (
        "--idle-timeout",
        _SECONDS,
        7200.0,
        "Close connections that hold nothing and say nothing for so long; 0 for never.",
    ),
    (
        "--stall-timeout",
        _SECONDS | {"type": click.FloatRange(0, min_open=True)},
        30.0,
        "Close connections that stop in the middle of a packet or a TLS handshake for so long.",
    ),
)


def read_limits(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    """The callback of ``--max-queue``."""
    found: dict[str, int] = {}
    for value in values:
        name, _, number = value.rpartition("=")
        if not name or not number.isascii() or not number.isdigit() or len(number) > 9 or len(name.encode()) > 255:
            raise click.BadParameter(f"{value!r} is not FUNCTION=N, for instance resize=1000.", ctx, param)
        found[name] = int(number)
    return found


def bounds_options(command: Command) -> Command:
    """The bounds; each is an argument of `JobServer`, by the same name."""
    command = click.option(
        "--max-queue",
        multiple=True,
        callback=read_limits,
        metavar="FUNCTION=N",
        help="Refuse jobs of a function beyond so many, queued and running, so that its callers get QueueFull. Can be "
        "given several times.",
    )(command)
    for name, kind, default, text in reversed(_BOUNDS):
        command = click.option(name, default=default, help=text, **kind)(command)
    return command
