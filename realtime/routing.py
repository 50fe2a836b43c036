"""The WebSocket paths of the app, its ASGI lifespan, and a wrapper for servers under a prefix."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from django.conf import settings
from django.urls import path, re_path

from realtime import wiring
from realtime.core import paths
from realtime.errors import ConfigurationError
from realtime.transports.misdirected import refuse_websocket
from realtime.transports.misdirected import require_upgrade as require_upgrade
from realtime.transports.mounting import with_prefix
from realtime.transports.websocket import RealtimeConsumer


def _prefix() -> str:
    try:
        return wiring.settings().path_prefix
    except ConfigurationError:
        return "/"  # the lifespan reports the error, and nothing is served


_consumer = RealtimeConsumer.as_asgi()
websocket_urlpatterns = [path(_prefix()[1:] + paths.WEBSOCKET, _consumer)]
if settings.FORCE_SCRIPT_NAME:
    # Django removes this prefix, but Channels' URLRouter only removes the server's root_path.
    _mounted = re.escape(settings.FORCE_SCRIPT_NAME.strip("/") + _prefix() + paths.WEBSOCKET)
    websocket_urlpatterns.append(re_path(f"^{_mounted}$", _consumer))

# Channels routes ASGI applications with Django's patterns, whose type hints only allow views.
otherwise = re_path(r"", refuse_websocket)  # type: ignore[arg-type]
"""The last pattern of a `URLRouter`: closes WebSockets at any other address, which would raise."""

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def with_root_path(app: App) -> App:
    """Wrap an ASGI application whose server is given a ``root_path`` that a proxy has stripped.

    Channels' `URLRouter` finds no route for such a path. uvicorn repairs the path itself; Daphne,
    hypercorn and Granian do not. With FORCE_SCRIPT_NAME instead, nothing needs to be wrapped.
    """

    async def add_prefix(scope: Scope, receive: Receive, send: Send) -> None:
        await app(with_prefix(scope), receive, send)

    return add_prefix


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Start the hub when the server starts and stop it when the server stops (ASGI lifespan).

    Servers without lifespan support, such as Daphne, start it with the first connection or probe.
    """
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            try:
                wiring.node().hub.start()
            except ConfigurationError as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
        else:
            await wiring.aclose()
            await send({"type": "lifespan.shutdown.complete"})
            return
