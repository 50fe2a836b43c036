"""Shared code of all HTTP streams: admission, start and end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from realtime import wiring
from realtime.api.answers import HEADERS, Response, error_body
from realtime.errors import LimitExceeded, RealtimeError
from realtime.transports.cancellation import absorb_cancellation
from realtime.transports.handshake import (
    NoRoom,
    NotConfigured,
    Receive,
    Scope,
    Send,
    SessionUnknown,
    let_in,
)

if TYPE_CHECKING:
    from realtime.core.identity import Identity
    from realtime.delivery.conversation import Conversation
    from realtime.delivery.hub import Hub
    from realtime.transports.callers import Caller

logger = logging.getLogger(__name__)

STREAM_HEADERS = {**HEADERS, "X-Accel-Buffering": "no"}  # nginx would buffer less than 4 KiB
EVENT_STREAM = "text/event-stream; charset=utf-8"

PAGE_HEADERS = (
    "Cache-Control, Content-Type, Last-Event-ID, "
    "HX-Boosted, HX-Current-URL, HX-Request, HX-Request-Type, HX-Source, HX-Target"
)
"""The headers sent by `EventSource`, its replacements, and HTMX 4, which uses fetch."""

_encode = msgspec.json.Encoder().encode


class NodeNotLive(RealtimeError):
    """The node does not receive from the broker at the moment; try again later."""

    code = "not_live"
    temporary = True


class NodeFull(RealtimeError):
    """The node has reached its limit of connections; try again later."""

    code = "node_full"
    temporary = True


async def admit_and_serve(
    scope: Scope, caller: Caller, serve: Callable[[Hub, Identity], Awaitable[Response | None]]
) -> Response | None:
    """Admit and serve a connection, or return the response that refuses it.

    Args:
        scope: The ASGI scope of the request.
        caller: The sender of the request.
        serve: Serves the connection until its end.
    """
    try:
        return await let_in(scope, caller, serve)
    except NoRoom as error:
        return _refuse_for_limit(error.limit)
    except NotConfigured as error:
        return refusal(error.error, 503)
    except SessionUnknown:
        return refusal(NodeNotLive(), 503)


def _refuse_for_limit(limit: str) -> Response:
    if limit == "connections":
        return refusal(NodeFull(), 503)
    most = wiring.limits().connections_per_address
    return refusal(LimitExceeded("too many connections from your address", most), 429)


def refusal(error: RealtimeError, status: int, *, allow: str = "GET") -> Response:
    """Return the response for an error; 429 and 503 ask the client to retry, others are final.

    An `EventSource` gives up on any status except 200; to retry, a page must create another one.
    """
    headers = {401: {"WWW-Authenticate": "Bearer"}, 405: {"Allow": allow}}.get(status, {})
    if status in (429, 503):
        headers = {"Retry-After": "2"}
    return Response(status, _encode(error_body(error)) + b"\n", headers)


async def until_end(conversation: Conversation, receive: Receive) -> None:
    """Wait until either side ends the stream."""
    try:
        while not conversation.ended and (await receive())["type"] != "http.disconnect":
            pass
    except asyncio.CancelledError as error:
        absorb_cancellation(error, conversation)


async def begin(send: Send, content_type: str, cors: dict[str, str]) -> None:
    """Start the response; the caller's page may read it if `Caller.cors` allows it."""
    headers = {**STREAM_HEADERS, "Content-Type": content_type, **cors}
    pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 200, "headers": pairs})


def preflight(cors: dict[str, str], methods: str) -> Response:
    """Answer a CORS-preflight request of a browser (Fetch §3.3).

    A client that reconnects with `fetch` sends the header Last-Event-ID, which requires a
    preflight.
    """
    asked = {
        "Access-Control-Allow-Methods": methods,
        "Access-Control-Allow-Headers": PAGE_HEADERS,
        "Access-Control-Max-Age": "600",
    }
    return Response(204, b"", {**asked, **cors})


def readable(answer: Response | None, cors: dict[str, str]) -> Response | None:
    """Add the CORS headers that let the caller's page read a response, such as a refusal."""
    return answer and answer._replace(headers={**answer.headers, **cors})
