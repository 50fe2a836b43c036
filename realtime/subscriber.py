"""A node's one subscription at the broker: opens it, serves it, and replaces it when it breaks.

The registry says what is wanted. Here it is carried out, each confirmed channel's position is read,
and what arrives is handed on.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Iterable, Sequence

from realtime.brokers import Broker, Message, Subscribed, Subscription
from realtime.errors import BrokerError, BrokerUnavailable
from realtime.fanout import Fanout, Listener
from realtime.gaps import Position
from realtime.liveness import Liveness
from realtime.namespaces import Namespace
from realtime.registry import Arrival, Channel, Registry, State, UnexpectedConfirmation
from realtime.vigil import Vigil

logger = logging.getLogger(__name__)

WISHES_LIMIT = 500
"""Channels in one SUBSCRIBE, and positions in one round trip."""
RENEW_SECONDS = 60.0
"""How often the counters of subscribed channels are kept from expiring, at the soonest in 300 s."""
BACKOFF_SECONDS = (0.05, 1.0)

Hear = Callable[[Message], None]
Companions = Callable[[], Iterable[Coroutine[None, None, None]]]
"""Tasks that each subscription has beside its own; they end with it."""


class Subscriber:
    """See the module. Belongs to one hub, which starts and stops it."""

    def __init__(
        self,
        broker: Broker,
        node_channel: str,
        registry: Registry[Listener],
        fanout: Fanout,
        liveness: Liveness,
        *,
        hear: Hear,
        companions: Companions,
    ) -> None:
        """Subscribe to nothing yet.

        Args:
            broker: Where publications come from.
            node_channel: The channel on which the node sends canaries to itself.
            registry: The channels that are wanted.
            fanout: Delivers what arrived, and says when it cannot keep up.
            liveness: Learns when the subscription begins, breaks, and has caught up.
            hear: Called for each message.
            companions: Make further tasks for each subscription.
        """
        self._broker = broker
        self._node_channel = node_channel
        self._registry = registry
        self._fanout = fanout
        self._liveness = liveness
        self._hear = hear
        self._companions = companions
        self._owner: asyncio.Task[None] | None = None
        self._wishes = asyncio.Event()
        self._to_settle: dict[str, None] = {}
        self._settle = asyncio.Event()
        self._renew_at = 0.0
        self.vigil = self._new_vigil()
        """Watches the subscription of this moment."""

    @property
    def is_started(self) -> bool:
        """Whether it listens to the broker, or tries to."""
        return self._owner is not None

    def start(self) -> None:
        """Begin to listen; returns at once."""
        self._owner = asyncio.get_running_loop().create_task(self._own(), name="realtime hub")

    def stop(self) -> asyncio.Task[None] | None:
        """Stop listening; return the task that ends soon, if there is one."""
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.cancel()
        return owner

    def want(
        self, name: str, namespace: Namespace, waiter: object, wake: Callable[[], None]
    ) -> Channel[Listener]:
        """Return a channel for somebody who waits for it, and subscribe to it if need be."""
        channel = self._registry.want(name, namespace, waiter, wake)
        if not channel.is_live:
            self._wishes.set()
        return channel

    def release(self, channel: Channel[Listener]) -> None:
        """Leave a channel at the broker if nobody wants it any more."""
        self._registry.release(channel)
        if self._registry.has_wishes:
            self._wishes.set()

    def renew(self, now: float) -> None:
        """Read all positions again now and then, which keeps the counters from expiring."""
        if now >= self._renew_at:
            self._renew_at = now + RENEW_SECONDS
            self._to_settle.update(
                (channel.name, None) for channel in self._registry if channel.is_live
            )
            self._settle.set()

    def has_compared(self, name: str) -> bool:
        """Tell whether a channel's position is known, or nobody wants it any more."""
        channel = self._registry.get(name)
        return channel is None or channel.is_live

    async def _own(self) -> None:
        """Own the subscription: open it, serve it, and when it breaks, open another one."""
        while True:
            try:
                await self._serve(await self._broker.subscription())
            except BrokerError as error:
                self._liveness.lose(str(error))
            # The outermost loop of a node: no mistake of ours may silence it for good.
            except Exception:
                logger.exception("the hub failed; it starts again")
                self._liveness.lose("internal error")
            await asyncio.sleep(_backoff_seconds(self._liveness.failures))
            self._liveness.failures += 1

    async def _serve(self, subscription: Subscription) -> None:
        """Serve one subscription until it breaks.

        Raises:
            BrokerUnavailable: It broke.
        """
        self.vigil = self._new_vigil()
        self._to_settle.clear()
        self._liveness.subscribed(channel.name for channel in self._registry)
        self._wishes.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(subscription))
                group.create_task(self._carry_out_wishes(subscription))
                group.create_task(self._settle_all())
                for companion in self._companions():
                    group.create_task(companion)
                group.create_task(self.vigil.sing())
                group.create_task(self.vigil.listen(subscription))
        except* (BrokerError, UnexpectedConfirmation) as broken:
            raise BrokerUnavailable(str(broken.exceptions[0])) from broken
        finally:
            # Or the node would call itself live as soon as its clients leave what is in there.
            self._liveness.unsubscribed()
            self._registry.lost()
            await subscription.aclose()

    def _new_vigil(self) -> Vigil:
        return Vigil(
            self._broker,
            self._node_channel,
            is_subscribed=lambda: self.has_compared(self._node_channel),
            is_behind=lambda: self._fanout.is_full,
        )

    async def _read(self, subscription: Subscription) -> None:
        while True:
            events = await subscription.read()
            for event in events:
                if isinstance(event, Message):
                    self._hear(event)
                elif isinstance(event, Subscribed):
                    if self._registry.subscribed(event.channel):
                        self._to_settle[event.channel] = None
                        self._settle.set()
                else:
                    self._registry.unsubscribed(event.channel)
                    self._wishes.set()
            if self._fanout.is_full:
                await self._fanout.room()

    async def _carry_out_wishes(self, subscription: Subscription) -> None:
        """Subscribe and unsubscribe as the registry wants; nobody else does."""
        while True:
            await self._wishes.wait()
            self._wishes.clear()
            while self._registry.has_wishes:
                await subscription.send(*self._registry.take_wishes(WISHES_LIMIT))

    async def _settle_all(self) -> None:
        """Read the positions of channels that were just confirmed, and now and then of all."""
        while True:
            await self._settle.wait()
            self._settle.clear()
            while self._to_settle:
                await self._settle_some()

    async def _settle_some(self) -> None:
        names = list(self._to_settle)[:WISHES_LIMIT]
        for name in names:
            del self._to_settle[name]
        error = None
        for name, position in zip(names, await self._positions(names), strict=True):
            channel = self._registry.get(name)
            if channel is None:
                continue  # nobody wants it any more
            if isinstance(position, BrokerError):
                error = position
                self._to_settle[name] = None
            # A name that is due again was left and confirmed anew meanwhile: this position is older
            # than that.
            elif channel.state is State.SETTLING and name not in self._to_settle:
                self._settled(channel, channel.settled(position))
        self._liveness.look()
        if error is not None:
            if not self._liveness.live:  # Redis accepts us and is loading, or full: the new reason
                self._liveness.lose(str(error))
            await asyncio.sleep(BACKOFF_SECONDS[0])

    async def _positions(self, names: list[str]) -> Sequence[Position | BrokerError]:
        try:
            return await self._broker.positions(names)
        except BrokerError as error:
            return [error] * len(names)

    def _settled(self, channel: Channel[Listener], arrivals: list[Arrival]) -> None:
        for arrival in arrivals:
            self._fanout.add(channel, arrival)
        for wake in list(channel.waiting.values()):
            wake()


def _backoff_seconds(failures: int) -> float:
    """Full jitter, so that the nodes of a service do not come back to Redis all at once."""
    shortest, longest = BACKOFF_SECONDS
    return random.uniform(0, min(longest, shortest * 2**failures))  # noqa: S311 - spreads load, hides nothing
