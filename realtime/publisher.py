"""The publishing side: what a publication is, before a broker stamps and sends it.

Publishing knows nothing of delivering; the two meet in Redis.
"""

from __future__ import annotations

from collections.abc import Sequence

from realtime.brokers import Broker
from realtime.brokers.redis_sync import SyncRedisBroker
from realtime.errors import RealtimeError
from realtime.namespaces import Namespaces
from realtime.publication import Publication, Receipt


class Publisher:
    """Publishes inside an event loop."""

    def __init__(self, namespaces: Namespaces, broker: Broker) -> None:
        self._namespaces = namespaces
        self._broker = broker

    async def publish(self, publication: Publication) -> Receipt:
        """Publish.

        Raises:
            InvalidName: The channel's namespace or the fallback is not configured.
            IdempotencyConflict: The key belongs to another publication.
            QueueFull: Nobody is there, and there is no room for it; certainly not published.
            BrokerUnavailable: Certainly not published.
            OutcomeUnknown: Perhaps published.
        """
        return await self._broker.publish(self._namespaces.admitted(publication))

    async def publish_many(
        self, publications: Sequence[Publication]
    ) -> list[Receipt | RealtimeError]:
        """Publish many in one round trip; a receipt or an error for each, in order.

        Raises:
            InvalidName: A channel's namespace or a fallback is not configured; nothing was
                published.
            BrokerUnavailable: Certainly nothing published.
            OutcomeUnknown: Perhaps all published.
        """
        return await self._broker.publish_many(list(map(self._namespaces.admitted, publications)))

    async def take(self, name: str, rate: float, count: int) -> float:
        """See `realtime.brokers.Broker.take`."""
        return await self._broker.take(name, rate, count)


class SyncPublisher:
    """`Publisher` for threads."""

    def __init__(self, namespaces: Namespaces, broker: SyncRedisBroker) -> None:
        self._namespaces = namespaces
        self._broker = broker

    def publish(self, publication: Publication) -> Receipt:
        """See `Publisher.publish`."""
        return self._broker.publish(self._namespaces.admitted(publication))

    def publish_many(self, publications: Sequence[Publication]) -> list[Receipt | RealtimeError]:
        """See `Publisher.publish_many`."""
        return self._broker.publish_many(list(map(self._namespaces.admitted, publications)))

    def take(self, name: str, rate: float, count: int) -> float:
        """See `realtime.brokers.Broker.take`."""
        return self._broker.take(name, rate, count)
