"""The built-in handlers, and fallbacks configured from them (`REALTIME_FALLBACKS`).

``{"orders": {"use": "webhook", "url": "https://…", "secret": "…"}}``: a name, the handler to use,
and its options. `email` and `log` exist without configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from realtime.core.fallback_entry import Queued
from realtime.core.identity import SAME_USERS, UserTable
from realtime.core.names import checked_fallback
from realtime.errors import ConfigurationError, InvalidName
from realtime.fallbacks.handlers.email import Email, email_of
from realtime.fallbacks.handlers.log import log
from realtime.fallbacks.handlers.webhook import webhook_of

SETTING = "REALTIME_FALLBACKS"
Function = Callable[[Queued], Any]


def make_built_in(table: UserTable = SAME_USERS) -> dict[str, Function]:
    """Return the handlers that exist without configuration, by name."""
    return {"email": Email(table=table), "log": log}


def make_handlers(entries: object, table: UserTable = SAME_USERS) -> dict[str, Function]:
    """Return the configured handlers by name.

    Args:
        entries: Their options by name.
        table: The user table of this project, for `email`.

    Raises:
        ConfigurationError: An entry is invalid; the message names it and shows none of its values.
    """
    if not isinstance(entries, Mapping):
        raise ConfigurationError(SETTING, "must be a mapping of names to options")
    return {_name(name): _handler(name, options, table) for name, options in entries.items()}


def _name(name: object) -> str:
    try:
        return checked_fallback(name)
    except InvalidName as error:
        raise ConfigurationError(
            SETTING, f"{error.value} is not a valid name: {error.rule}"
        ) from error


def _handler(name: str, options: object, table: UserTable) -> Function:
    if not isinstance(options, Mapping) or options.get("use") not in list(_KINDS):
        raise ConfigurationError(
            f"{SETTING}[{name!r}]", f"must be an object with `use`, one of {', '.join(_KINDS)}"
        )
    rest = {key: value for key, value in options.items() if key != "use"}
    try:
        return _KINDS[options["use"]](rest, table)
    except ConfigurationError as error:
        raise ConfigurationError(f"{SETTING}[{name!r}]", str(error)) from None


def _log_of(options: Mapping[str, Any], table: UserTable) -> Function:
    if options:
        raise ConfigurationError("log", f"unknown option {ascii(next(iter(options)))[:40]}")
    return log


_KINDS: dict[str, Callable[[Mapping[str, Any], UserTable], Function]] = {
    "email": email_of,
    "webhook": lambda options, table: webhook_of(options),
    "log": _log_of,
}
