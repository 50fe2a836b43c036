"""The ASGI rim of a connection: moves frames between server and hub, and decides nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from channels.consumer import AsyncConsumer
from django.conf import settings
from django.db import Error as DatabaseError
from django.http.request import split_domain_port, validate_host

from realtime import wiring
from realtime.auth import session_identity
from realtime.codes import SERVER_ERROR
from realtime.conversation import Conversation
from realtime.driver import WIRE
from realtime.errors import Forbidden, InvalidToken
from realtime.heads import flaw_of
from realtime.hub import Hub
from realtime.identity import ANONYMOUS, Identity
from realtime.limits import address_of
from realtime.origins import is_own_page, may_connect
from realtime.query import has_secret
from realtime.refusals import told
from realtime.tally import Tally

logger = logging.getLogger(__name__)

TURN_SECONDS = 0.002  # of the loop, for one client that has sent a great many frames
_foreign = Tally()

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
        with hub.place(address_of(scope.get("client"))) as limit:
            if limit is None:
                await self._serve(hub, scope, receive, send)
            else:
                await _turn_away(scope, send, *TURNED_AWAY[limit])

    async def _serve(
        self, hub: Hub, scope: MutableMapping[str, Any], receive: Receive, send: Send
    ) -> None:
        try:
            identity = await identity_of(scope)
        except (Forbidden, DatabaseError) as error:
            if isinstance(error, DatabaseError):
                logger.error("cannot read whose session it is: %s", ascii(str(error))[:200])
            await send({"type": "websocket.close"})  # before accept: the server answers 403
            return
        await send({"type": "websocket.accept"})
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - ASGI apps run in tasks
        wire = scope.get("extensions", {}).get(WIRE)
        conversation = hub.attach(send, task, wire, identity)
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


def may_speak(scope: MutableMapping[str, Any]) -> bool:
    """Tell whether the page that sends a request may connect, or no page sends it."""
    origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
    return may_connect(origins, _own_host(scope), wiring.settings().allowed_origins)


async def identity_of(scope: MutableMapping[str, Any], *, without_origin: bool = False) -> Identity:
    """Return whom the transport knows the client to be.

    Args:
        scope: Of the request.
        without_origin: Whether a session counts where the browser names no Origin, as it does not
            for a page's own GET. Only where no page of another site can read the answer.

    Raises:
        Forbidden: Its page may not connect.
        DatabaseError: Its session cannot be read.
    """
    origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
    host = _own_host(scope)
    if not may_connect(origins, host, wiring.settings().allowed_origins):
        _tell_of(origins)
        raise Forbidden
    is_own = is_own_page(origins, host) or (without_origin and not origins and host is not None)
    if not is_own:
        return ANONYMOUS
    return await session_identity(scope, wiring.user_info())


def _tell_of(origins: list[str]) -> None:
    """Log a foreign page, once a minute: who likes could fill the disk with them."""
    count = _foreign.add("origin", time.monotonic())
    if count is not None:
        logger.warning(
            "refused a connection from a page of %s: see REALTIME_ALLOWED_ORIGINS (%d so far)",
            *(ascii(origins)[:200], count),
        )


def _own_host(scope: MutableMapping[str, Any]) -> str | None:
    """Return the Host header, if it is a name of ours by Django's ALLOWED_HOSTS."""
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    if len(hosts) != 1:
        return None
    allowed = settings.ALLOWED_HOSTS
    if settings.DEBUG and not allowed:
        allowed = [".localhost", "127.0.0.1", "[::1]"]  # as Django itself does
    domain, _ = split_domain_port(hosts[0])
    return hosts[0] if domain and validate_host(domain, allowed) else None
