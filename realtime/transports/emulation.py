"""The ASGI rim for networks that break WebSockets: HTTP streaming and SSE, with emulation.

The server sends a stream of lines (``/connection/http_stream``) or events
(``/connection/sse?cf_connect=…``). The client sends commands in separate requests (``/emulation``).
Any node may receive these, and forwards them over the broker to the node that has the stream.
Sources: centrifugal.dev/docs/transports/http_stream and sse, and the client centrifuge-js 5.8.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec
from django.utils.crypto import constant_time_compare, salted_hmac

from realtime import wiring
from realtime.api.answers import STATUSES, Response
from realtime.api.request import MethodNotAllowed
from realtime.brokers.node_messages import encode_forwarded
from realtime.core import paths
from realtime.core.codes import Close
from realtime.errors import (
    BrokerError,
    Forbidden,
    InvalidData,
    RealtimeError,
    RequestError,
    TooLarge,
)
from realtime.protocols.centrifugo import encode_disconnect_push
from realtime.transports.callers import caller_of
from realtime.transports.stream_request import CONNECT, query_of, refuse_secrets
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
    from realtime.delivery.hub import Hub
    from realtime.transports.handshake import (
        Message,
        Receive,
        Scope,
        Send,
    )

_SALT = "realtime.emulation"
_NODE = re.compile(r"[0-9a-f]{16}")
_HAS_CONNECT = re.compile(rf"(?:^|&){CONNECT}=".encode())

ReadBody = Callable[[], Awaitable[bytes]]


class SessionNotFound(RequestError):
    """The session does not exist, or its node has stopped; connect again."""

    code = "session_not_found"


class _Said(msgspec.Struct):
    """The commands in a separate request of a client; other fields are ignored."""

    session: str
    node: str
    data: str


def is_ours(path: str, scope: Scope) -> bool:
    """Tell whether this module handles a request to one of `paths.STREAMS`."""
    return path in (paths.HTTP_STREAM, paths.EMULATION) or (
        path == paths.SSE and _HAS_CONNECT.search(scope["query_string"]) is not None
    )


def body_bytes() -> int:
    """Return the size limit of a body: a frame as a JSON string with every byte escaped."""
    return 2 * wiring.limits().frame_bytes + 1024


async def serve(
    path: str, scope: Scope, receive: Receive, send: Send, read_body: ReadBody
) -> Response | None:
    """Serve a stream until either side ends it, or forward commands; return any other response.

    Args:
        path: One for which `is_ours`, wherever the project mounts it.
        scope: The ASGI scope of the request.
        receive: The ASGI receive.
        send: The ASGI send.
        read_body: Reads the body, within limits; raises `RequestError`.
    """
    try:
        caller = caller_of(scope)
    except Forbidden as error:
        return refusal(error, 403)  # its page may not read the reason
    method = "GET" if path == paths.SSE else "POST"
    if scope["method"] == "OPTIONS" and caller.cors:
        return preflight(caller.cors, method)
    try:
        if scope["method"] != method:
            raise MethodNotAllowed(f"use {method}")
        refuse_secrets(scope)
        if path == paths.EMULATION:
            await _carry(_parse_body(await read_body()))
            return Response(204, b"", caller.cors)
        is_sse = path == paths.SSE
        frame = _first_frame(scope) if is_sse else _text(await read_body())
        if not frame:
            raise InvalidData("is empty: begin with a connect command", field="the first frame")
    except RealtimeError as error:
        answer = refusal(error, STATUSES[error.code][0], allow=f"{method}, OPTIONS")
        return readable(answer, caller.cors)
    stream = _Stream(frame, caller.cors, send, is_sse=is_sse)
    del frame  # otherwise it lives as long as the stream

    async def talk(hub: Hub, identity: Identity) -> None:
        await stream.serve(hub, identity, receive)

    return readable(await admit_and_serve(scope, caller, talk), caller.cors)


def _first_frame(scope: Scope) -> str:
    """Return the connect command in the query, the only place where an `EventSource` can send it.

    It must not contain a token (`refuse_secrets`), although the SDK puts one there if it has one.
    It must be the only command: browsers also send this GET for links. `identity.origins` refuses
    links on other sites; this check prevents the remaining ones from acting in the user's name.

    Raises:
        InvalidData: There is more than one command, or the query is invalid.
    """
    frame = query_of(scope).get(CONNECT, [""])[0].strip("\n")
    if "\n" in frame:
        raise InvalidData("must be a connect command and nothing else", field=CONNECT)
    return frame


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidData("is not UTF-8", field="body") from error


def _parse_body(body: bytes) -> _Said:
    try:
        return msgspec.json.decode(body, type=_Said)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        text = f"must be an object with session, node and data: {error}"
        raise InvalidData(text[:200], field="body") from error


# ----------------------------------------------------------------------- client to server


def new_session(node: str) -> str:
    """Return the secret for a client's commands; requests without one never reach the broker."""
    name = secrets.token_hex(16)
    return name + _mark(node, name)


def _mark(node: str, name: str) -> str:
    return str(salted_hmac(_SALT, f"{node} {name}", algorithm="sha256").hexdigest())[:32]


async def _carry(said: _Said) -> None:
    """Forward commands to the node that has the stream.

    A missing session on an existing node is not an error: its stream has ended.

    Raises:
        SessionNotFound: The node does not exist, or the session is forged.
        TooLarge: The commands exceed the size limit of a frame.
        NotLive: The broker is unavailable.
    """
    name, mark = said.session[:32], said.session[32:]
    if not _NODE.fullmatch(said.node) or not constant_time_compare(mark, _mark(said.node, name)):
        raise SessionNotFound
    most = wiring.limits().frame_bytes
    if (size := len(said.data.encode("utf-8", "replace"))) > most:
        raise TooLarge("data", size, most)
    node = wiring.node()
    if node.hub.uid == said.node:
        node.hub.connections.receive_emulated(said.session, said.data)
        return
    try:
        heard_by = await node.broker.send_raw(
            f"!{said.node}", encode_forwarded(said.session, said.data)
        )
    except BrokerError as error:
        raise NodeNotLive from error
    if not heard_by:
        raise SessionNotFound


# ----------------------------------------------------------------------- server to client


class _Stream:
    """One HTTP stream."""

    def __init__(self, frame: str, cors: dict[str, str], send: Send, *, is_sse: bool) -> None:
        self._frame = frame
        self._cors = cors
        self._http_send = send
        self._is_sse = is_sse

    async def serve(self, hub: Hub, identity: Identity, receive: Receive) -> None:
        """Serve the stream until either side ends it."""
        content_type = EVENT_STREAM if self._is_sse else "application/json"
        await begin(self._http_send, content_type, self._cors)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - ASGI apps run in tasks
        session = new_session(hub.uid)
        transport = "sse" if self._is_sse else "http_stream"
        conversation = hub.connections.attach(
            self._hear, task, None, identity, session=session, transport=transport
        )
        try:
            frame, self._frame = self._frame, ""
            conversation.receive(frame)
            del frame
            await until_end(conversation, receive)
        finally:
            conversation.end(None)
            await conversation.writer.finish()
        await self._http_send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _hear(self, message: Message) -> None:
        """Write a message of the hub to the stream."""
        if message["type"] == "websocket.close":
            close = Close(int(message["code"]), str(message["reason"]))
            if close.reconnect:  # the writer has already sent final ones
                await self._write([encode_disconnect_push(close)])
            return
        await self._write(message["text"].split("\n"))

    async def _write(self, lines: list[str]) -> None:
        before, after = ("data: ", "\n\n") if self._is_sse else ("", "\n")
        body = "".join([f"{before}{line}{after}" for line in lines]).encode()
        await self._http_send({"type": "http.response.body", "body": body, "more_body": True})
