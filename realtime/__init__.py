"""Live notifications for Django on Redis pub/sub: at most once, never silently lost.

The names in `__all__` are the whole public API of a host project's code: publishing, tokens for its
pages, what it does to the connections of a user, who is on a channel, and handlers of what nobody
hears. They are loaded
when they are first used, since this package must be importable before Django is set up.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realtime.fallbacks import fallback
    from realtime.present import apresence, apresence_stats, presence, presence_stats
    from realtime.remote import (
        adisconnect_user,
        amessage_user,
        asubscribe_user,
        aunsubscribe_user,
        disconnect_user,
        message_user,
        subscribe_user,
        unsubscribe_user,
    )
    from realtime.shortcuts import (
        apublish,
        connection_token,
        personal_channel,
        publish,
        publish_on_commit,
        subscription_token,
    )

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "adisconnect_user",
    "amessage_user",
    "apresence",
    "apresence_stats",
    "apublish",
    "asubscribe_user",
    "aunsubscribe_user",
    "connection_token",
    "disconnect_user",
    "fallback",
    "message_user",
    "personal_channel",
    "presence",
    "presence_stats",
    "publish",
    "publish_on_commit",
    "subscribe_user",
    "subscription_token",
    "unsubscribe_user",
]


_HOMES = {
    "fallback": "fallbacks",
    **dict.fromkeys(("presence", "presence_stats", "apresence", "apresence_stats"), "present"),
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        home = _HOMES.get(name, "remote" if name.endswith("_user") else "shortcuts")
        return getattr(import_module(f"realtime.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
