"""Circuit breaker: skip calls to a service that currently fails only by timing out.

For calls that are optional: waiting costs their caller more than going without. No clock and no
lock here: time is an argument, in seconds, and callers that use several threads hold a lock.
"""

from __future__ import annotations

SLOW_SECONDS = 0.2
"""A failure that took this long cost the caller time. A refused connection fails within a
millisecond, so it is retried on every call and succeeds as soon as the service accepts again."""
BREAKER_SECONDS = 5.0
"""Pause after a slow failure. The nodes recheck their users every ten seconds anyway."""


class Breaker:
    """Whether to try a call; after a slow failure, one attempt per `BREAKER_SECONDS`."""

    def __init__(self) -> None:
        self._is_open = False
        self._open_until = 0.0

    def admits(self, now: float) -> bool:
        """Return whether to try now; an admitted caller calls `note_failure` or `note_success`."""
        if not self._is_open:
            return True
        if now < self._open_until:
            return False
        self._open_until = now + BREAKER_SECONDS  # one caller tries, the others need not wait
        return True

    def note_failure(self, began: float, now: float) -> None:
        """Record that an attempt which began at `began` has failed."""
        self._is_open = now - began >= SLOW_SECONDS
        self._open_until = now + BREAKER_SECONDS

    def note_success(self) -> None:
        """Record that an attempt succeeded: every call is tried from now on."""
        self._is_open = False
