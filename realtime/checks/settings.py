"""System checks: report invalid settings before anything starts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core import checks

from realtime.api.key_entries import SETTING
from realtime.api.keyring import Keyring
from realtime.conf import PREFIX, Settings, setting_names
from realtime.core.namespaces import Namespaces
from realtime.core.redis_url import MEMORY_URL
from realtime.errors import ConfigurationError
from realtime.fallbacks.handlers import make_built_in
from realtime.fallbacks.registry import registered

_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@checks.register("realtime")
def check_settings(**kwargs: Any) -> list[checks.CheckMessage]:
    """Report invalid settings, and unknown names."""
    messages: list[checks.CheckMessage] = []
    try:
        given = Settings.from_django()
        keyring = Keyring(given.api_keys, and_one=given.api_key)  # and the file they may be in
        Namespaces(given.namespaces, personal=given.personal_channel or None)
    except ConfigurationError as error:
        messages.append(checks.Error(str(error), id="realtime.E001"))
    else:
        messages.extend(_absent_fallbacks(given))
        messages.extend(_doubtful_redis(given))
        messages.extend(_memory(given))
        if text := keyring.warning_text():
            messages.append(checks.Warning(f"{SETTING}: {text}.", id="realtime.W009"))
    messages.extend(map(_unknown, sorted(_find_given() - set(setting_names()))))
    return messages


def _absent_fallbacks(given: Settings) -> Iterator[checks.CheckMessage]:
    known = {*registered, *given.fallbacks, *make_built_in()}
    for name, namespace in Namespaces(given.namespaces).items():
        if namespace.fallback and namespace.fallback not in known:
            yield checks.Error(
                f"The namespace {name!r} uses the fallback {namespace.fallback!r}, which does not "
                "exist. Nothing can be published in this namespace.",
                hint=f"Known fallbacks: {', '.join(sorted(known))}. Register one with @fallback in "
                "the fallbacks.py of an app, or configure it in REALTIME_FALLBACKS.",
                id="realtime.E002",
            )


def _doubtful_redis(given: Settings) -> Iterator[checks.CheckMessage]:
    if not given.redis_url and not given.public_url:
        yield checks.Warning(
            "REALTIME_REDIS_URL is empty, so nothing can be published or received.",
            hint='Set it, for example to "redis://127.0.0.1:6379/0", or to "memory://" for a first '
            "try in a single process. A project whose pages connect to a service elsewhere needs "
            "REALTIME_PUBLIC_URL instead.",
            id="realtime.W010",
        )
    if _LONE_PERCENT.search(given.redis_url):
        yield checks.Warning(
            "REALTIME_REDIS_URL contains a % that is not followed by two hexadecimal digits.",
            hint="Percent-encode the password: % is %25, @ is %40, # is %23, / is %2F, ? is %3F. "
            "urllib.parse.quote(password, safe='') does it.",
            id="realtime.W011",
        )


def _memory(given: Settings) -> Iterator[checks.CheckMessage]:
    from realtime.wiring.guard import is_test_run  # the rest of wiring needs all apps

    if given.redis_url == MEMORY_URL and not settings.DEBUG and not is_test_run():
        yield checks.Warning(
            "REALTIME_REDIS_URL is memory://, which works inside one process only, and DEBUG is "
            "off.",
            hint="For production, set a redis:// URL: further workers, runfallback and other "
            "commands reach nobody, and a restart loses the fallback queue.",
            id="realtime.W013",
        )


def _find_given() -> set[str]:
    return {name for name in dir(settings) if name.startswith(PREFIX)}


def _unknown(name: str) -> checks.CheckMessage:
    similar = difflib.get_close_matches(name, setting_names(), n=1)
    hint = f"Did you mean {similar[0]}?" if similar else None
    return checks.Warning(f"{name} is not a setting of realtime.", hint=hint, id="realtime.W001")
