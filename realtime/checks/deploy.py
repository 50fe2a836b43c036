"""System checks of ``manage.py check --deploy``: settings that work, but are unsafe in public.

Each message names one weakness that an attacker could use, and its remedy; docs/settings.md lists
them all.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings as django_settings
from django.core import checks

from realtime.conf import Settings
from realtime.core.namespaces import Namespaces
from realtime.core.redis_url import MEMORY_URL, read_redis_url
from realtime.core.secret_strength import ADVICE, is_weak
from realtime.errors import ConfigurationError
from realtime.identity.tokens import OPTIONAL

Messages = Iterator[checks.CheckMessage]


@checks.register("realtime", "security", deploy=True)
def check_dangers(**kwargs: Any) -> list[checks.CheckMessage]:
    """Report settings that are unsafe on a network; `settings` reports invalid ones."""
    try:
        given = Settings.from_django()
    except ConfigurationError:
        return []
    return [message for check in _CHECKS for message in check(given)]


def _open_namespaces(given: Settings) -> Messages:
    for name, namespace in Namespaces(given.namespaces).items():
        publishes = namespace.allow_publish_for_client or namespace.allow_publish_for_subscriber
        anybody = namespace.allow_subscribe_for_client and namespace.allow_subscribe_for_anonymous
        if publishes and anybody and namespace.allow_publish_for_anonymous:
            yield checks.Warning(
                f"Anonymous clients may publish in the namespace {name!r}.",
                hint="Remove allow_publish_for_anonymous, or configure the namespace without "
                f"options to deny all access: {{{name!r}: {{}}}}.",
                id="realtime.W002",
            )


def _weak_secrets(given: Settings) -> Messages:
    for name, secret in _secrets(given):
        if secret and is_weak(secret):
            yield checks.Warning(
                f"{name} can be guessed: it is short, repetitive, or contains a common word.",
                hint=ADVICE,
                id="realtime.W003",
            )


def _shared_secrets(given: Settings) -> Messages:
    own = ("SECRET_KEY", django_settings.SECRET_KEY)
    for (name, one), (other, two) in combinations([own, *_secrets(given)], 2):
        if one and one == two:
            yield checks.Warning(
                f"{name} and {other} are the same, so knowing one grants the access of both.",
                hint=ADVICE,
                id="realtime.W004",
            )


def _open_redis(given: Settings) -> Messages:
    if given.redis_url in ("", MEMORY_URL):
        return
    url = read_redis_url(given.redis_url)
    if not all(map(_is_here, url.hosts)) and not url.password:
        yield checks.Warning(
            "REALTIME_REDIS_URL points to another machine without a password.",
            hint="Anyone who can write to Redis can publish to every browser. Create a Redis user "
            "for the service (docs/deploy.md#redis), and use rediss:// on shared networks.",
            id="realtime.W005",
        )


def _unchecked_redis(given: Settings) -> Messages:
    if given.redis_url in ("", MEMORY_URL):
        return
    url = read_redis_url(given.redis_url)
    if url.scheme == "rediss" and not url.checks_server:
        yield checks.Warning(
            "REALTIME_REDIS_URL uses TLS without verifying the server, so it can be intercepted.",
            hint="Remove ssl_cert_reqs and ssl_check_hostname. For a private CA, set "
            "ssl_ca_certs=/path.",
            id="realtime.W006",
        )


def _open_webhooks(given: Settings) -> Messages:
    for name, options in given.fallbacks.items():
        url = urlsplit(str(options.get("url", "")))
        if url.scheme == "http" and not _is_here(url.hostname):
            yield checks.Warning(
                f"The fallback {name!r} posts over unencrypted HTTP.",
                hint="Use an https:// URL.",
                id="realtime.W007",
            )


def _endless_tokens(given: Settings) -> Messages:
    if given.token_expiry == OPTIONAL:
        yield checks.Warning(
            "REALTIME_TOKEN_EXPIRY is optional, so tokens without exp never expire.",
            hint="Add exp to the tokens of your site and require it. Otherwise the only way to "
            "revoke a leaked token is to change the key.",
            id="realtime.W008",
        )


_CHECKS: tuple[Callable[[Settings], Messages], ...] = (
    _open_namespaces,
    _weak_secrets,
    _shared_secrets,
    _open_redis,
    _unchecked_redis,
    _open_webhooks,
    _endless_tokens,
)


def _secrets(given: Settings) -> list[tuple[str, str]]:
    return [
        ("REALTIME_API_KEY", given.api_key),
        ("REALTIME_METRICS_KEY", given.metrics_key),
        ("REALTIME_TOKEN_SECRET", given.token_secret),
    ]


def _is_here(host: str | None) -> bool:
    if host is None or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
