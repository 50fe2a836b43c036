"""Publishes on behalf of clients, independently of delivery.

The HTTP API and the host's code check namespace and fallback when they create a publication, and
pass it to the broker themselves. For a client, the host's authorizer decides first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from realtime.core.namespaces import Namespaces
    from realtime.core.publication import Publication, Receipt


class Publisher:
    """The publisher of an event loop."""

    def __init__(
        self, namespaces: Namespaces, publish: Callable[[Publication], Awaitable[Receipt]]
    ) -> None:
        """Create a publisher.

        Args:
            namespaces: Which channels exist, and their fallbacks.
            publish: Passes a publication to the broker; errors as for `publish`.
        """
        self._namespaces = namespaces
        self._publish = publish

    async def publish(self, publication: Publication) -> Receipt:
        """Check a publication against its namespace and publish it.

        Raises:
            InvalidName: The channel's namespace or the fallback is not configured.
            IdempotencyConflict: The key belongs to another publication.
            QueueFull: It must be queued and the queue is full; certainly not published.
            BrokerUnavailable: Certainly not published.
            OutcomeUnknown: Perhaps published.
        """
        return await self._publish(self._namespaces.complete(publication))
