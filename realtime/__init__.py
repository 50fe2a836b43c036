"""Live notifications for Django on Redis pub/sub: at most once, never silently lost.

The names in `__all__` are the whole public API for a host project's code: publishing, tokens for
its pages, commands to users' connections, presence, positions and the views that use them, and
handlers for queued publications. They are loaded on first use, since this package
must be importable before Django is set up.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from realtime._version import __version__

if TYPE_CHECKING:
    from realtime.fallbacks.registry import fallback
    from realtime.host.live_views import live_etag, with_position
    from realtime.host.positions import aposition, position
    from realtime.host.presence import (
        apresence,
        apresence_stats,
        presence,
        presence_stats,
    )
    from realtime.host.publishing import apublish, publish, publish_on_commit
    from realtime.host.user_commands import (
        ablock_user,
        adisconnect_user,
        amessage_user,
        asubscribe_user,
        aunblock_user,
        aunsubscribe_user,
        block_user,
        disconnect_user,
        message_user,
        subscribe_user,
        unblock_user,
        unsubscribe_user,
    )
    from realtime.host.user_tokens import connection_token, personal_channel, subscription_token

__all__ = [
    "__version__",
    "ablock_user",
    "adisconnect_user",
    "amessage_user",
    "aposition",
    "apresence",
    "apresence_stats",
    "apublish",
    "asubscribe_user",
    "aunblock_user",
    "aunsubscribe_user",
    "block_user",
    "connection_token",
    "disconnect_user",
    "fallback",
    "live_etag",
    "message_user",
    "personal_channel",
    "position",
    "presence",
    "presence_stats",
    "publish",
    "publish_on_commit",
    "subscribe_user",
    "subscription_token",
    "unblock_user",
    "unsubscribe_user",
    "with_position",
]


_HOMES = {
    "fallback": "fallbacks.registry",
    **dict.fromkeys(
        ("presence", "presence_stats", "apresence", "apresence_stats"), "host.presence"
    ),
    **dict.fromkeys(("position", "aposition"), "host.positions"),
    **dict.fromkeys(("live_etag", "with_position"), "host.live_views"),
    **dict.fromkeys(("publish", "apublish", "publish_on_commit"), "host.publishing"),
    **dict.fromkeys(
        ("connection_token", "subscription_token", "personal_channel"), "host.user_tokens"
    ),
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        home = _HOMES.get(name, "host.user_commands")
        return getattr(import_module(f"realtime.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
