"""Live notifications for Django on Redis pub/sub: at most once, never silently lost.

`publish`, `apublish`, `publish_on_commit`, `personal_channel`, `connection_token` and
`subscription_token` are the whole public API of a host project's code; they are loaded when they
are first used, since this package must be importable before Django is set up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    "apublish",
    "connection_token",
    "personal_channel",
    "publish",
    "publish_on_commit",
    "subscription_token",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from realtime import shortcuts

        return getattr(shortcuts, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
