"""Counts the bytes in flight to a client, measured with the protocol's own pings.

Servers, proxies and kernels buffer megabytes for a client that does not read, and Daphne buffers
without limit, so neither a completed send nor a full buffer is a reliable signal. A pong is: it
answers the oldest ping, so the client has read everything written before that ping (ADR-0005). Time
is an argument, in seconds of a monotonic clock.
"""

from __future__ import annotations

from typing import NamedTuple

WINDOW_BYTES = 1024 * 1024
OUTSTANDING_PINGS = 4  # so an early ping is sent after each quarter of the window
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
        """When `written` reaches this mark, check `wants_ping` and `congested`."""

    @property
    def in_flight(self) -> int:
        """Bytes that the client has not acknowledged."""
        return self.written - self.acked

    @property
    def congested(self) -> bool:
        """Whether too many bytes are in flight to write more."""
        return self.in_flight > self._window

    @property
    def patience(self) -> float:
        """The seconds within which the client must answer, given the bytes in flight."""
        return PONG_SECONDS + self.in_flight / SLOWEST_BYTES_PER_SECOND

    @property
    def awaits_pong(self) -> bool:
        """Whether a ping is unanswered."""
        return bool(self._pings)

    @property
    def wants_ping(self) -> bool:
        """Whether enough was written since the last ping to send an early one."""
        return self.written >= self.mark and len(self._pings) < OUTSTANDING_PINGS

    def note_ping(self, now: float) -> None:
        """Record that a ping was written."""
        self._pings.append(_PingSent(self.written, now))
        self.mark = self.written + self._step

    def note_pong(self) -> bool:
        """Record a pong; return whether it answers a ping: some clients send unsolicited pongs."""
        if not self._pings:
            return False
        self.acked = self._pings.pop(0).written
        return True

    def is_overdue(self, now: float) -> bool:
        """Tell whether the oldest unanswered ping has waited longer than `patience`."""
        return bool(self._pings) and now > self._pings[0].at + self.patience
