"""The partitions of a cluster: evenly spread over slots, and the same ones for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from realtime.core.partitions import (
    PARTITIONS,
    SLOTS,
    WHOLE,
    partition_at,
    partition_of,
    slot_of,
)


def test_there_are_64_partitions_near_the_middles_of_equal_ranges_of_slots():
    assert len(PARTITIONS) == 64
    width = SLOTS // 64
    for number, partition in enumerate(PARTITIONS):
        assert partition.number == number
        assert abs(partition.slot - (number * width + width // 2)) <= width // 8
        assert partition_at(partition.slot) is partition
    assert partition_at(0) is None


@pytest.mark.parametrize("masters", [1, 2, 3, 4, 6, 8, 12, 16])
def test_each_of_several_masters_has_about_as_many_partitions(masters: int):
    # The ranges that `redis-cli --cluster create` gives.
    counts = [0] * masters
    for partition in PARTITIONS:
        counts[partition.slot * masters // SLOTS] += 1
    assert max(counts) - min(counts) <= 1


def test_the_partition_of_a_channel_never_changes():
    """A version that disagreed would publish where nobody listens."""
    names = ("chat:lobby", "user:#42", "public:news", "!nodes", "straße")
    assert [partition_of(name).number for name in names] == [5, 38, 60, 17, 13]
    assert "".join(each.tag for each in PARTITIONS[:8]) == "142701177032921736122"


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=20))
def test_the_slot_is_that_of_redis(tag: str):
    if tag and "}" not in tag:
        assert slot_of(tag) == key_slot(f"rt:{{{tag}}}:base".encode())


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=20))
def test_every_channel_has_a_partition(name: str):
    assert partition_of(name) in PARTITIONS


def test_a_channel_of_nodes_may_name_its_partition():
    assert partition_of("!6f1c2a90b4d7e833.07").number == 7
    assert partition_of("!6f1c2a90b4d7e833.63").number == 63
    assert partition_of("!6f1c2a90b4d7e833.99") in PARTITIONS


def test_a_single_redis_keeps_its_names():
    assert (WHOLE.tag, WHOLE.is_sharded) == ("0", False)
