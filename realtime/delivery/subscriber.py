"""A node's one subscription at the broker: opens it, serves it, and replaces it when it breaks.

The registry knows which channels are needed. The `Subscriber` subscribes to them, and
`realtime.delivery.settling` reads the position of each confirmed one. The `Receiver` passes
arrivals on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from realtime.brokers import Broker, ChannelsLost, Message, Subscribed, Subscription
from realtime.brokers.node_messages import Dispatcher, UnknownMessage, parse
from realtime.brokers.watchdog import Watchdog
from realtime.core.envelope import decode_envelope
from realtime.core.members import Changes
from realtime.core.tally import Tally
from realtime.delivery.listeners import Listener
from realtime.delivery.registry import Channel, Registry, UnexpectedConfirmation
from realtime.delivery.settling import PositionReader
from realtime.errors import BrokerError, BrokerUnavailable, EnvelopeError

if TYPE_CHECKING:
    from realtime.brokers import Event
    from realtime.core.namespaces import Namespace
    from realtime.delivery.fanout import Fanout
    from realtime.delivery.liveness import Liveness
    from realtime.delivery.lost_channels import LostChannels

logger = logging.getLogger(__name__)

WISHES_LIMIT = 500
"""Channels in one SUBSCRIBE."""
COUNTERS_RENEWAL_SECONDS = 60.0
"""The interval for renewing counters of subscribed channels, which expire after 300 s or more."""

MembersChanged = Callable[[Channel[Listener], Changes], object]
Companions = Callable[[], Iterable[Coroutine[None, None, None]]]
"""Returns coroutines for additional tasks of a subscription, which end with it."""


class Subscriber:
    """See the module. Belongs to one hub, which starts and stops it."""

    def __init__(
        self,
        broker: Broker,
        node_channel: str,
        registry: Registry[Listener],
        fanout: Fanout,
        liveness: Liveness,
        lost: LostChannels,
        receiver: Receiver,
        *,
        companions: Companions,
    ) -> None:
        """Start without a subscription.

        Args:
            broker: The source of publications.
            node_channel: The channel on which the node sends canaries to itself.
            registry: The channels that are needed.
            fanout: Delivers arrivals and applies back-pressure.
            liveness: Informed when the subscription starts, breaks, and has caught up.
            lost: Informed of channels that a part of the broker has taken with it.
            receiver: Processes each message.
            companions: Returns coroutines for additional tasks of each subscription.
        """
        self._broker = broker
        self._node_channel = node_channel
        self._registry = registry
        self._fanout = fanout
        self._liveness = liveness
        self._lost = lost
        self._receiver = receiver
        self._companions = companions
        self._owner: asyncio.Task[None] | None = None
        self._wishes = asyncio.Event()
        self._position_reader = PositionReader(broker, registry, fanout, liveness, lost)
        self._renew_at = 0.0
        self.connections = 0
        """How often it has connected to the broker."""
        self._subscription: Subscription | None = None
        self.watchdog = self._new_watchdog()
        """The watchdog of the current subscription, unless it has its own."""

    @property
    def is_started(self) -> bool:
        """Whether the node is subscribed at the broker, or is trying to subscribe."""
        return self._owner is not None

    @property
    def lag_seconds(self) -> float:
        """The latest round-trip time through the broker."""
        own = None if self._subscription is None else self._subscription.lag_seconds
        return self.watchdog.lag_seconds if own is None else own

    def start(self) -> None:
        """Start the subscription; returns immediately."""
        self._owner = asyncio.get_running_loop().create_task(
            self._own(), name="realtime subscriber"
        )

    def stop(self) -> asyncio.Task[None] | None:
        """Cancel the subscription; return its task, which ends soon, if there is one."""
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.cancel()
        return owner

    def want(
        self, name: str, namespace: Namespace, waiter: object, wake: Callable[[], None]
    ) -> Channel[Listener]:
        """Return the channel and register a waiter; subscribe to it if necessary."""
        channel = self._registry.want(name, namespace, waiter, wake)
        if not channel.is_live:
            self._wishes.set()
        return channel

    def release(self, channel: Channel[Listener]) -> None:
        """Unsubscribe from a channel at the broker if it is no longer needed."""
        self._registry.release(channel)
        if self._registry.has_wishes:
            self._wishes.set()

    def renew(self, now: float) -> None:
        """Read all positions again periodically, which keeps the counters from expiring."""
        if now >= self._renew_at:
            self._renew_at = now + COUNTERS_RENEWAL_SECONDS
            self._position_reader.add(each.name for each in self._registry if each.is_live)

    def has_compared(self, name: str) -> bool:
        """Tell whether a channel's position is known, or the channel is no longer needed."""
        channel = self._registry.get(name)
        return channel is None or channel.is_live

    async def _own(self) -> None:
        """Open a subscription, serve it, and open another one when it breaks.

        Each in a task of its own: a task group whose parent it has cancelled leaves that request
        behind on Python 3.11 and 3.12, and the next time-out ends the parent on 3.11.2.
        """
        loop = asyncio.get_running_loop()
        owner = asyncio.current_task()
        assert owner is not None  # noqa: S101 - see `start`
        while True:
            try:
                await loop.create_task(self._serve(), name="realtime subscription")
            except BrokerError as error:
                self._liveness.lose(str(error))
            # The outermost loop of a node: a bug must not stop it permanently.
            except Exception:
                logger.exception("the subscription failed unexpectedly; reopening it")
                self._liveness.lose("internal error")
            if owner.cancelling():  # a group that was ending anyway has kept that to itself
                raise asyncio.CancelledError
            await asyncio.sleep(self._liveness.next_pause())

    async def _serve(self) -> None:
        """Open a subscription, and serve it until it breaks.

        Raises:
            BrokerUnavailable: It could not be opened, or broke.
        """
        subscription = self._subscription = await self._broker.subscription()
        self.connections += 1
        self.watchdog = self._new_watchdog()
        self._position_reader.clear()
        self._liveness.note_subscribed(channel.name for channel in self._registry)
        self._wishes.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(subscription.listen(self._receive))
                group.create_task(self._carry_out_wishes(subscription))
                group.create_task(self._position_reader.keep())
                for companion in self._companions():
                    group.create_task(companion)
                if subscription.lag_seconds is None:
                    group.create_task(self.watchdog.send_canaries())
                    group.create_task(self.watchdog.watch_socket(subscription))
        except BaseExceptionGroup as failed:
            # Not `except*`: what is raised in it is a group again on Python 3.11.2, which Debian 12
            # has (and not on 3.11.7).
            broken, other = failed.split((BrokerError, UnexpectedConfirmation))
            if broken is None or other is not None:
                raise
            raise BrokerUnavailable(str(broken.exceptions[0])) from failed
        finally:
            # Otherwise the node would become live when clients leave the remaining channels.
            self._liveness.note_unsubscribed()
            self._lost.clear()
            self._registry.note_lost()
            await subscription.aclose()

    def _new_watchdog(self) -> Watchdog:
        return Watchdog(
            partial(self._broker.send_raw, self._node_channel),
            is_subscribed=lambda: self.has_compared(self._node_channel),
            is_behind=lambda: self._fanout.is_full,
        )

    def _receive(self, events: Sequence[Event]) -> asyncio.Future[None] | None:
        """Take the events of one read, and deliver what they say; see `Subscription.listen`."""
        self._fanout.collect()
        try:
            self._receive_all(events)
        finally:
            self._fanout.deliver()
        return self._fanout.space()

    def _receive_all(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Message):
                self._receiver.receive(event)
            elif isinstance(event, Subscribed):
                if self._registry.note_subscribed(event.channel):
                    self._position_reader.add((event.channel,))
            elif isinstance(event, ChannelsLost):
                self._lose(event)
            else:
                self._registry.note_unsubscribed(event.channel)
                self._wishes.set()

    def _lose(self, event: ChannelsLost) -> None:
        """Wait for the channels of a part of the broker that is gone; the others go on."""
        self._registry.lose(event.channels)
        self._position_reader.drop(event.channels)
        self._lost.note_lost(event.channels, event.reason)
        self._liveness.look()

    async def _carry_out_wishes(self, subscription: Subscription) -> None:
        """Subscribe and unsubscribe as the registry requests; the only task that does so."""
        while True:
            await self._wishes.wait()
            self._wishes.clear()
            while self._registry.has_wishes:
                await subscription.send(*self._registry.take_wishes(WISHES_LIMIT))


class Receiver:
    """The receiver of the messages of a node's subscription.

    Publications go through the registry to the fan-out, messages between nodes to their handlers.
    """

    def __init__(
        self,
        registry: Registry[Listener],
        fanout: Fanout,
        between_nodes: Mapping[str, Dispatcher],
        *,
        members_changed: MembersChanged,
    ) -> None:
        """Create a receiver.

        Args:
            registry: The channels with publications.
            fanout: Delivers arrivals.
            between_nodes: The channels with messages between nodes, and the handlers of each.
            members_changed: Called when clients have joined or left a channel.
        """
        self._registry = registry
        self._fanout = fanout
        self._between_nodes = between_nodes
        self._members_changed = members_changed
        self.passed_over = 0
        """The number of messages between nodes that this version does not know."""
        self._unknown = Tally()
        self.dropped_envelopes = 0
        """The number of messages on channels that are not envelopes of this service."""

    def receive(self, message: Message) -> None:
        """Pass on one message."""
        if (dispatcher := self._between_nodes.get(message.channel)) is not None:
            if not dispatcher.dispatch(message.raw):
                self._pass_over()
        elif (channel := self._registry.get(message.channel)) is not None:
            self._receive_publication(channel, message.raw)
        # else it was in flight while this node unsubscribed

    def _receive_publication(self, channel: Channel[Listener], raw: bytes) -> None:
        try:
            envelope = decode_envelope(raw)
        except EnvelopeError as error:
            self._receive_changes(channel, raw, error)
            return
        if (arrival := channel.note_arrival(envelope)) is not None:
            self._fanout.add(channel, arrival)

    def _receive_changes(
        self, channel: Channel[Listener], raw: bytes, error: EnvelopeError
    ) -> None:
        """Pass on a message about joins and leaves; drop any other that is not an envelope."""
        try:
            changes = parse(raw)
        except UnknownMessage:
            changes = None
        if isinstance(changes, Changes):
            self._members_changed(channel, changes)
        else:
            self._drop(channel.name, error)

    def _drop(self, channel: str, error: EnvelopeError) -> None:
        self.dropped_envelopes += 1
        count = self.dropped_envelopes
        if count & (count - 1) == 0:  # the 1st, 2nd, 4th, 8th …: never a flood
            logger.warning(
                "dropped an invalid envelope on %s: %s (%d so far)", channel, error, count
            )

    def _pass_over(self) -> None:
        self.passed_over += 1
        count = self._unknown.add("message", asyncio.get_running_loop().time())
        if count is not None:
            logger.warning(
                "ignored a node message that this version does not know (%d so far)",
                count,
            )
