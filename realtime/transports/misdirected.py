"""Answers misdirected requests: WebSockets at other paths, and plain HTTP at the WebSocket's path.

Both are configuration mistakes, so the answer says what to change. Without it, Channels logs a
traceback for each mistyped address, and Django answers a handshake without its headers with 404.
Under WSGI, Django answers each handshake so, and only the log can say what to change.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from realtime import wiring
from realtime.core import paths
from realtime.core.tally import Tally
from realtime.transports.mounting import path_within_project

logger = logging.getLogger(__name__)
_plain = Tally()
_wsgi = Tally()

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ANSWER = (
    b"This is the address of a WebSocket, and the request has no Upgrade header. If a browser sent "
    b"it, a proxy in between has dropped the headers Upgrade and Connection: it must pass them on, "
    b"over HTTP/1.1 (docs/deploy.md#nginx).\n"
)


def require_upgrade(app: App) -> App:
    """Return an app that answers plain HTTP at the WebSocket's address, and passes on the rest.

    Args:
        app: The HTTP app of the project, such as ``get_asgi_application()``.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if is_handshake_without_upgrade(scope):
            await refuse_plain_http(scope, receive, send)
        else:
            await app(scope, receive, send)

    return answer


def is_handshake_without_upgrade(scope: Scope) -> bool:
    """Tell whether a request is plain HTTP at the address of the WebSocket."""
    return (
        scope["type"] == "http"  # first, because a lifespan has no path
        and scope["path"].endswith(paths.WEBSOCKET)
        and path_within_project(scope) == _address()
    )


def _address() -> str:
    return wiring.path_prefix() + paths.WEBSOCKET


async def refuse_plain_http(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with 426, and log it at most once a minute: a browser never sends this by itself."""
    count = _plain.add("plain", time.monotonic())
    if count is not None:
        logger.warning(
            "plain HTTP at %s: does the proxy in front drop the headers Upgrade and Connection? "
            "(%d so far)",
            _address(),
            count,
        )
    headers = [
        (b"upgrade", b"websocket"),  # RFC 9110 §15.5.22
        (b"content-type", b"text/plain"),
        (b"content-length", str(len(ANSWER)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if scope.get("http_version", "1.1").startswith("1"):
        headers.append((b"connection", b"upgrade"))  # RFC 9110 §7.8; HTTP/2 has no such header
    await send({"type": "http.response.start", "status": 426, "headers": headers})
    body = b"" if scope["method"] == "HEAD" else ANSWER
    await send({"type": "http.response.body", "body": body})


def notice_wsgi(sender: object, environ: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
    """Log, at most once a minute, that a handshake has reached Django under WSGI.

    A receiver of Django's signal ``request_started``, whose ``environ`` only WSGI has. It is what a
    project sees whose `runserver` lacks Daphne.
    """
    if environ is None or not environ.get("PATH_INFO", "").endswith(paths.WEBSOCKET):
        return
    if "HTTP_UPGRADE" in environ and (count := _wsgi.add("wsgi", time.monotonic())) is not None:
        logger.warning(
            "a WebSocket handshake has reached Django under WSGI: put daphne first in "
            "INSTALLED_APPS and set ASGI_APPLICATION, or use another ASGI server (%d so far)",
            count,
        )


async def refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Reject a handshake with 404, or with 403 if the server cannot send more (Daphne)."""
    await receive()
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
    await send({"type": "websocket.http.response.body", "body": b"no WebSocket here\n"})
