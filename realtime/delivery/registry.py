"""The channels that a node needs from the broker, with their states and listeners.

A channel goes *absent → subscribing → settling → live → leaving → absent*. The state machine counts
the confirmations that the broker owes. An unexpected confirmation means that the connection to the
broker was re-established without our knowledge, so messages may have been lost in between. The
module uses no socket and no clock: `subscriber` executes the requests and reports the results.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from realtime.core.meters import ChannelMeter, NodeMeters
from realtime.core.positions import Gap, GapDetector, Position

if TYPE_CHECKING:
    from realtime.core.envelope import Envelope
    from realtime.core.namespaces import Namespace

KEPT_ARRIVALS_LIMIT = 256
"""Envelopes kept while a position is read; older ones are dropped and show up as a gap."""

L = TypeVar("L")
"""The type of a listener; in a hub, `realtime.delivery.listeners.Listener`."""


class State(Enum):
    """The state of a channel."""

    SUBSCRIBING = "subscribing"
    """Needed; not confirmed by the broker yet."""
    SETTLING = "settling"
    """Confirmed; its position is being read, and envelopes are kept."""
    LIVE = "live"
    """Every publication arrives, or its loss is detected."""
    LEAVING = "leaving"
    """Not needed; the broker has not confirmed the UNSUBSCRIBE yet."""


class UnexpectedConfirmation(Exception):
    """The broker sent a confirmation that was not requested."""


class Arrival(NamedTuple):
    """What to deliver to the listeners: gaps first, then the publication, if there is one."""

    gaps: tuple[Gap, ...]
    envelope: Envelope | None


class Channel(Generic[L]):
    """One channel of this node: its state, its position and its listeners."""

    __slots__ = (
        "_due",
        "_kept",
        "announced_epoch",
        "detector",
        "listeners",
        "meter",
        "name",
        "namespace",
        "state",
        "waiting",
    )

    def __init__(self, name: str, namespace: Namespace, meter: ChannelMeter | None = None) -> None:
        self.name = name
        self.meter = meter or ChannelMeter()
        """Counts what its listeners get; one for all channels of the namespace."""
        self.namespace = namespace
        self.state = State.SUBSCRIBING
        self.detector: GapDetector | None = None
        self.announced_epoch = ""
        """The epoch that listeners know; the first publication of a new epoch announces it."""
        self.listeners: dict[L, None] = {}
        self.waiting: dict[object, Callable[[], None]] = {}
        """Subscribers waiting for the channel to become live, with the callback for each."""
        self._kept: deque[Envelope] | None = None
        self._due = [0, 0]  # confirmations owed: of SUBSCRIBE, of UNSUBSCRIBE

    @property
    def is_live(self) -> bool:
        """Whether a connection can subscribe now."""
        return self.state is State.LIVE

    @property
    def is_wanted(self) -> bool:
        """Whether the channel has listeners or waiting subscribers."""
        return bool(self.listeners or self.waiting)

    @property
    def position(self) -> Position:
        """The position of the last publication; raises LookupError if it was never live."""
        if self.detector is None:
            raise LookupError(f"{self.name} was never live")
        return self.detector.last

    def note_arrival(self, envelope: Envelope) -> Arrival | None:
        """Process an envelope from the broker; return what to deliver now, or None."""
        if self.state is State.LIVE:
            return self._observe(envelope)
        if self._kept is not None:
            self._kept.append(envelope)
        return None

    def go_live(self, read: Position) -> list[Arrival]:
        """Go live with the position that was read; return what to deliver to the listeners.

        The first time, the position is the start. After a break, the first kept envelope shows
        exactly where the broker's stream continues; without one, the position shows it.
        """
        kept, self._kept = list(self._kept or ()), None
        self.state = State.LIVE
        arrivals: list[Arrival] = []
        if (detector := self.detector) is None:
            detector = self.detector = GapDetector(read)
            self.announced_epoch = read.epoch
        elif kept and kept[0].position.epoch == read.epoch and detector.end_of(read.epoch):
            # Sentinels may return to a former master, whose epoch goes on.
            before = read._replace(offset=kept[0].position.offset - 1)
            arrivals.append(Arrival(detector.resume(before), None))
        arrivals.extend(arrival for envelope in kept if (arrival := self._observe(envelope)))
        if not arrivals and (gaps := detector.resume(read)):  # of ended epochs, if any were kept
            arrivals.append(Arrival(gaps, None))
        return arrivals

    def _observe(self, envelope: Envelope) -> Arrival | None:
        detector = self.detector
        assert detector is not None  # noqa: S101 - a live channel has one
        gaps = detector.observe(envelope.position)
        return None if gaps is None else Arrival(gaps, envelope)


class Registry(Generic[L]):
    """All channels of a node, and the pending requests to the broker."""

    def __init__(self, meters: NodeMeters | None = None) -> None:
        self._meters = meters or NodeMeters()
        self._channels: dict[str, Channel[L]] = {}
        self._to_subscribe: dict[str, None] = {}
        self._to_unsubscribe: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._channels)

    def __iter__(self) -> Iterator[Channel[L]]:
        return iter(self._channels.values())

    def get(self, name: str) -> Channel[L] | None:
        """Return the channel, or None if this node does not have it."""
        return self._channels.get(name)

    def want(
        self, name: str, namespace: Namespace, waiter: object, wake: Callable[[], None]
    ) -> Channel[L]:
        """Return the channel and register a waiter; request a subscription if it is absent."""
        channel = self._channels.get(name)
        if channel is None:
            meter = self._meters.of(name)
            meter.channels += 1
            channel = self._channels[name] = Channel(name, namespace, meter)
            self._to_subscribe[name] = None
        channel.waiting[waiter] = wake
        return channel

    def release(self, channel: Channel[L]) -> None:
        """Leave a channel that is no longer needed.

        Call this after removing a listener or waiter. The channel is left without delay: while this
        node is subscribed, the broker counts it as a receiver.
        """
        if channel.is_wanted or channel.state is State.LEAVING:
            return
        name = channel.name
        if name in self._to_subscribe:
            del self._to_subscribe[name]
            self._remove(channel)
            return
        channel.state = State.LEAVING
        channel.detector = channel._kept = None
        self._to_unsubscribe[name] = None

    @property
    def has_wishes(self) -> bool:
        """Whether `take_wishes` would return any channel."""
        return bool(self._to_subscribe or self._to_unsubscribe)

    def take_wishes(self, limit: int) -> tuple[list[str], list[str]]:
        """Return the channels to SUBSCRIBE and to UNSUBSCRIBE next, at most ``limit`` of each."""
        return self._take(self._to_subscribe, limit, 0), self._take(self._to_unsubscribe, limit, 1)

    def note_subscribed(self, name: str) -> bool:
        """Record a confirmed SUBSCRIBE; return True if the channel's position must be read now.

        Raises:
            UnexpectedConfirmation: No confirmation was due.
        """
        channel = self._confirm(name, 0)
        if channel.state is not State.SUBSCRIBING:
            return False
        channel.state = State.SETTLING
        channel._kept = deque(maxlen=KEPT_ARRIVALS_LIMIT)
        return True

    def note_unsubscribed(self, name: str) -> None:
        """Record a confirmed UNSUBSCRIBE: the channel becomes absent, or subscribes again.

        Raises:
            UnexpectedConfirmation: No confirmation was due.
        """
        self._start_again(self._confirm(name, 1))

    def note_lost(self) -> None:
        """Record a lost connection to the broker: all needed channels must subscribe again."""
        self._to_subscribe.clear()
        self._to_unsubscribe.clear()
        for channel in list(self._channels.values()):
            channel._due = [0, 0]
            self._start_again(channel)

    def lose(self, names: Iterable[str]) -> None:
        """Record `realtime.brokers.ChannelsLost`: the broker confirms these channels once more."""
        for name in names:
            channel = self._channels[name]
            channel._due[0] = 1
            if channel.state is not State.LEAVING:
                channel.state, channel._kept = State.SUBSCRIBING, None

    def _start_again(self, channel: Channel[L]) -> None:
        if not channel.is_wanted:
            self._remove(channel)
            return
        channel.state = State.SUBSCRIBING
        channel._kept = None
        self._to_subscribe[channel.name] = None

    def _remove(self, channel: Channel[L]) -> None:
        del self._channels[channel.name]
        channel.meter.channels -= 1

    def _take(self, wishes: dict[str, None], limit: int, kind: int) -> list[str]:
        names = list(wishes)[:limit] if len(wishes) > limit else list(wishes)
        for name in names:
            del wishes[name]
            self._channels[name]._due[kind] += 1
        return names

    def _confirm(self, name: str, kind: int) -> Channel[L]:
        channel = self._channels.get(name)
        if channel is None or channel._due[kind] == 0:
            raise UnexpectedConfirmation(name)
        channel._due[kind] -= 1
        return channel
