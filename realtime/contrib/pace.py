"""How often something is told that changes all the time: no clock here, time is an argument."""

from __future__ import annotations

PACE_SECONDS = 0.2
"""Five times a second look fluent, and a loop of a million steps costs no more than that."""


class Pace:
    """Lets one thing through at once, then one per interval: always the newest, never none.

    Whoever has something new asks `wait`: 0.0 is "tell it now", more is "tell the newest then",
    None is "somebody waits already".
    """

    def __init__(self, seconds: float = PACE_SECONDS) -> None:
        self._seconds = seconds
        self._free_at = float("-inf")
        self._is_awaited = False

    def wait(self, now: float) -> float | None:
        """Return in how many seconds the newest is to be told."""
        if self._is_awaited:
            return None
        if now >= self._free_at:
            return 0.0
        self._is_awaited = True
        return self._free_at - now

    def told(self, now: float, *, pause: float = 0.0) -> None:
        """Note that the newest was told, or could not be: then with a longer pause."""
        self._is_awaited = False
        self._free_at = now + max(self._seconds, pause)
