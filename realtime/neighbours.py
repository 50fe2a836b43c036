"""Detects another service on the same channels of Redis.

Redis' pub/sub knows no database numbers: two services with one prefix on two databases of one Redis
hear each other, and deliver each other's publications. Each database therefore has an id, which
nodes announce on the channel that all nodes hear. No clock and no socket.
"""

from __future__ import annotations

PROOFS = 2
"""Our database must have confirmed its own id so often since the foreign one was first heard.

After FLUSHALL or a failover the id changes, and nodes learn of it one after the other.
"""
OTHERS_LIMIT = 8
"""Foreign ids that are remembered: whoever can publish on Redis can make them up."""


class Neighbours:
    """What this node knows of the service it belongs to, and of others."""

    def __init__(self) -> None:
        self.own = ""
        """The id of our service; empty until our database has said it."""
        self.others: set[str] = set()
        """The ids of services that are certainly not ours."""
        self._announced = 0
        self._suspects: dict[str, int] = {}

    def announced(self, own: str) -> None:
        """Our database has said the id of our service."""
        if own != self.own:
            self._suspects.clear()
            self.others.clear()
        self.own = own
        self._announced += 1

    def hear(self, service: str) -> bool:
        """Take an announcement; return whether it reveals another service for the first time."""
        if not self.own or service == self.own or service in self.others:
            return False
        if service not in self._suspects and len(self._suspects) >= OTHERS_LIMIT:
            return False
        first = self._suspects.setdefault(service, self._announced)
        if self._announced - first < PROOFS:
            return False
        self.others.add(service)
        return True
