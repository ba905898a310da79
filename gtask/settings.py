"""What an App is set up with: keyword arguments, then ``GTASK_*`` variables, then defaults. Design, section 2."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self, TypedDict

from gtask.errors import ConfigurationError
from gtask.options import check_name, refuse_unknown
from gtask.results.base import DEFAULT_TTL
from gtask.signing import Keyring
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
    dead_letters: bool
    skip_completed: bool
    check_arguments: bool
    tls: TLS | None
    signing_keys: Mapping[str, str | bytes] | str | Keyring | None
    signing_max_age: float | None


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of an App.

    `namespace` stands before the name of every task. `result_expires` is how long results are kept, `request_timeout`
    how long a job server may take to answer a request, `connect_timeout` how long to connect, `heartbeat` the silence
    after which a worker asks its job server for a sign of life (a dead link is found after two of them), all in
    seconds; `max_message` is how large a message or a result may be, in bytes: less than a job server takes in one
    packet, which is 64 MiB where it is not told otherwise. `ignore_result` is every task's default of that option.
    `dead_letters` parks what fails for good in ``<task>.dead``. `skip_completed` asks the store before a job is run
    that may have been run before, and does not run it when its task has ended. `check_arguments` refuses calls whose
    arguments do not fit the task's annotations; every task's default of that option. `tls` is for ``gearmans://``
    addresses, by default what `gtask.transport.tls.VARIABLES` say.

    `signing_keys` are secrets by their ids, or text as ``k2:secret2,k1:secret1``: the first signs what is sent, all of
    them verify, and what is not signed is not run. Jobs that were signed more than `signing_max_age` seconds ago are
    refused; None takes them however old they are. See `gtask.signing`.
    """

    namespace: str = ""
    result_expires: float = DEFAULT_TTL
    request_timeout: float = 10.0
    connect_timeout: float = 5.0
    heartbeat: float = HEARTBEAT
    max_message: int = 63 * 1024 * 1024
    ignore_result: bool = False
    dead_letters: bool = True
    skip_completed: bool = True
    check_arguments: bool = True
    tls: TLS | None = None
    signing_keys: Keyring | None = field(default=None, repr=False)
    signing_max_age: float | None = None

    @classmethod
    def of(cls, app: str, given: Mapping[str, Any]) -> Self:
        """Reads settings; raises `UnknownOption` or `ConfigurationError`, naming the app and the setting."""
        refuse_unknown(given, (*_KINDS, "middleware", "results", "servers"), f"App {app!r}", "an App")
        found: dict[str, Any] = {}
        for name, kind in _KINDS.items():
            if name in given:
                found[name] = given[name]
            elif kind and (text := os.environ.get(f"GTASK_{name.upper()}")) is not None:
                found[name] = _read(name, kind, text)
        if "tls" not in found:
            found["tls"] = TLS.from_environment()
        found["signing_keys"] = _keyring(app, found)
        settings = cls(**found)
        if settings.namespace:
            check_name(settings.namespace, "namespace")
        for name in ("result_expires", "request_timeout", "connect_timeout", "heartbeat", "max_message"):
            value = getattr(settings, name)
            if not (isinstance(value, int | float) and value > 0):
                raise ConfigurationError(f"App {app!r}: {name} is a number above zero, not {value!r}.")
        return settings


def _keyring(app: str, found: Mapping[str, Any]) -> Keyring | None:
    max_age = found.get("signing_max_age")
    try:
        keys = Keyring.of(found.get("signing_keys"), max_age)
    except ConfigurationError as error:
        raise ConfigurationError(f"App {app!r}: {error}") from None
    if max_age is not None and (keys is None or keys.max_age != max_age):
        raise ConfigurationError(f"App {app!r}: signing_max_age is for signing_keys given beside it; give both.")
    return keys


_READABLE: Final[dict[str, type]] = {
    "str": str,
    "float": float,
    "int": int,
    "bool": bool,
    "Keyring | None": str,
    "float | None": float,
}
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
