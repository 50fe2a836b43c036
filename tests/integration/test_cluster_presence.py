"""Presence on a real Redis Cluster: leases in partitions, and masters that are away or replaced."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from realtime.brokers.cluster.links import ClusterLinks
from realtime.brokers.cluster.presence import NAMES_LIMIT, ClusterPresence
from realtime.core.members import LEASE_SECONDS, MemberUpdate
from realtime.core.partitions import PARTITIONS, Partition, partition_of
from realtime.delivery.presence_writer import PresenceWriter
from realtime.errors import BrokerError
from tests.contract import test_broker as contract
from tests.support.eventually import eventually
from tests.support.machine import in_time
from tests.support.redis_cluster import (
    HASTY_SECONDS,
    PATIENT_SECONDS,
    ClusterSet,
    cluster_set,
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterSet]:
    """Three masters that no test breaks."""
    with cluster_set() as made:
        yield made


@pytest.fixture
def weak() -> Iterator[ClusterSet]:
    """Three masters to be frozen; the others go on."""
    with cluster_set(requires_full_coverage=False) as made:
        yield made


@pytest.fixture
def prefix() -> str:
    return f"test-{secrets.token_hex(4)}"


MakePresence = Callable[..., ClusterPresence]


@pytest.fixture
async def make(prefix: str) -> AsyncIterator[MakePresence]:
    """Create the presence of one more node."""
    opened: list[ClusterLinks] = []

    def make_one(cluster: ClusterSet, seconds: float = PATIENT_SECONDS) -> ClusterPresence:
        opened.append(ClusterLinks(cluster.url))
        return ClusterPresence(prefix, opened[-1], seconds)

    yield make_one
    for links in opened:
        await links.aclose()


@pytest.fixture
def presence(cluster: ClusterSet, make: MakePresence) -> ClusterPresence:
    return make(cluster)


def channel_in(partition: Partition, number: int = 0) -> str:
    """Return a channel of a partition, another one for each number."""
    names = (f"c{n}" for n in count() if partition_of(f"c{n}") is partition)
    for _ in range(number):
        next(names)
    return next(names)


def join(channel: str, number: int = 1) -> MemberUpdate:
    one = contract.member(number)
    return MemberUpdate(channel, {one.client: one}, True, True)


def ask(cluster: ClusterSet, partition: Partition, *command: str | int) -> Any:
    """Ask the master of a partition."""
    owner = cluster.owner_of(partition.slot)
    assert owner is not None
    return owner.ask(*command)


def lease_of(cluster: ClusterSet, prefix: str, partition: Partition, node: str) -> float | None:
    """Return the end of a node's lease in a partition, in milliseconds."""
    ends = ask(cluster, partition, "ZSCORE", f"{prefix}:{{{partition.tag}}}:nodes", node)
    return None if ends is None else float(ends)


def expire(cluster: ClusterSet, prefix: str, partition: Partition, node: str) -> None:
    """Let the lease of a node expire in a partition."""
    ask(cluster, partition, "ZADD", f"{prefix}:{{{partition.tag}}}:nodes", 1, node)


async def test_channels_of_all_partitions_are_counted(presence) -> None:
    channels = [f"room-{n}" for n in range(200)]
    assert len({partition_of(channel) for channel in channels}) == len(PARTITIONS)
    await presence.lease("aa", is_new=True)
    for n, channel in enumerate(channels):
        members = [join(channel, m) for m in range(n % 3)]
        assert not await presence.change("aa", members)
    found = await presence.headcounts([*channels, "empty", channels[1]])
    clients = {channel: n % 3 for n, channel in enumerate(channels)}
    assert {name: each.clients for name, each in found.items()} == {**clients, "empty": 0}
    assert all(each.users == min(1, each.clients) for each in found.values())
    assert await presence.keep("aa", ["empty", *channels]) == ["empty", *channels[::3]]
    assert not await presence.sweep("aa", is_leaving=True)
    assert {each.clients for each in (await presence.headcounts(channels)).values()} == {0}


async def test_a_node_has_leases_where_it_has_members_and_renews_all_of_them(
    presence, cluster, prefix
) -> None:
    used, unused = PARTITIONS[:40:13], PARTITIONS[50]
    assert await presence.lease("aa", is_new=True) == (True, ())
    assert lease_of(cluster, prefix, used[0], "aa") is None
    await presence.change("aa", [join(channel_in(each)) for each in used])
    assert await presence.members(channel_in(used[0])), "members without a lease are hidden"
    before = [lease_of(cluster, prefix, each, "aa") for each in used]
    await asyncio.sleep(0.01)
    assert await presence.lease("aa", is_new=False) == (True, ())
    for each, ended in zip(used, before, strict=True):
        assert lease_of(cluster, prefix, each, "aa") > ended
    assert lease_of(cluster, prefix, unused, "aa") is None


async def test_a_node_that_was_swept_in_one_partition_is_not_known(
    presence, make, cluster, prefix
) -> None:
    other = make(cluster)
    one, two = PARTITIONS[1], PARTITIONS[2]
    for node, store in (("aa", presence), ("bb", other)):
        await store.lease(node, is_new=True)
        await store.change(node, [join(channel_in(one)), join(channel_in(two), 2)])
    expire(cluster, prefix, one, "aa")
    assert (await presence.lease("aa", is_new=False)).is_known, "it expired, and nobody noticed"
    expire(cluster, prefix, one, "aa")
    assert (await other.lease("bb", is_new=False)).gone == ("aa",)
    assert not await other.sweep("aa")
    assert not (await presence.lease("aa", is_new=False)).is_known
    assert [each.clients for each in (await other.headcounts([channel_in(two)])).values()] == [1]
    assert not await presence.sweep("aa", is_leaving=True), "it removes the rest itself"
    assert lease_of(cluster, prefix, two, "aa") is None


async def test_a_dead_node_is_removed_where_its_lease_has_expired(
    presence, make, cluster, prefix
) -> None:
    other = make(cluster)
    places = PARTITIONS[3:6]
    for node, store in (("aa", presence), ("bb", other)):
        await store.lease(node, is_new=True)
        await store.change(node, [join(channel_in(each), int(node, 16)) for each in places])
    for each in places[:2]:
        expire(cluster, prefix, each, "bb")
    channels = [channel_in(each) for each in places]
    assert [each.clients for each in (await presence.headcounts(channels)).values()] == [1, 1, 2]
    assert await presence.lease("aa", is_new=False) == (True, ("bb",))
    assert not await presence.sweep("bb")
    assert [lease_of(cluster, prefix, each, "bb") is None for each in places] == [True, True, False]
    assert await presence.lease("aa", is_new=False) == (True, ())
    assert not await presence.sweep("bb"), "nobody says any more that it is gone"


async def test_names_are_forgotten_when_there_are_many(presence) -> None:
    names = [f"{n:02x}" for n in range(NAMES_LIMIT + 1)]
    for name in names:
        await presence.lease(name, is_new=True)
        await presence.change(name, [join(channel_in(PARTITIONS[0]), int(name, 16))])
    assert not (await presence.lease(names[0], is_new=False)).is_known
    for name in names[1:]:
        assert (await presence.lease(name, is_new=False)).is_known


async def test_the_others_go_on_while_a_master_is_frozen(weak, make, prefix) -> None:
    presence, reader = make(weak, HASTY_SECONDS), make(weak, HASTY_SECONDS)
    frozen = weak.masters()[0]
    slots = set(weak.slots_of(frozen))
    lost = [channel_in(each) for each in PARTITIONS if each.slot in slots]
    kept = [channel_in(each) for each in PARTITIONS if each.slot not in slots]
    assert lost
    assert kept
    await presence.lease("aa", is_new=True)
    assert not await presence.change("aa", [join(channel) for channel in lost + kept])
    frozen.freeze()
    alive = asyncio.get_running_loop().time() + LEASE_SECONDS + 1
    unwritten = await presence.change("aa", [join(channel, 2) for channel in lost + kept])
    assert sorted(unwritten) == sorted(lost)
    while asyncio.get_running_loop().time() < alive:
        assert await presence.lease("aa", is_new=False) == (True, ())
        await asyncio.sleep(0.2)
    assert await presence.keep("aa", lost + kept) == []
    assert {each.clients for each in (await reader.headcounts(kept)).values()} == {2}
    assert (await presence.headcounts(lost + kept)).keys() == set(kept)
    with pytest.raises(BrokerError):
        await presence.headcounts(lost)
    with pytest.raises(BrokerError):
        await presence.change("aa", [join(channel, 2) for channel in lost])
    assert not await presence.sweep("aa", is_leaving=True)
    assert {each.clients for each in (await reader.headcounts(kept)).values()} == {0}
    frozen.thaw()
    await eventually(lambda: _are_hidden(reader, lost))


async def _are_hidden(reader: ClusterPresence, channels: list[str]) -> bool:
    try:
        return {each.clients for each in (await reader.headcounts(channels)).values()} == {0}
    except BrokerError:
        return False


async def test_the_writer_writes_what_it_can(weak, make) -> None:
    """A join there was not written while another one could not be, and its client waited."""
    store, reader = make(weak, HASTY_SECONDS), make(weak, HASTY_SECONDS)
    frozen = weak.masters()[0]
    slots = set(weak.slots_of(frozen))
    lost = next(channel_in(each) for each in PARTITIONS if each.slot in slots)
    kept = next(channel_in(each) for each in PARTITIONS if each.slot not in slots)
    writer = PresenceWriter(SimpleNamespace(presence=store))  # type: ignore[arg-type]
    keeping = asyncio.create_task(writer.keep())
    await asyncio.sleep(0)
    try:
        writer.join("before", contract.member(1), is_announced=False)
        await writer.wait_until_written("before")
        frozen.freeze()
        for channel in (lost, kept):
            writer.join(channel, contract.member(2), is_announced=False)
        await in_time(writer.wait_until_written(kept), 10)
        assert len(await reader.members(kept)) == 1
        waiting = asyncio.create_task(writer.wait_until_written(lost))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        frozen.thaw()
        await in_time(waiting, 20)
        assert len(await reader.members(lost)) == 1
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await writer.aclose()
    assert await reader.members(kept) == {}


async def test_a_node_starts_again_when_a_master_was_replaced(make) -> None:
    """The new master may lack the last joins and leaves; nothing else would write them again."""
    with cluster_set(3, 3) as strong:
        presence = make(strong)
        here, there = PARTITIONS[0], PARTITIONS[-1]
        await presence.lease("aa", is_new=True)
        await presence.change("aa", [join(channel_in(each)) for each in (here, there)])
        assert (await presence.lease("aa", is_new=False)).is_known
        owner = strong.owner_of(here.slot)
        assert owner is not None
        owner.kill()
        strong.wait_until_ready()

        async def is_unknown() -> bool:
            return not (await presence.lease("aa", is_new=False)).is_known

        await eventually(is_unknown)
        await presence.lease("bb", is_new=True)
        await presence.change("bb", [join(channel_in(each)) for each in (here, there)])
        assert not await presence.sweep("aa", is_leaving=True)
        channels = [channel_in(each) for each in (here, there)]
        assert [each.clients for each in (await presence.headcounts(channels)).values()] == [1, 1]
        assert (await presence.lease("bb", is_new=False)).is_known


async def test_members_move_with_their_slot(cluster, presence, make) -> None:
    partition, reader = PARTITIONS[7], make(cluster)
    channels = [channel_in(partition, n) for n in range(50)]
    await presence.lease("aa", is_new=True)
    await presence.change("aa", [join(channel) for channel in channels])
    source = cluster.owner_of(partition.slot)
    target = next(each for each in cluster.masters() if each is not source)
    moving = asyncio.create_task(
        asyncio.to_thread(cluster.move_slots, [partition.slot], source, target)
    )
    while not moving.done():
        # A busy machine may not answer in time; what it answers is right.
        counts = await eventually(lambda: reader.headcounts(channels))
        assert {each.clients for each in counts.values()} == {1}
        assert len(await eventually(lambda: reader.members(channels[-1]))) == 1
    await moving
    assert not (await presence.lease("aa", is_new=False)).is_known, "it has another history"
    assert not await presence.sweep("aa", is_leaving=True)
    assert {each.clients for each in (await reader.headcounts(channels)).values()} == {0}
