"""Ends connections whose clients do not read their responses."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from notifier.counting import count_limit

UNREAD_SECONDS = 60.0
"""How long a client may go without reading any of a response. nginx: 60 (``send_timeout``), Apache:
60."""


class UnreadProtocol(HttpToolsProtocol):
    """Adds a write timeout to uvicorn's protocol.

    Without it, a client that does not read its response holds a page in memory and one of Django's
    request slots (`notifier.bodies.REQUESTS_AT_ONCE`); 512 such clients make all pages return 503.
    """

    unread_seconds: ClassVar = UNREAD_SECONDS
    _unread: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """Note that the client does not read, or not as fast as the app writes."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.unread_seconds, self._end_unread)

    def resume_writing(self) -> None:
        """Note that the client has read."""
        super().resume_writing()
        self.forget_unread()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timer."""
        self.forget_unread()
        super().connection_lost(exc)

    def forget_unread(self) -> None:
        """Cancel the timer, for example before another protocol takes over the connection."""
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _end_unread(self) -> None:
        self._unread = None
        count_limit(self.config, "response_unread_seconds")
        self.transport.abort()
