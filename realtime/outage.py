"""Tells when something began to fail and when it works again, and counts what failed between.

For a log that says each change once: at 500 requests a second, a line for each is no help to the
one who was woken. No clock here: time is an argument, in seconds.
"""

from __future__ import annotations

from typing import NamedTuple

CALM_SECONDS = 1.0
"""Without a failure for so long it works again; before, good and bad may take turns."""


class Over(NamedTuple):
    """An outage that is over."""

    failures: int
    seconds: float
    """From the first failure to the last one."""


class Outage:
    """Whether something fails at present."""

    def __init__(self) -> None:
        self._began = self._last = 0.0
        self._failures = 0

    def failed(self, now: float) -> bool:
        """It failed; return whether that is news."""
        if not self._failures:
            self._began = now
        self._failures += 1
        self._last = now
        return self._failures == 1

    def worked(self, now: float) -> Over | None:
        """It worked; return what is over by that, if anything is."""
        if not self._failures or now - self._last < CALM_SECONDS:
            return None
        over = Over(self._failures, self._last - self._began)
        self._failures = 0
        return over
