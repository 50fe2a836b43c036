"""What all streams over HTTP share: who is let in, and how one begins and ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec
from django.db import Error as DatabaseError

from realtime import wiring
from realtime.api.answers import HEADERS, Response, error_body
from realtime.callers import Caller
from realtime.consumers import identity_of, tell_of_database
from realtime.conversation import Conversation
from realtime.errors import LimitExceeded, RealtimeError
from realtime.hub import Hub
from realtime.identity import Identity
from realtime.limits import address_of

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

STREAM_HEADERS = {**HEADERS, "X-Accel-Buffering": "no"}  # nginx would keep what is under 4 KiB
EVENT_STREAM = "text/event-stream; charset=utf-8"

PAGE_HEADERS = (
    "Cache-Control, Content-Type, Last-Event-ID, "
    "HX-Boosted, HX-Current-URL, HX-Request, HX-Request-Type, HX-Source, HX-Target"
)
"""What scripts of pages send: `EventSource` and its replacements, and HTMX 4, which uses fetch."""

_encode = msgspec.json.Encoder().encode


class NotLive(RealtimeError):
    """The node does not hear the broker now; come again."""

    code = "not_live"
    temporary = True


class NodeFull(RealtimeError):
    """There is no room for one more connection at this node."""

    code = "node_full"
    temporary = True


async def welcomed(
    scope: Scope, caller: Caller, serve: Callable[[Hub, Identity], Awaitable[Response | None]]
) -> Response | None:
    """Serve one more connection, or return the answer to a client that is not let in.

    Args:
        scope: Of the request.
        caller: Who sends it.
        serve: Serves it until its end.
    """
    hub = wiring.node().running_hub()
    with hub.connections.place(address_of(scope.get("client"))) as limit:
        if limit is not None:
            return _turned_away(limit)
        try:
            identity = await identity_of(scope, caller)
        except DatabaseError as error:
            tell_of_database(error)
            return refusal(NotLive(), 503)
        return await serve(hub, identity)


def _turned_away(limit: str) -> Response:
    if limit == "connections":
        return refusal(NodeFull(), 503)
    most = wiring.limits().connections_per_address
    return refusal(LimitExceeded("connections from your address", most), 429)


def refusal(error: RealtimeError, status: int, *, allow: str = "GET") -> Response:
    """Return an answer that ends the client's attempts, or with 429 and 503 lets it come again.

    An `EventSource` gives up at each status but 200; a page that wants to come again makes another.
    """
    headers = {401: {"WWW-Authenticate": "Bearer"}, 405: {"Allow": allow}}.get(status, {})
    if status in (429, 503):
        headers = {"Retry-After": "2"}
    return Response(status, _encode(error_body(error)) + b"\n", headers)


async def until_end(conversation: Conversation, receive: Receive) -> None:
    """Wait until either side has had enough."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - ASGI apps run in tasks
    try:
        while not conversation.ended and (await receive())["type"] != "http.disconnect":
            pass
    except asyncio.CancelledError:
        if not conversation.ended:
            raise
        task.uncancel()  # by the hub, since this connection is over


async def begin(send: Send, content_type: str, cors: dict[str, str]) -> None:
    """Begin the answer, which the page of the caller may read where `Caller.cors` says so."""
    headers = {**STREAM_HEADERS, "Content-Type": content_type, **cors}
    pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 200, "headers": pairs})


def preflight(cors: dict[str, str], methods: str) -> Response:
    """Answer a browser that asks whether a page may send a request (Fetch §3.3, CORS-preflight).

    An `EventSource` that comes back has the header Last-Event-ID, which no page may send unasked.
    """
    asked = {
        "Access-Control-Allow-Methods": methods,
        "Access-Control-Allow-Headers": PAGE_HEADERS,
        "Access-Control-Max-Age": "600",
    }
    return Response(204, b"", {**asked, **cors})


def readable(answer: Response | None, cors: dict[str, str]) -> Response | None:
    """Let the page of the caller read an answer, such as why it is refused."""
    return answer and answer._replace(headers={**answer.headers, **cors})


def header(scope: Scope, wanted: bytes) -> str:
    """Return a header's value, the first one; empty where it is not there."""
    for name, value in scope["headers"]:
        if name == wanted:
            return str(value.decode("latin-1"))
    return ""
