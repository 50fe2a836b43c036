"""Limits how often a changing value is reported. The module reads no clock: time is an argument."""

from __future__ import annotations

PACE_SECONDS = 0.2
"""Five reports per second look smooth, and limit the cost of a loop with a million steps."""


class Pace:
    """A throttle: one report immediately, then one per interval, always including the newest value.

    Call `wait` with each new value. 0.0 means to report it now, a positive number means to report
    the newest value after that delay, and None means that a caller is already waiting.
    """

    def __init__(self, seconds: float = PACE_SECONDS) -> None:
        self._seconds = seconds
        self._free_at = float("-inf")
        self._is_awaited = False

    def wait(self, now: float) -> float | None:
        """Return the seconds until the newest value must be reported; None if a caller waits."""
        if self._is_awaited:
            return None
        if now >= self._free_at:
            return 0.0
        self._is_awaited = True
        return self._free_at - now

    def note_attempt(self, now: float, *, pause: float = 0.0) -> None:
        """Record a report; after a failed one, pass a longer pause."""
        self._is_awaited = False
        self._free_at = now + max(self._seconds, pause)
