"""The environment of the service, read once and typed.

Has the names, types and rules of the service's own variables; `app_variables` has those of the app.
It knows neither Django's settings nor how missing values are generated (the launcher does that, for
``make run``). Pure functions over a mapping, so every rule is tested without a process.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import getaddresses
from typing import Any

from notifier.app_variables import APP_VARIABLES, read_app_settings
from notifier.database import BadDatabaseUrl, database_settings
from notifier.mail import BadEmailUrl, email_settings
from notifier.variables import (
    BadEnvironment,
    check_texts,
    read_flag,
    read_integer,
    read_list,
    read_secret_files,
    read_web_address,
)
from realtime.core.url_rules import is_host

__all__ = [
    "BadEnvironment",
    "Environment",
    "is_debug_by_default",
    "is_loopback",
    "read_environment",
]

# Django's own threshold (security.W009): shorter keys can be guessed from a signed value.
SECRET_KEY_CHARACTERS = 50

MOST_PORTS = 65535
PORT_DIGITS = 5
# More workers than this are a typing error.
WORKERS_AT_MOST = 256

DEFAULT_HOST = "127.0.0.1"
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")

SECRETS = (
    "SECRET_KEY",
    "SECRET_KEY_FALLBACKS",
    "NOTIFIER_API_KEY",
    "NOTIFIER_METRICS_KEY",
    "NOTIFIER_TOKEN_SECRET",
    "REDIS_URL",
    "JOBS_REDIS_URL",
    "DATABASE_URL",
    "EMAIL_URL",
)
"""Each may be read from a file named by NAME_FILE: systemd credentials, Docker secrets."""

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
"""Variables that may contain line breaks and tabs: PEM, JSON, and a list of keys."""
VARIABLES = (
    *("HOST", "PORT", "WEB_CONCURRENCY", "ALLOWED_HOSTS", "DEBUG", "HTTPS", "HSTS_SECONDS"),
    *(
        "FORWARDED_ALLOW_IPS",
        "METRICS_ADDRESS",
        "DOCUMENTATION_URL",
        "EMAIL_FROM",
        "NOTIFIER_DEMO_KEY",
        "NOTIFIER_RUN_DIR",
    ),
    *(name for name in APP_VARIABLES if name not in SECRETS),
    *SECRETS,
    *(f"{name}_FILE" for name in SECRETS),
)
"""All variables; a test compares them with docs/settings.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """All configuration from the environment. Every instance satisfies the rules below."""

    host: str = DEFAULT_HOST
    port: int = 8000  # 0: the kernel chooses
    workers: int = 1
    metrics_address: tuple[str, int] | None = None  # None: nothing listens there
    documentation_url: str = ""  # of the site of docs/; "": the pages name its files
    secret_key: str = field(repr=False)
    secret_key_fallbacks: tuple[str, ...] = field(default=(), repr=False)
    database: dict[str, Any] = field(default_factory=dict, repr=False)  # may hold a password
    debug: bool = False
    https: bool = True  # a proxy in front of us terminates TLS
    hsts_seconds: int = 3600
    allowed_hosts: tuple[str, ...] = ()
    demo_key: bool = False  # the pages include the API key; only in DEBUG
    app: Mapping[str, Any] = field(repr=False)  # settings of `realtime` by name; some are secrets
    email: dict[str, Any] = field(default_factory=dict, repr=False)  # Django's; holds a password
    notices: tuple[str, ...] = ()  # printed at start: values that work, but may be unintended

    @property
    def redis_url(self) -> str:
        """The URL of Redis; empty only in DEBUG."""
        return str(self.app["redis_url"])

    @property
    def api_key(self) -> str:
        """The key with all permissions; it and all other keys may be missing only in DEBUG."""
        return str(self.app["api_key"])

    @property
    def has_metrics(self) -> bool:
        """Whether anybody can read the metrics of the workers."""
        return bool(self.metrics_address or self.app["metrics_key"])


def read_environment(environ: Mapping[str, str]) -> Environment:
    """Read the variables of the service.

    Raises:
        BadEnvironment: The first variable that breaks a rule, with what to do about it.
    """
    check_texts(environ, VARIABLES, IN_LINES)
    environ = read_secrets(environ)
    check_texts(environ, VARIABLES, IN_LINES)  # the content of the files
    debug = read_flag(environ, "DEBUG", default=False)
    host = _host(environ)
    _check_proxies(environ)
    if debug and not is_loopback(host):
        raise BadEnvironment(
            "DEBUG",
            f"is on while HOST={host} is reachable from other machines: unset DEBUG or HOST.",
        )
    app, notices = read_app_settings(environ, strict=not debug)
    return Environment(
        host=host,
        port=read_integer(environ, "PORT", default=8000, least=0, most=MOST_PORTS),
        workers=read_integer(environ, "WEB_CONCURRENCY", default=1, least=1, most=WORKERS_AT_MOST),
        metrics_address=_metrics_address(environ),
        documentation_url=read_web_address(environ, "DOCUMENTATION_URL"),
        secret_key=_secret_key(environ, strict=not debug),
        secret_key_fallbacks=_fallbacks(environ, strict=not debug),
        database=_database(environ),
        debug=debug,
        https=read_flag(environ, "HTTPS", default=not debug),
        hsts_seconds=read_integer(environ, "HSTS_SECONDS", default=3600, least=0, most=63_072_000),
        allowed_hosts=_allowed_hosts(environ, debug=debug),
        demo_key=_demo_key(environ, debug=debug),
        app=app,
        email=_email(environ, debug=debug),
        notices=notices,
    )


def read_secrets(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return the environment with secrets from files replaced by their content.

    Raises:
        BadEnvironment: A file cannot be read or is empty, or a secret is given twice.
    """
    return read_secret_files(environ, SECRETS)


def _host(environ: Mapping[str, str]) -> str:
    host = environ.get("HOST", "").strip() or DEFAULT_HOST
    if not is_host(host) and not _is_network(host.strip("[]")):
        raise BadEnvironment(
            "HOST", f"is {host[:40]!r}: use a host name or an address, without a scheme or port."
        )
    return host


def _metrics_address(environ: Mapping[str, str]) -> tuple[str, int] | None:
    given = environ.get("METRICS_ADDRESS", "").strip()
    if not given:
        return None
    host, _, port = given.rpartition(":")
    host = host or DEFAULT_HOST
    is_port = port.isascii() and port.isdigit() and len(port) <= PORT_DIGITS
    if not is_port or int(port) > MOST_PORTS or not (is_host(host) or _is_ipv6(host)):
        raise BadEnvironment(
            "METRICS_ADDRESS",
            f"is {given[:40]!r}: use ADDRESS:PORT, such as 127.0.0.1:9100 or [::1]:9100.",
        )
    return host, int(port)


def _check_proxies(environ: Mapping[str, str]) -> None:
    """Check the list that uvicorn reads itself, where it takes anything but a network for a name.

    Only a path (of a Unix socket) can be compared as text: clients have addresses, not names.
    """
    proxies = read_list(environ, "FORWARDED_ALLOW_IPS")
    if "*" in proxies and len(proxies) > 1:
        raise BadEnvironment(
            "FORWARDED_ALLOW_IPS", "contains '*' beside others: use it alone, to trust any address."
        )
    for proxy in proxies:
        if proxy != "*" and not proxy.startswith("/") and not _is_network(proxy):
            raise BadEnvironment(
                "FORWARDED_ALLOW_IPS",
                f"contains {proxy[:60]!r}: use comma-separated addresses or networks of proxies.",
            )
        if _is_mapped(proxy):  # see notifier.counting.without_mapping
            raise BadEnvironment(
                "FORWARDED_ALLOW_IPS",
                f"contains {proxy[:60]!r}: write an IPv4 address or network as such (10.0.0.1, "
                "10.0.0.0/8), also with HOST=::",
            )


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _is_mapped(text: str) -> bool:
    """Tell whether a network is one of IPv4 in IPv6 (``::ffff:0:0/96``)."""
    if not _is_network(text):
        return False
    address = ipaddress.ip_network(text).network_address
    return isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that listens on ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_debug_by_default(environ: Mapping[str, str]) -> bool:
    """Return whether ``make run`` turns DEBUG on.

    It does unless the environment says otherwise or other machines can connect.
    """
    return not environ.get("DEBUG") and is_loopback(environ.get("HOST", "").strip() or DEFAULT_HOST)


def _secret_key(environ: Mapping[str, str], *, strict: bool) -> str:
    key = environ.get("SECRET_KEY", "")
    if not key:
        raise BadEnvironment(
            "SECRET_KEY", f"is missing: set at least {SECRET_KEY_CHARACTERS} random characters."
        )
    if strict and len(key) < SECRET_KEY_CHARACTERS:
        raise BadEnvironment(
            "SECRET_KEY",
            f"has {len(key)} characters: at least {SECRET_KEY_CHARACTERS} are required unless "
            "DEBUG=1.",
        )
    return key


def _fallbacks(environ: Mapping[str, str], *, strict: bool) -> tuple[str, ...]:
    keys = tuple(environ.get("SECRET_KEY_FALLBACKS", "").replace(",", " ").split())
    if strict and any(len(key) < SECRET_KEY_CHARACTERS for key in keys):
        raise BadEnvironment(
            "SECRET_KEY_FALLBACKS",
            f"has a key with fewer than {SECRET_KEY_CHARACTERS} characters. Separate keys with "
            "spaces or commas.",
        )
    return keys


def _database(environ: Mapping[str, str]) -> dict[str, Any]:
    try:
        return database_settings(environ.get("DATABASE_URL", "").strip())
    except BadDatabaseUrl as error:
        raise BadEnvironment("DATABASE_URL", str(error)) from error


def _demo_key(environ: Mapping[str, str], *, debug: bool) -> bool:
    demo = read_flag(environ, "NOTIFIER_DEMO_KEY", default=False)
    if demo and not debug:
        raise BadEnvironment(
            "NOTIFIER_DEMO_KEY", "shows the API key on the pages and requires DEBUG=1: unset it."
        )
    return demo


def _allowed_hosts(environ: Mapping[str, str], *, debug: bool) -> tuple[str, ...]:
    hosts = read_list(environ, "ALLOWED_HOSTS")
    for host in hosts:
        if host != "*" and not is_host(host.removeprefix(".")) and not _is_ipv6(host):
            raise BadEnvironment(
                "ALLOWED_HOSTS",
                f"contains {host[:60]!r}, which is not a host: use ASCII names without scheme, "
                "port, or path, or addresses such as [::1]; .example.com includes all subdomains.",
            )
    if hosts:
        return hosts
    if debug:
        return LOOPBACK_HOSTS
    raise BadEnvironment(
        "ALLOWED_HOSTS", "is missing: list the host names of this service, separated by commas."
    )


def _is_ipv6(host: str) -> bool:
    """Return whether a host is an IPv6 address as written in URLs."""
    if not (host.startswith("[") and host.endswith("]")):
        return False
    try:
        return bool(ipaddress.IPv6Address(host[1:-1])) and "%" not in host
    except ValueError:
        return False


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
