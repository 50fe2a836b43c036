"""System checks: what is wrong with the settings, said before anything starts."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core import checks

from realtime.conf import PREFIX, Settings, setting_names
from realtime.errors import ConfigurationError
from realtime.fallbacks import registered
from realtime.handlers import BUILT_IN
from realtime.keyring import Keyring
from realtime.keys import SETTING
from realtime.namespaces import Namespaces


@checks.register("realtime")
def check_settings(**kwargs: Any) -> list[checks.CheckMessage]:
    """Report settings that cannot work, and names that nobody reads."""
    messages: list[checks.CheckMessage] = []
    try:
        given = Settings.from_django()
        keyring = Keyring(given.api_keys, and_one=given.api_key)  # and the file they may be in
        Namespaces(given.namespaces, personal=given.personal_channel or None)
    except ConfigurationError as error:
        messages.append(checks.Error(str(error), id="realtime.E001"))
    else:
        messages.extend(_absent_fallbacks(given))
        if text := keyring.notice():
            messages.append(checks.Warning(f"{SETTING}: {text}.", id="realtime.W009"))
    messages.extend(map(_unknown, sorted(_given() - set(setting_names()))))
    return messages


def _absent_fallbacks(given: Settings) -> Iterator[checks.CheckMessage]:
    known = {*registered, *given.fallbacks, *BUILT_IN}
    for name, namespace in Namespaces(given.namespaces).items():
        if namespace.fallback and namespace.fallback not in known:
            yield checks.Error(
                f"The namespace {name!r} names the fallback {namespace.fallback!r}, and there is "
                "none of this name: nothing can be published in it.",
                hint=f"There are {', '.join(sorted(known))}; register it with @fallback in the "
                "fallbacks.py of an app, or describe it in REALTIME_FALLBACKS.",
                id="realtime.E002",
            )


def _given() -> set[str]:
    return {name for name in dir(settings) if name.startswith(PREFIX)}


def _unknown(name: str) -> checks.CheckMessage:
    similar = difflib.get_close_matches(name, setting_names(), n=1)
    hint = f"Did you mean {similar[0]}?" if similar else None
    return checks.Warning(f"{name} is not a setting of realtime.", hint=hint, id="realtime.W001")
