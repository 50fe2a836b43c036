"""uvicorn's HTTP protocol, with bounds for what a client may send and how long it may take.

Stock uvicorn waits for a request without a timeout (measured: silent sockets were still open after
75 s), keeps any number of headers, and queues any number of pipelined requests. A proxy in front
has limits of its own; these are for a service without one, and for what passes the proxy.

`notifier.http_framing` and `notifier.http_offers` read heads, `notifier.http_lane` starts requests,
`notifier.http_cycles` answers those that are not plain HTTP/1.1, `notifier.http_unread` closes
connections whose clients do not read their responses, and `notifier.http_refusals` writes our own
answers. Long because the rest shares the state of one connection: callbacks of uvicorn and of the
parser, which run for each request and each read, so another object would cost every publish.
"""

from __future__ import annotations

import asyncio
import logging
import select
from enum import Enum
from functools import partial
from http import HTTPStatus
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from notifier.counting import (
    BODY_BYTES,
    Config,
    ConnectionLimiter,
    count_limit,
    without_mapping,
)
from notifier.http_answers import NO_LANE
from notifier.http_framing import count_head_bytes, find_framing_error, read_content_length
from notifier.http_lane import LaneProtocol, WholeRequestCycle
from notifier.http_offers import (
    announces_body,
    drop_empty_offers,
    offers_websocket,
    write_head_without_offer,
)
from notifier.http_refusals import TURNED_AWAY, linger, write_refusal
from notifier.plain_handshake import accept_plain
from notifier.plain_websocket import PlainWebSocketProtocol
from notifier.websocket import WebSocketProtocol

HEAD_SECONDS = 10.0
"""For the head of a request, from the connection or its first byte; nginx 60, Apache 20."""
BODY_SECONDS = 15.0
"""For the body. Longer than the API's own 10 s, which are answered with 408."""
HEAD_BYTES = 32 * 1024
"""Maximum size of URL and headers; nginx 32 KiB, h11 64."""
PIECE_BYTES = 8 * 1024
"""What the parser gets at once; a head may exceed its limit by so much before it is refused."""
HEADERS_LIMIT = 100
"""nginx and Apache 100."""
PIPELINE_LIMIT = 16
"""Pipelined requests; browsers send none. One read of 256 KiB could hold 13,000 of them, and each
takes a kilobyte of memory."""
FRAMING = frozenset({b"host", b"expect", b"transfer-encoding"})
"""Headers that are inspected as soon as they are parsed."""
LAST_REQUEST_SECONDS = 1.0
"""When the server stops: how long a connection may take to send its first request, or one that has
arrived but was not read yet."""
AHEAD_BYTES = HIGH_WATER_LIMIT
"""Of requests behind one that is being answered; then reading pauses. Reading continues up to here
because only a socket that is read shows that its client has gone."""


class Waiting(Enum):
    """What the client has to send next, and the name of the limit for its time."""

    HEAD = "request_head_seconds"
    BODY = "request_body_seconds"


class HttpProtocol(LaneProtocol):
    """One HTTP connection, until it ends or becomes a WebSocket.

    Many methods because a third of them are callbacks of uvicorn and of the parser.
    """

    seconds: ClassVar = {Waiting.HEAD: HEAD_SECONDS, Waiting.BODY: BODY_SECONDS}
    _waiting: Waiting | None = Waiting.HEAD
    _step = 0  # counts changes of `_waiting`: one read may hold several requests
    _timed_step = -1
    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0
    """Of a head that spans several pieces. Within a body: of trailers or chunk extensions, counted
    since the last byte of data."""
    _read_bytes = 0
    _problem = HTTPStatus.BAD_REQUEST
    _why = ""
    """The text of the refusal; empty for the status's own."""
    _hosts = 0
    _codings = b""
    """The transfer codings in the head that is being parsed."""
    _ahead_bytes = 0
    _body_bytes = 0
    _body_limit = BODY_BYTES
    _limiter: ConnectionLimiter | None = None
    """Counts this connection until it ends; None if it is not counted."""
    _is_refused = False
    _running: RequestResponseCycle | WholeRequestCycle | None = None
    """The cycle that is being answered; `cycle` is that of the newest request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the new connection, and set the deadline of its first request."""
        super().connection_made(transport)
        self.client = without_mapping(self.client)
        if isinstance(self.config, Config):
            self._body_limit = self.config.body_bytes
            self._limiter = self.config.limiter
            self.lane = self.config.lane or NO_LANE
        if self._limiter is None or (limit := self._limiter.enter(self.client)) is None:
            self._set_deadline()
            return
        self._is_refused = self._limiter.refuse()
        if self._is_refused:
            self._refuse(TURNED_AWAY[limit], limit)
        else:
            self._limiter = None
            count_limit(self.config, limit)
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End all requests of the connection."""
        self._expect(None)
        self._set_deadline()
        self._end_requests()
        super().connection_lost(exc)
        self._leave()

    def shutdown(self) -> None:
        """End the connection, because the server stops; a request on its way is still answered.

        An idle connection is closed, but not one that was opened just now for a request, or whose
        next request has arrived: closing would reset it, and its client could not know whether the
        request was carried out. The response is the last one (`notifier.leaving.LeavingNotice`).
        """
        newest: RequestResponseCycle | None = self.cycle
        is_idle = not self._held and (newest is None or newest.response_complete)
        if is_idle and (newest is None or self._has_arrived()):
            self.loop.call_later(LAST_REQUEST_SECONDS, self._shut_down_late)
        else:
            super().shutdown()

    def _shut_down_late(self) -> None:
        if self.transport.get_protocol() is self:  # otherwise it has become a WebSocket meanwhile
            super().shutdown()

    def _has_arrived(self) -> bool:
        """Tell whether the kernel has bytes of the client that nobody has read."""
        connection = self.transport.get_extra_info("socket")
        if connection is None or self.transport.is_closing():
            return False
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _start_asgi_task(self, cycle: RequestResponseCycle | WholeRequestCycle, app: Any) -> None:
        """Start answering a request, which may have waited behind another."""
        self._running = cycle
        if not self.pipeline:
            self._ahead_bytes = 0
        super()._start_asgi_task(cycle, app)

    def _end_requests(self) -> None:
        """Tell the app that the client has gone, and drop the requests that still wait.

        The stock class only notifies the newest request. A stream with another request behind it
        was never notified, and stayed open and counted.
        """
        self.pipeline.clear()
        for cycle in (self._running, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True  # nothing the app sends from now on is written
                cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        self._unset_keepalive_if_required()
        if self._waiting is None or (self._waiting is Waiting.HEAD and not self._head_bytes):
            data = self.take_read(data, self._body_limit)
        if data:
            self.parse_read(data)

    def parse_read(self, data: bytes) -> None:
        """Parse bytes from the client; invalid requests are refused without a log line."""
        if self._waiting is None:
            self._expect(Waiting.HEAD)  # also for a line break before a request
        # A read that continues a request counts as two, or its part of a head could be remembered.
        self.begun = 2 if self._waiting is Waiting.BODY or self._head_bytes else 0
        self._read_bytes = len(data)
        try:
            self._parse_in_pieces(data)
            self.end_read(data)
        except httptools.HttpParserError:
            self.end_read(b"")
            self._refuse(self._problem, None)
        if self.pipeline:
            self._read_ahead(self._read_bytes)
        elif self._waiting is None:
            self.note_idle()  # if the response was complete before the body
        self._set_deadline()

    def _parse_in_pieces(self, data: bytes) -> None:
        """Parse bytes a few KiB at a time, until a head is too large.

        Where a head begins in a piece is not known, so up to one piece of it is not counted.
        """
        for start in range(0, len(data), PIECE_BYTES):
            if start and (self.transport.is_closing() or self.transport.get_protocol() is not self):
                return  # what follows is for nobody
            piece = data[start : start + PIECE_BYTES]
            if self._waiting is not None:
                self._head_bytes += len(piece)
            while piece:
                piece = self._parse(piece)
            if self._waiting is not None and self._head_bytes > HEAD_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request_head_bytes")
                return

    def _read_ahead(self, size: int) -> None:
        """Keep reading while requests wait behind an answer, up to a bound.

        The stock class pauses at the first one, and no longer notices that the client has gone: an
        event stream then kept its socket until the next ping.
        """
        self._ahead_bytes += size
        unread = len(self._running.body) if self._running is not None else 0
        if self._ahead_bytes + unread <= AHEAD_BYTES and len(self.pipeline) < PIPELINE_LIMIT:
            self.flow.resume_reading()
        else:
            self.flow.pause_reading()

    def _parse(self, data: bytes) -> bytes:
        """Parse bytes; return those to parse again, after an offer was declined."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self._is_websocket():
                self._expect(None)
                if announces_body(self.headers):
                    self._why = "a WebSocket handshake must not have a body"
                    self._refuse(HTTPStatus.BAD_REQUEST, None)
                else:
                    self.handle_websocket_upgrade()
                    self.parser = None  # type: ignore[assignment] # the two hold each other
            elif self.scope["method"] == "CONNECT":
                self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, None)  # what follows is not HTTP
            else:
                return self._decline(data[offer.args[0] :])
        return b""

    # ------------------------------------------------------------------ offers to upgrade

    def _should_upgrade(self) -> bool:
        """Make the stock class leave every offer to `_parse`.

        It would answer the request without its body: llhttp, the parser, ends a request with an
        offer after its head, and takes what follows for the other protocol.
        """
        return True

    def _is_websocket(self) -> bool:
        """Tell whether to accept the offer.

        Not while an earlier request waits for its answer, which would follow the 101.
        """
        cycle: RequestResponseCycle | None = self.cycle
        return (
            self.ws_protocol_class is not None
            and (cycle is None or cycle.response_complete)
            and offers_websocket(self.scope["method"], self.scope["http_version"], self.headers)
        )

    def _decline(self, rest: bytes) -> bytes:
        """Return the request without its offer, for a new parser that has not seen the offer."""
        method, version = self.scope["method"], self.scope["http_version"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as the stock class
        return write_head_without_offer(method, self.url, version, self.headers) + rest

    def handle_websocket_upgrade(self) -> None:
        """Become a WebSocket."""
        self.forget_keep_alive()
        self.forget_unread()
        headers = self.scope["headers"] = drop_empty_offers(self.headers)
        # The old way also writes log lines, if somebody wants them.
        may_be_plain = self.ws_protocol_class is WebSocketProtocol and not self.logger.isEnabledFor(
            logging.INFO
        )
        if may_be_plain and (accept := accept_plain(self.url, headers)) is not None:
            # Without writing and parsing the head once more.
            self.connections.discard(self)
            new = PlainWebSocketProtocol.taking_over(self)
            new.begin(self.url, headers, accept)
            self.transport.set_protocol(new)
        else:
            super().handle_websocket_upgrade()
        protocol = self.transport.get_protocol()
        if isinstance(protocol, WebSocketProtocol) and self._limiter is not None:
            # Still the same connection. Not `self._leave`: that would keep this object, its parser
            # and the request, which are 5.5 KiB, for as long as the WebSocket lives.
            protocol.ended = partial(self._limiter.leave, self.client)
            self._limiter = None
        else:
            self._leave()

    # ------------------------------------------------------------- callbacks of the parser

    def on_message_begin(self) -> None:
        """Start a request."""
        super().on_message_begin()
        self._hosts, self._codings = 0, b""
        self._expect(Waiting.HEAD)
        self._head_bytes = 1  # later pieces are added; `on_headers_complete` measures all

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; ignore a trailer, which must not become a header (RFC 9110 §6.5.1).

        The stock class adds any number of trailers to the headers that the app sees.
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
        if len(self.headers) > HEADERS_LIMIT:  # not only at the end, which may never come
            self._give_up(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request_headers")

    def on_headers_complete(self) -> None:
        """Check the head, and start its request; an exception stops the parser."""
        # Most heads need not be measured: everything that was read is smaller.
        if (
            self._head_bytes + self._read_bytes > HEAD_BYTES
            and count_head_bytes(self.url, self.headers) > HEAD_BYTES
        ):
            self._give_up(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request_head_bytes")
        if len(self.pipeline) >= PIPELINE_LIMIT:
            self._give_up(HTTPStatus.BAD_REQUEST, "requests_ahead")
        if self._hosts != 1 or self._codings:
            is_old = self.parser.get_http_version() in ("0.9", "1.0")
            if (flaw := find_framing_error(self._hosts, self._codings, is_old=is_old)) is not None:
                self._give_up(flaw.status, why=flaw.why)
        super().on_headers_complete()
        self._body_bytes = 0
        self._expect(Waiting.BODY)

    def on_body(self, body: bytes) -> None:
        """Add a part of the body, up to the limit."""
        self._head_bytes = 0
        self._body_bytes += len(body)
        if self._body_bytes > self._body_limit:
            self._give_up(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request_body_bytes")
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        super().on_message_complete()
        self._expect(None)

    # ---------------------------------------------------------------------------- limits

    def _expect(self, what: Waiting | None) -> None:
        if what is not self._waiting or what is Waiting.HEAD:
            self._waiting = what
            self._step += 1
            self._head_bytes = 0

    def _set_deadline(self) -> None:
        """Set the deadline after a read, if it left a request incomplete; most come in one read."""
        if self._step == self._timed_step:
            return
        self._timed_step = self._step
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._waiting is not None and not self.transport.is_closing():
            if (
                self._waiting is Waiting.BODY
                and read_content_length(self.headers) > self._body_limit
            ):
                self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request_body_bytes")
                return
            seconds = self.seconds[self._waiting]
            self._deadline = self.loop.call_later(seconds, self._time_out, self._waiting)

    def _time_out(self, waiting: Waiting) -> None:
        if self.flow.read_paused:  # by us, while an earlier request is answered
            self._timed_step = -1
            self._set_deadline()
            return
        count_limit(self.config, waiting.value)
        if waiting is Waiting.HEAD and self._head_bytes:
            self._answer(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.close()
            self.watch_unread()

    def _give_up(self, status: HTTPStatus, limit: str | None = None, *, why: str = "") -> None:
        """Stop the parser, by an exception in its callback, and remember what to answer."""
        self._problem, self._why = status, why
        if limit is not None:
            count_limit(self.config, limit)
        raise OverflowError(limit or why)

    def _refuse(self, status: HTTPStatus, limit: str | None) -> None:
        if limit is not None:
            count_limit(self.config, limit)
        self._answer(status)
        self._expect(None)

    def _answer(self, status: HTTPStatus) -> None:
        """Answer and end; only end if the answer would be read as that to another request."""
        may_answer = self._may_answer()
        earlier: RequestResponseCycle | None = self.cycle
        self._end_requests()
        if not may_answer:
            if earlier is not None and earlier.response_complete:
                linger(self)  # that answer may not have been read yet
            else:
                self.transport.close()
                self.watch_unread()
            return
        self.transport.write(write_refusal(status, self._why, self._body_limit))
        linger(self)

    def _leave(self) -> None:
        """Stop counting the connection."""
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
