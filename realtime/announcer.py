"""Announces which service this node belongs to, and reports another one on the same channels."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Never

from realtime.brokers import Broker
from realtime.errors import BrokerError
from realtime.neighbours import Neighbours

logger = logging.getLogger(__name__)

ANNOUNCE_SECONDS = 5.0


class Announcer:
    """See the module. Belongs to one hub; `keep` is a task of each of its subscriptions."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.neighbours = Neighbours()

    async def keep(self) -> Never:
        """Announce the service, for as long as a subscription lasts."""
        while True:
            with suppress(BrokerError):  # the vigil finds out whether Redis is gone
                self.neighbours.announced(await self._broker.announce())
            await asyncio.sleep(ANNOUNCE_SECONDS)

    def hear(self, service: str) -> None:
        """Take the announcement of a node."""
        if self.neighbours.hear(service):
            logger.error(
                "another service (%s) uses the channels of this one (%s): each delivers the "
                "publications of the other. Pub/sub of Redis knows no database numbers: give each "
                "service its own REALTIME_REDIS_PREFIX",
                *(service, self.neighbours.own),
                extra={"service": self.neighbours.own, "other_service": service},
            )
