"""What the responses of a worker say while it stops."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from notifier.http_answers import Lane

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class LeavingNotice:
    """Wraps the app so that /readyz fails as soon as the worker is leaving.

    Every other response closes its connection, so that publishers open their next one elsewhere and
    no request is in flight when the connection ends. Only the server knows that it is leaving; the
    app below may be perfectly healthy.
    """

    def __init__(self, app: App, lane: Lane | None = None) -> None:
        """Wrap an app, and watch over the lane beside it."""
        self._app = app
        self._lane = lane
        self._leaving = False

    def leave(self) -> None:
        """Make /readyz fail from now on, so that traffic goes elsewhere."""
        self._leaving = True
        if self._lane is not None:
            self._lane.close()  # requests take the way through this object

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request or connection (ASGI 3)."""
        if self._leaving and scope["type"] == "http" and scope["path"] == "/readyz":
            headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 503, "headers": headers})
            body = b'{"status":"not live","reason":"leaving"}'
            await send({"type": "http.response.body", "body": body})
            return
        closes = self._leaving and scope["type"] == "http"
        await self._app(scope, receive, _close_after(send) if closes else send)


def _close_after(send: Send) -> Send:
    """Return a `send` whose response is the last one of its connection (RFC 9112 §9.6)."""

    async def send_last(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (b"connection", b"close")]
            message = {**message, "headers": headers}
        await send(message)

    return send_last
