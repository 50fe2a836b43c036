"""The fallback queue as its partitions share it, and as if there were one queue. No I/O."""

from __future__ import annotations

from collections.abc import Collection

from realtime.brokers import Stats
from realtime.brokers.fallback_queue import Durability, TendResult
from realtime.core.partitions import PARTITIONS

_FSYNC = ("no", "everysec", "always", "")
"""The weakest first."""
ENTRY_BYTES = 128 * 1024
"""More than any entry has: a publication has at most 64 KiB of data."""


def limits_of_each(items: int, size: int) -> dict[str, int]:
    """Return the limits of each partition, as `Commands` takes them.

    Args:
        items: The limit on the number of entries in all of them.
        size: The limit on their bytes. One entry always fits, so it may be exceeded if it is small.
    """
    count = len(PARTITIONS)
    return {"queue_items": max(1, items // count), "queue_bytes": max(ENTRY_BYTES, size // count)}


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
