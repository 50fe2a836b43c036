"""Every fault of Redis under load: no client is disconnected, and the ledger shows every loss."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest

from tests.support.eventually import eventually
from tests.support.load import STATE_SECONDS
from tests.support.machine import time_lost_since
from tests.support.redis_server import RedisServer
from tests.support.scene import (
    FULL,
    SOMETIMES,
    Account,
    Break,
    Scene,
    Serve,
    scene_of,
    told_nothing,
)

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900 if FULL else 300)]

BACKLOG_SECONDS = 3.0
TRIES = 3
PAUSED_SECONDS = 1.0
"""Delays of this process and its servers together, from which a pause of 0.3 s is likely."""
BACKLOG_BYTES = 16_000 if FULL else 4_000
"""One second of the bandwidth to the node; about a quarter of what is published."""


async def killed_and_restarted(scene: Scene) -> None:
    async with scene.load.fault("Redis killed and restarted", forgets=True):
        await asyncio.to_thread(scene.redis.kill)
        await scene.load.run(0.3)
        await asyncio.to_thread(scene.redis.start)


async def stopped(scene: Scene, seconds: float) -> None:
    async with scene.load.fault(f"Redis stopped for {seconds} s"):
        scene.redis.freeze()
        try:
            told = await scene.load.told() if seconds > STATE_SECONDS else 0.0
            await scene.load.run(seconds - told)
        finally:
            scene.redis.thaw()


async def stopped_for_a_moment(scene: Scene) -> None:
    await stopped(scene, 0.3)


async def stopped_longer_than_a_publish_waits(scene: Scene) -> None:
    await stopped(scene, 1.3)


async def stopped_for_long(scene: Scene) -> None:
    await stopped(scene, 5.0)


async def subscribers_cut(scene: Scene) -> None:
    async with scene.load.fault("CLIENT KILL TYPE PUBSUB"):
        await asyncio.to_thread(scene.redis.cut_subscribers)


async def connections_reset(scene: Scene) -> None:
    async with scene.load.fault("all connections to Redis reset"):
        scene.road.reset()


async def replies_lost(scene: Scene) -> None:
    async with scene.load.fault("connections cut in the middle of replies"):
        scene.road.behave(cut_after=5_000)
        await scene.load.run(0.5)
        await scene.road.heal()


async def half_dead(scene: Scene) -> None:
    """Redis answers commands and delivers nothing: only the canary can detect this."""
    async with scene.load.fault("Redis delivers nothing"):
        scene.road.behave(blackhole=True, only=b"SUBSCRIBE")
        told = await scene.load.told()
        await scene.load.run(3.0 - told)
        await scene.road.heal()


async def unreachable(scene: Scene) -> None:
    async with scene.load.fault("nothing passes between service and Redis"):
        scene.road.behave(blackhole=True)
        await scene.load.run(1.5)
        await scene.road.heal()


async def refused(scene: Scene) -> None:
    async with scene.load.fault("connections to Redis refused"):
        await scene.road.refuse()
        scene.road.reset()
        await scene.load.run(1.0)
        await scene.road.heal()


async def one_byte_at_a_time(scene: Scene) -> None:
    async with scene.load.fault("one byte at a time"):
        scene.road.behave(chunk=1)
        await scene.load.run(0.5)
        await scene.road.heal()


async def too_much_at_once(scene: Scene) -> None:
    """Redis drops the node as too slow a subscriber; the contents of its buffer are lost."""
    async with scene.load.fault("output buffer exceeded"):
        await scene.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 16384 0 0")
        await scene.load.burst("x" * 18_000)  # one per channel, in one transaction
        await scene.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 32mb 8mb 60")
    async with scene.inside() as ask:
        stats = await ask("INFO", "stats")
    assert stats["client_output_buffer_limit_disconnections"], "the buffer did not overflow"


async def full_of_clients(scene: Scene) -> None:
    async with scene.load.fault("maxclients"), scene.inside() as ask:
        await ask("CONFIG", "SET", "maxclients", 1)
        scene.road.reset()
        await scene.load.run(0.7)
        await ask("CONFIG", "SET", "maxclients", 10_000)


async def full_of_data(scene: Scene) -> None:
    async with scene.load.fault("maxmemory"):
        await scene.ask("CONFIG", "SET", "maxmemory", 1)
        await scene.load.run(0.5)
        await scene.ask("CONFIG", "SET", "maxmemory", 0)


async def password_changed(scene: Scene) -> None:
    async with scene.load.fault("NOAUTH"), scene.inside() as ask:
        await ask("CONFIG", "SET", "requirepass", "another")
        scene.road.reset()
        await scene.load.run(0.7)
        await ask("CONFIG", "SET", "requirepass", "")


async def flushed(scene: Scene) -> None:
    async with scene.load.fault("FLUSHALL", forgets=True):
        await scene.ask("FLUSHALL")


async def made_a_replica(scene: Scene) -> None:
    async with scene.load.fault("READONLY: made a replica, and a master again", ends_epochs=True):
        await scene.ask("REPLICAOF", "127.0.0.1", 1)
        await scene.load.run(0.5)
        await scene.ask("REPLICAOF", "NO", "ONE")


FAULTS: list[Break] = [
    killed_and_restarted,
    stopped_for_a_moment,
    stopped_longer_than_a_publish_waits,
    stopped_for_long,
    subscribers_cut,
    connections_reset,
    replies_lost,
    half_dead,
    unreachable,
    refused,
    one_byte_at_a_time,
    too_much_at_once,
    full_of_clients,
    full_of_data,
    password_changed,
    flushed,
    made_a_replica,
]


@pytest.mark.parametrize("break_it", FAULTS, ids=lambda fault: fault.__name__)
async def test_nothing_is_lost_silently(
    break_it: Break, own_redis: RedisServer, serve: Serve, account: Account
) -> None:
    async with scene_of(own_redis, serve, account) as scene:
        await scene.again_and_again(break_it)


async def test_no_gap_is_reported_without_a_fault(
    own_redis: RedisServer, serve: Serve, account: Account
) -> None:
    async with scene_of(own_redis, serve, account, runs=1) as scene:
        await scene.load.run(30.0 if FULL else 3.0)


class NotLive(Exception):
    """A node has connected to Redis again."""


async def test_a_backlog_is_delivered_late_and_complete(
    own_redis: RedisServer, serve: Serve, account: Account
) -> None:
    """Data in the socket is not lost: a node that lags behind is not disconnected from it."""
    for left in reversed(range(TRIES)):
        began = time.monotonic()
        try:
            await lag_behind(own_redis, serve, account)
            return
        except NotLive:
            # The proxy trickles the bytes in this process. If it had no processor for 0.3 s, the
            # node saw a silent socket, and was right.
            if not left or time_lost_since(began) < PAUSED_SECONDS:
                raise


async def lag_behind(redis: RedisServer, serve: Serve, account: Account) -> None:
    """Let a node fall behind and catch up, several times.

    Raises:
        NotLive: It did not wait for its backlog.
    """
    async with (
        scene_of(redis, serve, account, runs=SOMETIMES) as scene,
        httpx.AsyncClient(base_url=scene.nodes[0].http) as http,
    ):

        async def lag_seconds() -> float:
            """Measure how late the node receives publications."""
            answer = await http.get("/readyz")
            if answer.status_code != 200:
                raise NotLive(answer.text)
            return float(answer.json()["lag_ms"]) / 1000

        async def is_behind() -> bool:
            return await lag_seconds() > BACKLOG_SECONDS

        async def has_caught_up() -> bool:
            return await lag_seconds() < 0.5

        for _ in range(SOMETIMES):
            scene.road.behave(chunk=64, bytes_per_second=BACKLOG_BYTES, only=b"SUBSCRIBE")
            await eventually(is_behind, seconds=30)
            await scene.road.heal()
            await eventually(has_caught_up)
        told_nothing(scene.load.listeners)


async def test_a_restart_with_persistence_is_announced_too(serve: Serve, account: Account) -> None:
    redis = RedisServer("--appendonly", "yes", "--appendfsync", "always").start()
    try:
        async with scene_of(redis, serve, account) as scene:
            await scene.again_and_again(killed_and_restarted)
    finally:
        redis.stop()
