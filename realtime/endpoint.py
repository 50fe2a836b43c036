"""The HTTP API and the health probes as an ASGI app in front of another one.

The fast rim: a publish through a Django view costs ten times as much (ADR-0009). Everything that is
not ours goes on to the app behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from realtime import health, wiring
from realtime.api import (
    Outcomes,
    Request,
    RequestTimeout,
    Response,
    body_limit,
    failure,
    refusal,
    respond,
)
from realtime.errors import RealtimeError, RequestError, TooLarge
from realtime.publication import Publication

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_SECONDS = (
    10.0  # until a body must be here; nginx's client_body_timeout is 60 between two reads
)
BASE = [
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
]


class HttpEndpoint:
    """Answers ``/api/<method>``, ``/livez`` and ``/readyz``; passes the rest on."""

    def __init__(self, app: App, *, body_seconds: float = BODY_SECONDS) -> None:
        self._app = app
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI 3)."""
        path: str = scope["path"]
        if path.startswith("/api/"):
            await _send(send, await self._api(scope, receive))
        elif path == "/livez":
            await _send(send, health.livez())
        elif path == "/readyz":
            await _send(send, health.readyz())
        else:
            await self._app(scope, receive, send)

    async def _api(self, scope: Scope, receive: Receive) -> Response:
        request = _head(scope)
        try:
            refused = refusal(request, wiring.access())
            if refused is not None:
                return refused
            limit = body_limit(request.api_method)
            body = await _body(receive, limit, self._body_seconds)
            return await _respond(request._replace(body=body))
        except RealtimeError as error:
            return failure(error)


def _head(scope: Scope) -> Request:
    headers: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        text = value.decode("latin-1")
        headers[name] = f"{headers[name]},{text}" if name in headers else text
    return Request(
        http_method=scope["method"],
        api_method=scope["path"].removeprefix("/api/"),
        content_length=headers.get(b"content-length", ""),
        content_type=headers.get(b"content-type", ""),
        content_encoding=headers.get(b"content-encoding", ""),
        api_key=headers.get(b"x-api-key", ""),
        idempotency_key=headers.get(b"idempotency-key"),
    )


async def _respond(request: Request) -> Response:
    """Drive `realtime.api.respond` with the publisher of the running loop."""
    work = respond(request, wiring.access(), wiring.namespaces())
    try:
        publications = next(work)
        while True:
            publications = work.send(await _publish(publications))
    except StopIteration as done:
        response: Response = done.value
        return response


async def _publish(publications: Sequence[Publication]) -> Outcomes:
    try:
        publisher = wiring.node().publisher
        if len(publications) == 1:
            return [await publisher.publish(publications[0])]
        return await publisher.publish_many(publications)
    except RequestError as error:
        return [error]  # of that one publication, be it a batch's or a broadcast's
    except RealtimeError as error:
        return error


async def _body(receive: Receive, limit: int, seconds: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RequestTimeout("the client went away")
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise TooLarge("the body", size, limit)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise RequestTimeout(f"the body did not come within {seconds:g} s") from None


async def _send(send: Send, response: Response) -> None:
    headers = [
        *BASE,
        (b"content-length", str(len(response.body)).encode()),
        *((name.lower().encode(), value.encode()) for name, value in response.headers.items()),
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
