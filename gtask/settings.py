"""What an App is set up with: keyword arguments, then ``GTASK_*`` variables, then defaults. Design, section 2."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self, TypedDict

from gtask.errors import ConfigurationError
from gtask.options import check_name, refuse_unknown
from gtask.results.base import DEFAULT_TTL
from gtask.transport.tls import TLS
from gtask.worker.pulse import HEARTBEAT


class SettingsDict(TypedDict, total=False):
    """The keyword arguments of `App` besides its name, servers and results."""

    namespace: str
    result_expires: float
    request_timeout: float
    connect_timeout: float
    heartbeat: float
    max_message: int
    ignore_result: bool
    tls: TLS | None


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of an App.

    `namespace` stands before the name of every task. `result_expires` is how long results are kept, `request_timeout`
    how long a job server may take to answer a request, `connect_timeout` how long to connect, `heartbeat` the silence
    after which a worker asks its job server for a sign of life (a dead link is found after two of them), all in
    seconds; `max_message` is how large a message or a result may be, in bytes: less than a job server takes in one
    packet, which is 64 MiB where it is not told otherwise. `ignore_result` is every task's default of that option.
    """

    namespace: str = ""
    result_expires: float = DEFAULT_TTL
    request_timeout: float = 10.0
    connect_timeout: float = 5.0
    heartbeat: float = HEARTBEAT
    max_message: int = 63 * 1024 * 1024
    ignore_result: bool = False
    tls: TLS | None = None

    @classmethod
    def of(cls, app: str, given: Mapping[str, Any]) -> Self:
        """Reads settings; raises `UnknownOption` or `ConfigurationError`, naming the app and the setting."""
        refuse_unknown(given, _KINDS, f"App {app!r}", "an App")
        found: dict[str, Any] = {}
        for name, kind in _KINDS.items():
            if name in given:
                found[name] = given[name]
            elif kind and (text := os.environ.get(f"GTASK_{name.upper()}")) is not None:
                found[name] = _read(name, kind, text)
        settings = cls(**found)
        if settings.namespace:
            check_name(settings.namespace, "namespace")
        for name in ("result_expires", "request_timeout", "connect_timeout", "heartbeat", "max_message"):
            value = getattr(settings, name)
            if not (isinstance(value, int | float) and value > 0):
                raise ConfigurationError(f"App {app!r}: {name} is a number above zero, not {value!r}.")
        return settings


_READABLE: Final[dict[str, type]] = {"str": str, "float": float, "int": int, "bool": bool}
_KINDS: Final[dict[str, type | None]] = {field.name: _READABLE.get(str(field.type)) for field in fields(Settings)}


def _read(name: str, kind: type, text: str) -> Any:
    if kind is bool:
        lowered = text.strip().lower()
        if lowered in ("1", "true", "yes", "on"):
            return True
        if lowered in ("0", "false", "no", "off", ""):
            return False
        raise ConfigurationError(f"$GTASK_{name.upper()} is {text!r}; write true or false.")
    try:
        return kind(text)
    except ValueError:
        raise ConfigurationError(f"$GTASK_{name.upper()} is {text!r}; write a number.") from None
