"""Announces the service of this node, and reports other services on the same channels."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Never

from realtime.brokers.neighbours import Neighbours
from realtime.errors import BrokerError

if TYPE_CHECKING:
    from realtime.brokers import Broker
    from realtime.brokers.node_messages import Announcement

logger = logging.getLogger(__name__)

ANNOUNCE_SECONDS = 5.0


class Announcer:
    """See the module. Belongs to one hub; `keep` is a task of each of its subscriptions."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.neighbours = Neighbours()

    async def keep(self) -> Never:
        """Announce the service periodically until the subscription ends."""
        while True:
            with suppress(BrokerError):  # the watchdog detects an outage of Redis
                self.neighbours.note_announcement(await self._broker.announce())
            await asyncio.sleep(ANNOUNCE_SECONDS)

    def hear(self, announcement: Announcement) -> None:
        """Process the announcement of a node."""
        service = announcement.service
        if self.neighbours.hear(service):
            logger.error(
                "another service (%s) uses the Redis channels of this one (%s): each delivers the "
                "publications of the other. Redis pub/sub ignores database numbers: give each "
                "service its own REALTIME_REDIS_PREFIX",
                *(service, self.neighbours.own),
                extra={"service": self.neighbours.own, "other_service": service},
            )
