"""Distinguishes a quiet broker from a dead one.

A node sends itself a canary through the broker four times a second, over the publisher's path. A
canary that does not come back means that the path is broken, even if TCP and PING look healthy
(centrifugo#1189). The exception is a canary that is still in the socket's buffer: a node that was
paused or has fallen behind must read the buffer first. The module reads no clock: time is an
argument, in seconds.
"""

from __future__ import annotations

SEND_EVERY_SECONDS = 0.25
OVERDUE_SECONDS = 1.5  # plus the interval above: less than 2 s, the deadline for telling clients

FLYING_LIMIT = 64
"""Canaries that are remembered. More may be in flight while a node lags behind."""


class Canary:
    """The canaries of one subscription that are in flight."""

    def __init__(self) -> None:
        self._flying: dict[int, float] = {}  # the oldest ones: number -> time of sending
        self._next = 1
        self.lag_seconds = 0.0
        """The round-trip time of the last canary that came back."""

    def send(self, now: float) -> int:
        """Return the number of the next canary, which counts as sent even if sending it fails."""
        number = self._next
        self._next += 1
        if len(self._flying) < FLYING_LIMIT:  # only the oldest one matters
            self._flying[number] = now
        return number

    def note_return(self, number: int, now: float) -> None:
        """Record that a canary came back; all earlier ones are lost or came back before it."""
        if not 0 < number < self._next:
            return
        if (sent := self._flying.get(number)) is not None:
            self.lag_seconds = now - sent
        self._flying = {n: t for n, t in self._flying.items() if n > number}

    def is_overdue(self, now: float) -> bool:
        """Tell whether the oldest canary in flight should have come back by now."""
        return any(now - sent > OVERDUE_SECONDS for sent in self._flying.values())
