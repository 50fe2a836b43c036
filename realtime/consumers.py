"""The ASGI rim of a connection: moves frames between server and hub, and decides nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from channels.consumer import AsyncConsumer
from django.db import Error as DatabaseError

from realtime import wiring
from realtime.auth import session_identity
from realtime.callers import Caller, caller_of
from realtime.codes import SERVER_ERROR
from realtime.conversation import Conversation
from realtime.driver import WIRE
from realtime.errors import Forbidden, InvalidToken
from realtime.heads import flaw_of
from realtime.hub import Hub
from realtime.identity import ANONYMOUS, Identity
from realtime.limits import address_of
from realtime.query import has_secret
from realtime.refusals import told
from realtime.tally import Tally

logger = logging.getLogger(__name__)
_failures = Tally()

TURN_SECONDS = 0.002  # of the loop, for one client that has sent a great many frames

RETRY_SECONDS = b"5"
TOKEN_IN_URL = b"token_in_url: it belongs into the connect command\n"
TURNED_AWAY = {
    "connections": (503, b"this node is full\n"),
    "connections_per_address": (429, b"too many connections from your address\n"),
}
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class RealtimeConsumer(AsyncConsumer):  # type: ignore[misc]  # Channels has no type information
    """One WebSocket connection.

    A Channels consumer without Channels' dispatch: that starts a task for every message and hops to
    a thread and back to look after database connections, ~125 µs each (ADR-0003). The database is
    asked once, before accept, whose session it is.
    """

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve the connection until either side ends it (ASGI 3)."""
        await receive()  # websocket.connect
        if (flaw := flaw_of(scope["headers"], wiring.headers_limit())) is not None:
            if flaw.limit:
                wiring.limit_reached(flaw.limit)
            await _turn_away(scope, send, flaw.status, flaw.reason.encode() + b"\n")
            return
        if has_secret(scope.get("query_string", b"").decode("latin-1")):
            told(InvalidToken("it was in the URL, which others log"))
            await _turn_away(scope, send, 400, TOKEN_IN_URL)
            return
        hub = wiring.node().running_hub()
        with hub.connections.place(address_of(scope.get("client"))) as limit:
            if limit is None:
                await self._serve(hub, scope, receive, send)
            else:
                await _turn_away(scope, send, *TURNED_AWAY[limit])

    async def _serve(
        self, hub: Hub, scope: MutableMapping[str, Any], receive: Receive, send: Send
    ) -> None:
        try:
            identity = await identity_of(scope, caller_of(scope))
        except (Forbidden, DatabaseError) as error:
            if isinstance(error, DatabaseError):
                tell_of_database(error)
            await send({"type": "websocket.close"})  # before accept: the server answers 403
            return
        await send({"type": "websocket.accept"})
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - ASGI apps run in tasks
        wire = scope.get("extensions", {}).get(WIRE)
        conversation = hub.connections.attach(send, task, wire, identity)
        try:
            await _listen(conversation, receive)
        except asyncio.CancelledError:
            if not conversation.ended:
                raise
            task.uncancel()  # by the hub, since this connection is over
        except (
            Exception
        ):  # the consumer's outermost loop: a mistake of ours ends this connection, not the server
            logger.exception("a connection failed")
            conversation.end(SERVER_ERROR)
        finally:
            conversation.end(None)


async def _turn_away(
    scope: MutableMapping[str, Any], send: Send, status: int, reason: bytes
) -> None:
    """Refuse the handshake; with 403 where the server cannot say more (Daphne)."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close"})
        return
    headers = [(b"content-type", b"text/plain")]
    if status in (429, 503):
        headers.append((b"retry-after", RETRY_SECONDS))
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": reason})


async def _listen(conversation: Conversation, receive: Receive) -> None:
    loop = asyncio.get_running_loop()
    turn_began = loop.time()
    while not conversation.ended:
        message = await receive()
        if message["type"] != "websocket.receive":
            return
        conversation.receive(message.get("text"))
        await conversation.room()
        # While frames wait, neither of the two suspends: one client would have the loop to itself.
        if loop.time() - turn_began > TURN_SECONDS:
            await asyncio.sleep(0)
            turn_began = loop.time()


async def identity_of(scope: MutableMapping[str, Any], caller: Caller) -> Identity:
    """Return whom the transport knows the client to be.

    Raises:
        DatabaseError: Its session cannot be read.
    """
    if not caller.is_own_page:
        return ANONYMOUS
    return await session_identity(scope, wiring.user_info())


def tell_of_database(error: DatabaseError) -> None:
    """Log that sessions cannot be read, once a minute: each connection that comes finds it out."""
    count = _failures.add("database", time.monotonic())
    if count is not None:
        logger.error(
            "cannot read whose session it is: %s (%d so far)", ascii(str(error))[:200], count
        )
