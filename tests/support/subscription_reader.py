"""Reads a broker's subscription event by event, as tests want to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from realtime.brokers import Event, Subscription


class SubscriptionReader:
    """Listens from the beginning; it ends with the subscription.

    Args:
        subscription: What to listen to.
        most: The number of events that may wait for `read`; with so many there is no more room.
    """

    def __init__(self, subscription: Subscription, most: int = 100_000) -> None:
        self.subscription = subscription
        self.waiting: list[Event] = []
        self._most = most
        self._arrived = asyncio.Event()
        self._space: asyncio.Future[None] | None = None
        self._listening = asyncio.ensure_future(subscription.listen(self._receive))
        self._listening.add_done_callback(self._note_end)

    @property
    def has_ended(self) -> bool:
        """Whether the end of the subscription was told."""
        return self._listening.done()

    async def read(self) -> list[Event]:
        """Wait for the first event; return all that have arrived.

        Raises:
            BrokerUnavailable: The subscription has broken, and all events were read.
        """
        await self._arrived.wait()
        if not self.waiting:
            self._listening.result()
        events, self.waiting = self.waiting, []
        if not self._listening.done():
            self._arrived.clear()
        if self._space is not None:
            self._space.set_result(None)
            self._space = None
        return events

    async def read_all(self, count: int, seconds: float = 30) -> list[Event]:
        """Read so many events."""
        events: list[Event] = []
        async with asyncio.timeout(seconds):
            while len(events) < count:
                events += await self.read()
        return events

    def _receive(self, events: Sequence[Event]) -> asyncio.Future[None] | None:
        self.waiting += events
        self._arrived.set()
        if len(self.waiting) < self._most:
            return None
        self._space = asyncio.get_running_loop().create_future()
        return self._space

    def _note_end(self, listening: asyncio.Future[None]) -> None:
        if not listening.cancelled():
            listening.exception()  # it may be as a test wants it
        self._arrived.set()
