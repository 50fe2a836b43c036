"""uvicorn's WebSocket protocol, with a way for ready frames and a shorter one for small messages.

A frame for a thousand connections is made once, by the hub, and written a thousand times: what
uvicorn would do for each of them (an ASGI message, a frame object, its serialisation) costs more
than the system call (ADR-0014). The back-pressure is uvicorn's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

EXTENSION = "realtime.wire"  # where realtime.driver looks for it


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

    def handle_connect(self, event: Any) -> None:
        """Let a handshake begin; the app's task has not run yet when this returns."""
        super().handle_connect(event)
        if not self.handshake_complete:  # it was not refused
            self.scope["extensions"][EXTENSION] = self  # type: ignore[assignment]

    def taken_by(self, user: WireUser) -> Callable[[bytes], None]:
        """Return what writes ready frames; tell the user from now on when to stop."""
        self.user = user
        if self.disconnected or self.close_sent:
            self.loop.call_soon(user.lost)
        return self.transport.write

    def pause_writing(self) -> None:
        """The transport holds as much as it should; called while it is written to."""
        super().pause_writing()
        if self.user is not None:
            self.user.full()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        super().connection_lost(exc)
        self._lose()

    def handle_parser_exception(self) -> None:
        """What the client sent is no WebSocket frame; the connection is being closed."""
        super().handle_parser_exception()
        self._lose()

    def _lose(self) -> None:
        user, self.user = self.user, None
        if user is not None:
            user.lost()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client.

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
