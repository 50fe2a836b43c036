"""Limits the request bodies that Django reads, before it reads them.

Django reads the whole body before it calls a view, keeps up to 2.5 MiB in memory and the rest on
disk, and checks its limits last. The pages of this service have only small forms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from notifier.http_framing import read_content_length

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

FORM_BYTES = 64 * 1024
"""Our forms have a few short fields. Defaults: nginx 1 MiB, Django 2.5 MB."""
REQUESTS_AT_ONCE = 512
"""Concurrent requests per worker in Django. Requests continue after their client hangs up, so a
limit on connections would not limit them."""
REFUSED = {413: b"the body is too large\n", 503: b"too many requests at once\n"}


class BoundedBodies:
    """Passes requests to Django with a limit on their bodies, whether announced or not.

    Not used for requests to the API, which `HttpEndpoint` reads within its own limits.
    """

    def __init__(self, app: App, most: int = FORM_BYTES) -> None:
        self._app = app
        self._most = most
        self._running = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request (ASGI 3)."""
        if scope["type"] != "http" or scope["path"].startswith("/api/"):
            await self._app(scope, receive, send)
        elif read_content_length(scope["headers"]) > self._most:
            await _refuse(send, 413)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        body = _Body(receive, self._most)
        # Before it takes one of the places: a client that withholds its body would keep it.
        await body.read()
        if body.is_too_large:
            await _refuse(send, 413)
        elif self._running >= REQUESTS_AT_ONCE:
            await _refuse(send, 503)
        else:
            self._running += 1
            try:
                await self._app(scope, body.receive, send)
            finally:
                self._running -= 1


class _Body:
    """The body of one request, read up to a limit."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        self._messages: list[Message] = []
        self.is_too_large = False

    async def read(self) -> None:
        """Read all of it, until it is too large or the client hangs up."""
        body = bytearray()  # not a list of messages: each byte may be one
        has_more, last = True, None
        while has_more and not self.is_too_large:
            message = await self._receive()
            if message["type"] != "http.request":
                last = message
                break
            body += message.get("body", b"")
            self.is_too_large = len(body) > self._most
            has_more = message.get("more_body", False)
        whole = {"type": "http.request", "body": bytes(body), "more_body": has_more}
        self._messages = [whole] if last is None else [last, whole]

    async def receive(self) -> Message:
        """Return the next part of the body.

        After the body it returns nothing. Django listens there for clients that hang up, cancels
        the view and logs a traceback for each; our pages finish sooner than that.
        """
        if not self._messages:
            await asyncio.get_running_loop().create_future()
        return self._messages.pop()


async def _refuse(send: Send, status: int) -> None:
    body = REFUSED[status]
    headers = [
        (b"content-type", b"text/plain"),
        (b"content-length", str(len(body)).encode()),
        *([(b"retry-after", b"5")] if status == 503 else []),
    ]  # The connection stays open: the protocol class reads the rest, within its own limit.
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
