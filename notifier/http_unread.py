"""Ends connections whose clients do not read their responses."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from notifier.counting import count_limit

UNREAD_SECONDS = 60.0
"""How long a client may read nothing of a response. nginx: 60 (``send_timeout``), Apache: 60."""


class UnreadProtocol(HttpToolsProtocol):
    """Adds a write timeout to uvicorn's protocol.

    Without it, a client that does not read its response holds a page in memory and one of Django's
    request slots (`notifier.bodies.REQUESTS_AT_ONCE`), or a connection that waits to be closed.
    """

    unread_seconds: ClassVar = UNREAD_SECONDS
    _unread: asyncio.TimerHandle | None = None
    _unread_bytes = 0
    """The size of the write buffer when the timer was set."""

    def pause_writing(self) -> None:
        """Note that the app writes faster than the client reads, if it reads at all."""
        super().pause_writing()
        self.watch_unread()

    def resume_writing(self) -> None:
        """Note that the client has read."""
        super().resume_writing()
        self.forget_unread()
        if self.transport.is_closing():
            self.watch_unread()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timer."""
        self.forget_unread()
        super().connection_lost(exc)

    def watch_unread(self) -> None:
        """Set the timer, if anything waits for the client; also call it after closing."""
        if self._unread is None and (size := self.transport.get_write_buffer_size()):
            self._unread_bytes = size
            self._unread = self.loop.call_later(self.unread_seconds, self._look_for_progress)

    def forget_unread(self) -> None:
        """Cancel the timer, for example before another protocol takes over the connection."""
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _look_for_progress(self) -> None:
        self._unread = None
        if self.transport.get_write_buffer_size() < self._unread_bytes:
            self.watch_unread()
        else:
            count_limit(self.config, "response_unread_seconds")
            self.transport.abort()
