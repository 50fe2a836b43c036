"""Decides when a node that nobody uses stops. No clock here: time is an argument, in seconds."""

from __future__ import annotations


class IdleRule:
    """For a node that was started by a request, because its server has no lifespan events.

    Nobody tells such a node when its process ends, so it stops when it was unused for a time, and
    starts again when somebody comes.
    """

    def __init__(self) -> None:
        """Never stop, until `rest_after_seconds` is set."""
        self.rest_after_seconds: float | None = None
        """Seconds without a client until the node stops; None never stops it."""
        self._used_at = 0.0
        self._kept_until = 0.0

    def note_use(self, now: float) -> None:
        """The node is in use."""
        self._used_at = now

    def keep(self, until: float) -> None:
        """Do not stop before this moment, even if no client comes: something else needs it."""
        self._kept_until = until

    def may_stop(self, now: float) -> bool:
        """Whether it was unused for so long that it should stop."""
        if self.rest_after_seconds is None:
            return False
        return now > max(self._used_at + self.rest_after_seconds, self._kept_until)
