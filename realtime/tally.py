"""Counts what goes wrong, and tells which of it is worth a line in the log.

For what anybody outside can bring about as often as he likes. No clock here: time is an argument,
in seconds.
"""

from __future__ import annotations

TELL_EVERY_SECONDS = 60.0


class Tally:
    """A count for each reason. Reasons are words of ours, so that there are few of them."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._tell_at: dict[str, float] = {}

    def add(self, reason: str, now: float) -> int | None:
        """Count one; return how many it were so far if that should be told, at most each minute."""
        self._counts[reason] = count = self._counts.get(reason, 0) + 1
        if now < self._tell_at.get(reason, now):
            return None
        self._tell_at[reason] = now + TELL_EVERY_SECONDS
        return count
