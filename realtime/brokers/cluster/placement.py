"""Which channels a node has subscribed to at which master, and what each reply means.

A master ends a subscription without being asked when another one gets its slot, and refuses new
ones with an error that names no channel. So a PING with a number follows each command: what is not
confirmed when its pong arrives is not subscribed. A partition that a master has lost waits for its
new one; its channels are *lost* until they are confirmed there.

The module uses no socket and no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from redis import exceptions

from realtime.brokers import ChannelsLost, Message, Subscribed, Unsubscribed
from realtime.brokers.cluster.slots import RefusalKind, refusal_of
from realtime.core.partitions import partition_of

if TYPE_CHECKING:
    from realtime.brokers import Event
    from realtime.core.redis_url import Address


SLOT_LEFT = "a slot has left its master"
NOT_CONFIRMED = "a master did not confirm a subscription"


class PlacementRequest(NamedTuple):
    """A command for a master, to be followed by a PING with the number."""

    master: Address
    is_subscribe: bool
    partition: int
    names: tuple[str, ...]
    number: int


@dataclass
class _Sent:
    """A command whose pong has not arrived."""

    is_subscribe: bool
    partition: int
    number: int
    due: set[str]
    """The channels that are not confirmed yet; none once the partition has left the master."""


@dataclass
class _Held:
    """The channels of a partition."""

    names: dict[str, bool] = field(default_factory=dict)
    """Whether the subscription is confirmed."""
    leaving: set[str] = field(default_factory=set)
    """Those whose end has been requested."""
    master: Address | None = None
    is_reported: bool = False
    """Whether a partition without a master was reported as lost, with all its channels."""


class ShardPlacement:
    """See the module."""

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}
        self._sent: dict[Address, deque[_Sent]] = {}
        self._channels: dict[Address, dict[bytes, str]] = {}
        """The confirmed channels by their names in Redis."""
        self._number = 0
        self.moved: list[tuple[int, Address]] = []
        """The masters that refusals have named, by the number of the partition, to be taken."""

    @property
    def unplaced(self) -> list[int]:
        """The numbers of the partitions that have channels, and no master yet."""
        return [number for number, held in self._held.items() if held.master is None]

    def masters(self) -> set[Address]:
        """Return the masters that have a partition."""
        return {held.master for held in self._held.values() if held.master is not None}

    def partitions_at(self, master: Address) -> list[int]:
        """Return the numbers of the partitions at a master."""
        return [number for number, held in self._held.items() if held.master == master]

    def subscribe(self, names: Iterable[str]) -> list[PlacementRequest]:
        """Add channels; return the commands for those whose partition has a master."""
        added: dict[int, list[str]] = {}
        for name in names:
            number = partition_of(name).number
            held = self._held.setdefault(number, _Held())
            held.names[name] = held.is_reported = False
            added.setdefault(number, []).append(name)
        return [
            self._request(held.master, number, names, is_subscribe=True)
            for number, names in added.items()
            if (held := self._held[number]).master is not None
        ]

    def unsubscribe(self, names: Iterable[str]) -> tuple[list[PlacementRequest], list[Event]]:
        """Remove channels; return the commands, and the events of those without a master."""
        requests: list[PlacementRequest] = []
        events: list[Event] = []
        removed: dict[int, list[str]] = {}
        for name in names:
            number = partition_of(name).number
            if (known := self._held.get(number)) is not None and name in known.names:
                removed.setdefault(number, []).append(name)
            else:
                events.append(Unsubscribed(name))
        for number, some in removed.items():
            held = self._held[number]
            held.leaving.update(some)
            if held.master is None:
                events += self._end_leaving(number)
            else:
                requests.append(self._request(held.master, number, some, is_subscribe=False))
        return requests, events

    def place(self, number: int, master: Address) -> list[PlacementRequest]:
        """Subscribe to a partition at its master; return the commands."""
        held = self._held[number]
        assert held.master is None  # noqa: S101 - see `unplaced`
        held.master, held.is_reported = master, False
        return [self._request(master, number, list(held.names), is_subscribe=True)]

    def lose(self, master: Address, reason: str) -> list[Event]:
        """Record that the connection to a master is gone; return the events."""
        lost = self.partitions_at(master)
        events = [event for number in lost for event in self.unplace(number, reason)]
        self._sent.pop(master, None)
        self._channels.pop(master, None)
        return events

    def unplace(self, number: int, reason: str) -> list[Event]:
        """Record that a partition has left its master; return the events."""
        held = self._held[number]
        if (master := held.master) is not None:
            channels = self._channels.get(master, {})
            for raw in [raw for raw, name in channels.items() if name in held.names]:
                del channels[raw]
            for sent in self._sent.get(master, ()):
                if sent.partition == number:
                    sent.due.clear()
        held.master = None
        events = self._end_leaving(number)
        if held.names:
            held.names = dict.fromkeys(held.names, False)
            held.is_reported = True
            events.append(ChannelsLost(tuple(held.names), reason))
        return events

    def report_lost(self, numbers: Iterable[int], reason: str) -> list[Event]:
        """Return the events of partitions that cannot be placed now; once, until that changes."""
        events: list[Event] = []
        for number in numbers:
            held = self._held[number]
            if held.master is None and not held.is_reported:
                held.is_reported = True
                events.append(ChannelsLost(tuple(held.names), reason))
        return events

    def take(self, master: Address, reply: Any) -> list[Event]:
        """Process what a master has sent; return the events.

        Raises:
            RedisError: It refuses for good, or has sent something unknown.
        """
        if type(reply) is list and len(reply) == 3:
            kind, raw, payload = reply
            if kind == b"smessage" and type(payload) is bytes:
                name = self._channels.get(master, {}).get(raw)
                return [] if name is None else [Message(name, payload)]
            if kind == b"ssubscribe":
                return self._note_subscribed(master, raw)
            if kind == b"sunsubscribe":
                return self._note_unsubscribed(master, raw)
        if isinstance(reply, Exception):
            return self._note_refusal(master, reply)
        # As long as nothing is subscribed, the answer to PING is not a list.
        number = reply[1] if type(reply) is list and reply[:1] == [b"pong"] else reply
        if type(number) is bytes and number.isdigit():
            return self._note_pong(master, int(number))
        raise exceptions.ConnectionError(f"Redis sent {reply!r:.100} to a subscriber")

    # ------------------------------------------------------------------ replies

    def _note_subscribed(self, master: Address, raw: bytes) -> list[Event]:
        name = _name_of(raw)
        sent = self._sent.get(master)
        if not sent or not sent[0].is_subscribe or name not in sent[0].due:
            return []  # it was lost meanwhile
        sent[0].due.discard(name)
        self._held[sent[0].partition].names[name] = True
        self._channels.setdefault(master, {})[raw] = name
        return [Subscribed(name)]

    def _note_unsubscribed(self, master: Address, raw: bytes) -> list[Event]:
        name = _name_of(raw)
        number = partition_of(name).number
        held = self._held.get(number)
        if held is None or held.master != master or name not in held.names:
            return []
        if name not in held.leaving:
            return self.unplace(number, SLOT_LEFT)  # nobody has asked for it
        self._channels.get(master, {}).pop(raw, None)
        return self._forget(number, name)

    def _note_refusal(self, master: Address, error: Exception) -> list[Event]:
        refusal = refusal_of([error], master)
        sent = self._sent.get(master)
        if refusal is None or not sent:
            raise error
        if not sent[0].due:
            return []  # it was lost meanwhile
        number = sent[0].partition
        if refusal.kind is RefusalKind.MOVED and refusal.address is not None:
            self.moved.append((number, refusal.address))
        return self._unplace_from(master, number, str(error))

    def _note_pong(self, master: Address, number: int) -> list[Event]:
        sent = self._sent.get(master, deque())
        events: list[Event] = []
        while sent and sent[0].number <= number:
            done = sent.popleft()
            if done.is_subscribe and done.due:
                events += self._unplace_from(master, done.partition, NOT_CONFIRMED)
            for name in () if done.is_subscribe else sorted(done.due):
                if (held := self._held.get(done.partition)) and name in held.leaving:
                    events += self._forget(done.partition, name)
        return events

    # ------------------------------------------------------------------ helpers

    def _request(
        self, master: Address, number: int, names: Sequence[str], *, is_subscribe: bool
    ) -> PlacementRequest:
        self._number += 1
        sent = _Sent(is_subscribe, number, self._number, set(names))
        self._sent.setdefault(master, deque()).append(sent)
        return PlacementRequest(master, is_subscribe, number, tuple(names), self._number)

    def _unplace_from(self, master: Address, number: int, reason: str) -> list[Event]:
        """Like `unplace`, unless the partition is at another master, or not needed, by now."""
        held = self._held.get(number)
        return [] if held is None or held.master != master else self.unplace(number, reason)

    def _end_leaving(self, number: int) -> list[Event]:
        leaving = sorted(self._held[number].leaving)
        return [event for name in leaving for event in self._forget(number, name)]

    def _forget(self, number: int, name: str) -> list[Event]:
        """Remove a channel; return the confirmations that are due."""
        held = self._held[number]
        held.leaving.discard(name)
        was_confirmed = held.names.pop(name)
        if not held.names:
            del self._held[number]
        ended: list[Event] = [Unsubscribed(name)]
        return ended if was_confirmed else [Subscribed(name), *ended]


def _name_of(raw: bytes) -> str:
    """Return the channel of a name in Redis, such as ``rt:{14}:ch:chat:lobby``."""
    return raw.partition(b"}:ch:")[2].decode()
