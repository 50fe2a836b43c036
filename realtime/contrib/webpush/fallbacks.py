"""Registers the fallback ``webpush``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asgiref.sync import async_to_sync, iscoroutinefunction

from realtime import fallback, wiring
from realtime.contrib.webpush.sending import NoBrowser, WebPush
from realtime.errors import ConfigurationError
from realtime.identity.web_push import PrivateKey, read_private_key

if TYPE_CHECKING:
    from realtime.core.fallback_entry import Queued


def private_key() -> PrivateKey:
    """Return the site's key.

    Raises:
        ConfigurationError: There is none.
    """
    key = read_private_key(wiring.settings().webpush_private_key)
    if key is None:
        raise ConfigurationError(
            "REALTIME_WEBPUSH_PRIVATE_KEY", "is not set: manage.py webpush_keys makes one"
        )
    return key


@fallback("webpush")
def notify(queued: Queued) -> None:
    """Notify the browsers of the publication's users, or else call the other fallback.

    Raises:
        ConfigurationError: A setting is missing.
        Exception: See `WebPush`, or what the other fallback raises.
    """
    settings = wiring.settings()
    if not settings.webpush_subject:
        raise ConfigurationError("REALTIME_WEBPUSH_SUBJECT", "is not set")
    push = WebPush(
        private_key(),
        settings.webpush_subject,
        wiring.user_table(),
        settings.webpush_allow_private,
    )
    try:
        push(queued)
    except NoBrowser:
        if not settings.webpush_otherwise:
            raise
        _call(settings.webpush_otherwise, queued)


def _call(name: str, queued: Queued) -> None:
    """Call another fallback's handler. The site names it: a publisher may not be allowed to."""
    handler = wiring.fallbacks().get(name)
    if handler is None or handler is notify:
        raise ConfigurationError("REALTIME_WEBPUSH_OTHERWISE", f"no other fallback is named {name}")
    if iscoroutinefunction(handler):
        async_to_sync(handler)(queued)
    else:
        handler(queued)
