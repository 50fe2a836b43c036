"""Redis under load fails over, returns with older data, or loads slowly.

This is what a failover looks like behind a single address (DNS, a proxy, Sentinel's announced
master): connections reach another server, which knows only what the first one has replicated to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.fault_proxy import FaultProxy
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.scene import FULL, Account, Scene, Serve, scene_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900 if FULL else 300)]

AOF = ("--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0")
REPLICATION = ("--repl-diskless-sync-delay", "0")
RECOVERED_SECONDS = 2.0
LOADING_SECONDS = 1.0
FILLING = 200
"""Additional keys: while loading, Redis answers only once per kilobyte of its file."""


class Pair:
    """A master and its replica; the replication link between them can be broken."""

    def __init__(self, scene: Scene, master: RedisServer, replica: RedisServer, link: FaultProxy):
        self.scene = scene
        self.master, self.replica = master, replica
        self.link = link

    async def follow(self) -> None:
        """Make the replica follow the master, and wait until it has caught up."""
        self.link.target = ("127.0.0.1", self.master.port)
        self.link.reset()
        await self.link.heal()
        with self.replica.client() as client:
            await asyncio.to_thread(client.replicaof, "127.0.0.1", self.link.port)
        await eventually(self._is_in_sync, seconds=15)

    async def _is_in_sync(self) -> bool:
        def offsets() -> tuple[object, object, object]:
            with self.replica.client() as replica, self.master.client() as master:
                told, known = replica.info("replication"), master.info("replication")
            return told["master_link_status"], told["slave_repl_offset"], known

        link, offset, known = await asyncio.to_thread(offsets)
        return link == "up" and int(str(offset)) > 0 and known["connected_slaves"] == 1  # type: ignore[index]

    async def promote(self) -> None:
        """Promote the replica, and direct new connections to it."""
        with self.replica.client() as client:
            await asyncio.to_thread(client.replicaof, "NO", "ONE")
        self.master, self.replica = self.replica, self.master
        self.scene.redis = self.master
        self.scene.road.target = self.master.socket


@asynccontextmanager
async def pair_of(serve: Serve, account: Account) -> AsyncIterator[Pair]:
    servers = [RedisServer(*REPLICATION, port=free_port()).start() for _ in range(2)]
    try:
        async with (
            FaultProxy(("127.0.0.1", servers[0].port)) as link,
            scene_of(servers[0], serve, account) as scene,
        ):
            pair = Pair(scene, *servers, link)
            await pair.follow()
            yield pair
    finally:
        for server in servers:
            server.stop()


async def master_killed(pair: Pair) -> None:
    """The replica lacks the last half second; failback does the same in the other direction."""
    load = pair.scene.load
    async with load.fault("the master is killed, a lagging replica promoted", forgets=True):
        pair.link.behave(blackhole=True)
        await load.run(0.5)
        await asyncio.to_thread(pair.master.kill)
        await load.run(0.3)
        await pair.promote()
    await asyncio.to_thread(pair.replica.start)


async def master_demoted(pair: Pair) -> None:
    """Nothing breaks: the old master keeps all connections, but no longer accepts publications."""
    load = pair.scene.load
    async with load.fault("the master is demoted and keeps its connections", forgets=True):
        pair.link.behave(blackhole=True)
        demoted = pair.master
        await pair.promote()
        with demoted.client() as client:
            await asyncio.to_thread(client.replicaof, "127.0.0.1", 1)  # nothing listens there


async def handed_over(pair: Pair) -> None:
    """As `FAILOVER` does: the old master follows the new one, and all connections stay open."""
    load = pair.scene.load
    async with load.fault("the master hands over", forgets=True):
        demoted = pair.master
        await pair.promote()
        with demoted.client() as client:
            await asyncio.to_thread(client.replicaof, "127.0.0.1", pair.master.port)


@pytest.mark.parametrize("fail", [master_killed, master_demoted, handed_over])
async def test_failover_and_failback(
    fail: Callable[[Pair], Awaitable[None]], serve: Serve, account: Account
) -> None:
    async with pair_of(serve, account) as pair:

        async def there_and_back(scene: Scene) -> None:
            await fail(pair)
            await scene.load.recovered(RECOVERED_SECONDS)
            await pair.follow()
            await fail(pair)
            await scene.load.recovered(RECOVERED_SECONDS)
            await pair.follow()

        await pair.scene.again_and_again(there_and_back)


async def tail_lost(scene: Scene) -> None:
    """As after a power failure: the last writes never reached the disk, and one only in part."""
    async with scene.load.fault("killed, and the tail of the AOF is lost", forgets=True):
        await asyncio.to_thread(scene.redis.kill)
        [log] = (scene.redis.folder / "appendonlydir").glob("*.incr.aof")
        truncate(log, 2_000)
        await asyncio.to_thread(scene.redis.start)


def truncate(file: Path, count: int) -> None:
    """Remove this many bytes from its end."""
    with file.open("r+b") as stream:
        size = stream.seek(0, 2)
        assert size > count
        stream.truncate(size - count)


async def loading(scene: Scene) -> None:
    """Redis returns with an older snapshot, which it loads for a second."""
    async with scene.load.fault("Redis loads for a second", forgets=True):
        with scene.redis.client() as client:
            await asyncio.to_thread(
                client.mset, {f"filling {number}": "x" * 100 for number in range(FILLING)}
            )
            await asyncio.to_thread(client.save)
            keys = client.dbsize()
        await scene.load.run(0.3)
        await asyncio.to_thread(scene.redis.kill)
        each = int(LOADING_SECONDS * 1e6 / keys)
        slowly = ("--key-load-delay", str(each), "--loading-process-events-interval-bytes", "1024")
        await asyncio.to_thread(scene.redis.start, *slowly)


async def shut_down_with_save(scene: Scene) -> None:
    """Redis loses nothing, and returns as the master of a new history that extends the old one."""
    async with scene.load.fault("SHUTDOWN SAVE, and started again", ends_epochs=True):
        await asyncio.to_thread(scene.redis.shut_down)
        await asyncio.to_thread(scene.redis.start)


async def test_publications_not_written_to_disk_are_announced(
    serve: Serve, account: Account
) -> None:
    async with scene_with(serve, account, *AOF) as scene:
        await scene.again_and_again(tail_lost)


async def test_no_client_is_live_while_redis_loads(
    own_redis: RedisServer, serve: Serve, account: Account
) -> None:
    async with scene_of(own_redis, serve, account) as scene:
        await scene.again_and_again(loading)
        assert "is loading the dataset" in scene.nodes[0].log, scene.nodes[0].log


async def test_an_orderly_restart_is_announced_too(
    own_redis: RedisServer, serve: Serve, account: Account
) -> None:
    async with scene_of(own_redis, serve, account) as scene:
        await scene.again_and_again(shut_down_with_save)


@asynccontextmanager
async def scene_with(serve: Serve, account: Account, *options: str) -> AsyncIterator[Scene]:
    """A scene whose Redis has different options."""
    redis = RedisServer(*options).start()
    try:
        async with scene_of(redis, serve, account) as scene:
            yield scene
    finally:
        redis.stop()
