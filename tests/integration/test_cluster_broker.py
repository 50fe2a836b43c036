"""The broker on a real Redis Cluster: a channel follows its slot, and a loss is told."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

from realtime import wiring
from realtime.brokers import ChannelsLost, Message, Subscribed, Unsubscribed
from realtime.brokers.cluster.broker import ClusterBroker
from realtime.brokers.cluster.links import ClusterLinks
from realtime.brokers.cluster.placement import SLOT_LEFT
from realtime.brokers.cluster.subscription import ClusterSubscription
from realtime.core.callbacks import do_nothing
from realtime.core.namespaces import Namespace, Namespaces
from realtime.core.partitions import PARTITIONS, partition_of
from realtime.core.publication import Publication
from realtime.delivery.hub import Hub
from realtime.errors import BrokerUnavailable
from tests.support.eventually import eventually
from tests.support.redis_cluster import PATIENT_SECONDS, ClusterSet, cluster_set

NAMES = [f"chat:{number}" for number in range(100)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterSet]:
    # With full coverage, all masters refuse canaries while one is dead, and if all connections end
    # at once, the subscription ends, too: tests/faults/test_cluster.py has both.
    with cluster_set(3, 3, requires_full_coverage=False) as made:
        yield made


@pytest.fixture
async def broker(cluster: ClusterSet) -> AsyncIterator[ClusterBroker]:
    made = ClusterBroker(cluster.url, prefix=f"t{secrets.token_hex(4)}")
    yield made
    await made.aclose()


class Node:
    """A subscription, and what it has brought."""

    def __init__(self, subscription: ClusterSubscription) -> None:
        self.subscription = subscription
        self.events: list[Any] = []
        self.live: set[str] = set()
        self.listening = asyncio.create_task(subscription.listen(self._receive))

    def _receive(self, events: Sequence[Any]) -> None:
        self.events += events
        for event in events:
            if isinstance(event, Subscribed):
                self.live.add(event.channel)
            elif isinstance(event, ChannelsLost):
                self.live.difference_update(event.channels)

    @property
    def lost(self) -> set[str]:
        return {name for each in self._losses for name in each.channels}

    def lost_because(self, reason: str) -> set[str]:
        return {name for each in self._losses if each.reason == reason for name in each.channels}

    @property
    def _losses(self) -> list[ChannelsLost]:
        return [each for each in self.events if isinstance(each, ChannelsLost)]

    @property
    def heard(self) -> set[str]:
        return {event.channel for event in self.events if isinstance(event, Message)}


@pytest.fixture
async def node(broker: ClusterBroker) -> AsyncIterator[Node]:
    made = Node(await broker.subscription())
    await made.subscription.send(NAMES, [])
    await eventually(lambda: made.live == set(NAMES))
    yield made
    made.listening.cancel()
    await asyncio.gather(made.listening, return_exceptions=True)
    await made.subscription.aclose()


async def test_publications_reach_a_node_through_all_masters(
    broker: ClusterBroker, node: Node
) -> None:
    receipts = [await broker.publish(Publication.of(name, 1)) for name in NAMES]
    assert {(each.offset, each.nodes) for each in receipts} == {(1, 1)}
    await eventually(lambda: node.heard == set(NAMES))
    many = await broker.publish_many([Publication.of(name, 2) for name in NAMES])
    assert {each.offset for each in many} == {2}
    positions = await broker.positions(NAMES)
    assert [each.epoch for each in positions] == [each.epoch for each in receipts]
    assert {each.offset for each in positions} == {2}


async def test_a_channel_can_be_left_and_joined_again(node: Node) -> None:
    await node.subscription.send([], NAMES)
    await eventually(lambda: sum(isinstance(e, Unsubscribed) for e in node.events) == len(NAMES))
    node.live.clear()
    await node.subscription.send(NAMES, [])
    await eventually(lambda: node.live == set(NAMES))


async def test_a_slot_that_moves_takes_only_its_channels_along(
    cluster: ClusterSet, broker: ClusterBroker, node: Node
) -> None:
    partition = partition_of("chat:0")
    source = cluster.owner_of(partition.slot)
    assert source is not None
    target = next(each for each in cluster.masters() if each is not source)
    await asyncio.to_thread(cluster.move_slots, [partition.slot], source, target)
    moved = {name for name in NAMES if partition_of(name) == partition}
    await eventually(lambda: node.live == set(NAMES) and moved <= node.lost)
    # A loaded machine makes canaries late, and then a whole master is lost, for that reason.
    assert node.lost_because(SLOT_LEFT) <= moved
    receipt = await broker.publish(Publication.of("chat:0", 1))
    assert receipt.nodes == 1
    await eventually(lambda: "chat:0" in node.heard)
    await asyncio.to_thread(cluster.move_slots, [partition.slot], target, source)
    await eventually(lambda: node.live == set(NAMES))


async def test_what_was_done_is_not_sent_again_with_what_was_refused(cluster: ClusterSet) -> None:
    """While a slot moves, one key may be here and the next one there already."""
    partition = partition_of("chat:0")
    old, new = (f"t{secrets.token_hex(4)}:{{{partition.tag}}}:{each}" for each in ("old", "new"))
    source = cluster.owner_of(partition.slot)
    assert source is not None
    target = next(each for each in cluster.masters() if each is not source)
    links = ClusterLinks(cluster.url)
    try:
        await links.execute(partition, [("INCR", old)], PATIENT_SECONDS)
        with cluster.moving(source, target) as move:
            move.begin(partition.slot)
            commands = [("INCR", old), ("INCR", new), ("INCR", old)]
            assert await links.execute(partition, commands, PATIENT_SECONDS) == [2, 1, 3]
            move.migrate_keys(partition.slot)
            move.end(partition.slot)
        assert await links.execute(partition, [("GET", old), ("GET", new)], PATIENT_SECONDS) == [
            b"3",
            b"1",
        ]
    finally:
        await links.aclose()
    await asyncio.to_thread(cluster.wait_until_ready)


async def test_a_killed_master_takes_only_its_channels_along(
    cluster: ClusterSet, broker: ClusterBroker, node: Node
) -> None:
    partition = partition_of("chat:0")
    master = cluster.owner_of(partition.slot)
    assert master is not None
    slots = {each.slot for each in PARTITIONS if cluster.owner_of(each.slot) is master}
    master.kill()
    try:
        await eventually(lambda: node.lost)
        with pytest.raises(BrokerUnavailable):
            await broker.publish(Publication.of("chat:0", 1))
        await eventually(lambda: node.live == set(NAMES), 20)
    finally:
        await asyncio.to_thread(master.start)
    # Perhaps others, too: a loaded machine makes canaries late.
    assert {n for n in NAMES if partition_of(n).slot in slots} <= node.lost
    receipt = await broker.publish(Publication.of("chat:0", 1))
    assert receipt.nodes == 1
    await asyncio.to_thread(cluster.wait_until_ready)


async def test_a_hub_lives_on_when_a_master_was_killed(
    cluster: ClusterSet, broker: ClusterBroker
) -> None:
    hub = Hub(broker, Namespaces({}), _no_publish, limits=wiring.limits())
    hub.start()
    channels = [hub.subscriber.want(name, Namespace(), name, do_nothing) for name in NAMES]

    def is_well() -> bool:
        return hub.live and all(channel.is_live for channel in channels)

    try:
        await eventually(is_well)
        await eventually(lambda: hub.lag_seconds > 0)
        master = cluster.owner_of(partition_of("chat:0").slot)
        assert master is not None
        master.kill()
        try:
            await eventually(lambda: hub.lost_channels > 0)
            assert any(channel.is_live for channel in channels)
            await eventually(is_well, 20)
            assert hub.lost_channels == 0
            assert hub.live
        finally:
            await asyncio.to_thread(master.start)
        await broker.publish(Publication.of("chat:0", 1))
        await eventually(lambda: hub.registry.get("chat:0").position.offset == 1)
    finally:
        await hub.stop()
    await asyncio.to_thread(cluster.wait_until_ready)


async def _no_publish(*_: Any) -> Any:
    raise AssertionError("nobody publishes here")
