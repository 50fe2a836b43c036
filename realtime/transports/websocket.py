"""The ASGI rim of a WebSocket: accepts it and passes its frames to a conversation.

It contains no rules, and only handles input: `realtime.connection.writer` passes replies and pushes
directly to the server. So does our own server with the client's frames, after the accept.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from channels.consumer import AsyncConsumer

from realtime import wiring
from realtime.api.answers import NOT_CONFIGURED
from realtime.connection.sinks import WIRE
from realtime.core.codes import SERVER_ERROR
from realtime.core.headers import flaw_of
from realtime.core.limits import address_of
from realtime.errors import Forbidden
from realtime.protocols import Credentials, WireProtocol, centrifugo
from realtime.transports.callers import caller_of
from realtime.transports.cancellation import absorb_cancellation
from realtime.transports.frame_receiver import FrameReceiver
from realtime.transports.handshake import (
    KEEPS_ITS_PLACE,
    NoRoom,
    NotConfigured,
    Receive,
    Scope,
    Send,
    SessionUnknown,
    has_secret_in_url,
    let_in,
)
from realtime.transports.own_task import is_in_task, run_in_own_task

if TYPE_CHECKING:
    from realtime.core.identity import Identity
    from realtime.delivery.conversation import Conversation
    from realtime.delivery.hub import Hub

logger = logging.getLogger(__name__)

CLIENT_SLICE_SECONDS = 0.002  # the time slice of a client that has sent many frames
RETRY_AFTER = b"5"
TOKEN_IN_URL = b"token_in_url: send the token in the connect command instead\n"
TURNED_AWAY = {
    "connections": (503, b"this node is full\n"),
    "connections_per_address": (429, b"too many connections from your address\n"),
}


class RealtimeConsumer(AsyncConsumer):  # type: ignore[misc]  # Channels has no type information
    """One WebSocket connection.

    A Channels consumer without Channels' dispatch, which starts a task for every message and
    switches to a thread and back to close old database connections, ~125 µs each (ADR-0003). The
    database is queried once, before accept, for the user of the session.
    """

    protocol: WireProtocol = centrifugo
    """The wire protocol of its clients."""
    credentials: Credentials | None = None
    """Verifies the tokens of its clients; None for the verifier from the settings."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the connection until either side ends it (ASGI 3)."""
        admission = self._admit(scope, receive, send)
        await (admission if is_in_task() else run_in_own_task(admission))

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        if (flaw := flaw_of(scope["headers"], wiring.http_limits().headers)) is not None:
            if flaw.limit:
                wiring.limit_reached(flaw.limit)
            await self._turn_away(scope, send, flaw.status, flaw.reason.encode() + b"\n")
            return
        if has_secret_in_url(scope):
            await self._turn_away(scope, send, 400, TOKEN_IN_URL)
            return
        try:
            await let_in(scope, caller_of(scope), partial(self._serve, scope, receive, send))
        except NoRoom as error:
            await self._turn_away(scope, send, *TURNED_AWAY[error.limit])
        except NotConfigured:
            await self._turn_away(scope, send, 503, f"{NOT_CONFIGURED}\n".encode())
        except (Forbidden, SessionUnknown):
            await self._turn_away(scope, send, 403, b"")

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, hub: Hub, identity: Identity
    ) -> object:
        await send({"type": "websocket.accept"})
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - ASGI apps run in tasks
        wire = scope.get("extensions", {}).get(WIRE)
        conversation = hub.connections.attach(
            send, task, wire, identity, protocol=self.protocol, credentials=self.credentials
        )
        leave = partial(hub.connections.leave, address_of(scope.get("client")))
        if FrameReceiver(conversation, leave).has_taken_over:
            return KEEPS_ITS_PLACE
        try:
            await _listen(conversation, receive)
        except asyncio.CancelledError as error:
            absorb_cancellation(error, conversation)
        except Exception:  # the outermost loop: a bug ends this connection, not the server
            logger.exception("unexpected error in a connection; closing it")
            conversation.end(SERVER_ERROR)
        finally:
            conversation.end(None)
            await conversation.writer.finish()
        return None

    async def _turn_away(self, scope: Scope, send: Send, status: int, reason: bytes) -> None:
        """Refuse the handshake, or close after it if the wire protocol sends the reason there."""
        answer = self.protocol.refuse_after_accept(status, reason.decode().strip())
        if answer is not None:
            text, close = answer
            await send({"type": "websocket.accept"})
            for frame in self.protocol.frames(text) if text else ():
                await send({"type": "websocket.send", "text": frame})
            await send({"type": "websocket.close", "code": close.code, "reason": close.reason})
        elif not reason or "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close"})  # before accept: the server answers 403
        else:
            headers = [(b"content-type", b"text/plain")]
            if status in (429, 503):
                headers.append((b"retry-after", RETRY_AFTER))
            start = {"type": "websocket.http.response.start", "status": status, "headers": headers}
            await send(start)
            await send({"type": "websocket.http.response.body", "body": reason})


async def _listen(conversation: Conversation, receive: Receive) -> None:
    loop = asyncio.get_running_loop()
    slice_began = loop.time()
    while not conversation.ended:
        message = await receive()
        if message["type"] != "websocket.receive" or conversation.ended:
            return
        conversation.receive(message.get("text"))
        if (space := conversation.space()) is not None:
            await space
        # No await above suspends while frames are pending, so one client could monopolize the loop.
        if loop.time() - slice_began > CLIENT_SLICE_SECONDS:
            await asyncio.sleep(0)
            slice_began = loop.time()
