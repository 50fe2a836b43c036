"""Which part of Redis a channel belongs to: always the same one of 64 on Redis Cluster.

A cluster spreads 16,384 slots over its masters. All keys and the Redis channel of one publication
must be in one slot, so each partition has a hash tag of its own (redis.io, "Redis cluster
specification"). The tags lie in the middles of 64 equal ranges of slots, and clusters give each
master one range, so masters have nearly equal numbers of partitions: with tags 0 to 63, one of six
masters had 14 of them and another 7.

A single Redis, also one behind sentinels, is one partition, whose names are those of all versions.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple


class Partition(NamedTuple):
    """A part of the channels and keys, which is in one slot."""

    number: int
    tag: str
    """The hash tag of its names."""
    slot: int
    """Its slot; 0 without a cluster."""
    is_sharded: bool
    """Whether its publications are sent with SPUBLISH, which only its own master knows of."""


WHOLE = Partition(0, "0", 0, is_sharded=False)
"""The only partition of a single Redis."""

SLOTS = 16384
_TAGS = """
14 270 117 703 29 21 736 122 175 761 76 212 148 140 227 43 109 101 266 343 134 720
6 253 68 60 777 163 55 231 156 742 712 106 261 269 133 727 1 9 203 67 770 164 52 236
151 159 13 277 110 118 242 26 731 125 172 766 71 79 753 147 220 44
"""


def slot_of(tag: str) -> int:
    """Return the slot of a hash tag: CRC16 (XMODEM) of it, modulo 16,384."""
    crc = 0
    for byte in tag.encode():
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1
        crc &= 0xFFFF
    return crc % SLOTS


PARTITIONS = tuple(
    Partition(number, tag, slot_of(tag), is_sharded=True)
    for number, tag in enumerate(_TAGS.split())
)
"""The partitions of a cluster. Their number never changes: each channel would begin anew."""

_OF_SLOT = {each.slot: each for each in PARTITIONS}


def partition_of(name: str) -> Partition:
    """Return the partition of a channel of a cluster.

    A channel of nodes may name it: ``!6f1c2a90b4d7e833.07`` belongs to partition 7. Clients cannot
    name such a channel.
    """
    if name[:1] == "!" and name[-3:-2] == "." and name[-2:].isdecimal():
        return PARTITIONS[int(name[-2:]) % len(PARTITIONS)]
    return PARTITIONS[zlib.crc32(name.encode()) % len(PARTITIONS)]


def partition_at(slot: int) -> Partition | None:
    """Return the partition in a slot; None if it is empty."""
    return _OF_SLOT.get(slot)
