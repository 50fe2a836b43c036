"""The ASGI rim of event streams: ``/connection/sse`` and Centrifugo's ``/connection/uni_sse``.

The first is for a plain `EventSource`, including HTMX; the second for unidirectional clients of
Centrifugo. A stream is a client of the hub like any other: it sends the commands of an SDK
(connect, subscribe …) and turns replies and pushes into events. Because the browser cannot answer
pings, the stream answers them when the server has accepted the bytes, so on uvicorn TCP limits a
client that stops reading.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from realtime import wiring
from realtime.api.answers import STATUSES, Response
from realtime.core.codes import (
    CONNECTION_LIMIT,
    FORCE_DISCONNECT,
    INVALID_TOKEN,
    TOKEN_EXPIRED,
)
from realtime.core.positions import Position
from realtime.errors import Forbidden, LimitExceeded, RealtimeError, Unauthorized
from realtime.protocols.centrifugo import PING, PONG
from realtime.transports.callers import caller_of
from realtime.transports.cancellation import absorb_cancellation
from realtime.transports.sse_format import (
    HEARTBEAT,
    Places,
    event_of,
    raw_event,
    unwrap_push,
)
from realtime.transports.stream_request import (
    ALLOWED_METHODS,
    StreamRequest,
    parse_request,
)
from realtime.transports.streams import (
    EVENT_STREAM,
    NodeNotLive,
    admit_and_serve,
    begin,
    preflight,
    readable,
    refusal,
    until_end,
)

if TYPE_CHECKING:
    from realtime.core.identity import Identity
    from realtime.delivery.conversation import Conversation
    from realtime.delivery.hub import Hub
    from realtime.transports.handshake import (
        Message,
        Receive,
        Scope,
        Send,
    )

RETRY_MS = (500, 3000)
"""The range of the browser's reconnect delay, random for each stream to spread reconnects."""
CONNECT_ID = 1
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


async def serve(
    path: str,
    scope: Scope,
    receive: Receive,
    send: Send,
    read_body: Callable[[], Awaitable[bytes]],
) -> Response | None:
    """Serve one stream until either side ends it; return the response if it is refused.

    Args:
        path: `paths.SSE` or `paths.UNI_SSE`, wherever the project mounts it.
        scope: The ASGI scope of the request.
        receive: The ASGI receive.
        send: The ASGI send.
        read_body: Reads the body of a POST, within limits; raises `RequestError`.
    """
    try:
        caller = caller_of(scope)
    except Forbidden as error:
        return refusal(error, 403)  # its page may not read the reason
    methods = ALLOWED_METHODS[path]
    if scope["method"] == "OPTIONS" and caller.cors:
        return preflight(caller.cors, methods)
    try:
        wanted = await parse_request(path, scope, read_body)
    except RealtimeError as error:
        answer = refusal(error, STATUSES[error.code][0], allow=f"{methods}, OPTIONS")
        return readable(answer, caller.cors)

    async def listen(hub: Hub, identity: Identity) -> Response | None:
        return await _Stream(hub, wanted, caller.cors, send).serve(receive, identity)

    return readable(await admit_and_serve(scope, caller, listen), caller.cors)


class _Stream:
    """One stream: acts as the client of a conversation on behalf of a browser."""

    def __init__(self, hub: Hub, request: StreamRequest, cors: dict[str, str], send: Send) -> None:
        self._hub = hub
        self._request = request
        self._cors = cors
        self._http_send = send
        self._places = Places(request.had)
        self._begun: dict[str, Position] = {}
        self._greeting: dict[str, Any] = {}
        self._early: list[str] = []
        self._owed = 0  # pings received before the response started
        self._awaited = {CONNECT_ID, *(CONNECT_ID + n for n, _ in enumerate(request.channels, 1))}
        self._ready: asyncio.Future[Response | None] = asyncio.get_running_loop().create_future()
        self._is_open = False
        self._conversation: Conversation | None = None

    async def serve(self, receive: Receive, identity: Identity) -> Response | None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - ASGI apps run in tasks
        self._conversation = conversation = self._hub.connections.attach(
            self._hear, task, None, identity, transport="uni_sse" if self._request.is_raw else "sse"
        )
        try:
            conversation.receive(self._commands())
            if (refused := await self._open_or_refuse()) is not None:
                return refused
            await until_end(conversation, receive)
        finally:
            conversation.end(None)
            await conversation.writer.finish()
        await self._http_send({"type": "http.response.body", "body": b"", "more_body": False})
        return None

    async def _open_or_refuse(self) -> Response | None:
        """Start the response once all commands are answered; return the refusal otherwise."""
        assert self._conversation is not None  # noqa: S101 - see `serve`
        try:
            refused = await self._ready
            if refused is None:
                await self._open()
            return refused
        except asyncio.CancelledError as error:
            absorb_cancellation(error, self._conversation)
        if self._is_open:
            return None
        # The task was cancelled, and perhaps the future for which it waited.
        is_refused = self._ready.done() and not self._ready.cancelled()
        return self._ready.result() if is_refused else refusal(NodeNotLive(), 503)

    def _commands(self) -> str:
        """Return the commands of an SDK: connect, and subscribe to each channel, in one frame."""
        token = {"token": self._request.token} if self._request.token else {}
        lines: list[dict[str, Any]] = [{"id": CONNECT_ID, "connect": token}]
        for number, channel in enumerate(self._request.channels, CONNECT_ID + 1):
            lines.append({"id": number, "subscribe": {"channel": channel, **self._since(channel)}})
        return "\n".join(_encode(line).decode() for line in lines)

    def _since(self, channel: str) -> dict[str, Any]:
        """Return the client's old position as SDKs send it; a plain stream compares by itself."""
        had = self._request.had.get(channel) if self._request.is_raw else None
        return {} if had is None else {"recover": True, **had._asdict()}

    async def _open(self) -> None:
        """Start the response: the positions, the gaps, and the events received so far."""
        await begin(self._http_send, EVENT_STREAM, self._cors)
        retry = random.randint(*RETRY_MS)  # noqa: S311 - spreads load, hides nothing
        if self._request.is_raw:
            parts = [f"retry: {retry}\n", raw_event(_encode({"connect": self._greeting}).decode())]
        else:
            parts = [f"retry: {retry}\n{self._places.open(self._begun)}"]
        early, self._early = self._early, []
        parts += self._events(early)
        self._is_open = True
        await self._write("".join(parts).encode())
        for _ in range(self._owed):
            self._acknowledge()

    async def _hear(self, message: Message) -> None:
        """Process a message of the hub."""
        if message["type"] == "websocket.close":
            if not self._ready.done():
                self._ready.set_result(_refusal_of_close(int(message.get("code", 0))))
            return  # `serve` ends the response
        lines = message["text"].split("\n")
        if not self._is_open:
            for line in lines:
                self._hear_early(line)
            return
        await self._write("".join(self._events(lines)).encode())
        if PING in lines:
            self._acknowledge()

    def _hear_early(self, line: str) -> None:
        if line == PING:
            self._owed += 1  # answered once the response has started
            return
        said = _decode(line)
        if "id" not in said:
            self._early.append(line)
            return
        self._awaited.discard(said["id"])
        if "error" in said and not self._ready.done():
            self._ready.set_result(_refusal_of_error(said["error"]))
        if "connect" in said:
            self._greeting = {**said["connect"], "subs": {}}
        if "subscribe" in said:
            channel = self._request.channels[said["id"] - CONNECT_ID - 1]
            begun = self._greeting["subs"][channel] = said["subscribe"]
            if "epoch" in begun:  # else it is server-side: a push has its position
                self._begun[channel] = Position(begun["epoch"], begun["offset"])
        if not self._awaited and not self._ready.done():
            self._ready.set_result(None)

    def _events(self, lines: list[str]) -> list[str]:
        if self._request.is_raw:
            return [raw_event(unwrap_push(line)) for line in lines]
        written = []
        for line in lines:
            if line == PING:
                written.append(HEARTBEAT)
            elif (event := event_of(line)) is not None:
                written.append(self._places.encode(event))
        return written

    async def _write(self, body: bytes) -> None:
        if body:
            await self._http_send({"type": "http.response.body", "body": body, "more_body": True})

    def _acknowledge(self) -> None:
        """Answer a ping for the browser: the server has accepted all bytes written before it."""
        conversation = self._conversation
        if conversation is not None:
            # Not now: the writer is still in this write.
            asyncio.get_running_loop().call_soon(conversation.receive, PONG)


def _refusal_of_close(code: int) -> Response:
    """Return the response if the hub has closed the connection before the response started."""
    if code == INVALID_TOKEN.code:
        return refusal(Unauthorized("the token is invalid"), 401)
    if code == CONNECTION_LIMIT.code:
        most = wiring.limits().connections_per_user
        return refusal(LimitExceeded("too many connections of this user", most), 429)
    if code == FORCE_DISCONNECT.code:
        return refusal(Forbidden(), 403)
    return refusal(NodeNotLive(), 503)


def _refusal_of_error(error: dict[str, Any]) -> Response:
    """Return the response if a command was refused: one refused channel refuses the stream."""
    if error.get("temporary"):
        return refusal(NodeNotLive(), 503)
    if error["code"] == TOKEN_EXPIRED.code:
        return refusal(Unauthorized("the token has expired"), 401)
    return refusal(Forbidden(), 403)
