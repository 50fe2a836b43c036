"""Tells a broker that is quiet from one that is dead.

A node sends itself a canary through the broker four times a second, over the publisher's path. One
that does not come back means that something between is broken, whatever TCP or a PING says
(centrifugo#1189). Unless it still lies in the socket: a node that was stopped, or is behind, must
first read what waits there. No clock here: time is an argument, in seconds.
"""

from __future__ import annotations

SEND_EVERY_SECONDS = 0.25
OVERDUE_SECONDS = 1.5  # together with the above less than the 2 s within which clients are told

FLYING_LIMIT = 64
"""Remembered; while a node is behind, none comes back, and none is missed for that."""


class Canary:
    """The canaries of one subscription."""

    def __init__(self) -> None:
        self._flying: dict[int, float] = {}  # number -> when it was sent; the oldest ones, in order
        self._next = 1
        self.lag_seconds = 0.0
        """How long the last one that came back was on its way."""

    def send(self, now: float) -> int:
        """Return the number to send. A sending that fails counts as sent."""
        number = self._next
        self._next += 1
        if len(self._flying) < FLYING_LIMIT:  # the oldest one decides
            self._flying[number] = now
        return number

    def back(self, number: int, now: float) -> None:
        """One came back, and with it the news that all before it will not come any more."""
        if not 0 < number < self._next:
            return
        if (sent := self._flying.get(number)) is not None:
            self.lag_seconds = now - sent
        self._flying = {n: t for n, t in self._flying.items() if n > number}

    def is_overdue(self, now: float) -> bool:
        """Tell whether the oldest one has been away for too long."""
        return any(now - sent > OVERDUE_SECONDS for sent in self._flying.values())
