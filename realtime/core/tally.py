"""Count failures, and decide which of them to log.

For events that outsiders can trigger at will. No clock here: time is an argument, in seconds.
"""

from __future__ import annotations

LOG_EVERY_SECONDS = 60.0


class Tally:
    """One counter per reason. Reasons come from our code, so their number is bounded."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._log_at: dict[str, float] = {}

    def totals(self) -> dict[str, int]:
        """Return how many events each reason has had."""
        return dict(self._counts)

    def add(self, reason: str, now: float) -> int | None:
        """Record an event; return the total if it should be logged, at most once a minute."""
        self._counts[reason] = count = self._counts.get(reason, 0) + 1
        if now < self._log_at.get(reason, now):
            return None
        self._log_at[reason] = now + LOG_EVERY_SECONDS
        return count
