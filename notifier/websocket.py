"""uvicorn's WebSocket protocol with a direct path for encoded frames and less work per message.

A frame for a thousand connections is encoded once, by the hub, and written a thousand times: what
uvicorn would do for each of them (an ASGI message, a frame object, its serialization) costs more
than the system call (ADR-0014). The app may also take over the client's messages by callback, and
end its task (ADR-0038). Back-pressure extends to the parser: what the app has not consumed is not
parsed. Frames that never reach the app are counted here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from uvicorn._types import ASGIReceiveEvent
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from notifier.counting import Config, count_limit, without_mapping
from notifier.http_refusals import linger
from notifier.message_flow import HandOverProtocol
from realtime.core.limits import Bucket, Rate

EXTENSION = "realtime.wire"  # as in realtime.connection.sinks

SLICE_BYTES = 4096
"""Bytes parsed at once. asyncio reads up to 256 KiB: 40,000 frames, which took a third of a second.
"""
CONTROL_FRAMES = Rate(50, 100)
"""Pings and pongs of RFC 6455, which our clients do not need and browsers cannot send."""
FRAGMENTS_LIMIT = 64
"""Fragments of one message (ws had no limit: CVE-2026-48779); 80 KiB in pieces of 4 KiB are 20."""
MESSAGES = {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}
FLOOD = (3013, "too many requests")
TOO_MANY_FRAGMENTS = (1009, "too many fragments")


class WireUser(Protocol):
    """The writer to notify of congestion and loss (see `realtime.connection.sinks.Wire`)."""

    def note_full(self) -> None:
        """The next frame should wait for `wait_until_drained`."""

    def note_lost(self) -> None:
        """The connection can no longer be written to."""


class WebSocketProtocol(HandOverProtocol):
    """Offers itself to the app as ``realtime.wire`` (see `realtime.connection.sinks.Wire`)."""

    user: WireUser | None = None
    """The writer of encoded frames; None until the app has accepted, or if it is another app."""

    ended: Callable[[], None] | None = None
    """Called when the connection has ended, for counting connections."""

    _is_served = False
    """Whether the app's task is running."""
    _control: Bucket | None = None  # created on first use: control frames are rare

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the connection, and normalize the client's address as for HTTP."""
        super().connection_made(transport)
        self.client = without_mapping(self.client)

    def handle_connect(self, event: Any) -> None:
        """Start the handshake; the app's task has not run yet when this returns."""
        super().handle_connect(event)
        self.begin_serving()

    def begin_serving(self) -> None:
        """Offer the direct path to the app, whose task has not run yet; limit the first message."""
        if isinstance(self.config, Config) and self.config.first_frame_bytes is not None:
            self.conn.max_message_size = self.config.first_frame_bytes
            self.conn.recv_frame = self._take_first  # type: ignore[method-assign]
        if not self.handshake_complete:  # it was not rejected
            self._is_served = True
            self.scope["extensions"][EXTENSION] = self  # type: ignore[assignment]

    def attach_sink(self, user: WireUser) -> Callable[[bytes], None]:
        """Return the function that writes encoded frames; notify the user from now on."""
        self.user = user
        if self.disconnected or self.close_sent:
            self.loop.call_soon(user.note_lost)
        return self.transport.write

    def _take_first(self, frame: Frame) -> None:
        """Take a frame of the first message; later messages in the same read may be larger.

        The first message must identify the client; otherwise the app closes the connection.
        """
        ServerProtocol.recv_frame(self.conn, frame)
        if frame.fin and frame.opcode in MESSAGES:
            del self.conn.recv_frame
            self.conn.max_message_size = self.config.ws_max_size

    def pause_writing(self) -> None:
        """The transport's buffer is full; called while it is written to."""
        super().pause_writing()
        if self.user is not None:
            self.user.note_full()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has disconnected."""
        self._rest = b""
        super().connection_lost(exc)
        try:
            self.notify_lost()
        finally:
            if self.ended is not None:
                self.ended()
                self.ended = None
            self._break_cycles()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """The app has returned."""
        super().on_task_complete(task)
        self._is_served = False
        if self.flow is not None:
            self.scope = {}  # type: ignore[typeddict-item]
        self._break_cycles()

    def _break_cycles(self) -> None:
        """Break the reference cycles through this object once nothing uses it any more.

        Otherwise everything that belongs to a connection waits for a full garbage collection, and
        those are rare (`notifier.server`): 2,500 clients that came and went for two minutes left
        150 MiB.
        """
        if self.disconnected and not self._is_served:
            self.scope = {}  # type: ignore[typeddict-item]
            self.conn.parser.close()
            self.conn.__dict__.pop("recv_frame", None)  # if there was no first message

    def handle_parser_exception(self) -> None:
        """Handle a malformed frame from the client; the connection is being closed."""
        if not self.handshake_complete:  # the stock method would fail: there is no close frame yet
            self.transport.abort()
            return
        super().handle_parser_exception()
        self.notify_lost()

    def notify_lost(self) -> None:
        """Tell those who write and receive that the connection has ended."""
        user, self.user = self.user, None
        if user is not None:
            user.note_lost()
        if self.flow is not None:
            self.flow.end()

    def data_received(self, data: bytes) -> None:
        """Handle bytes from the client, in slices, as fast as the app consumes their messages."""
        if self.flow is not None:
            self.flow.begin_slice()
        if not self._rest and len(data) <= SLICE_BYTES:
            self._parse(data)
        else:
            self._rest += data
            self.parse_rest()

    def parse_rest(self) -> None:
        """Parse what was read, in slices, until nobody takes more."""
        if self.close_sent and len(self._rest) > SLICE_BYTES:
            # The client's answer to our close is behind all that; we do not wait for it that long.
            # A plain close would reset the connection, and the client might not learn why.
            self._rest = b""
            if not self.transport.is_closing():
                linger(self)
            return
        while self._rest and self.may_parse and not self.transport.is_closing():
            data, self._rest = self._rest[:SLICE_BYTES], self._rest[SLICE_BYTES:]
            self._parse(data)

    async def receive(self) -> ASGIReceiveEvent:
        """Pass an event to the app, and continue with what was read."""
        event = await super().receive()
        if self._rest and not self.read_paused:
            self.parse_rest()
        return event

    def _parse(self, data: bytes) -> None:
        """Parse and handle some bytes.

        If the handshake is invalid (too many headers, an overlong line), the stock class neither
        responds nor hangs up: the connection stayed open forever, and failed at the next byte.
        """
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.handshake_complete = self.close_sent = True
            self.transport.close()

    async def send(self, message: Any) -> None:
        """Send an event from the app; encoded frames do not come this way.

        A handshake that was answered with a status is complete. The stock class logs that it is
        not, each time.
        """
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True
        elif message["type"] == "websocket.accept":
            # The scope has its own copy. The parser keeps these until the connection ends: 2.5 KiB.
            self.request.headers.clear()
            self.response.headers.clear()

    def handle_ping(self) -> None:
        """Answer a ping, unless there are too many."""
        if self._may_control():
            super().handle_ping()

    def handle_pong(self, event: Any) -> None:
        """Count a pong; unsolicited ones cost as much as pings."""
        if self._may_control():
            super().handle_pong(event)

    def handle_cont(self, event: Any) -> None:
        """Take a fragment of a message; an empty one costs as much as a full one."""
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
        """Close the connection for a flood, once."""
        if self.close_sent or self.transport.is_closing():
            return
        count_limit(self.config, limit)
        if not self.handshake_complete:
            self.transport.abort()
            return
        if self.conn.state is State.OPEN:  # otherwise the client's close came right behind
            self.conn.send_close(code, reason)
        self.handle_parser_exception()

    def send_receive_event_to_app(self) -> None:
        """Pass a message to the app; stop reading when a second one waits.

        The stock class stops for each message and resumes when the app has taken it: two system
        calls, half of the 33 µs that a pong cost. At most one more read of the socket is buffered
        here. The stock class also writes a traceback for each text that is not UTF-8.
        """
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        # After our own close nothing consumes them, but the client's answer must still be read.
        if self.close_sent:
            return
        text = None
        if self.curr_msg_data_type == "text":
            try:
                text = data.decode()
            except UnicodeDecodeError:
                if self.conn.state is State.OPEN:  # otherwise the client's close came right behind
                    self.conn.send_close(1007)
                self.handle_parser_exception()
                return
        if self.flow is not None:
            self.flow.pass_on(text)
            return
        if text is None:
            self.queue.put_nowait({"type": "websocket.receive", "bytes": data})
        else:
            self.queue.put_nowait({"type": "websocket.receive", "text": text})
        if self.queue.qsize() > 1:
            self.pause_reading()

    async def wait_until_drained(self) -> None:
        """Wait until the socket accepts more; also returns when the client has disconnected."""
        await self.writable.wait()
