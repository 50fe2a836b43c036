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
from notifier.http_repeats import RepeatedHead, remember

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
Take = Callable[[bytes, Headers], Work | None]
"""Takes the target and the headers of a POST; returns what answers it and those with the same head,
or None to decline it."""


class Lane:
    """What an application offers to the protocol class of the server."""

    def __init__(self, take: Take, headers: Mapping[str, str]) -> None:
        """Open the lane.

        Args:
            take: Takes requests.
            headers: The headers of every response.
        """
        self.take = take
        self.answers = AnswerWriter(headers)
        self.is_open = True

    def close(self) -> None:
        """Take no more requests: they take the way through ASGI."""
        self.is_open = False


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


NO_LANE = Lane(lambda url, headers: None, {})
"""Sends all requests through ASGI."""
NO_LANE.close()


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

    def remember(self, data: bytes) -> RepeatedHead | None:
        """Return the head of this request, which was read alone, for those that repeat it."""
        return remember(data, self._body, self._work)

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
        response = protocol.lane.answers.write(answer, server_headers, is_last=is_last)
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

    A subclass calls `take_repeated` before it parses what was read, and `end_read` after it.
    """

    lane = NO_LANE
    repeated: RepeatedHead | None = None
    """The head of the newest request that was taken and had been read as a whole."""
    begun = 0
    """How many requests began in this read; one more if it continues another."""
    _work: Work | None = None
    """What answers the newest request, if the lane took it and its body is still incomplete."""
    _parts: list[bytes]
    """The body of that request so far."""
    _idle_since: float | None = None
    """When the newest response was complete; None during a request."""

    def take_repeated(self, data: bytes, most: int) -> bool:
        """Start a request without parsing it, if its head is known and no other is in progress.

        Args:
            data: What was read, after the end of a request.
            most: Maximum body.
        """
        earlier: Any = self.cycle
        if self.repeated is None or not self.lane.is_open or not earlier.response_complete:
            return False
        body = self.repeated.body_of(data)
        if body is None or len(body) > most:
            return False
        cycle: Any = WholeRequestCycle(self, self.repeated.work, body, keep_alive=True)
        self.cycle = cycle
        self._start_asgi_task(cycle, self.app)
        return True

    def on_message_begin(self) -> None:
        """Begin a request."""
        self.begun += 1
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start a request, unless the lane takes it: then it starts when its body is complete."""
        parser = self.parser
        if (
            self.lane.is_open
            and parser.get_method() == b"POST"
            and not self.expect_100_continue
            and not parser.should_upgrade()
            and parser.get_http_version() == "1.1"
            and (work := self.lane.take(self.url, self.headers)) is not None
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

    def end_read(self, data: bytes) -> None:
        """Remember the head of a request that was read as a whole, and let no other wait here.

        If the body has not come in the same read, the request starts through ASGI after all. There,
        the time for its body is limited, and its key is checked before the body is read.

        Args:
            data: What was read and parsed; empty if the parser refused it.
        """
        newest: Any = self.cycle
        if self._work is not None:
            self._work = None
            self._start_through_asgi()
            for part in self._parts:
                self._add_for_asgi(part)
        elif self.begun == 1 and isinstance(newest, WholeRequestCycle) and newest.keep_alive:
            self.repeated = newest.remember(data) or self.repeated

    def on_response_complete(self) -> None:
        """Start the next request, or the time until an idle connection ends.

        The stock class sets a timer after each response and cancels it with the next request. Here
        one that is set stays, and looks at the time when it fires.
        """
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_after(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        """Note that the connection is not idle; the timer stays."""
        self._idle_since = None

    def _look_after(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been idle for so long."""
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            return  # set again after the response
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._look_after(left)
        else:
            super().timeout_keep_alive_handler()

    def _forget_keep_alive(self) -> None:
        """Cancel the timer, which would keep this object."""
        super()._unset_keepalive_if_required()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection."""
        self._forget_keep_alive()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        """Become a WebSocket."""
        self._forget_keep_alive()
        super().handle_websocket_upgrade()

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
