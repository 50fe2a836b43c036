"""Reads the positions of channels whose subscription is confirmed: then they are live."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Never

from realtime.delivery.registry import Arrival, Channel, Registry, State
from realtime.errors import BrokerError

if TYPE_CHECKING:
    from realtime.brokers import Broker
    from realtime.core.positions import Position
    from realtime.delivery.fanout import Fanout
    from realtime.delivery.listeners import Listener
    from realtime.delivery.liveness import Liveness
    from realtime.delivery.lost_channels import LostChannels

POSITIONS_LIMIT = 500
"""Positions in one round trip."""
RETRY_SECONDS = 0.05
"""The pause after positions that could not be read."""


class PositionReader:
    """See the module. Belongs to one subscriber; `keep` is a task of each of its subscriptions."""

    def __init__(
        self,
        broker: Broker,
        registry: Registry[Listener],
        fanout: Fanout,
        liveness: Liveness,
        lost: LostChannels,
    ) -> None:
        self._broker = broker
        self._registry = registry
        self._fanout = fanout
        self._liveness = liveness
        self._lost = lost
        self._due: dict[str, None] = {}
        self._added = asyncio.Event()

    def add(self, names: Iterable[str]) -> None:
        """Read the positions of these channels soon."""
        self._due.update(dict.fromkeys(names))
        self._added.set()

    def drop(self, names: Iterable[str]) -> None:
        """Do not read these positions: the subscriptions are not confirmed any more."""
        for name in names:
            self._due.pop(name, None)

    def clear(self) -> None:
        """Drop all."""
        self._due.clear()

    async def keep(self) -> Never:
        """Read the positions of channels after their confirmation, and periodically of all."""
        while True:
            await self._added.wait()
            self._added.clear()
            while self._due:
                await self._settle_some()

    async def _settle_some(self) -> None:
        names = list(self._due)[:POSITIONS_LIMIT]
        for name in names:
            del self._due[name]
        error = None
        for name, position in zip(names, await self._positions(names), strict=True):
            channel = self._registry.get(name)
            if channel is None:
                continue  # no longer needed
            if isinstance(position, BrokerError):
                error = position
                self._due[name] = None
            # A name that is due again was left and subscribed again meanwhile, so this position is
            # outdated.
            elif channel.state is State.SETTLING and name not in self._due:
                self._deliver_and_wake(channel, channel.go_live(position))
        self._liveness.look()
        if error is not None:
            if not self._liveness.live:  # Redis is reachable but loading or full: a new reason
                self._liveness.lose(str(error))
            await asyncio.sleep(RETRY_SECONDS)

    async def _positions(self, names: list[str]) -> Sequence[Position | BrokerError]:
        try:
            return await self._broker.positions(names)
        except BrokerError as error:
            return [error] * len(names)

    def _deliver_and_wake(self, channel: Channel[Listener], arrivals: list[Arrival]) -> None:
        for arrival in arrivals:
            self._fanout.add(channel, arrival)
        self._lost.note_live(channel)
        for wake in list(channel.waiting.values()):
            wake()
