"""The built-in fallbacks, and those that settings make of them (`REALTIME_FALLBACKS`).

``{"orders": {"use": "webhook", "url": "https://…", "secret": "…"}}``: a name, which handler, and
its options. `email` and `log` are there without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from realtime.errors import ConfigurationError, InvalidName
from realtime.handlers.email import Email, email_of
from realtime.handlers.log import log
from realtime.handlers.webhook import webhook_of
from realtime.names import checked_fallback
from realtime.queued import Queued

SETTING = "REALTIME_FALLBACKS"
Function = Callable[[Queued], Any]

BUILT_IN: Mapping[str, Function] = {"email": Email(), "log": log}


def configured(entries: object) -> dict[str, Function]:
    """Return handlers by name, as the settings describe them.

    Raises:
        ConfigurationError: An entry cannot be used; names it, and shows no value of it.
    """
    if not isinstance(entries, Mapping):
        raise ConfigurationError(SETTING, "must be a mapping from names to options")
    return {_name(name): _handler(name, options) for name, options in entries.items()}


def _name(name: object) -> str:
    try:
        return checked_fallback(name)
    except InvalidName as error:
        raise ConfigurationError(SETTING, f"{error.value} is no name: {error.rule}") from error


def _handler(name: str, options: object) -> Function:
    if not isinstance(options, Mapping) or options.get("use") not in list(_KINDS):
        raise ConfigurationError(
            f"{SETTING}[{name!r}]", f"must be an object with `use`, one of {', '.join(_KINDS)}"
        )
    rest = {key: value for key, value in options.items() if key != "use"}
    try:
        return _KINDS[options["use"]](rest)
    except ConfigurationError as error:
        raise ConfigurationError(f"{SETTING}[{name!r}]", str(error)) from None


def _log_of(options: Mapping[str, Any]) -> Function:
    if options:
        raise ConfigurationError("log", f"has no option {ascii(next(iter(options)))[:40]}")
    return log


_KINDS: dict[str, Callable[[Mapping[str, Any]], Function]] = {
    "email": email_of,
    "webhook": webhook_of,
    "log": _log_of,
}
