"""The lane for API requests whose body has arrived: they are answered without ASGI (ADR-0034).

A publish is one read, a parse and one write. ASGI adds to it a scope, two messages in each
direction and a timer for the body, which cost more than the publish itself. A request whose body
comes later, or that is not plainly one to the API, takes the way through ASGI as before.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    RequestResponseCycle,
)

from notifier.http_answers import NO_LANE, Work
from notifier.http_cycles import adapt_cycle
from notifier.http_repeats import RepeatedHead, is_head_alone, remember
from notifier.http_unread import UnreadProtocol

HOLD_SECONDS = 0.005
"""For a body that follows its head in a second write. Later than that, it is read through ASGI."""
FAILED = STATUS_LINE[500] + (
    b"content-type: text/plain; charset=utf-8\r\n"
    b"content-length: 21\r\nconnection: close\r\n\r\nInternal Server Error"
)
"""As uvicorn answers when an ASGI application raises."""


class WholeRequestCycle:
    """A request with its whole body, until it is answered.

    It replaces uvicorn's `RequestResponseCycle`, so that the requests of a connection are
    answered in their order, whichever way each takes.
    """

    __slots__ = (
        "_body",
        "_protocol",
        "_work",
        "disconnected",
        "is_eager",
        "keep_alive",
        "response_complete",
    )

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
        self.is_eager = False
        """Whether to begin in this turn of the event loop, if Python can do so (3.12).

        Not for a request that waited behind another: each would begin the next one, and the calls
        would nest as deep as a client has pipelined.
        """

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
        try:
            await self._carry_out(self._protocol)
        except BaseException:  # such as a cancellation
            self._protocol.transport.close()  # nothing else would answer the requests behind it
            self._protocol.watch_unread()
            raise
        finally:
            del self._protocol, self._work, self._body  # it stays the newest until the next one

    async def _carry_out(self, protocol: LaneProtocol) -> None:
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


class LaneProtocol(UnreadProtocol):
    """uvicorn's protocol, which starts each request in the lane or through ASGI.

    A subclass calls `take_read` before it parses what was read, and `end_read` after it.
    """

    lane = NO_LANE
    _repeated: RepeatedHead | None = None
    """The head of the newest request that was taken and had been read as a whole."""
    _held = b""
    """A head that waits for its body, before either is parsed."""
    _holds_until: asyncio.TimerHandle | None = None
    begun = 0
    """How many requests began in this read; two more if it continues another."""
    _work: Work | None = None
    """What answers the newest request, if the lane took it and its body is still incomplete."""
    _parts: list[bytes]
    """The body of that request so far."""
    _taken: WholeRequestCycle | None = None
    """The newest request that ended in this read, if the lane took it."""
    _idle_since: float | None = None
    """When the newest response was complete; None during a request."""

    def take_read(self, data: bytes, most: int) -> bytes:
        """Start the request that was read, if its head is known; return what is left to parse.

        A head without its body is held for a moment, so that both can be processed together.

        Args:
            data: What was read, at the beginning of a request.
            most: Maximum body.
        """
        if self._held:
            data = self._held + data
            self._let_go()
        newest: Any = self.cycle
        if not self.lane.is_open or (newest is not None and not newest.response_complete):
            return data
        if self._repeated is not None:
            body = self._repeated.body_of(data)
            if body is not None and len(body) <= most:
                cycle: Any = WholeRequestCycle(self, self._repeated.work, body, keep_alive=True)
                cycle.is_eager = True
                self.cycle = cycle
                self._start_asgi_task(cycle, self.app)
                return b""
        if is_head_alone(data):
            self._held = data
            self._holds_until = self.loop.call_later(HOLD_SECONDS, self._parse_held)
            return b""
        return data

    def parse_read(self, data: bytes) -> None:
        """Parse what was read."""
        raise NotImplementedError

    def _parse_held(self) -> None:
        held = self._held
        self._let_go()
        try:
            self.parse_read(held)
        except BaseException:
            self.transport.abort()  # as asyncio does if it fails in `data_received`
            raise

    def shutdown(self) -> None:
        """End the connection after its request, which may have begun with a head that is held."""
        if self._held:
            self._parse_held()
        super().shutdown()

    def _let_go(self) -> None:
        self._held = b""
        if self._holds_until is not None:
            self._holds_until.cancel()
            self._holds_until = None

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
        self._parts.clear()  # they would live as long as the connection
        cycle: Any = WholeRequestCycle(self, self._work, body, keep_alive=keep_alive)
        self._work = None
        self._taken = cycle
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
        taken, self._taken = self._taken, None
        if self._work is not None:
            self._work = None
            self._start_through_asgi()
            for part in self._parts:
                self._add_for_asgi(part)
            self._parts.clear()
        elif self.begun == 1 and taken is not None and taken.keep_alive:
            self._repeated = taken.remember(data) or self._repeated

    def on_response_complete(self) -> None:
        """Start the next request, or the time until an idle connection ends.

        The stock class sets a timer after each response and cancels it with the next request. Here
        the timer is kept, and checks the idle time when it fires.
        """
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self.watch_unread()
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self.note_idle()

    def note_idle(self) -> None:
        """Begin the time until an idle connection ends, if it is idle."""
        newest: Any = self.cycle
        if newest is None or not newest.response_complete or self.parser is None:
            return  # a request is being answered, or the connection has become a WebSocket
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
            self.watch_unread()

    def forget_keep_alive(self) -> None:
        """Cancel the timer, which would keep this object."""
        super()._unset_keepalive_if_required()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection."""
        self.forget_keep_alive()
        self._let_go()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if not isinstance(cycle, WholeRequestCycle):
            super()._start_asgi_task(cycle, app)
            return
        if cycle.is_eager and sys.version_info >= (3, 12):
            task = asyncio.Task(cycle.run(), loop=self.loop, eager_start=True)
            if task.done():
                return
        else:
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
