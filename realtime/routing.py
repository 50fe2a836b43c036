"""The WebSocket paths of the app, and its ASGI lifespan."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from django.urls import path

from realtime import wiring
from realtime.consumers import RealtimeConsumer
from realtime.errors import ConfigurationError

websocket_urlpatterns = [path("connection/websocket", RealtimeConsumer.as_asgi())]

Message = MutableMapping[str, Any]


async def lifespan(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """Start the hub with the server and stop it with the server (ASGI lifespan protocol).

    Servers without lifespan, such as Daphne, start it with the first connection.
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
