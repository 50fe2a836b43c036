"""The lane for API requests whose body has arrived: they are answered without ASGI (ADR-0034).

A publish is one read, one look at it, and one write. ASGI adds to it a scope, two messages in each
direction and a timer for the body, which cost more than the publish itself. A request whose body
comes later, or that is not plainly one to the API, takes the way through ASGI as before.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from notifier.http_cycles import adapt_cycle

FAILED = STATUS_LINE[500] + (
    b"content-type: text/plain; charset=utf-8\r\n"
    b"content-length: 21\r\nconnection: close\r\n\r\nInternal Server Error"
)
"""As uvicorn answers when an ASGI application raises."""


class Answer(Protocol):
    """A response; the application's own type fits."""

    @property
    def status(self) -> int:
        """The status code."""

    @property
    def body(self) -> bytes:
        """The body, which is always sent."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers in addition to those of every response."""


Headers = Sequence[tuple[bytes, bytes]]
Work = Callable[[bytes], Coroutine[Any, Any, Answer]]
"""Answers a request, when its whole body is known."""
Lane = Callable[[bytes, Headers], Work | None]
"""Takes the target and the headers of a POST; returns what answers it, or None to decline it."""


class AnswerWriter:
    """Writes responses, whose heads are nearly always the same."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        """Take the headers of every response."""
        self._common = {name.lower(): text for name, text in headers.items()}
        self._server_headers: Headers | None = None
        self._successful = b""

    def write(self, answer: Answer, server_headers: Headers, *, is_last: bool) -> bytes:
        """Return the bytes of a response.

        Args:
            answer: What to send.
            server_headers: The server's own; a new object whenever the date changes.
            is_last: Whether the connection ends after it.
        """
        if server_headers is not self._server_headers:
            self._server_headers = server_headers
            self._successful = self._head(200, {})
        if answer.status == 200 and not answer.headers:
            head = self._successful
        else:
            head = self._head(answer.status, answer.headers)
        end = b"connection: close\r\n\r\n" if is_last else b"\r\n"
        return b"%bcontent-length: %d\r\n%b%b" % (head, len(answer.body), end, answer.body)

    def _head(self, status: int, headers: Mapping[str, str]) -> bytes:
        server = b"".join([b"%b: %b\r\n" % pair for pair in self._server_headers or ()])
        own = self._common | {name.lower(): text for name, text in headers.items()}
        lines = "".join([f"{name}: {text}\r\n" for name, text in own.items()])
        return STATUS_LINE[status] + server + lines.encode("latin-1")


class WholeRequestCycle:
    """A request with its whole body, until it is answered.

    It stands in the place of uvicorn's `RequestResponseCycle`, so that the requests of a connection
    are answered in their order, whichever way each takes.
    """

    __slots__ = ("_body", "_protocol", "_work", "disconnected", "keep_alive", "response_complete")

    body = b""
    """What the application has not read yet: nothing."""
    response_started = False
    """The response is written as a whole."""
    scope = None

    def __init__(
        self, protocol: LaneProtocol, work: Work, body: bytes, *, keep_alive: bool
    ) -> None:
        self._protocol = protocol
        self._work = work
        self._body = body
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False

    @property
    def message_event(self) -> WholeRequestCycle:
        """What is `set` when the client has gone."""
        return self

    def set(self) -> None:
        """Do nothing: the request is carried out, and only its response is dropped."""

    async def run(self) -> None:
        """Carry out the request and send the response."""
        protocol = self._protocol
        try:
            answer = await self._work(self._body)
        except Exception:  # nothing is known about what failed
            protocol.logger.exception("Exception in the API")
            self._send(FAILED, is_last=True)
            return
        if protocol.flow.write_paused and not self.disconnected:
            await protocol.flow.drain()
        is_last = not self.keep_alive
        server_headers = protocol.server_state.default_headers
        response = protocol.answers.write(answer, server_headers, is_last=is_last)
        self._send(response, is_last=is_last)

    def _send(self, response: bytes, *, is_last: bool) -> None:
        if self.disconnected:
            return
        transport = self._protocol.transport
        transport.write(response)
        self.response_complete = True
        if is_last:
            transport.close()
        self._protocol.on_response_complete()


class LaneProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which starts each request in the lane or through ASGI.

    A subclass calls `leave_lane` when it has parsed what was read.
    """

    lane: Lane | None = None
    answers: AnswerWriter
    """Writes the responses of the lane."""
    _work: Work | None = None
    """What answers the newest request, if the lane took it and its body is still incomplete."""
    _parts: list[bytes]
    """The body of that request so far."""

    def on_headers_complete(self) -> None:
        """Start a request, unless the lane takes it: then it starts when its body is complete."""
        parser = self.parser
        if (
            self.lane is not None
            and parser.get_method() == b"POST"
            and not self.expect_100_continue
            and not parser.should_upgrade()
            and parser.get_http_version() == "1.1"
            and (work := self.lane(self.url, self.headers)) is not None
        ):
            self._work, self._parts = work, []
        else:
            self._start_through_asgi()

    def on_body(self, body: bytes) -> None:
        """Add a part of the body; the stock method asks the parser each time."""
        if self._work is not None:
            self._parts.append(body)
        else:
            self._add_for_asgi(body)

    def on_message_complete(self) -> None:
        """End a request; in the lane, answer it after all requests before it."""
        if self._work is None:
            super().on_message_complete()
            return
        body, keep_alive = b"".join(self._parts), self.parser.should_keep_alive()
        cycle: Any = WholeRequestCycle(self, self._work, body, keep_alive=keep_alive)
        self._work = None
        earlier: RequestResponseCycle | None = self.cycle
        self.cycle = cycle
        if earlier is None or earlier.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def leave_lane(self) -> None:
        """Start a request through ASGI after all, if its body has not come in the same read.

        There, the time for its body is limited, and its key is checked before the body is read.
        """
        if self._work is None:
            return
        self._work = None
        self._start_through_asgi()
        for part in self._parts:
            self._add_for_asgi(part)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if not isinstance(cycle, WholeRequestCycle):
            super()._start_asgi_task(cycle, app)
            return
        task = self.loop.create_task(cycle.run())
        self.tasks.add(task)  # the server waits for them when it stops
        task.add_done_callback(self.tasks.discard)

    def _start_through_asgi(self) -> None:
        super().on_headers_complete()
        if self.expect_100_continue or self.scope["http_version"] != "1.1":
            cycle: RequestResponseCycle | None = self.cycle
            if cycle is not None and cycle.scope is self.scope:  # else an upgrade was offered
                adapt_cycle(cycle)

    def _add_for_asgi(self, body: bytes) -> None:
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()
