"""What the partitions of the fallback queue say, as if there were one queue. No I/O."""

from __future__ import annotations

from collections.abc import Collection

from realtime.brokers import Stats
from realtime.brokers.fallback_queue import Durability, TendResult

_FSYNC = ("no", "everysec", "always", "")
"""The weakest first."""


def sum_stats(parts: Collection[Stats]) -> Stats:
    """Return the state of the queue.

    A hand has a lease in each partition, so the hands are those of the partition with most of them:
    a master may have been away when the others were renewed. The oldest entry is the oldest of
    those that are next in their partition.
    """
    sums = Stats(*map(sum, zip(*parts, strict=True)))
    return sums._replace(
        hands=max(part.hands for part in parts),
        oldest_seconds=max(part.oldest_seconds for part in parts),
    )


def sum_tended(parts: Collection[TendResult]) -> TendResult:
    """Return the numbers of all entries that were moved."""
    return TendResult(*map(sum, zip(*parts, strict=True)))


def weakest(parts: Collection[Durability]) -> Durability:
    """Return what is true of all masters: each of them has a part of the queue."""
    evictions = {part.eviction for part in parts}
    return Durability(
        aof=all(part.aof for part in parts),
        fsync=min((part.fsync for part in parts), key=_strength),
        eviction=max(evictions, key=lambda each: (each not in ("", "noeviction"), each)),
        restores=all(part.restores for part in parts),
    )


def _strength(fsync: str) -> int:
    return _FSYNC.index(fsync) if fsync in _FSYNC else 0
