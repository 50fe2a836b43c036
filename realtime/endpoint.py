"""The HTTP API and the health probes as an ASGI app in front of another one.

The fast rim: a publish through a Django view costs ten times as much (ADR-0009). Everything that is
not ours goes on to the app behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from functools import partial
from typing import Any

import msgspec

from realtime import documents, emulation, health, sse, wiring
from realtime.api.answers import HEADERS, Response, failure
from realtime.api.backend import Outcome
from realtime.api.head import EVENTS, Request, RequestTimeout
from realtime.api.methods import admitted, method_of, respond
from realtime.auth import has_session
from realtime.brokers import Stats, Survey
from realtime.control import Command
from realtime.errors import RealtimeError, TooLarge
from realtime.heads import Flaw, flaw_of
from realtime.membership import Headcount
from realtime.publication import Publication
from realtime.staff import look_up_session
from realtime.survey import Question

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_SECONDS = (
    10.0  # until a body must be here; nginx's client_body_timeout is 60 between two reads
)
STREAMS = {*sse.PATHS, emulation.LINES_PATH, emulation.COMMANDS_PATH}
BASE = {name.lower(): value for name, value in HEADERS.items()}


class HttpEndpoint:
    """Answers the API, event streams, ``/livez`` and ``/readyz``; passes the rest on."""

    def __init__(self, app: App, *, body_seconds: float = BODY_SECONDS) -> None:
        self._app = app
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI 3)."""
        path: str = scope["path"]
        if (
            scope["type"] == "http"
            and (flaw := flaw_of(scope["headers"], wiring.headers_limit())) is not None
        ):
            await _send(send, _flawed(flaw))
        elif path in documents.PATHS:
            wanted = _headers(scope).get(b"if-none-match", "")
            await _send(send, documents.answer(scope["method"], path, wanted))
        elif path.startswith("/api/"):
            headers = _headers(scope)
            head = _head(scope, headers)
            if b"x-api-key" not in headers and has_session(headers.get(b"cookie", "")):
                await self._hand_on(scope, head, receive, send)
            else:
                await _send(send, await self._api(head, receive))
        elif path in STREAMS:
            await self._stream(scope, receive, send)
        elif path[1:] in health.PATHS:
            await _send(send, health.answer(path[1:], scope["method"]))
        else:
            await self._app(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_emulated = emulation.is_ours(scope)
        limit = emulation.body_bytes() if is_emulated else wiring.limits().frame_bytes
        read = partial(_body, receive, limit, self._body_seconds)
        rim = emulation if is_emulated else sse
        answer = await rim.serve(scope, receive, send, read)
        if answer is not None:
            await _send(send, answer)

    async def _hand_on(self, scope: Scope, head: Request, receive: Receive, send: Send) -> None:
        """Let Django's view answer, if the session is one that may publish.

        Django would read the body of anybody who sends a cookie, before it looks at the session, to
        its end. So the session is looked up first, and the body is read here, within its limit.
        """
        try:
            method_of(head)
            await look_up_session(scope, head)
            body = await _body(receive, head.body_bytes or 0, self._body_seconds)
        except RealtimeError as error:
            await _send(send, failure(error))
        else:
            await self._app(scope, _once_more(body, receive), send)

    async def _api(self, request: Request, receive: Receive) -> Response:
        try:
            welcome = admitted(request, wiring.keyring().admit)
            limit = wiring.body_bytes(request.api_method)
            body = await _body(receive, limit, self._body_seconds)
            return await respond(welcome, body, _BACKEND, wiring.namespaces(), wiring.routes())
        except RealtimeError as error:
            return failure(error)


def _headers(scope: Scope) -> dict[bytes, str]:
    headers: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        text = value.decode("latin-1")
        headers[name] = f"{headers[name]},{text}" if name in headers else text
    return headers


def _flawed(flaw: Flaw) -> Response:
    if flaw.limit:
        wiring.limit_reached(flaw.limit)
    # As the API tells it: whoever publishes reads this, too.
    error = {"code": 107, "reason": "bad_request", "message": flaw.reason}
    body = msgspec.json.encode({"error": error}) + b"\n"
    return Response(flaw.status, body, {"Connection": "close"})


def _head(scope: Scope, headers: dict[bytes, str]) -> Request:
    api_method = scope["path"].removeprefix("/api/")
    return Request(
        http_method=scope["method"],
        api_method=api_method,
        content_length=headers.get(b"content-length", ""),
        content_type=headers.get(b"content-type", ""),
        content_encoding=headers.get(b"content-encoding", ""),
        api_key=headers.get(b"x-api-key", ""),
        idempotency_key=headers.get(b"idempotency-key"),
        query=scope["query_string"].decode("latin-1"),
        body_bytes=wiring.body_bytes(api_method),
        attributes=_attributes(headers) if api_method == EVENTS else None,
    )


def _attributes(headers: dict[bytes, str]) -> dict[str, str]:
    """Return those headers that are attributes of a CloudEvent."""
    return {
        name[3:].decode("latin-1"): text for name, text in headers.items() if name[:3] == b"ce-"
    }


class _Backend:
    """The publishing side of the running loop; see `realtime.api.backend.Backend`."""

    async def publish(self, publications: Sequence[Publication]) -> list[Outcome]:
        publisher = wiring.node().publisher
        if len(publications) == 1:
            return [await publisher.publish(publications[0])]
        return await publisher.publish_many(publications)

    async def take(self, name: str, rate: float, count: int) -> float:
        return await wiring.node().publisher.take(name, rate, count)

    async def tell(self, command: Command) -> None:
        await wiring.tell_nodes(command)

    async def queue_stats(self) -> Stats:
        return await wiring.node().broker.queue_stats()

    async def members(self, channel: str) -> dict[str, str]:
        return await wiring.node().broker.presence.members(channel)

    async def headcount(self, channel: str) -> Headcount:
        [found] = await wiring.node().broker.presence.headcounts([channel])
        return found

    async def survey(self, question: Question) -> Survey:
        return await wiring.node().broker.survey(question)


_BACKEND = _Backend()


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


def _once_more(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that was read already, and then what comes after it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again


async def _send(send: Send, response: Response) -> None:
    headers = {**BASE, **{name.lower(): value for name, value in response.headers.items()}}
    if response.status not in (204, 304):  # which have none (RFC 9110 §8.6)
        headers["content-length"] = str(len(response.body))
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": response.status, "headers": pairs})
    await send({"type": "http.response.body", "body": response.body})
