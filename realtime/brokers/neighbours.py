"""Detects another service on the same channels of Redis.

Pub/sub ignores database numbers: two services with the same prefix on two databases of one Redis
receive and deliver each other's publications. Each database therefore has an id, which nodes
announce on the channel of all nodes. The module uses no clock and no socket.
"""

from __future__ import annotations

PROOFS = 2
"""How often our database must confirm its own id after the first announcement of a foreign one.

After FLUSHALL or a failover the id changes, and nodes notice it one after the other.
"""
OTHERS_LIMIT = 8
"""Foreign ids that are remembered; any client that can publish on Redis can invent them."""


class Neighbours:
    """The id of this node's service, and the ids of others on its channels."""

    def __init__(self) -> None:
        self.own = ""
        """The id of our service; empty until it was read from our database."""
        self.others: set[str] = set()
        """The ids of confirmed other services."""
        self._announced = 0
        self._suspects: dict[str, int] = {}

    def note_announcement(self, own: str) -> None:
        """Record the id of our service, as read from our database."""
        if own != self.own:
            self._suspects.clear()
            self.others.clear()
        self.own = own
        self._announced += 1

    def hear(self, service: str) -> bool:
        """Process an announcement; return whether it newly reveals another service."""
        if not self.own or service == self.own or service in self.others:
            return False
        if service not in self._suspects and len(self._suspects) >= OTHERS_LIMIT:
            return False
        first = self._suspects.setdefault(service, self._announced)
        if self._announced - first < PROOFS:
            return False
        self.others.add(service)
        return True
