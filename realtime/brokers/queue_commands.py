"""Builds commands about the fallback queue for Redis, and parses the replies.

An entry is *waiting* until a worker takes it into one of its *hands*: a list that contains only the
entry being handled. The entry leaves the hand when it is handled, is retried *later*, or is *dead*.
A hand has a lease that its worker renews; when the lease expires, the entry in the hand is waiting
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from redis import exceptions

from realtime.brokers import Stats
from realtime.brokers.bounds import KNOWN_SECONDS, QUEUE_LOT
from realtime.brokers.fallback_queue import PLACES, Durability
from realtime.brokers.script import Args, Script
from realtime.core.fallback_entry import decode_entry
from realtime.core.partitions import WHOLE
from realtime.errors import EnvelopeError

if TYPE_CHECKING:
    from realtime.core.partitions import Partition


DURABILITY: Sequence[Args] = (
    ("INFO",),
    ("CONFIG", "GET", "appendfsync"),
    ("CONFIG", "GET", "save"),
)
"""The commands that read the durability settings; see `parse_durability`."""


class QueueScripts(NamedTuple):
    """The scripts of the commands about the queue."""

    take: Script
    renew_leases: Script
    release: Script
    tend: Script
    end_attempt: Script
    stats: Script
    move: Script


SCRIPTS = QueueScripts(
    # Allowed when Redis is full: the queue may be what fills it, and workers must be able to drain
    # it.
    Script("queue_take.lua", allow_oom=True),
    Script("queue.lua", "queue_renew.lua", allow_oom=True),
    Script("queue.lua", "queue_release.lua", allow_oom=True),
    Script("queue.lua", "queue_tend.lua", allow_oom=True),
    Script("queue.lua", "queue_end_attempt.lua", allow_oom=True),
    Script("queue.lua", "queue_stats.lua"),
    Script("queue.lua", "queue_move.lua", allow_oom=True),
)


class QueueKeys(NamedTuple):
    """The names of the queue's keys in Redis, all in one slot."""

    waiting: str
    """List, the next entry first."""
    later: str
    """Sorted set, by due time (milliseconds since 1970, by Redis' clock)."""
    dead: str
    """List, the oldest entry first."""
    hands: str
    """Sorted set of the names of hands, by the end of their leases."""
    counts: str
    """Hash."""


class QueueCommands:
    """Builds commands and reads replies for one partition of one prefix."""

    def __init__(self, prefix: str, partition: Partition = WHOLE) -> None:
        queue = f"{prefix}:{{{partition.tag}}}:fallback:"
        self.scripts = QueueScripts(*[script.of(partition) for script in SCRIPTS])
        """The scripts that the commands call."""
        self.keys = QueueKeys(*[queue + name for name in QueueKeys._fields])
        self._hand = f"{queue}hand:"

    @property
    def wake_up(self) -> str:
        """The channel of Redis on which a partition of a cluster announces that entries wait."""
        return self.keys.waiting

    def take(self, hand: str, seconds: float) -> Args:
        """Return the command that moves the next entry into a hand, or waits for one."""
        return ("BLMOVE", self.keys.waiting, self._hand + hand, "LEFT", "RIGHT", repr(seconds))

    def take_now(self, hand: str) -> Args:
        """Return the command that takes an entry at once; it works even if Redis is full."""
        return ("EVALSHA", self.scripts.take.digest, 2, self.keys.waiting, self._hand + hand)

    def peek(self, hand: str) -> Args:
        """Return the command that reads the first entry in a hand."""
        return ("LINDEX", self._hand + hand, 0)

    def renew_leases(self, hands: tuple[str, ...], seconds: float) -> Args:
        """Return the command that renews leases."""
        return (*self._call(self.scripts.renew_leases), int(seconds * 1000), *hands)

    def release(self, hands: tuple[str, ...]) -> Args:
        """Return the command that requeues the entries of hands, and ends their leases."""
        return (*self._call(self.scripts.release), self._hand, *hands)

    def tend(self, attempts: int, reason: str) -> Args:
        """Return the command that requeues due entries and those of expired leases."""
        said = msgspec.json.encode(reason)
        return (
            *self._call(self.scripts.tend),
            self._hand,
            attempts,
            said,
            QUEUE_LOT,
            KNOWN_SECONDS * 1000,
        )

    def end_attempt(
        self, hand: str, raw: bytes, outcome: str, written: bytes = b"", seconds: float = 0.0
    ) -> Args:
        """Return the command that ends an attempt: ``handled``, ``retried`` or ``dead``."""
        call = self._call(self.scripts.end_attempt, self._hand + hand)
        return (*call, raw, outcome, written, int(seconds * 1000))

    def stats(self) -> Args:
        """Return the command that reads the state of the queue."""
        return (*self._call(self.scripts.stats), self._hand)

    def length(self, place: str) -> Args:
        """Return the command that counts the entries at a place."""
        return ("ZCARD" if place == "later" else "LLEN", getattr(self.keys, place))

    def page(self, place: str, start: int, count: int) -> Args:
        """Return the command that reads ``count`` entries at a place, beginning at ``start``."""
        key = getattr(self.keys, place)
        command = "ZRANGE" if place == "later" else "LRANGE"
        return (command, key, start, start + count - 1)

    def move(self, place: str, raw: bytes, written: bytes = b"") -> Args:
        """Return the command that requeues an entry as ``written``, or deletes it without one."""
        return (*self._call(self.scripts.move), PLACES.index(place) + 1, raw, written)

    def _call(self, script: Script, *more_keys: str) -> Args:
        keys = (*self.keys, *more_keys)
        return ("EVALSHA", script.digest, len(keys), *keys)


def parse_stats(reply: Any) -> Stats:
    """Parse the reply of ``queue_stats.lua``.

    Raises:
        RedisError: Redis refused.
    """
    if isinstance(reply, exceptions.RedisError):
        raise reply
    waiting, in_hand, later, dead, hands, now, oldest, counts = reply
    age = 0.0 if oldest is None else max(0.0, int(now) / 1000 - _read_time(oldest))
    handled, retried, taken_over, given_up, size = [int(count or 0) for count in counts]
    return Stats(
        *(waiting, in_hand, later, dead, hands),
        *(age, handled, retried, taken_over, given_up),
        bytes=size,
    )


def parse_durability(replies: Sequence[Any]) -> Durability:
    """Parse the replies to `DURABILITY`, of which the first is not an error."""
    info, fsync, save = replies
    lines = info.decode(errors="replace").splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    return Durability(
        aof=facts.get("aof_enabled") == "1",
        fsync=_second(fsync),
        eviction=facts.get("maxmemory_policy", ""),
        restores=bool(_second(save)),
    )


def _second(reply: Any) -> str:
    """Return the value in a reply to CONFIG GET; empty if the command is not permitted."""
    if isinstance(reply, exceptions.RedisError) or len(reply) < 2:
        return ""
    return bytes(reply[1]).decode()


def _read_time(raw: bytes) -> float:
    try:
        return decode_entry(raw).published_at
    except EnvelopeError:  # the worker reports the error
        return float("inf")
