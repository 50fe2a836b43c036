"""A part of a Redis Cluster fails, moves, or hands over, while it is under load.

Only the clients whose channels are in that part are told anything.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

import pytest

from realtime.core.partitions import PARTITIONS, partition_of
from tests.support.ledger import Outcome, Told
from tests.support.listener import Listener
from tests.support.redis_cluster import ClusterNode, ClusterSet, cluster_set
from tests.support.scene import FULL, SOMETIMES, Account, Scene, Serve, scene_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800 if FULL else 300)]

TOLD_SECONDS = 5.0
FAILOVER_SECONDS = 20.0
COVERAGE = [pytest.param(True, id="full coverage"), pytest.param(False, id="part coverage")]
if not FULL:
    del COVERAGE[1]


@dataclass
class Parted:
    """A scene whose Redis is a cluster."""

    scene: Scene
    set: ClusterSet

    async def listeners_on(self, slots: Sequence[int]) -> list[Listener]:
        """Return the clients whose channel is in one of these slots."""
        wanted = frozenset(slots)
        found = [
            each for each in self.scene.load.listeners if partition_of(each.channel).slot in wanted
        ]
        assert 0 < len(found) < len(self.scene.load.listeners)
        return found

    async def listeners_of(self, master: ClusterNode) -> list[Listener]:
        return await self.listeners_on(await asyncio.to_thread(self.set.slots_of, master))

    async def a_master(self) -> ClusterNode:
        first, *_ = await asyncio.to_thread(self.set.masters)
        return first

    async def wait_until_ready(self) -> None:
        await asyncio.to_thread(self.set.wait_until_ready, FAILOVER_SECONDS)

    @asynccontextmanager
    async def fault(self, name: str, affected: Sequence[Listener]) -> AsyncIterator[None]:
        """Record a fault, and check that no other client was told anything."""
        load = self.scene.load
        async with load.fault(name, forgets=True) as fault:
            yield
            await load.recovered(FAILOVER_SECONDS)
        concerned = {each.channel for each in affected}
        spans = {
            name: [
                attempt.ended - attempt.began
                for attempt in load.ledger.attempts
                if attempt.channel not in concerned
                and attempt.outcome is Outcome.PUBLISHED
                and (attempt.began >= fault.began) is (name == "during")
            ]
            for name in ("before", "during")
        }
        for name, seconds in spans.items():
            if len(seconds) > 1:
                slowest = quantiles(seconds, n=100)[-1]
                print(f"{fault.name}: other partitions {name} it: p99 {slowest * 1000:.0f} ms")
        for each in load.listeners:
            if each in affected:
                continue
            assert each.journal is not None
            told = [entry for entry in each.journal.entries if isinstance(entry, Told)]
            told = [entry for entry in told if entry.at >= fault.began]
            assert not told, f"{each.name} is not concerned, but was told of {told[:3]}"
            assert not each.was_away_since(fault.began), f"{each.name} is not concerned"


@asynccontextmanager
async def parted_scene(
    serve: Serve,
    account: Account,
    *,
    requires_full_coverage: bool = True,
    runs: int = SOMETIMES,
) -> AsyncIterator[Parted]:
    with cluster_set(3, 3, requires_full_coverage=requires_full_coverage) as found:
        async with scene_of(found.servers[0], serve, account, url=found.url, runs=runs) as scene:
            yield Parted(scene, found)


async def master_killed(parted: Parted) -> None:
    master = await parted.a_master()
    affected = await parted.listeners_of(master)
    async with parted.fault("a master is killed", affected):
        await asyncio.to_thread(master.kill)
        await parted.scene.load.told(TOLD_SECONDS, of=affected)
    await asyncio.to_thread(master.start)
    await parted.wait_until_ready()


async def master_frozen(parted: Parted) -> None:
    """When it wakes up, it carries out what waits in its sockets, and sends it to the others."""
    master = await parted.a_master()
    affected = await parted.listeners_of(master)
    async with parted.fault("a master is frozen", affected):
        await asyncio.to_thread(master.freeze)
        await parted.scene.load.told(TOLD_SECONDS, of=affected)
        await parted.scene.load.recovered(FAILOVER_SECONDS)
        await asyncio.to_thread(master.thaw)
        await parted.wait_until_ready()


async def handed_over(parted: Parted) -> None:
    master = await parted.a_master()
    affected = await parted.listeners_of(master)
    replica = await asyncio.to_thread(parted.set.replica_of, master)
    async with parted.fault("CLUSTER FAILOVER", affected):
        await asyncio.to_thread(parted.set.failover, replica)


@pytest.mark.parametrize("requires_full_coverage", COVERAGE)
@pytest.mark.parametrize("fail", [master_killed, master_frozen, handed_over])
async def test_a_failing_master_concerns_its_own_channels_only(
    fail: Callable[[Parted], Awaitable[None]],
    serve: Serve,
    account: Account,
    requires_full_coverage: bool,
) -> None:
    """With full coverage, nobody can publish before the replica takes over; all others wait."""
    async with parted_scene(
        serve, account, requires_full_coverage=requires_full_coverage
    ) as parted:
        await parted.scene.again_and_again(lambda _: fail(parted), SOMETIMES)


async def moved_by_keys(parted: Parted, source: ClusterNode, target: ClusterNode) -> None:
    """A third of the slots of a master, as redis-cli moves them."""
    await _move(parted, source, target, parted.set.move_slots)


async def moved_by_the_server(parted: Parted, source: ClusterNode, target: ClusterNode) -> None:
    if not await asyncio.to_thread(lambda: parted.set.can_migrate_slots):
        pytest.skip("this server has no CLUSTER MIGRATESLOTS")
    await _move(parted, source, target, parted.set.migrate_slots)


async def _move(
    parted: Parted, source: ClusterNode, target: ClusterNode, move: Callable[..., None]
) -> None:
    slots = await asyncio.to_thread(parted.set.slots_of, source)
    moved = slots[: len(slots) // 3]
    if not FULL:  # all that has channels, and some more
        with_channels = {each.slot for each in PARTITIONS}
        moved = [slot for slot in moved if slot in with_channels or slot % 20 == 0]
    affected = await parted.listeners_on(moved)
    async with parted.fault("slots move", affected):
        await asyncio.to_thread(move, moved, source, target)


@pytest.mark.parametrize("move", [moved_by_keys, moved_by_the_server])
async def test_slots_that_move_concern_their_own_channels_only(
    move: Callable[[Parted, ClusterNode, ClusterNode], Awaitable[None]],
    serve: Serve,
    account: Account,
) -> None:
    async with parted_scene(serve, account) as parted:
        one, other, *_ = await asyncio.to_thread(parted.set.masters)

        async def there_and_back(_: Scene) -> None:
            await move(parted, one, other)
            await move(parted, other, one)

        await parted.scene.again_and_again(there_and_back, SOMETIMES)


async def test_a_master_and_its_replica_are_gone(serve: Serve, account: Account) -> None:
    """The clients of its channels wait; the node is ready, and says how many channels are lost."""
    async with parted_scene(serve, account, requires_full_coverage=False, runs=1) as parted:
        load = parted.scene.load
        master = await parted.a_master()
        replica = await asyncio.to_thread(parted.set.replica_of, master)
        affected = await parted.listeners_of(master)
        async with parted.fault("a master and its replica are gone", affected):
            began = time.monotonic()
            await asyncio.to_thread(replica.kill)
            await asyncio.to_thread(master.kill)
            await load.told(TOLD_SECONDS, of=affected)
            await load.run(3)
            assert not any(each.is_live for each in affected)
            assert all(each.is_live for each in load.listeners if each not in affected)
            probe = await asyncio.to_thread(_readyz, parted.scene.nodes[0].port)
            assert probe["status"] == "live"
            assert probe["lost_channels"] >= len({each.channel for each in affected})
            await asyncio.to_thread(master.start)
            await asyncio.to_thread(replica.start)
            await load.recovered(FAILOVER_SECONDS)
        assert all(each.was_away_since(began) for each in affected)
        await parted.wait_until_ready()


async def test_a_cluster_grows_and_shrinks(serve: Serve, account: Account) -> None:
    async with parted_scene(serve, account, runs=1) as parted:
        first, *_ = await asyncio.to_thread(parted.set.masters)
        added = await asyncio.to_thread(parted.set.add_master)
        await moved_by_keys(parted, first, added)
        slots = await asyncio.to_thread(parted.set.slots_of, added)
        affected = await parted.listeners_on(slots)
        async with parted.fault("the added master is emptied", affected):
            await asyncio.to_thread(parted.set.move_slots, slots, added, first)
        await parted.scene.load.run(1)
        await asyncio.to_thread(parted.set.remove, added)
        await parted.scene.load.run(1)


async def test_a_rolling_upgrade(serve: Serve, account: Account) -> None:
    """Each server is restarted: replicas as they are, masters after they have handed over.

    In the small size, only one of each.
    """
    async with parted_scene(serve, account, runs=1) as parted:
        for server in parted.set.servers if FULL else parted.set.servers[2:4]:
            if server in await asyncio.to_thread(parted.set.masters):
                replica = await asyncio.to_thread(parted.set.replica_of, server)
                affected = await parted.listeners_of(server)
                async with parted.fault("a master hands over", affected):
                    await asyncio.to_thread(parted.set.failover, replica)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await parted.wait_until_ready()


def _readyz(port: int) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as response:
        return json.load(response)
