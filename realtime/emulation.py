"""The ASGI rim for networks that break WebSockets: HTTP streaming and SSE, with emulation.

What the node says comes in a stream: lines (``/connection/http_stream``) or events
(``/connection/sse?cf_connect=…``). What the client says comes in requests of their own
(``/emulation``), which any node may get: it hands them on to the node that has the stream, over the
broker. Source: centrifugal.dev/docs/transports/http_stream and sse, and centrifuge-js 5.8, which
speaks it.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable

import msgspec
from django.utils.crypto import constant_time_compare, salted_hmac

from realtime import wiring
from realtime.api.answers import STATUSES, Response
from realtime.api.head import MethodNotAllowed
from realtime.callers import caller_of
from realtime.codes import Close
from realtime.errors import (
    BrokerError,
    Forbidden,
    InvalidData,
    RealtimeError,
    RequestError,
    TooLarge,
)
from realtime.hub import Hub
from realtime.identity import Identity
from realtime.node_messages import forwarded
from realtime.protocols.centrifugo import disconnected
from realtime.stream_request import CONNECT, query_of, refuse_secrets
from realtime.stream_request import PATH as SSE_PATH
from realtime.streams import (
    EVENT_STREAM,
    Message,
    NotLive,
    Receive,
    Scope,
    Send,
    begin,
    preflight,
    readable,
    refusal,
    until_end,
    welcomed,
)

LINES_PATH, COMMANDS_PATH = "/connection/http_stream", "/emulation"
_SALT = "realtime.emulation"
_NODE = re.compile(r"[0-9a-f]{16}")
_HAS_CONNECT = re.compile(rf"(?:^|&){CONNECT}=".encode())

ReadBody = Callable[[], Awaitable[bytes]]


class SessionNotFound(RequestError):
    """There is no such session: its node is gone; connect again."""

    code = "session_not_found"


class _Said(msgspec.Struct):
    """What a client says beside its stream; other fields mean nothing here."""

    session: str
    node: str
    data: str


def is_ours(scope: Scope) -> bool:
    """Tell whether a request is for this module."""
    path = scope["path"]
    return path in (LINES_PATH, COMMANDS_PATH) or (
        path == SSE_PATH and _HAS_CONNECT.search(scope["query_string"]) is not None
    )


def body_bytes() -> int:
    """Return how large a body may be: a frame as a text within JSON, each byte of it escaped."""
    return 2 * wiring.limits().frame_bytes + 1024


async def serve(scope: Scope, receive: Receive, send: Send, read_body: ReadBody) -> Response | None:
    """Serve a stream until either side ends it, or carry commands; return what else to answer.

    Args:
        scope: Of the request.
        receive: ASGI's, like the next one.
        send: ditto.
        read_body: Reads the body, within limits; raises `RequestError`.
    """
    try:
        caller = caller_of(scope)
    except Forbidden as error:
        return refusal(error, 403)  # its page may not read why
    method = "GET" if scope["path"] == SSE_PATH else "POST"
    if scope["method"] == "OPTIONS" and caller.cors:
        return preflight(caller.cors, method)
    try:
        if scope["method"] != method:
            raise MethodNotAllowed(f"send a {method}")
        refuse_secrets(scope)
        if scope["path"] == COMMANDS_PATH:
            await _carry(_said(await read_body()))
            return Response(204, b"", caller.cors)
        is_sse = scope["path"] == SSE_PATH
        frame = _first_frame(scope) if is_sse else _text(await read_body())
        if not frame:
            raise InvalidData("is empty: begin with a connect command", field="the first frame")
    except RealtimeError as error:
        answer = refusal(error, STATUSES[error.code][0], allow=f"{method}, OPTIONS")
        return readable(answer, caller.cors)
    stream = _Stream(frame, caller.cors, send, is_sse=is_sse)

    async def talk(hub: Hub, identity: Identity) -> None:
        await stream.serve(hub, identity, receive)

    return readable(await welcomed(scope, caller, talk), caller.cors)


def _first_frame(scope: Scope) -> str:
    """Return the connect command in the query, the only place that an `EventSource` has for one.

    No token may be in it (`refuse_secrets`), though the SDK puts one there if it has one. Nothing
    may stand beside it: browsers send this GET for links, too. `realtime.origins` refuses those of
    other sites, and this keeps what is left from doing anything in the user's name.

    Raises:
        InvalidData: There is more than one command, or something that is no query.
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


def _said(body: bytes) -> _Said:
    try:
        return msgspec.json.decode(body, type=_Said)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        text = f"must be an object with session, node and data: {error}"
        raise InvalidData(text[:200], field="body") from error


# ----------------------------------------------------------------------- what the client says


def new_session(node: str) -> str:
    """Return the secret by which a client speaks; without it nobody costs the broker anything."""
    name = secrets.token_hex(16)
    return name + _mark(node, name)


def _mark(node: str, name: str) -> str:
    return str(salted_hmac(_SALT, f"{node} {name}", algorithm="sha256").hexdigest())[:32]


async def _carry(said: _Said) -> None:
    """Bring commands to the node that has the stream.

    A session that is gone from a node that is there is no error: its stream has ended.

    Raises:
        SessionNotFound: There is no such node, or the session is none of ours.
        TooLarge: The commands are more than a frame may hold.
        NotLive: The broker does not carry it now.
    """
    name, mark = said.session[:32], said.session[32:]
    if not _NODE.fullmatch(said.node) or not constant_time_compare(mark, _mark(said.node, name)):
        raise SessionNotFound
    most = wiring.limits().frame_bytes
    if (size := len(said.data.encode("utf-8", "replace"))) > most:
        raise TooLarge("data", size, most)
    node = wiring.node()
    if node.hub.uid == said.node:
        node.hub.connections.emulated(said.session, said.data)
        return
    try:
        heard_by = await node.broker.send_raw(f"!{said.node}", forwarded(said.session, said.data))
    except BrokerError as error:
        raise NotLive from error
    if not heard_by:
        raise SessionNotFound


# ----------------------------------------------------------------------- what the node says


class _Stream:
    """One stream, until its end."""

    def __init__(self, frame: str, cors: dict[str, str], send: Send, *, is_sse: bool) -> None:
        self._frame = frame
        self._cors = cors
        self._http_send = send
        self._is_sse = is_sse

    async def serve(self, hub: Hub, identity: Identity, receive: Receive) -> None:
        """Talk until either side ends it."""
        content_type = EVENT_STREAM if self._is_sse else "application/json"
        await begin(self._http_send, content_type, self._cors)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - ASGI apps run in tasks
        session = new_session(hub.uid)
        conversation = hub.connections.attach(self._hear, task, None, identity, session=session)
        try:
            conversation.receive(self._frame)
            await until_end(conversation, receive)
        finally:
            conversation.end(None)
        await self._http_send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _hear(self, message: Message) -> None:
        """Take what the hub sends to its client."""
        if message["type"] == "websocket.close":
            close = Close(int(message["code"]), str(message["reason"]))
            if close.reconnect:  # of a final one the driver has told already
                await self._write([disconnected(close)])
            return
        await self._write(message["text"].split("\n"))

    async def _write(self, lines: list[str]) -> None:
        before, after = ("data: ", "\n\n") if self._is_sse else ("", "\n")
        body = "".join([f"{before}{line}{after}" for line in lines]).encode()
        await self._http_send({"type": "http.response.body", "body": body, "more_body": True})
