"""uvicorn's HTTP protocol, with an end to what a client may send and to how long it may take.

Stock uvicorn waits for a request for ever, keeps any number of headers, and queues any number of
requests that were sent ahead (measured: silent sockets were there after 75 s). A proxy in front has
limits of its own; this is for the naked service, and for what gets past the proxy.

An offer that is declined changes nothing (RFC 9110 §7.8, §10.1.1): a request that offers another
protocol is answered as if it had not, with its body and with the request behind it.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from http import HTTPStatus
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from notifier.counting import BODY_BYTES, Config, ConnectionLimiter, counted
from notifier.websocket import WebSocketProtocol

HEAD_SECONDS = 10.0
"""For the whole head of a request, from the connection or its first byte; nginx 60, Apache 20."""
BODY_SECONDS = 15.0
"""For the whole body. Longer than the API's own 10 s, which answers with 408."""
HEAD_BYTES = 32 * 1024
"""Of address and headers; nginx 32 KiB, h11 64."""
HEADERS_LIMIT = 100
"""nginx and Apache 100."""
PIPELINE_LIMIT = 16
"""Requests sent ahead of their answers; browsers send none. One read of 256 KiB could hold 13,000
of them, and each becomes a kilobyte."""
LINGER_SECONDS = 2.0
"""How long bytes of a refused request are still read, so that its sender can read the answer: to
close a socket with unread bytes resets it (RFC 9112 §9.6). nginx 30 s in all."""
LINGER_BYTES = 1024 * 1024
OFFERS = {b"sec-websocket-protocol", b"sec-websocket-extensions"}
"""Lists in a handshake that mean nothing when they are empty."""
FRAMING = frozenset({b"host", b"expect", b"transfer-encoding"})
"""Headers that are looked at while they are parsed."""
AHEAD_BYTES = HIGH_WATER_LIMIT
"""Of requests behind one that is being answered, before reading pauses. It goes on up to here since
the end of a connection is only seen while it is read."""
RETRY_SECONDS = 5
TURNED_AWAY = {
    "transport_connections": HTTPStatus.SERVICE_UNAVAILABLE,
    "transport_connections_per_address": HTTPStatus.TOO_MANY_REQUESTS,
}


class Waiting(Enum):
    """What the client owes us, and the limit of how long it may."""

    HEAD = "request_head_seconds"
    BODY = "request_body_seconds"


class CloseDelimitedCycle(RequestResponseCycle):
    """Answers an HTTP/1.0 request: without chunks (RFC 9112 §6.1), and without 100 Continue.

    A body without Content-Length ends with the connection, as that of an event stream does.
    """

    _is_open_ended = False

    async def send(self, message: Any) -> None:
        """Send what the app says; uvicorn would send chunks whatever the version is."""
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            if b"content-length" not in names:
                self._is_open_ended = True
                self.chunked_encoding = False
        elif self._is_open_ended:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


class ExpectingCycle(RequestResponseCycle):
    """Answers a request with ``Expect: 100-continue``.

    A client that is answered before it was told to continue need not send the body that it has
    announced. Its next request would be taken for that body, so there is none (RFC 9110 §10.1.1).
    """

    async def send(self, message: Any) -> None:
        """Send what the app says."""
        if self.waiting_for_100_continue and self.more_body:
            self.keep_alive = False
        await super().send(message)


class Lingering(asyncio.Protocol):
    """The rest of a connection whose request was refused: what still comes is thrown away."""

    def __init__(self, ended: HttpProtocol) -> None:
        self._ended = ended
        self._left = LINGER_BYTES
        self._timer = ended.loop.call_later(LINGER_SECONDS, ended.transport.abort)

    def data_received(self, data: bytes) -> None:
        """Read, so that the client reads our answer; up to a bound."""
        self._left -= len(data)
        if self._left < 0:
            self._ended.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or its time is up."""
        self._timer.cancel()
        self._ended.connection_lost(exc)


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection, until it ends or becomes a WebSocket."""

    seconds: ClassVar = {Waiting.HEAD: HEAD_SECONDS, Waiting.BODY: BODY_SECONDS}
    _waiting: Waiting | None = Waiting.HEAD
    _step = 0  # counts what `_waiting` was, since one read may hold several requests
    _watched = -1
    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0
    """Of a head that did not come in one read; in a body, of trailers or of extensions of a chunk:
    what was read since the last byte of the body."""
    _read_bytes = 0
    _problem = HTTPStatus.BAD_REQUEST
    _why = ""
    """What to tell the client of the problem; empty: the status alone."""
    _hosts = 0
    _codings = b""
    """The transfer codings of the request whose head is being parsed."""
    _ahead_bytes = 0
    _body_bytes = 0
    _body_limit = BODY_BYTES
    _limiter: ConnectionLimiter | None = None
    """Where this connection is counted."""
    _is_refused = False
    _running: RequestResponseCycle | None = None
    """Whose answer is under way; `cycle` is that of the request that came last."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is here; its first request must be, too, soon."""
        super().connection_made(transport)
        if isinstance(self.config, Config):
            self._body_limit = self.config.body_bytes
            self._limiter = self.config.limiter
        if self._limiter is None or (limit := self._limiter.enter(self.client)) is None:
            self._watch()
            return
        self._is_refused = self._limiter.refuse()
        if self._is_refused:
            self._refuse(TURNED_AWAY[limit], limit)
        else:
            self._limiter = None
            counted(self.config, limit)
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._await(None)
        self._watch()
        self._end_requests()
        super().connection_lost(exc)
        self._leave()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Begin to answer a request, which may have waited for the one before it."""
        self._running = cycle
        if not self.pipeline:
            self._ahead_bytes = 0
        super()._start_asgi_task(cycle, app)

    def _end_requests(self) -> None:
        """Tell the app that the client has gone, and forget the requests that it has not seen.

        The stock class tells that of the last request alone: a stream with one request behind it
        was never told, and stayed, counted, for ever.
        """
        self.pipeline.clear()
        for cycle in (self._running, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True  # whatever the app says now comes too late
                cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client; what is no request is answered without a line in the log."""
        self._unset_keepalive_if_required()
        if self._waiting is None:
            self._await(Waiting.HEAD)  # a line break before a request is a beginning of one, too
        self._read_bytes = len(data)
        if self._waiting is not None:
            self._head_bytes += len(data)
        try:
            while data:
                data = self._parse(data)
            if self._waiting is not None and self._head_bytes > HEAD_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request_head_bytes")
        except httptools.HttpParserError:
            self._refuse(self._problem, None)
        if self.pipeline:
            self._read_ahead(self._read_bytes)
        self._watch()

    def _read_ahead(self, size: int) -> None:
        """Keep reading while requests wait behind an answer, up to a bound.

        The stock class pauses at the first of them, and then does not notice that the client has
        gone: an event stream kept its socket until the next ping.
        """
        self._ahead_bytes += size
        unread = len(self._running.body) if self._running is not None else 0
        if self._ahead_bytes + unread <= AHEAD_BYTES and len(self.pipeline) < PIPELINE_LIMIT:
            self.flow.resume_reading()
        else:
            self.flow.pause_reading()

    def _parse(self, data: bytes) -> bytes:
        """Parse bytes; return those that must be parsed anew, without the offer before them."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self._is_websocket():
                self._await(None)
                if self._announces_body():
                    self._why = "a WebSocket handshake must not have a body"
                    self._refuse(HTTPStatus.BAD_REQUEST, None)
                else:
                    self.handle_websocket_upgrade()
                    self.parser = None  # type: ignore[assignment] # the two hold each other
            elif self.scope["method"] == "CONNECT":
                self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, None)  # what follows is no HTTP
            else:
                return self._declined(data[offer.args[0] :])
        return b""

    # ------------------------------------------------------------------ offers to upgrade

    def _should_upgrade(self) -> bool:
        """Tell the stock class, where the parser stopped at an offer, to leave that to `_parse`.

        It would answer the request, but without its body: the parser of Node.js, llhttp, ends a
        request with an offer behind its head, and takes what follows for the other protocol.
        """
        return True

    def _is_websocket(self) -> bool:
        """Tell whether the offer is one we take: RFC 6455 §4.1; none in HTTP/1.0, RFC 9110 §7.8.

        None while an earlier request waits for its answer, which would come behind the 101.
        """
        cycle: RequestResponseCycle | None = self.cycle
        return (
            self.ws_protocol_class is not None
            and (cycle is None or cycle.response_complete)
            and self.scope["method"] == "GET"
            and self.scope["http_version"] == "1.1"
            and any(
                name == b"upgrade" and value.lower() == b"websocket" for name, value in self.headers
            )
        )

    def _announces_body(self) -> bool:
        """Tell whether a handshake has a body, which the other protocol would take for frames.

        `websockets` raises an error for one, as for a length that is written as 00, and uvicorn
        then closes without an answer.
        """
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
            for name, value in self.headers
        )

    def _declined(self, rest: bytes) -> bytes:
        """Begin the request anew, with a parser that knows nothing of the offer.

        Every HTTP client of the JDK offers h2c unless told not to, `curl --http2` too.
        """
        version = self.scope["http_version"].encode()
        head = [self.scope["method"].encode(), b" ", self.url, b" HTTP/", version, b"\r\n"]
        for name, value in self.headers:
            if name != b"upgrade":
                head += (name, b": ", value, b"\r\n")
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as the stock class
        return b"".join((*head, b"\r\n", rest))

    def handle_websocket_upgrade(self) -> None:
        """Become a WebSocket, without offers that are empty: RFC 9110 §5.6.1.2.

        A client with `websockets` 15 sends ``Sec-WebSocket-Protocol:`` where its user names none.
        """
        self.scope["headers"] = [
            (name, value)
            for name, value in self.headers
            if name not in OFFERS or value.strip(b", \t")
        ]
        super().handle_websocket_upgrade()
        protocol = self.transport.get_protocol()
        if isinstance(protocol, WebSocketProtocol):
            protocol.ended = self._leave  # still the same connection
        else:
            self._leave()

    # ------------------------------------------------------------- callbacks of the parser

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._hosts, self._codings = 0, b""
        self._await(Waiting.HEAD)
        self._head_bytes = (
            1  # and what comes later; a head that comes in one read is looked at whole
        )

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer is none, and must not be taken for one (RFC 9110 §6.5.1).

        The stock class adds trailers, as many as there are, to what the app sees as headers.
        """
        if self._waiting is Waiting.BODY:
            return
        name = name.lower()
        if name in FRAMING:
            if name == b"host":
                self._hosts += 1
            elif name == b"expect":
                self.expect_100_continue = value.lower() == b"100-continue"
            else:
                self._codings += b"," + value
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """A head is here; an exception ends the parser."""
        if len(self.headers) > HEADERS_LIMIT:
            self._give_up(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request_headers")
        # Most requests need not be counted: all that was read is less.
        if self._head_bytes + self._read_bytes > HEAD_BYTES and self._size() > HEAD_BYTES:
            self._give_up(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request_head_bytes")
        if len(self.pipeline) >= PIPELINE_LIMIT:
            self._give_up(HTTPStatus.BAD_REQUEST, "requests_ahead")
        if self._hosts != 1 or self._codings:
            self._check_framing()
        super().on_headers_complete()
        if self.expect_100_continue or self.scope["http_version"] != "1.1":
            self._answer_with_care()
        self._body_bytes = 0
        self._await(Waiting.BODY)

    def _check_framing(self) -> None:
        """Refuse what another server in front of us could understand in another way (CWE-444)."""
        is_old = self.parser.get_http_version() in ("0.9", "1.0")
        if self._hosts > 1 or not (self._hosts or is_old):  # RFC 9112 §3.2
            self._give_up(HTTPStatus.BAD_REQUEST, why="a request must have one Host header")
        if not self._codings:
            return
        if is_old:  # RFC 9112 §6.1
            self._give_up(HTTPStatus.BAD_REQUEST, why="HTTP/1.0 has no Transfer-Encoding")
        codings = [coding.strip(b" \t").lower() for coding in self._codings.split(b",")]
        codings = [coding for coding in codings if coding]  # RFC 9110 §5.6.1.2
        if codings[-1:] != [b"chunked"] or codings.count(b"chunked") > 1:  # RFC 9112 §6.1, §6.3
            self._give_up(HTTPStatus.BAD_REQUEST, why="chunked must come last, and once")
        if codings != [b"chunked"]:
            self._give_up(HTTPStatus.NOT_IMPLEMENTED, why="the only transfer coding is chunked")

    def _answer_with_care(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.scope is not self.scope:
            return  # the parser stopped at an offer
        if self.scope["http_version"] == "1.1":
            cycle.__class__ = ExpectingCycle
            return
        cycle.__class__ = CloseDelimitedCycle
        cycle.keep_alive = cycle.waiting_for_100_continue = False

    def _size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def on_body(self, body: bytes) -> None:
        """Take a part of a body; the stock class has no limit, and asks the parser each time."""
        self._head_bytes = 0
        self._body_bytes += len(body)
        if self._body_bytes > self._body_limit:
            self._give_up(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request_body_bytes")
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """A request is here."""
        super().on_message_complete()
        self._await(None)

    # ---------------------------------------------------------------------------- limits

    def _await(self, what: Waiting | None) -> None:
        if what is not self._waiting or what is Waiting.HEAD:
            self._waiting = what
            self._step += 1
            self._head_bytes = 0

    def _watch(self) -> None:
        """Set the deadline of what is awaited after a read: most requests come in one, whole."""
        if self._step == self._watched:
            return
        self._watched = self._step
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._waiting is not None and not self.transport.is_closing():
            if self._waiting is Waiting.BODY and self._announced() > self._body_limit:
                self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request_body_bytes")
                return
            seconds = self.seconds[self._waiting]
            self._deadline = self.loop.call_later(seconds, self._overdue, self._waiting)

    def _overdue(self, waiting: Waiting) -> None:
        if self.flow.read_paused:  # by us: the answer to an earlier request takes its time
            self._watched = -1
            self._watch()
            return
        counted(self.config, waiting.value)
        if waiting is Waiting.HEAD and self._head_bytes:
            self._answer(HTTPStatus.REQUEST_TIMEOUT)
        self.transport.close()

    def _give_up(self, status: HTTPStatus, limit: str | None = None, *, why: str = "") -> None:
        """Stop the parser from inside."""
        self._problem, self._why = status, why
        if limit is not None:
            counted(self.config, limit)
        raise OverflowError(limit or why)

    def _refuse(self, status: HTTPStatus, limit: str | None) -> None:
        if limit is not None:
            counted(self.config, limit)
        self._answer(status)
        self._await(None)

    def _announced(self) -> int:
        """Return the length of a body that did not come with its head; the parser has checked it.

        The app's task has not run yet: both are of this turn of the loop.
        """
        for name, value in self.headers:
            if name == b"content-length":
                return int(value)
        return 0

    def _answer(self, status: HTTPStatus) -> None:
        """Answer and end; only end where this would be taken for the answer to another request."""
        may_answer = self._may_answer()
        earlier: RequestResponseCycle | None = self.cycle
        self._end_requests()
        if not may_answer:
            if earlier is not None and earlier.response_complete:
                self._linger()  # that answer may not have been read yet
            else:
                self.transport.close()
            return
        kind, text = "text/plain", f"{self._why or status.phrase}\n"
        extra = ""
        if status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE:  # publishers read this, as the API's
            most = f"the body has more than {self._body_limit} bytes"
            kind = "application/json"
            text = f'{{"error":{{"code":107,"reason":"too_large","message":"{most}"}}}}\n'
        elif status is HTTPStatus.METHOD_NOT_ALLOWED:
            extra = "allow: GET, HEAD, POST\r\n"  # RFC 9110 §15.5.6
        elif status in TURNED_AWAY.values():
            extra = f"retry-after: {RETRY_SECONDS}\r\n"
        self.transport.write(
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {kind}\r\n{extra}"
            f"content-length: {len(text)}\r\nconnection: close\r\n\r\n{text}".encode()
        )
        self._linger()

    def _linger(self) -> None:
        """Close our half; the other when the client has had time to read why."""
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        self.flow.resume_reading()
        self.transport.write_eof()
        self.transport.set_protocol(Lingering(self))

    def _leave(self) -> None:
        """Count the connection out."""
        limiter, self._limiter = self._limiter, None
        if limiter is None:
            return
        if self._is_refused:
            limiter.end_refusal()
        else:
            limiter.leave(self.client)

    def _may_answer(self) -> bool:
        earlier: RequestResponseCycle | None = self.cycle
        if earlier is None:
            return True
        if self._waiting is Waiting.BODY:  # of the request that came last
            return not self.pipeline and not earlier.response_started
        return bool(earlier.response_complete)
