"""Detect the start and the end of an outage, and count the failures in between.

For logging each change of state once: at 500 requests a second, one line per failure does not help
the operator on call. No clock here: time is an argument, in seconds.
"""

from __future__ import annotations

from typing import NamedTuple

CALM_SECONDS = 1.0
"""An outage ends after this long without a failure; until then successes and failures may mix."""


class OutageEnd(NamedTuple):
    """An outage that has ended."""

    failures: int
    seconds: float
    """From the first failure to the last."""


class Outage:
    """Whether something is failing at present."""

    def __init__(self) -> None:
        self._began = self._last = 0.0
        self._failures = 0

    def note_failure(self, now: float) -> bool:
        """Record a failure; return whether it starts an outage."""
        if not self._failures:
            self._began = now
        self._failures += 1
        self._last = now
        return self._failures == 1

    def note_success(self, now: float) -> OutageEnd | None:
        """Record a success; return the outage that it ends, if any."""
        if not self._failures or now - self._last < CALM_SECONDS:
            return None
        over = OutageEnd(self._failures, self._last - self._began)
        self._failures = 0
        return over
