"""uvicorn's HTTP protocol, with an end to what a client may send and to how long it may take.

Stock uvicorn waits for a request for ever, keeps any number of headers, and queues any number of
requests that were sent ahead (measured: silent sockets were there after 75 s). A proxy in front has
limits of its own; this is for the naked service, and for what gets past the proxy.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from http import HTTPStatus
from typing import ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from notifier.counting import counted

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


class Waiting(Enum):
    """What the client owes us, and the limit of how long it may."""

    HEAD = "request_head_seconds"
    BODY = "request_body_seconds"


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection, until it ends or becomes a WebSocket."""

    seconds: ClassVar = {Waiting.HEAD: HEAD_SECONDS, Waiting.BODY: BODY_SECONDS}
    _waiting: Waiting | None = Waiting.HEAD
    _step = 0  # counts what `_waiting` was, since one read may hold several requests
    _watched = -1
    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0  # of a head that did not come in one read
    _read_bytes = 0
    _problem = HTTPStatus.BAD_REQUEST

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is here; its first request must be, too, soon."""
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._await(None)
        self._watch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client; what is no request is answered without a line in the log."""
        self._unset_keepalive_if_required()
        if self._waiting is None:
            self._await(Waiting.HEAD)  # a line break before a request is a beginning of one, too
        self._read_bytes = len(data)
        if self._waiting is Waiting.HEAD:
            self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
            if self._waiting is Waiting.HEAD and self._head_bytes > HEAD_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request_head_bytes")
        except httptools.HttpParserUpgrade:
            self._await(None)
            if self._should_upgrade():
                self.handle_websocket_upgrade()
        except httptools.HttpParserError:
            self._refuse(self._problem, None)
        self._watch()

    # ------------------------------------------------------------- callbacks of the parser

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._await(Waiting.HEAD)
        self._head_bytes = (
            1  # and what comes later; a head that comes in one read is looked at whole
        )

    def on_headers_complete(self) -> None:
        """A head is here; an exception ends the parser."""
        if len(self.headers) > HEADERS_LIMIT:
            self._give_up(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request_headers")
        # Most requests need not be counted: all that was read is less.
        if self._head_bytes + self._read_bytes > HEAD_BYTES and self._size() > HEAD_BYTES:
            self._give_up(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request_head_bytes")
        if len(self.pipeline) >= PIPELINE_LIMIT:
            self._give_up(HTTPStatus.BAD_REQUEST, "requests_ahead")
        super().on_headers_complete()
        self._await(Waiting.BODY)

    def _size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

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

    def _give_up(self, status: HTTPStatus, limit: str) -> None:
        """Stop the parser from inside."""
        self._problem = status
        counted(self.config, limit)
        raise OverflowError(limit)

    def _refuse(self, status: HTTPStatus, limit: str | None) -> None:
        if limit is not None:
            counted(self.config, limit)
        self._answer(status)
        self._await(None)

    def _answer(self, status: HTTPStatus) -> None:
        """Answer and end; only end where this would be taken for the answer to another request."""
        if self._may_answer():
            text = f"{status.phrase}\n"
            self.transport.write(
                f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: text/plain\r\n"
                f"content-length: {len(text)}\r\nconnection: close\r\n\r\n{text}".encode()
            )
        self.transport.close()

    def _may_answer(self) -> bool:
        earlier: RequestResponseCycle | None = self.cycle
        if earlier is None or earlier.response_complete:
            return True
        is_its_own = self._waiting is Waiting.BODY and not self.pipeline
        return is_its_own and not earlier.response_started
