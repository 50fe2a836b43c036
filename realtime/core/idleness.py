"""Decides when a node that nobody uses stops. No clock here: time is an argument, in seconds."""

from __future__ import annotations


class IdleRule:
    """The idle timeout of a node on a server without lifespan events, where a request starts it.

    Such a node is not notified when its process shuts down, so it stops after a period without
    clients, and starts again with the next request.
    """

    def __init__(self) -> None:
        """Never stop, until `rest_after_seconds` is set."""
        self.rest_after_seconds: float | None = None
        """Seconds without a client until the node stops; None never stops it."""
        self._used_at = 0.0
        self._kept_until = 0.0

    def note_use(self, now: float) -> None:
        """Record that the node is in use."""
        self._used_at = now

    def keep(self, until: float) -> None:
        """Keep the node running until this time even without clients: something else needs it."""
        self._kept_until = until

    def may_stop(self, now: float) -> bool:
        """Return whether the node has been idle long enough to stop."""
        if self.rest_after_seconds is None:
            return False
        return now > max(self._used_at + self.rest_after_seconds, self._kept_until)
