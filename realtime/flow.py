"""How much of what was written has not reached the client, told by the protocol's own pings.

Servers, proxies and kernels buffer megabytes for a client that does not read, and Daphne buffers
without limit, so neither a finished send nor a full buffer says anything. A pong does: it answers
the oldest ping, and whatever was written before that ping has been read (ADR-0005). Time is an
argument, in seconds of a monotonic clock.
"""

from __future__ import annotations

from typing import NamedTuple

WINDOW_BYTES = 1024 * 1024
OUTSTANDING_PINGS = 4  # so an early ping goes out each quarter of the window
PONG_SECONDS = 10.0  # Centrifugo 10 s
SLOWEST_BYTES_PER_SECOND = 16 * 1024  # a link at least this fast is not closed for being slow


class _PingSent(NamedTuple):
    written: int
    at: float


class Flow:
    """The byte counters of one connection."""

    __slots__ = ("_pings", "_step", "_window", "acked", "mark", "written")

    def __init__(self, window: int = WINDOW_BYTES) -> None:
        self._window = window
        self._step = window // OUTSTANDING_PINGS
        self._pings: list[_PingSent] = []
        self.written = 0
        self.acked = 0
        self.mark = self._step
        """When `written` reaches it, look at `wants_ping` and `congested`."""

    @property
    def in_flight(self) -> int:
        """Bytes that the client has not acknowledged."""
        return self.written - self.acked

    @property
    def congested(self) -> bool:
        """Whether so much is in flight that nothing more should be written."""
        return self.in_flight > self._window

    @property
    def patience(self) -> float:
        """Seconds that the client has to show that it reads, with so much on its way to it."""
        return PONG_SECONDS + self.in_flight / SLOWEST_BYTES_PER_SECOND

    @property
    def awaits_pong(self) -> bool:
        """Whether a ping is unanswered."""
        return bool(self._pings)

    @property
    def wants_ping(self) -> bool:
        """Whether enough was written since the last ping for an early one."""
        return self.written >= self.mark and len(self._pings) < OUTSTANDING_PINGS

    def pinged(self, now: float) -> None:
        """Record that a ping was written."""
        self._pings.append(_PingSent(self.written, now))
        self.mark = self.written + self._step

    def ponged(self) -> bool:
        """Record a pong; return whether it answers anything, as some clients send them unasked."""
        if not self._pings:
            return False
        self.acked = self._pings.pop(0).written
        return True

    def is_overdue(self, now: float) -> bool:
        """Tell whether the oldest unanswered ping has waited longer than `patience`."""
        return bool(self._pings) and now > self._pings[0].at + self.patience
