"""What is said to Redis about the queue for fallbacks, and what its answers mean.

An entry *waits* until a worker takes it into one of its *hands*: a list that holds nothing but what
that hand does just now. It leaves the hand when it was handled, or to be tried again *later*, or to
be *dead*. A hand has a lease that its worker renews; what is in a hand whose lease has ended waits
again.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec
from redis import exceptions

from realtime.brokers import Stats
from realtime.brokers.script import Args, Script
from realtime.errors import EnvelopeError
from realtime.queued import opened

QUEUE_ITEMS = 100_000
"""What may be queued, waiting, later and dead; each has at most 64 KiB and a little."""
QUEUE_BYTES = 256 * 1024 * 1024
"""Of all these together, and of what is in hands: 100,000 of 64 KiB each would be 6.4 GiB."""
LOT = 100
"""Entries that one look moves at most, so that Redis is busy with it for a millisecond at most."""
KNOWN_SECONDS = 3600
"""How long an empty hand is looked into after its lease has ended."""

HOLD = Script("queue.lua", "queue_hold.lua")
LEAVE = Script("queue.lua", "queue_leave.lua")
TEND = Script("queue.lua", "queue_tend.lua")
SETTLE = Script("queue.lua", "queue_settle.lua")
STATS = Script("queue.lua", "queue_stats.lua")
MOVE = Script("queue.lua", "queue_move.lua")

PLACES: Final = ("waiting", "later", "dead")
"""Where an operator may look for entries."""


class Tended(NamedTuple):
    """What was found in a look after the queue."""

    due: int
    taken_over: int
    dead: int
    """Of those that were taken over."""


class QueueKeys(NamedTuple):
    """The names of the queue in Redis, all in one slot."""

    waiting: str
    """List, the next one first."""
    later: str
    """Sorted set, by when each is due (milliseconds since 1970, of Redis' clock)."""
    dead: str
    """List, the oldest first."""
    hands: str
    """Sorted set of the names of hands, by when their leases end."""
    counts: str
    """Hash."""


class QueueCommands:
    """Builds commands and reads replies for one prefix."""

    def __init__(self, prefix: str) -> None:
        queue = f"{prefix}:{{0}}:fallback:"
        self.keys = QueueKeys(*[queue + name for name in QueueKeys._fields])
        self._hand = f"{queue}hand:"

    def take(self, hand: str, seconds: float) -> Args:
        """Return the command that takes the next entry into a hand, or waits for one."""
        return ("BLMOVE", self.keys.waiting, self._hand + hand, "LEFT", "RIGHT", repr(seconds))

    def look(self, hand: str) -> Args:
        """Return the command that tells what is in a hand."""
        return ("LINDEX", self._hand + hand, 0)

    def hold(self, hands: tuple[str, ...], seconds: float) -> Args:
        """Return the command that renews leases."""
        return (*self._call(HOLD), int(seconds * 1000), *hands)

    def leave(self, hands: tuple[str, ...]) -> Args:
        """Return the command that empties hands, and ends their leases."""
        return (*self._call(LEAVE), self._hand, *hands)

    def tend(self, attempts: int, reason: str) -> Args:
        """Return the command that looks after what is due and after leases that have ended."""
        said = msgspec.json.encode(reason)
        return (*self._call(TEND), self._hand, attempts, said, LOT, KNOWN_SECONDS * 1000)

    def settle(
        self, hand: str, raw: bytes, outcome: str, written: bytes = b"", seconds: float = 0.0
    ) -> Args:
        """Return the command that ends an attempt: ``handled``, ``retried`` or ``dead``."""
        call = self._call(SETTLE, self._hand + hand)
        return (*call, raw, outcome, written, int(seconds * 1000))

    def stats(self) -> Args:
        """Return the command that asks how the queue stands."""
        return (*self._call(STATS), self._hand)

    def page(self, place: str, start: int, count: int) -> Args:
        """Return the command that reads entries at a place, from a start on."""
        key = getattr(self.keys, place)
        command = "ZRANGE" if place == "later" else "LRANGE"
        return (command, key, start, start + count - 1)

    def move(self, place: str, raw: bytes, written: bytes = b"") -> Args:
        """Return the command that lets an entry wait as it is written, or forgets it."""
        return (*self._call(MOVE), PLACES.index(place) + 1, raw, written)

    def _call(self, script: Script, *more_keys: str) -> Args:
        keys = (*self.keys, *more_keys)
        return ("EVALSHA", script.digest, len(keys), *keys)


def stats(reply: Any) -> Stats:
    """Read the answer of `queue_stats.lua`.

    Raises:
        RedisError: It refused.
    """
    if isinstance(reply, exceptions.RedisError):
        raise reply
    waiting, in_hand, later, dead, hands, now, oldest, counts = reply
    age = 0.0 if oldest is None else max(0.0, int(now) / 1000 - _published_at(oldest))
    handled, retried, taken_over, given_up, size = [int(count or 0) for count in counts]
    return Stats(
        *(waiting, in_hand, later, dead, hands),
        *(age, handled, retried, taken_over, given_up),
        bytes=size,
    )


def _published_at(raw: bytes) -> float:
    try:
        return opened(raw).published_at
    except EnvelopeError:  # the worker will say so
        return float("inf")
