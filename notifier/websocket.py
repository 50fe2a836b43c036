"""uvicorn's WebSocket protocol, with a way for ready frames and a shorter one for small messages.

A frame for a thousand connections is made once, by the hub, and written a thousand times: what
uvicorn would do for each of them (an ASGI message, a frame object, its serialisation) costs more
than the system call (ADR-0014). The back-pressure is uvicorn's own, and reaches the parser: what
the app has not taken is not parsed. What never passes the app is counted here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from notifier.counting import Config, counted
from realtime.limits import Bucket, Rate

EXTENSION = "realtime.wire"  # where realtime.driver looks for it

SLICE_BYTES = 4096
"""Parsed at once. asyncio reads up to 256 KiB: 40,000 frames, which took a third of a second."""
CONTROL_FRAMES = Rate(50, 100)
"""Pings and pongs of RFC 6455, which our clients do not need and browsers cannot even send."""
FRAGMENTS_LIMIT = 64
"""Of one message (ws had no limit: CVE-2026-48779); 80 KiB in pieces of 4 KiB are 20."""
MESSAGES = {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}
FLOOD = (3013, "too many requests")
TOO_MANY_FRAGMENTS = (1009, "too many fragments")


class WireUser(Protocol):
    """Who is told how the connection fares (see `realtime.driver.Wire`)."""

    def full(self) -> None:
        """The next frame should wait until `drained`."""

    def lost(self) -> None:
        """Nothing can be written any more."""


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Offers itself to the app as the extension ``realtime.wire`` (see `realtime.driver.Wire`)."""

    user: WireUser | None = None
    """Who writes ready frames; none before the app has accepted, and where it is another app."""

    ended: Callable[[], None] | None = None
    """Called when the connection has ended, by whoever counts it."""

    _is_served = False
    """Whether the app's task runs."""
    _rest = b""  # read, but not parsed: the app has not taken yet what came before
    _control: Bucket | None = None  # hardly anybody sends control frames

    def handle_connect(self, event: Any) -> None:
        """Let a handshake begin; the app's task has not run yet when this returns."""
        super().handle_connect(event)
        if isinstance(self.config, Config) and self.config.first_frame_bytes is not None:
            self.conn.max_message_size = self.config.first_frame_bytes
            self.conn.recv_frame = self._take_first  # type: ignore[method-assign]
        if not self.handshake_complete:  # it was not refused
            self._is_served = True
            self.scope["extensions"][EXTENSION] = self  # type: ignore[assignment]

    def taken_by(self, user: WireUser) -> Callable[[bytes], None]:
        """Return what writes ready frames; tell the user from now on when to stop."""
        self.user = user
        if self.disconnected or self.close_sent:
            self.loop.call_soon(user.lost)
        return self.transport.write

    def _take_first(self, frame: Frame) -> None:
        """Take a frame of the first message; behind it there may be larger ones, in the same read.

        It introduces the client, or the app ends the connection.
        """
        ServerProtocol.recv_frame(self.conn, frame)
        if frame.fin and frame.opcode in MESSAGES:
            del self.conn.recv_frame
            self.conn.max_message_size = self.config.ws_max_size

    def pause_writing(self) -> None:
        """The transport holds as much as it should; called while it is written to."""
        super().pause_writing()
        if self.user is not None:
            self.user.full()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._rest = b""
        super().connection_lost(exc)
        self._lose()
        if self.ended is not None:
            self.ended()
            self.ended = None
        self._let_go()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """The app has returned."""
        super().on_task_complete(task)
        self._is_served = False
        self._let_go()

    def _let_go(self) -> None:
        """Break the cycles of objects through this one, once nothing uses it any more.

        Else all that belongs to a connection waits for a full garbage collection, and those are
        rare (`notifier.server`): 2,500 clients that came and went for two minutes left 150 MiB.
        """
        if self.disconnected and not self._is_served:
            self.scope = {}  # type: ignore[typeddict-item]
            self.conn.parser.close()

    def handle_parser_exception(self) -> None:
        """What the client sent is no WebSocket frame; the connection is being closed."""
        super().handle_parser_exception()
        self._lose()

    def _lose(self) -> None:
        user, self.user = self.user, None
        if user is not None:
            user.lost()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client, in slices, as far as the app takes what is in them."""
        if not self._rest and len(data) <= SLICE_BYTES:
            self._parse(data)
        else:
            self._rest += data
            self._parse_rest()

    def _parse_rest(self) -> None:
        if self.close_sent and len(self._rest) > SLICE_BYTES:
            # The client's answer to our close stands behind all that; nobody is heard out so long.
            self._rest = b""
            self.transport.close()
        while self._rest and not self.read_paused and not self.transport.is_closing():
            data, self._rest = self._rest[:SLICE_BYTES], self._rest[SLICE_BYTES:]
            self._parse(data)

    async def receive(self) -> ASGIReceiveEvent:
        """Hand an event to the app, and go on with what was read."""
        event = await super().receive()
        if self._rest and not self.read_paused:
            self._parse_rest()
        return event

    def _parse(self, data: bytes) -> None:
        """Parse and handle some bytes.

        Where the handshake is none (too many headers, a line too long) the stock class neither
        answers nor hangs up: the connection stayed for ever, and failed at the next byte.
        """
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.handshake_complete = self.close_sent = True
            self.transport.close()

    async def send(self, message: Any) -> None:
        """Send what the app says; frames that are ready do not come this way.

        A handshake that was answered with a status is complete. The stock class says in the log
        that it is not, each time.
        """
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True

    def handle_ping(self) -> None:
        """Answer a ping, if there are not too many."""
        if self._may_control():
            super().handle_ping()

    def handle_pong(self, event: Any) -> None:
        """Take a pong; one that nobody asked for costs as much as a ping."""
        if self._may_control():
            super().handle_pong(event)

    def handle_cont(self, event: Any) -> None:
        """Take one more piece of a message; an empty one costs as much as a full one."""
        if len(self.frames) < FRAGMENTS_LIMIT:
            super().handle_cont(event)
        else:
            self._flood("websocket_fragments", *TOO_MANY_FRAGMENTS)

    def _may_control(self) -> bool:
        if self._control is None:
            self._control = Bucket(CONTROL_FRAMES)
        if self._control.take(self.loop.time()):
            return True
        self._flood("websocket_control_frames", *FLOOD)
        return False

    def _flood(self, limit: str, code: int, reason: str) -> None:
        """End the connection, once."""
        if self.close_sent or self.transport.is_closing():
            return
        counted(self.config, limit)
        if not self.handshake_complete:
            self.transport.abort()
            return
        self.conn.send_close(code, reason)
        self.handle_parser_exception()

    def send_receive_event_to_app(self) -> None:
        """Hand a message to the app; stop reading when a second one waits.

        The stock class stops for each and starts again when the app has taken it: two system calls,
        half of the 33 µs that a pong cost. What may wait is one read of the socket more. And it
        writes a traceback for each text that is not UTF-8.
        """
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        # After our own close nobody takes them; the client's answer to it must still be read.
        if self.close_sent:
            return
        if self.curr_msg_data_type == "bytes":
            self.queue.put_nowait({"type": "websocket.receive", "bytes": data})
        else:
            try:
                self.queue.put_nowait({"type": "websocket.receive", "text": data.decode()})
            except UnicodeDecodeError:
                if self.conn.state is State.OPEN:  # else the client's own close came right behind
                    self.conn.send_close(1007)
                self.handle_parser_exception()
                return
        if not self.read_paused and self.queue.qsize() > 1:
            self.read_paused = True
            self.transport.pause_reading()

    async def drained(self) -> None:
        """Wait until the socket takes more; also returns when the client has gone."""
        await self.writable.wait()
