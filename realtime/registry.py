"""Which channels a node wants from the broker, how far each has come, and who listens.

A channel goes *absent → subscribing → settling → live → leaving → absent*. The machine counts the
confirmations it is owed; one that nobody asked for means that the broker's connection was remade
behind our back, and everything that it carried in between is suspect. No socket and no clock: the
hub carries the wishes out and reports back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

from realtime.envelope import Envelope
from realtime.gaps import Gap, GapDetector, Position
from realtime.namespaces import Namespace

KEPT_LIMIT = 256
"""Arrivals that wait while a position is read; what is pushed out beyond it shows as a gap."""

Listener = TypeVar("Listener")


class State(Enum):
    """How far a channel has come."""

    SUBSCRIBING = "subscribing"
    """Wanted; not confirmed by the broker."""
    SETTLING = "settling"
    """Confirmed; its position is being read, and arrivals are kept."""
    LIVE = "live"
    """Every publication arrives, or its absence is noticed."""
    LEAVING = "leaving"
    """Not wanted; the broker has not confirmed that it is gone."""


class UnexpectedConfirmation(Exception):
    """The broker confirmed what nobody asked for."""


class Arrival(NamedTuple):
    """What the listeners are to be told: gaps first, then the publication, if there is one."""

    gaps: tuple[Gap, ...]
    envelope: Envelope | None


class Channel(Generic[Listener]):
    """One channel of this node: its state, its position and its listeners."""

    __slots__ = (
        "_due",
        "_kept",
        "detector",
        "listeners",
        "name",
        "namespace",
        "state",
        "told_epoch",
        "waiting",
    )

    def __init__(self, name: str, namespace: Namespace) -> None:
        self.name = name
        self.namespace = namespace
        self.state = State.SUBSCRIBING
        self.detector: GapDetector | None = None
        self.told_epoch = ""
        """The epoch that listeners know; a publication of another one names it."""
        self.listeners: dict[Listener, None] = {}
        self.waiting: dict[object, Callable[[], None]] = {}
        """Those that will listen once the channel is live, and how to tell them."""
        self._kept: deque[Envelope] | None = None
        self._due = [0, 0]  # confirmations owed: of SUBSCRIBE, of UNSUBSCRIBE

    @property
    def is_live(self) -> bool:
        """Whether a connection can join now."""
        return self.state is State.LIVE

    @property
    def is_wanted(self) -> bool:
        """Whether anybody listens or waits."""
        return bool(self.listeners or self.waiting)

    @property
    def position(self) -> Position:
        """The position of the last arrival; only a channel that was live has one."""
        if self.detector is None:
            raise LookupError(f"{self.name} was never live")
        return self.detector.last

    def arrived(self, envelope: Envelope) -> Arrival | None:
        """Take an arrival from the broker: what to tell the listeners, or None if nothing now."""
        if self.state is State.LIVE:
            return self._observed(envelope)
        if self._kept is not None:
            self._kept.append(envelope)
        return None

    def settled(self, read: Position) -> list[Arrival]:
        """The position was read: go live and return what the listeners must be told.

        The first time, the position is the start. After a break, the first arrival that was kept
        says exactly where the broker's stream goes on; without one, the position does.
        """
        kept, self._kept = self._kept or (), None
        self.state = State.LIVE
        arrivals: list[Arrival] = []
        if self.detector is None:
            self.detector = GapDetector(read)
            self.told_epoch = read.epoch
        elif not kept and (gaps := self.detector.resume(read)):
            arrivals.append(Arrival(gaps, None))
        arrivals.extend(arrival for envelope in kept if (arrival := self._observed(envelope)))
        return arrivals

    def _observed(self, envelope: Envelope) -> Arrival | None:
        detector = self.detector
        assert detector is not None  # noqa: S101 - a live channel has one
        gaps = detector.observe(envelope.position)
        return None if gaps is None else Arrival(gaps, envelope)


class Registry(Generic[Listener]):
    """All channels of a node, and what the broker must still be told."""

    def __init__(self) -> None:
        self._channels: dict[str, Channel[Listener]] = {}
        self._to_subscribe: dict[str, None] = {}
        self._to_unsubscribe: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._channels)

    def __iter__(self) -> Iterator[Channel[Listener]]:
        return iter(self._channels.values())

    def get(self, name: str) -> Channel[Listener] | None:
        """Return the channel, if this node has it."""
        return self._channels.get(name)

    def want(
        self, name: str, namespace: Namespace, waiter: object, wake: Callable[[], None]
    ) -> Channel[Listener]:
        """Return the channel for somebody who waits for it; absent, it starts to subscribe."""
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name, namespace)
            self._to_subscribe[name] = None
        channel.waiting[waiter] = wake
        return channel

    def release(self, channel: Channel[Listener]) -> None:
        """Leave a channel that nobody wants any more.

        To be called after every listener or waiter that goes. At once and without linger: while
        this node is subscribed, the broker counts it as somebody who listens.
        """
        if channel.is_wanted or channel.state is State.LEAVING:
            return
        name = channel.name
        if name in self._to_subscribe:
            del self._to_subscribe[name], self._channels[name]
            return
        channel.state = State.LEAVING
        channel.detector = channel._kept = None
        self._to_unsubscribe[name] = None

    @property
    def has_wishes(self) -> bool:
        """Whether `take_wishes` has anything."""
        return bool(self._to_subscribe or self._to_unsubscribe)

    def take_wishes(self, limit: int) -> tuple[list[str], list[str]]:
        """Return what to SUBSCRIBE and to UNSUBSCRIBE next, at most ``limit`` of each."""
        return self._taken(self._to_subscribe, limit, 0), self._taken(
            self._to_unsubscribe, limit, 1
        )

    def subscribed(self, name: str) -> bool:
        """The broker confirmed a SUBSCRIBE; True if the channel's position must be read now.

        Raises:
            UnexpectedConfirmation: None was owed.
        """
        channel = self._confirmed(name, 0)
        if channel.state is not State.SUBSCRIBING:
            return False
        channel.state = State.SETTLING
        channel._kept = deque(maxlen=KEPT_LIMIT)
        return True

    def unsubscribed(self, name: str) -> None:
        """The broker confirmed an UNSUBSCRIBE: the channel is absent, or starts again.

        Raises:
            UnexpectedConfirmation: None was owed.
        """
        channel = self._confirmed(name, 1)
        self._start_again(channel)

    def lost(self) -> None:
        """The broker's connection is gone: everything that is wanted must be subscribed again."""
        self._to_subscribe.clear()
        self._to_unsubscribe.clear()
        for channel in list(self._channels.values()):
            channel._due = [0, 0]
            self._start_again(channel)

    def _start_again(self, channel: Channel[Listener]) -> None:
        if not channel.is_wanted:
            del self._channels[channel.name]
            return
        channel.state = State.SUBSCRIBING
        channel._kept = None
        self._to_subscribe[channel.name] = None

    def _taken(self, wishes: dict[str, None], limit: int, kind: int) -> list[str]:
        names = list(wishes)[:limit] if len(wishes) > limit else list(wishes)
        for name in names:
            del wishes[name]
            self._channels[name]._due[kind] += 1
        return names

    def _confirmed(self, name: str, kind: int) -> Channel[Listener]:
        channel = self._channels.get(name)
        if channel is None or channel._due[kind] == 0:
            raise UnexpectedConfirmation(name)
        channel._due[kind] -= 1
        return channel
