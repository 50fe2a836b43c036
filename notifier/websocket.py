"""uvicorn's WebSocket protocol, with a way for ready frames and a shorter one for small messages.

A frame for a thousand connections is made once, by the hub, and written a thousand times: what
uvicorn would do for each of them (an ASGI message, a frame object, its serialisation) costs more
than the system call (ADR-0014). The back-pressure is uvicorn's own.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

EXTENSION = "realtime.wire"  # where realtime.driver looks for it


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Offers itself to the app as the extension ``realtime.wire`` (see `realtime.driver.Wire`)."""

    def handle_connect(self, event: Any) -> None:
        """Let a handshake begin; the app's task has not run yet when this returns."""
        super().handle_connect(event)
        if not self.handshake_complete:  # it was not refused
            self.scope["extensions"][EXTENSION] = self  # type: ignore[assignment]

    is_paused = False
    """Whether the transport holds as much as it should. (`writable.is_set()` says so, too: a call
    and two objects for each delivery.)"""

    def pause_writing(self) -> None:
        """The transport holds as much as it should."""
        super().pause_writing()
        self.is_paused = True

    def resume_writing(self) -> None:
        """The transport takes more."""
        super().resume_writing()
        self.is_paused = False

    def write(self, frame: bytes) -> bool:
        """Write a ready frame; False when the next one should wait until `drained`.

        Raises:
            ClientDisconnected: the client has gone, or the connection is closing.
        """
        if self.disconnected or self.close_sent:
            raise ClientDisconnected
        self.transport.write(frame)
        return not self.is_paused

    def send_receive_event_to_app(self) -> None:
        """Hand a message to the app; stop reading when a second one waits.

        The stock class stops for each and starts again when the app has taken it: two system calls,
        half of the 33 µs that a pong cost. What may wait is one read of the socket more.
        """
        was_paused, self.read_paused = self.read_paused, True  # so that it does not
        super().send_receive_event_to_app()
        self.read_paused = was_paused
        # After our own close nobody takes them; the client's answer to it must still be read.
        if not was_paused and not self.close_sent and self.queue.qsize() > 1:
            self.read_paused = True
            self.transport.pause_reading()

    async def drained(self) -> None:
        """Wait until the socket takes more; also returns when the client has gone."""
        await self.writable.wait()
