"""The environment variables that become settings of the app `realtime`.

Their names, defaults and rules follow from the declarations of the settings; this module adds only
how each is written. What one setting cannot show by itself (an unreadable file, duplicate keys) is
checked as well, so that a service that starts also works.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from notifier.variables import (
    BadEnvironment,
    file_or_text,
    parse_json,
    read_file,
    read_flag,
    split,
)
from realtime.api.key_entries import describe_unlisted, keys_of
from realtime.conf import DECLARED, check_setting
from realtime.core.namespaces import Namespaces
from realtime.core.redis_url import MEMORY_URL, read_redis_url
from realtime.errors import ConfigurationError
from realtime.fallbacks.handlers import make_built_in
from realtime.identity.jwks import NO_KEY, read_set

LIMITS_VARIABLE = "NOTIFIER_LIMITS"
LIMITS = frozenset(name for name, each in DECLARED.items() if each.is_whole_number)
"""The settings that share one variable."""
_OF_ALL_SERVICES = {
    "redis_url": "REDIS_URL",
    "jobs_redis_url": "JOBS_REDIS_URL",
    "allowed_origins": "ALLOWED_ORIGINS",
}


def variable_of(setting: str) -> str:
    """Return the name of the variable for a setting."""
    return _OF_ALL_SERVICES.get(setting, f"NOTIFIER_{setting.upper()}")


def _keep(variable: str, text: str) -> str:
    return text


def _strip(variable: str, text: str) -> str:
    return text.strip()


def _read_file_or_text(variable: str, text: str) -> str:
    return file_or_text(variable, text.strip())


def _check_file_or_text(variable: str, text: str) -> str:
    """Return a text or ``@path``; the app reloads the file when it changes."""
    file_or_text(variable, text.strip())
    return text.strip()


def _flag(variable: str, text: str) -> bool:
    return read_flag({variable: text}, variable, default=False)


def _split(variable: str, text: str) -> tuple[str, ...]:
    return split(text)


def _json(kind: type, example: str) -> Callable[[str, str], Any]:
    """Return a parser for JSON of this type, or for the ``@path`` of a file with JSON."""
    name = "object" if kind is dict else "array"

    def read(variable: str, text: str) -> Any:
        found = parse_json(variable, text.strip())
        if not isinstance(found, kind):
            raise BadEnvironment(variable, f"must be a JSON {name}: {example}.")
        return found

    return read


_limits = _json(dict, '{"connections_per_address": 100}')

WRITTEN: dict[str, Callable[[str, str], Any]] = {
    "redis_url": _strip,
    "jobs_redis_url": _strip,
    "redis_prefix": _strip,
    "api_key": _keep,
    "metrics_key": _keep,
    "token_secret": _keep,
    "token_public_key": _read_file_or_text,
    "token_jwks": _check_file_or_text,
    "token_audience": _strip,
    "token_expiry": _strip,
    "personal_channel": _strip,
    "url": _strip,
    "tracing": _flag,
    "allowed_origins": _split,
    "namespaces": _json(dict, '{"orders": {"allow_subscribe_for_client": true}}'),
    "fallbacks": _json(
        dict, '{"orders": {"use": "webhook", "url": "https://example.com/x", "secret": "…"}}'
    ),
    "cloudevents": _json(list, '[{"type": "*", "channel": "orders:{subject}"}]'),
}
"""The parser of each setting that has a variable, except for `api_keys` and `LIMITS`."""
_MAY_BE_EMPTY = frozenset({"personal_channel"})  # empty means none, not the default

APP_VARIABLES = (*map(variable_of, WRITTEN), variable_of("api_keys"), LIMITS_VARIABLE)


def read_app_settings(
    environ: Mapping[str, str], *, strict: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the app's settings by name, and notices about values that work but look wrong.

    Args:
        environ: The variables.
        strict: Whether Redis and an API key are required.

    Raises:
        BadEnvironment: A variable is invalid or missing.
    """
    settings = {name: _setting(environ, name) for name in WRITTEN}
    settings["api_keys"], key_notices = _api_keys(environ)
    _check_redis(settings["redis_url"], required=strict)
    _check_files("JOBS_REDIS_URL", settings["jobs_redis_url"])
    if strict and not settings["api_key"] and not settings["api_keys"]:
        raise BadEnvironment(
            "NOTIFIER_API_KEY",
            "is missing: set the key that publishers send as X-API-Key, or NOTIFIER_API_KEYS.",
        )
    _check_personal_channel(settings["personal_channel"], settings["namespaces"])
    _check_fallbacks(settings["namespaces"], settings["fallbacks"])
    return settings | _read_limits(environ), key_notices + _check_jwks(settings["token_jwks"])


def _setting(environ: Mapping[str, str], name: str) -> Any:
    variable = variable_of(name)
    text = environ.get(variable)
    if text is None or (not text and name not in _MAY_BE_EMPTY):
        return DECLARED[name].default
    return _judge(variable, name, WRITTEN[name](variable, text))


def _judge(variable: str, name: str, value: Any) -> Any:
    """Validate a value with the app, which has the only parser for its settings.

    Raises:
        BadEnvironment: Every worker would reject it; in the app's words, with the variable's name.
    """
    try:
        return check_setting(name, value)
    except ConfigurationError as error:
        problem = str(error).removeprefix(f"REALTIME_{name.upper()}").removeprefix(": ")
        if problem.startswith(("must ", "has ", "is ", "names ", "contains ")):
            raise BadEnvironment(variable, f"{problem}.") from error
        raise BadEnvironment(variable, f"is invalid: {problem}.") from error


def _check_redis(url: str, *, required: bool) -> None:
    if not url:
        if required:
            raise BadEnvironment("REDIS_URL", "is missing: set it, e.g. redis://127.0.0.1:6379/0.")
        return
    if url == MEMORY_URL:
        raise BadEnvironment(
            "REDIS_URL",
            "is memory://, a broker inside one process; the service has several: set the URL of a "
            "Redis, or start `make run` without one, which then starts a private Valkey.",
        )
    _check_files("REDIS_URL", url)


def _check_files(variable: str, url: str) -> None:
    for option, path in read_redis_url(url).files.items() if url else ():
        if not os.access(path, os.R_OK):
            raise BadEnvironment(variable, f"names {path!r} in {option}, which cannot be read.")


def _api_keys(environ: Mapping[str, str]) -> tuple[str | tuple[Any, ...], tuple[str, ...]]:
    """Return the keys, or the ``@path`` of a valid key file, and notices."""
    variable = variable_of("api_keys")
    text = environ.get(variable, "").strip()
    if not text:
        return (), ()
    try:
        keys = keys_of(
            file_or_text(variable, text), and_one=environ.get(variable_of("api_key"), "")
        )
    except ConfigurationError as error:
        raise BadEnvironment(variable, f"is invalid: {error.problem}.") from error
    notices = (f"{variable}: {said}.",) if (said := describe_unlisted(keys)) else ()
    return text if text.startswith("@") else tuple(json.loads(text)), notices


def _check_jwks(jwks: str) -> tuple[str, ...]:
    """Return a notice if a key set has no keys.

    Its provider may have withdrawn all keys, and a node must still be able to restart.
    """
    variable = variable_of("token_jwks")
    content = read_file(variable, jwks[1:]) if jwks.startswith("@") else ""
    is_empty = bool(content) and not read_set(content)[0]
    return (f"{variable}: its file {NO_KEY}.",) if is_empty else ()


def _check_personal_channel(prefix: str, namespaces: Mapping[str, Mapping[str, object]]) -> None:
    """Reject a prefix whose namespace is not configured."""
    try:
        Namespaces(namespaces, personal=prefix or None)
    except ConfigurationError as error:
        raise BadEnvironment(variable_of("personal_channel"), f"{error.problem}.") from error


def _check_fallbacks(
    namespaces: Mapping[str, Mapping[str, object]], fallbacks: Mapping[str, object]
) -> None:
    """Reject a namespace whose fallback does not exist: every publish in it would be refused."""
    known = {*fallbacks, *make_built_in()}
    for name, namespace in namespaces.items():
        wanted = namespace.get("fallback")
        if wanted and wanted not in known:
            raise BadEnvironment(
                variable_of("namespaces"),
                f"contains the namespace {name!r} with the fallback {wanted!r}, which does not "
                f"exist; known: {', '.join(sorted(known))}. Configure it in "
                f"{variable_of('fallbacks')}.",
            )


def _read_limits(environ: Mapping[str, str]) -> dict[str, int]:
    """Return the limits that differ from their defaults."""
    limits: dict[str, int] = _limits(LIMITS_VARIABLE, environ.get(LIMITS_VARIABLE, "") or "{}")
    for name, value in limits.items():
        if name not in LIMITS:
            raise BadEnvironment(
                LIMITS_VARIABLE,
                f"contains the unknown limit {name!r}; known: {', '.join(sorted(LIMITS))}.",
            )
        try:
            check_setting(name, value)
        except ConfigurationError as error:
            raise BadEnvironment(
                LIMITS_VARIABLE, f"contains {name!r}, which {error.problem}."
            ) from error
    return limits
