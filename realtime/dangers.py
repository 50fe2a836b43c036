"""System checks of ``manage.py check --deploy``: what works, and should not be like this in public.

Each says one thing that somebody outside could use, and what to do about it; docs/settings.md has
them all.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings as django_settings
from django.core import checks

from realtime.conf import Settings
from realtime.errors import ConfigurationError
from realtime.namespaces import Namespaces
from realtime.redis_url import read_redis_url
from realtime.tokens import OPTIONAL

GUESS_BITS = 96
"""Chance has 128 bits in 32 hex digits or 22 characters; what people think of has 30 to 80."""
_WORDS = ("secret", "password", "passwort", "changeme", "change-me", "example", "insecure")
_ADVICE = "python -c 'import secrets; print(secrets.token_urlsafe(48))' makes a good one."

Messages = Iterator[checks.CheckMessage]


@checks.register("realtime", "security", deploy=True)
def check_dangers(**kwargs: Any) -> list[checks.CheckMessage]:
    """Report what is dangerous on a network; settings that cannot work are `checks`' matter."""
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
                f"Anybody may publish in the namespace {name!r}, without being known.",
                hint="Take allow_publish_for_anonymous away from it, or configure it without "
                f"options, which closes it: {{{name!r}: {{}}}}.",
                id="realtime.W002",
            )


def _weak_secrets(given: Settings) -> Messages:
    for name, secret in _secrets(given):
        if secret and is_weak(secret):
            yield checks.Warning(
                f"{name} can be guessed: it is short, repeats itself or has a word in it.",
                hint=_ADVICE,
                id="realtime.W003",
            )


def _shared_secrets(given: Settings) -> Messages:
    own = ("SECRET_KEY", django_settings.SECRET_KEY)
    for (name, one), (other, two) in combinations([own, *_secrets(given)], 2):
        if one and one == two:
            yield checks.Warning(
                f"{name} and {other} are the same: whoever is told the one may do the other, too.",
                hint=_ADVICE,
                id="realtime.W004",
            )


def _open_redis(given: Settings) -> Messages:
    if not given.redis_url:
        return
    url = read_redis_url(given.redis_url)
    if url.scheme != "unix" and not _is_here(url.host) and not url.password:
        yield checks.Warning(
            "REALTIME_REDIS_URL leads to another machine, and has no password.",
            hint="Whoever can write to Redis can speak to every browser: give it a user of its own "
            "(docs/deploy.md#redis), and rediss:// where others share the network.",
            id="realtime.W005",
        )


def _unchecked_redis(given: Settings) -> Messages:
    if not given.redis_url:
        return
    url = read_redis_url(given.redis_url)
    if url.scheme == "rediss" and not url.checks_server:
        yield checks.Warning(
            "REALTIME_REDIS_URL encrypts, and does not look to whom: anybody between can read it.",
            hint="Leave ssl_cert_reqs and ssl_check_hostname out; name a CA of your own by "
            "ssl_ca_certs=/path.",
            id="realtime.W006",
        )


def _open_webhooks(given: Settings) -> Messages:
    for name, options in given.fallbacks.items():
        url = urlsplit(str(options.get("url", "")))
        if url.scheme == "http" and not _is_here(url.hostname):
            yield checks.Warning(
                f"The fallback {name!r} posts in the clear: anybody between can read it.",
                hint="Give it an https:// address.",
                id="realtime.W007",
            )


def _endless_tokens(given: Settings) -> Messages:
    if given.token_expiry == OPTIONAL:
        yield checks.Warning(
            "REALTIME_TOKEN_EXPIRY is optional: a token without exp holds for ever.",
            hint="Let your site put exp into its tokens and require it, or change the key when a "
            "token leaks: nothing else takes one back.",
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


def is_weak(secret: str) -> bool:
    """Tell whether a secret looks like one that somebody thought of, and not like chance."""
    said = secret.lower()
    return (
        len(secret) * math.log2(len(set(secret))) < GUESS_BITS
        or any(word in said for word in _WORDS)
        or _repeats(secret)
    )


def _repeats(text: str) -> bool:
    """Tell whether it is one piece again and again (then it stands in itself, moved)."""
    return text in (text + text)[1:-1]


def _secrets(given: Settings) -> list[tuple[str, str]]:
    return [
        ("REALTIME_API_KEY", given.api_key),
        ("REALTIME_TOKEN_SECRET", given.token_secret),
    ]


def _is_here(host: str | None) -> bool:
    if host is None or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
