"""The environment of the service, read once and typed.

Knows the names, types and rules of the variables; knows neither Django's settings nor who invents
what is missing (the launcher does, for ``make run``). Pure functions over a mapping, so every rule
is tested without a process.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import getaddresses
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from notifier.database import BadDatabaseUrl, database_settings
from notifier.mail import BadEmailUrl, email_settings
from realtime.conf import check_setting
from realtime.errors import ConfigurationError
from realtime.jwks import NO_KEY, read_set
from realtime.keys import keys_of, notice
from realtime.names import is_personal_prefix
from realtime.namespaces import Namespaces
from realtime.redis_url import read_redis_url
from realtime.tokens import EXPIRY, REQUIRED
from realtime.url_rules import is_host, is_line

# Django's own threshold (security.W009): shorter keys can be guessed from a signed value.
SECRET_KEY_CHARACTERS = 50

# More workers than this is a typing error, not a machine.
WORKERS_AT_MOST = 256

# The settings of the app that are whole numbers; a test compares.
LIMITS = frozenset(
    {
        "channel_characters",
        "channels_per_connection",
        "commands_burst",
        "commands_per_second",
        "connect_seconds",
        "connections",
        "connections_per_address",
        "connections_per_user",
        "frame_bytes",
        "headers",
        "body_bytes",
        "batch_bytes",
        "data_bytes",
        "data_depth",
        "fallback_bytes",
        "fallback_items",
        "outbox_bytes",
        "ping_seconds",
        "publications_burst",
        "publications_per_second",
        "subscriptions_per_address",
        "tags",
        "token_grace_seconds",
        "window_bytes",
    }
)

DEFAULT_HOST = "127.0.0.1"
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")

SECRETS = (
    "SECRET_KEY",
    "SECRET_KEY_FALLBACKS",
    "NOTIFIER_API_KEY",
    "NOTIFIER_TOKEN_SECRET",
    "REDIS_URL",
    "DATABASE_URL",
    "EMAIL_URL",
)
"""Each may come as the file that NAME_FILE names instead: systemd credentials, Docker secrets."""

IN_LINES = (
    "NOTIFIER_TOKEN_PUBLIC_KEY",
    "NOTIFIER_TOKEN_JWKS",
    "NOTIFIER_API_KEYS",
    "NOTIFIER_NAMESPACES",
    "NOTIFIER_CLOUDEVENTS",
    "NOTIFIER_FALLBACKS",
    "NOTIFIER_LIMITS",
    "SECRET_KEY_FALLBACKS",
)
"""Variables that may have line breaks and tabs: PEM, JSON, and a list of keys."""
VARIABLES = (
    *("HOST", "PORT", "WEB_CONCURRENCY", "ALLOWED_HOSTS", "ALLOWED_ORIGINS", "DEBUG", "HTTPS"),
    *("HSTS_SECONDS", "FORWARDED_ALLOW_IPS", "EMAIL_FROM", "NOTIFIER_TOKEN_AUDIENCE"),
    *("NOTIFIER_TOKEN_EXPIRY", "NOTIFIER_PERSONAL_CHANNEL", "NOTIFIER_REDIS_PREFIX"),
    *("NOTIFIER_DEMO_KEY", "NOTIFIER_URL", "NOTIFIER_RUN_DIR"),
    *(name for name in IN_LINES if name not in SECRETS),
    *SECRETS,
    *(f"{name}_FILE" for name in SECRETS),
)
"""All of them; a test compares with docs/settings.md."""

DIGITS = 20  # int() refuses more than 4,300 with an error of its own
_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"0", "false", "no", "off", ""})


class BadEnvironment(ImproperlyConfigured):
    """A variable of the environment is missing or cannot be used.

    Attributes:
        variable: its name.
        problem: what is wrong with it and what to do, as the rest of a sentence.
    """

    def __init__(self, variable: str, problem: str) -> None:
        super().__init__(f"{variable} {problem}")
        self.variable = variable
        self.problem = problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Everything the service takes from outside. One that exists keeps the rules below."""

    host: str = DEFAULT_HOST
    port: int = 8000  # 0: the kernel chooses
    workers: int = 1
    redis_url: str = field(default="", repr=False)  # may carry a password; "" only in DEBUG
    secret_key: str = field(repr=False)
    secret_key_fallbacks: tuple[str, ...] = field(default=(), repr=False)
    database: dict[str, Any] = field(default_factory=dict, repr=False)  # may carry a password
    debug: bool = False
    https: bool = True  # a proxy in front of us ends TLS
    hsts_seconds: int = 3600
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    api_key: str = field(default="", repr=False)  # neither only in DEBUG: nobody may publish
    api_keys: str | tuple[Any, ...] = ()  # "@path" of their file; it is read again when it changes
    token_secret: str = field(default="", repr=False)  # "" and no public key: no token is good
    token_public_key: str = ""  # PEM
    token_jwks: str = ""  # JSON, or @path: the app reads that again when it changes
    token_audience: str = ""
    token_expiry: str = REQUIRED
    personal_channel: str = "user:#"
    demo_key: bool = False  # the pages carry the API key; only in DEBUG
    url: str = ""  # where the running service is, for `manage.py listen`
    redis_prefix: str = "rt"  # services that share a Redis must differ in it
    namespaces: dict[str, Any] = field(default_factory=dict)
    fallbacks: dict[str, Any] = field(default_factory=dict, repr=False)  # may carry secrets
    cloudevents: tuple[dict[str, str], ...] = ()
    email: dict[str, Any] = field(default_factory=dict, repr=False)  # Django's settings, ditto
    limits: dict[str, int] = field(default_factory=dict)  # by setting, without REALTIME_
    notices: tuple[str, ...] = ()  # what works, and perhaps not as somebody thinks: said at start


def read_environment(environ: Mapping[str, str]) -> Environment:
    """Read the variables of the service.

    Raises:
        BadEnvironment: the first variable that breaks a rule, with what to do about it.
    """
    _check_texts(environ)
    environ = with_files(environ)
    _check_texts(environ)  # what was in the files
    debug = _flag(environ, "DEBUG", default=False)
    api_keys, notices = _api_keys(environ)
    token_jwks, more_notices = _token_jwks(environ)
    host = _host(environ)
    _check_proxies(environ)
    if debug and not is_loopback(host):
        raise BadEnvironment(
            "DEBUG", f"is on while HOST={host} is reachable from outside: unset DEBUG, or HOST."
        )
    return Environment(
        host=host,
        port=_integer(environ, "PORT", default=8000, least=0, most=65535),
        workers=_integer(environ, "WEB_CONCURRENCY", default=1, least=1, most=WORKERS_AT_MOST),
        redis_url=_redis_url(environ, required=not debug),
        secret_key=_secret_key(environ, strict=not debug),
        secret_key_fallbacks=_fallbacks(environ, strict=not debug),
        database=_database(environ),
        debug=debug,
        https=_flag(environ, "HTTPS", default=not debug),
        hsts_seconds=_integer(environ, "HSTS_SECONDS", default=3600, least=0, most=63_072_000),
        allowed_hosts=_allowed_hosts(environ, debug=debug),
        allowed_origins=_origins(environ),
        api_key=_api_key(environ, required=not debug and not api_keys),
        api_keys=api_keys,
        notices=notices + more_notices,
        token_secret=_token_secret(environ),
        token_public_key=_token_public_key(environ),
        token_jwks=token_jwks,
        token_audience=_text(environ, "NOTIFIER_TOKEN_AUDIENCE", "token_audience"),
        token_expiry=_token_expiry(environ),
        personal_channel=_personal_channel(environ, _namespaces(environ)),
        demo_key=_demo_key(environ, debug=debug),
        url=_text(environ, "NOTIFIER_URL", "url"),
        redis_prefix=_text(environ, "NOTIFIER_REDIS_PREFIX", "redis_prefix", default="rt"),
        namespaces=_namespaces(environ),
        fallbacks=_fallbacks_of_publications(environ),
        cloudevents=_cloudevents(environ),
        email=_email(environ, debug=debug),
        limits=_limits(environ),
    )


def _check_texts(environ: Mapping[str, str]) -> None:
    """Refuse what is blank or has control characters: nobody means that, and parsers drop it.

    Raises:
        BadEnvironment: A variable; its value is not shown, since it may be a secret.
    """
    for name in VARIABLES:
        value = environ.get(name, "")
        if value and not value.strip():
            raise BadEnvironment(name, "has nothing but white space: unset it, or write a value.")
        text = value.translate(_LINE_BREAKS) if name in IN_LINES else value
        if not is_line(text):
            raise BadEnvironment(
                name, "has a line break or another control character in it: write one line."
            )


_LINE_BREAKS = str.maketrans("", "", "\t\r\n")


def _host(environ: Mapping[str, str]) -> str:
    host = environ.get("HOST", "").strip() or DEFAULT_HOST
    if not is_host(host) and not _is_network(host.strip("[]")):
        raise BadEnvironment(
            "HOST", f"is {host[:40]!r}: write a name or an address, without scheme and port."
        )
    return host


def _check_proxies(environ: Mapping[str, str]) -> None:
    """Check what uvicorn reads by itself, and takes for a name if it is no network.

    Only a path (of a Unix socket) can be compared as text: clients have addresses, not names.
    """
    for proxy in _list(environ, "FORWARDED_ALLOW_IPS"):
        if proxy != "*" and not proxy.startswith("/") and not _is_network(proxy):
            raise BadEnvironment(
                "FORWARDED_ALLOW_IPS",
                f"has {proxy[:60]!r}: write addresses or networks of proxies, with commas between.",
            )


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def with_files(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return the environment with the secrets that are in files read into it.

    Raises:
        BadEnvironment: A file cannot be read or is empty, or a secret is given twice.
    """
    files = {name: f"{name}_FILE" for name in SECRETS if environ.get(f"{name}_FILE")}
    if not files:
        return environ
    rest = {name: value for name, value in environ.items() if name not in files.values()}
    return {**rest, **{name: _secret_of(environ, name, file) for name, file in files.items()}}


def _secret_of(environ: Mapping[str, str], name: str, variable: str) -> str:
    if environ.get(name):
        raise BadEnvironment(variable, f"is set, and {name} as well: unset one of the two.")
    secret = _file(variable, environ[variable]).rstrip("\r\n")
    if not secret:
        raise BadEnvironment(variable, "names a file that is empty.")
    return secret


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a server that listens on ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def debug_by_default(environ: Mapping[str, str]) -> bool:
    """Tell whether ``make run`` turns DEBUG on.

    It does where nobody said otherwise and only this machine can look.
    """
    return not environ.get("DEBUG") and is_loopback(environ.get("HOST", "").strip() or DEFAULT_HOST)


def _flag(environ: Mapping[str, str], name: str, *, default: bool) -> bool:
    value = environ.get(name)
    if value is None:
        return default
    if value.strip().lower() in _YES:
        return True
    if value.strip().lower() in _NO:
        return False
    raise BadEnvironment(name, f"is {value!r}: write 1 or 0.")


def _integer(environ: Mapping[str, str], name: str, *, default: int, least: int, most: int) -> int:
    value = environ.get(name, "").strip()
    if not value:
        return default
    # isascii too: int() would take digits of any script.
    is_number = value.isascii() and value.isdigit() and len(value) <= DIGITS
    if not is_number or not least <= int(value) <= most:
        raise BadEnvironment(name, f"is {value[:40]!r}: write a number from {least} to {most}.")
    return int(value)


def _list(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in environ.get(name, "").split(",") if item.strip())


def _redis_url(environ: Mapping[str, str], *, required: bool) -> str:
    url = environ.get("REDIS_URL", "").strip()
    if not url:
        if required:
            raise BadEnvironment("REDIS_URL", "is missing: set it, e.g. redis://127.0.0.1:6379/0.")
        return ""
    _as_setting("REDIS_URL", "redis_url", url)
    for option, path in read_redis_url(url).files.items():
        if not os.access(path, os.R_OK):
            raise BadEnvironment("REDIS_URL", f"names {path!r} by {option}, which cannot be read.")
    return url


def _as_setting(variable: str, name: str, value: Any) -> Any:
    """Let the app judge a value that becomes one of its settings: it has the only parser.

    Raises:
        BadEnvironment: It would stop each worker; in the words of the app, under our name.
    """
    try:
        return check_setting(name, value)
    except ConfigurationError as error:
        problem = str(error).removeprefix(f"REALTIME_{name.upper()}").removeprefix(": ")
        if problem.startswith(("must ", "has ", "is ", "names ")):
            raise BadEnvironment(variable, f"{problem}.") from error
        raise BadEnvironment(variable, f"is wrong: {problem}.") from error


def _text(environ: Mapping[str, str], variable: str, name: str, *, default: str = "") -> str:
    text = environ.get(variable, "").strip() or default
    _as_setting(variable, name, text)
    return text


def _secret_key(environ: Mapping[str, str], *, strict: bool) -> str:
    key = environ.get("SECRET_KEY", "")
    if not key:
        raise BadEnvironment(
            "SECRET_KEY", f"is missing: set {SECRET_KEY_CHARACTERS} or more random characters."
        )
    if strict and len(key) < SECRET_KEY_CHARACTERS:
        raise BadEnvironment(
            "SECRET_KEY",
            f"has {len(key)} characters: outside DEBUG it needs {SECRET_KEY_CHARACTERS} or more.",
        )
    return key


def _fallbacks(environ: Mapping[str, str], *, strict: bool) -> tuple[str, ...]:
    keys = tuple(environ.get("SECRET_KEY_FALLBACKS", "").replace(",", " ").split())
    if strict and any(len(key) < SECRET_KEY_CHARACTERS for key in keys):
        raise BadEnvironment(
            "SECRET_KEY_FALLBACKS",
            f"has a key of less than {SECRET_KEY_CHARACTERS} characters; they are parted by spaces "
            "or commas.",
        )
    return keys


def _database(environ: Mapping[str, str]) -> dict[str, Any]:
    try:
        return database_settings(environ.get("DATABASE_URL", "").strip())
    except BadDatabaseUrl as error:
        raise BadEnvironment("DATABASE_URL", str(error)) from error


def _api_key(environ: Mapping[str, str], *, required: bool) -> str:
    key = environ.get("NOTIFIER_API_KEY", "")
    if required and not key:
        raise BadEnvironment(
            "NOTIFIER_API_KEY",
            "is missing: set the key that publishers send as X-API-Key, or NOTIFIER_API_KEYS.",
        )
    _as_setting("NOTIFIER_API_KEY", "api_key", key)
    return key


def _api_keys(environ: Mapping[str, str]) -> tuple[str | tuple[Any, ...], tuple[str, ...]]:
    """Return the keys, or ``@path`` of the file that was found to hold some, and notices."""
    text = environ.get("NOTIFIER_API_KEYS", "").strip()
    if not text:
        return (), ()
    from_file = text.startswith("@")
    try:
        keys = keys_of(
            _file("NOTIFIER_API_KEYS", text[1:]) if from_file else text,
            and_one=environ.get("NOTIFIER_API_KEY", ""),
        )
    except ConfigurationError as error:
        raise BadEnvironment("NOTIFIER_API_KEYS", f"is wrong: {error.problem}.") from error
    notices = (f"NOTIFIER_API_KEYS: {said}.",) if (said := notice(keys)) else ()
    return text if from_file else tuple(json.loads(text)), notices


def _token_secret(environ: Mapping[str, str]) -> str:
    secret = environ.get("NOTIFIER_TOKEN_SECRET", "")
    _as_setting("NOTIFIER_TOKEN_SECRET", "token_secret", secret)
    return secret


def _token_public_key(environ: Mapping[str, str]) -> str:
    text = environ.get("NOTIFIER_TOKEN_PUBLIC_KEY", "").strip()
    if text.startswith("@"):
        text = _file("NOTIFIER_TOKEN_PUBLIC_KEY", text[1:])
    _as_setting("NOTIFIER_TOKEN_PUBLIC_KEY", "token_public_key", text)
    return text


def _token_jwks(environ: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Return the set, or ``@path`` of its file, and notices."""
    text = environ.get("NOTIFIER_TOKEN_JWKS", "").strip()
    content = _file("NOTIFIER_TOKEN_JWKS", text[1:]) if text.startswith("@") else ""
    _as_setting("NOTIFIER_TOKEN_JWKS", "token_jwks", text)
    # Its provider may have withdrawn all keys, and a node that restarts then has to start.
    is_empty = bool(content) and not read_set(content)[0]
    return text, (f"NOTIFIER_TOKEN_JWKS: its file {NO_KEY}.",) if is_empty else ()


def _token_expiry(environ: Mapping[str, str]) -> str:
    text = environ.get("NOTIFIER_TOKEN_EXPIRY", "").strip() or REQUIRED
    if text not in EXPIRY:
        raise BadEnvironment(
            "NOTIFIER_TOKEN_EXPIRY",
            "must be required (tokens without exp are refused) or optional (they hold for ever).",
        )
    return text


def _personal_channel(
    environ: Mapping[str, str], namespaces: Mapping[str, Mapping[str, object]]
) -> str:
    text = environ.get("NOTIFIER_PERSONAL_CHANNEL", "user:#").strip()
    if text and not is_personal_prefix(text):
        raise BadEnvironment(
            "NOTIFIER_PERSONAL_CHANNEL",
            "must be the start of a channel that ends in #: user:# for user:#42, # for #42; or "
            "empty for none.",
        )
    try:
        Namespaces(namespaces, personal=text or None)
    except ConfigurationError as error:
        raise BadEnvironment("NOTIFIER_PERSONAL_CHANNEL", f"{error.problem}.") from error
    return text


def _demo_key(environ: Mapping[str, str], *, debug: bool) -> bool:
    demo = _flag(environ, "NOTIFIER_DEMO_KEY", default=False)
    if demo and not debug:
        raise BadEnvironment(
            "NOTIFIER_DEMO_KEY", "shows the API key on the pages: it needs DEBUG=1. Unset it."
        )
    return demo


def _allowed_hosts(environ: Mapping[str, str], *, debug: bool) -> tuple[str, ...]:
    hosts = _list(environ, "ALLOWED_HOSTS")
    for host in hosts:
        if host != "*" and not is_host(host.removeprefix(".")) and not _is_ipv6(host):
            raise BadEnvironment(
                "ALLOWED_HOSTS",
                f"has {host[:60]!r}, which no browser asks for: write names in ASCII, without "
                "scheme, port and path, or an address such as [::1]; .example.com is all below it.",
            )
    if hosts:
        return hosts
    if debug:
        return LOOPBACK_HOSTS
    raise BadEnvironment(
        "ALLOWED_HOSTS", "is missing: name the hosts that browsers ask for, with commas between."
    )


def _is_ipv6(host: str) -> bool:
    """Tell whether a host is an address of IPv6 as it stands in URLs."""
    if not (host.startswith("[") and host.endswith("]")):
        return False
    try:
        return bool(ipaddress.IPv6Address(host[1:-1])) and "%" not in host
    except ValueError:
        return False


def _origins(environ: Mapping[str, str]) -> tuple[str, ...]:
    origins = _list(environ, "ALLOWED_ORIGINS")
    _as_setting("ALLOWED_ORIGINS", "allowed_origins", origins)
    return origins


def _namespaces(environ: Mapping[str, str]) -> dict[str, Any]:
    namespaces = _object(
        environ, "NOTIFIER_NAMESPACES", '{"orders": {"allow_subscribe_for_client": true}}'
    )
    _as_setting("NOTIFIER_NAMESPACES", "namespaces", namespaces)
    return namespaces


def _fallbacks_of_publications(environ: Mapping[str, str]) -> dict[str, Any]:
    example = '{"orders": {"use": "webhook", "url": "https://example.com/x", "secret": "…"}}'
    fallbacks = _object(environ, "NOTIFIER_FALLBACKS", example)
    _as_setting("NOTIFIER_FALLBACKS", "fallbacks", fallbacks)
    return fallbacks


def _cloudevents(environ: Mapping[str, str]) -> tuple[dict[str, str], ...]:
    variable, example = "NOTIFIER_CLOUDEVENTS", '[{"type": "*", "channel": "orders:{subject}"}]'
    rules = _json(environ, variable, "[]")
    if not isinstance(rules, list):
        raise BadEnvironment(variable, f"must be a JSON array of rules: {example}.")
    _as_setting(variable, "cloudevents", rules)
    return tuple(rules)


def _email(environ: Mapping[str, str], *, debug: bool) -> dict[str, Any]:
    try:
        settings = email_settings(environ.get("EMAIL_URL", "").strip(), debug=debug)
    except BadEmailUrl as error:
        raise BadEnvironment("EMAIL_URL", str(error)) from error
    if sender := environ.get("EMAIL_FROM", "").strip():
        [(_, address), *more] = getaddresses([sender])
        name, _, domain = address.rpartition("@")
        if more or not name or not domain or " " in address:
            raise BadEnvironment(
                "EMAIL_FROM", "must be one address, such as Notifier <notifier@example.com>."
            )
        settings["DEFAULT_FROM_EMAIL"] = sender
    return settings


def _limits(environ: Mapping[str, str]) -> dict[str, int]:
    """Return the limits that differ from their defaults."""
    limits = _object(environ, "NOTIFIER_LIMITS", '{"connections_per_address": 100}')
    for name, value in limits.items():
        if name not in LIMITS:
            raise BadEnvironment(
                "NOTIFIER_LIMITS", f"has {name!r}; there are {', '.join(sorted(LIMITS))}."
            )
        try:
            check_setting(name, value)
        except ConfigurationError as error:
            raise BadEnvironment("NOTIFIER_LIMITS", f"has {name!r}: it {error.problem}.") from error
    return limits


def _object(environ: Mapping[str, str], variable: str, example: str) -> dict[str, Any]:
    """Return a variable that is a JSON object, or @path of one."""
    found = _json(environ, variable, "{}")
    if not isinstance(found, dict):
        raise BadEnvironment(variable, f"must be a JSON object: {example}.")
    return found


def _json(environ: Mapping[str, str], variable: str, default: str) -> Any:
    """Return a variable that is JSON, or @path of a file that holds some."""
    text = environ.get(variable, "").strip()
    if text.startswith("@"):
        text = _file(variable, text[1:])
    try:
        return json.loads(text or default)
    except ValueError as error:
        raise BadEnvironment(variable, f"is not JSON: {error}.") from error
    except RecursionError:
        raise BadEnvironment(variable, "is nested too deeply.") from None


def _file(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadEnvironment(variable, f"names a file that cannot be read: {error}.") from error
