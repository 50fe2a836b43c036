"""Passes a client's messages to a callback, so that no task has to wait for them (ADR-0038)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from notifier.counting import Config
from notifier.event_queue import NO_EVENTS, EventQueue
from notifier.fair_turns import FairTurns
from realtime.core.callbacks import do_nothing

SLICE_SECONDS = 0.0005
"""How long the messages of one read may be processed; the rest is queued in `FairTurns`.
`realtime.transports.websocket`, which reads the messages on other servers, has its own limit."""


class MessageTaker(Protocol):
    """Takes the messages (see `realtime.connection.sinks.MessageReceiver`)."""

    def receive(self, text: str | None) -> bool:
        """Process a message, None if it is not text; return False to pause, until `resume`."""

    def note_lost(self) -> None:
        """The connection has ended."""


class MessageFlow:
    """Passes messages on, in order, as fast as the receiver takes them."""

    __slots__ = (
        "_loop",
        "_pause",
        "_read_on",
        "_receiver",
        "_slice_ends",
        "_turns",
        "_waiting",
        "is_paused",
    )

    def __init__(
        self,
        receiver: MessageTaker,
        loop: asyncio.AbstractEventLoop,
        turns: FairTurns,
        *,
        pause: Callable[[], None],
        read_on: Callable[[], None],
    ) -> None:
        """Start with a new time slice.

        Args:
            receiver: Takes the messages.
            loop: The loop of the connection.
            turns: The queue shared by all connections of this loop.
            pause: Stops reading from the socket.
            read_on: Reads on, and parses what was read.
        """
        self._receiver: MessageTaker | None = receiver
        self._loop = loop
        self._turns = turns
        self._pause = pause
        self._read_on = read_on
        self._waiting: list[str | None] = []  # parsed while it was paused
        self.is_paused = False
        """Whether parsing must pause."""
        self.begin_slice()

    def begin_later(self, texts: Iterable[str | None]) -> None:
        """Pass on messages that came before the hand-over, in the next turn of the event loop."""
        self._waiting += texts
        self.is_paused = True
        self._loop.call_soon(self.resume)

    def begin_slice(self) -> None:
        """Begin a new time slice; call it for each read."""
        self._slice_ends = self._loop.time() + SLICE_SECONDS

    def pass_on(self, text: str | None) -> None:
        """Pass a message to the receiver, or keep it while that is paused."""
        receiver = self._receiver
        if receiver is None:
            return
        if self.is_paused:
            self._waiting.append(text)
        elif not receiver.receive(text):
            self.is_paused = True
            self._pause()
        elif self._loop.time() > self._slice_ends:  # one client must not monopolize the loop
            self.is_paused = True
            self._pause()  # otherwise unread bytes would accumulate in memory
            self._turns.later(self._loop, self.resume)

    def resume(self) -> None:
        """Go on after a message for which `MessageTaker.receive` returned False."""
        if self._receiver is None:
            return
        self.is_paused = False
        self.begin_slice()
        waiting, self._waiting = self._waiting, []
        for text in waiting:
            self.pass_on(text)
        if not self.is_paused:
            self._read_on()

    def end(self) -> None:
        """Drop what waits, and tell the receiver that the connection has ended; once."""
        receiver, self._receiver = self._receiver, None
        self._pause = self._read_on = do_nothing  # they would keep the connection alive
        self._waiting.clear()
        if receiver is not None:
            receiver.note_lost()


class HandOverProtocol(WebSocketsSansIOProtocol):
    """uvicorn's protocol, whose app may hand a connection over after it has accepted it.

    A subclass calls `MessageFlow.begin_slice` for each read, passes the messages on, and parses.
    """

    queue: EventQueue  # type: ignore[assignment]

    flow: MessageFlow | None = None
    """Takes the messages instead of the app's task; None before `hand_over`."""

    _rest = b""  # received, but not parsed: earlier messages are still being processed

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.queue = EventQueue()

    def hand_over(self, receiver: MessageTaker) -> Callable[[], None]:
        """Pass the messages to a receiver from now on; the app must return, and sends no more.

        Returns:
            What the receiver calls to get more, after it returned False.
        """
        events, self.queue = self.queue.take_all(), NO_EVENTS
        turns = self.config.turns if isinstance(self.config, Config) else FairTurns()
        self.flow = flow = MessageFlow(
            receiver, self.loop, turns, pause=self.pause_reading, read_on=self._read_on
        )
        texts = [each.get("text") for each in events if each["type"] == "websocket.receive"]
        if texts or self._rest or self.read_paused:
            flow.begin_later(texts)
        if self.disconnected or self.transport.is_closing():
            self.loop.call_soon(flow.end)
        return flow.resume

    def leave(self) -> None:
        """Close the connection. If a close frame was sent, wait for the client's answer first."""
        # After the end of a connection, the transport of uvloop raises for each write.
        if self.close_timer is None and not self.transport.is_closing():
            # The answer to the client's close frame, if that came behind the message that ended it.
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    def _read_on(self) -> None:
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        try:
            if self._rest:
                self.parse_rest()
        except BaseException:
            self.transport.abort()  # as asyncio does if it fails in `data_received`
            raise

    async def run_asgi(self) -> None:
        """Run the app, like the stock method; after `hand_over`, the connection outlives it."""
        try:
            await self.app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except BaseException:
            self.logger.exception("Exception in ASGI application\n")
            self.send_500_response()
        else:
            if not self.handshake_complete and self.flow is None:
                self.logger.error("ASGI callable returned without completing handshake.")
                self.send_500_response()
        if self.flow is None:
            self.leave()

    def handle_close(self, event: Any) -> None:
        """Handle a close frame: the client will send no more."""
        super().handle_close(event)
        if self.flow is not None:
            self.notify_lost()

    def shutdown(self) -> None:
        """End the connection, because the server stops.

        The stock method raises if the client has sent a close frame and then read nothing more,
        which would end the shutdown of the server there.
        """
        has_left = self.conn.state is not State.OPEN and not self.close_sent
        if self.handshake_complete and has_left:
            self.stop_keepalive()
            self.transport.close()
        else:
            super().shutdown()
        if self.flow is not None:
            self.notify_lost()

    @property
    def may_parse(self) -> bool:
        """Whether what was read may be parsed."""
        return not self.read_paused and (self.flow is None or not self.flow.is_paused)

    def pause_reading(self) -> None:
        """Read no more from the socket."""
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def parse_rest(self) -> None:
        """Parse what was read, as far as its messages are taken."""
        raise NotImplementedError

    def notify_lost(self) -> None:
        """Tell those who write and receive that the connection has ended."""
        raise NotImplementedError
