"""Attacks on the canary and on its connection: how often a node stops being live.

Redis is reached by a single name, as with DNS or a proxy; a failover changes where new connections
lead.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from django.test import override_settings

from realtime import wiring
from realtime.brokers.commands import NEW_CONNECTION_SECONDS
from realtime.brokers.redis import RedisBroker
from realtime.brokers.redis_sync import SyncRedisBroker
from realtime.core.publication import Publication
from realtime.errors import BrokerUnavailable
from realtime.wiring import Node
from tests.support.eventually import eventually
from tests.support.fault_proxy import FaultProxy
from tests.support.member import Member
from tests.support.redis_server import RedisServer

DEMOTE = ["REPLICAOF", "127.0.0.1", "1"]
Publish = Callable[[], Awaitable[bool]]


@pytest.fixture
def other_redis() -> Iterator[RedisServer]:
    server = RedisServer().start()
    yield server
    server.stop()


@pytest.fixture
async def road(own_redis: RedisServer) -> AsyncIterator[FaultProxy]:
    """The name: at first it leads to `own_redis`."""
    async with FaultProxy(own_redis.socket) as proxy:
        yield proxy


@pytest.fixture
def url(road: FaultProxy) -> str:
    return f"redis://127.0.0.1:{road.port}"


@pytest.fixture
async def away(url: str) -> AsyncIterator[Node]:
    """A node that connects through the proxy, and whose hub is live."""
    with override_settings(REALTIME_REDIS_URL=url):
        node = wiring.node()
        node.hub.start()
        await eventually(lambda: node.hub.live)
        yield node
        await wiring.aclose()


@pytest.fixture(params=["async", "sync"])
async def publish(url: str, request: pytest.FixtureRequest) -> AsyncIterator[Publish]:
    """Publish once, from a loop or from a thread; return whether it was published."""
    broker, sync_broker = RedisBroker(url), SyncRedisBroker(url)
    publication = Publication.of("c", 1)

    async def publish_once() -> bool:
        try:
            if request.param == "async":
                await broker.publish(publication)
            else:
                await asyncio.to_thread(sync_broker.publish, publication)
        except BrokerUnavailable:
            return False
        return True

    yield publish_once
    await broker.aclose()
    sync_broker.close()


async def subscribed(member: Member) -> dict[str, Any]:
    """Return the answer to the command with id 2."""
    return await eventually(lambda: next((x for x in member.lines if x.get("id") == 2), None))


def ask(server: RedisServer, *command: str) -> Any:
    with server.client() as client:
        return client.execute_command(*command)


async def test_listener_and_publisher_follow_a_changed_name_to_the_same_redis(
    away: Node, road: FaultProxy, own_redis: RedisServer, other_redis: RedisServer
) -> None:
    """The old Redis keeps running, so nothing ends the publisher's connection to it.

    We tried it: the node listened to the new one, published and sent its canaries to the old one,
    and alternated between live and not live forever.
    """
    member = Member(away.hub)
    await eventually(lambda: member.conversation)
    member.say({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "public:c"}})
    await subscribed(member)
    road.target = other_redis.socket
    own_redis.cut_subscribers()
    await eventually(lambda: ask(other_redis, "PUBSUB", "CHANNELS"))
    await eventually(lambda: away.hub.live)
    receipt = await away.publisher.publish(Publication.of("public:c", 1))
    assert receipt.nodes == 1
    await eventually(lambda: receipt.offset in member.offsets())
    await member.leave()


@pytest.mark.parametrize(
    "isolates",
    [
        pytest.param([DEMOTE], id="READONLY"),
        pytest.param(
            [["CONFIG", "SET", "replica-serve-stale-data", "no"], DEMOTE], id="MASTERDOWN"
        ),
        # Redis' own remedy against two masters: the isolated one accepts no writes.
        pytest.param([["CONFIG", "SET", "min-replicas-to-write", "1"]], id="NOREPLICAS"),
    ],
)
async def test_a_publisher_leaves_a_redis_that_is_no_longer_master(
    road: FaultProxy,
    own_redis: RedisServer,
    other_redis: RedisServer,
    publish: Publish,
    isolates: list[list[str]],
) -> None:
    """Nothing ends its connection.

    Unless Redis said exactly READONLY, the publisher used to stay forever.
    """
    assert await publish()
    for command in isolates:
        ask(own_redis, *command)
    road.target = other_redis.socket
    assert not await publish()
    await eventually(publish)


async def test_a_replica_is_not_flooded_with_connections(
    road: FaultProxy, own_redis: RedisServer, publish: Publish
) -> None:
    """The name leads there until DNS has changed.

    Each refusal opened a connection, 565 a second.
    """
    ask(own_redis, *DEMOTE)
    clock = asyncio.get_running_loop().time
    start, before = clock(), road.accepted
    for _ in range(200):
        assert not await publish()
    assert road.accepted - before <= 2 + (clock() - start) / NEW_CONNECTION_SECONDS


async def test_an_idle_hub_does_not_report_its_idle_time_as_an_outage(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a lifespan, the hub rests without clients.

    It used to wake with "live after 86400.0 s".
    """
    caplog.set_level(logging.INFO, "realtime.delivery.liveness")
    clock = asyncio.get_running_loop().time
    hub = node.running_hub()
    hub.idleness.rest_after_seconds = 0
    await eventually(lambda: not hub.is_started)
    woken_at = clock()
    node.running_hub()
    await eventually(lambda: hub.live)
    told = float(re.findall(r"live after ([0-9.]+) s", caplog.text)[-1])
    assert told <= clock() - woken_at + 0.05  # as it is rounded


async def test_a_hub_that_was_idle_reports_its_next_outage(
    away: Node, road: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """The hub had logged the reason before it was first live, so it did not log it again."""
    caplog.set_level(logging.INFO, "realtime.delivery.liveness")
    for _ in range(2):
        caplog.clear()
        await away.hub.stop()
        await road.refuse()
        away.hub.start()
        await eventually(lambda: "not live: " in caplog.text)
        await road.heal()
        await eventually(lambda: away.hub.live)


async def test_a_channel_that_redis_cannot_count_does_not_delay_other_channels(
    away: Node, own_redis: RedisServer
) -> None:
    """A client that wants such a channel waits; others used to wait behind it for as long.

    The channel's position was read again twenty times a second, even when nobody needed it any
    more.
    """
    await away.broker.publish(Publication.of("public:known", 1))
    with own_redis.client() as client:
        [known] = client.keys("*:pos:public:known")
        client.set(known.replace(b"known", b"new"), "no counter")
    stranger, member = Member(away.hub), Member(away.hub)
    for each, channel in ((stranger, "public:new"), (member, "public:known")):
        await eventually(lambda each=each: each.conversation)
        each.say({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": channel}})
    assert (await subscribed(member)).get("subscribe", {}).get("offset") == 1
    assert (await subscribed(stranger))["error"]["temporary"]
    await eventually(lambda: "public:new" not in away.hub.subscriber._position_reader._due)
    for each in (stranger, member):
        await each.leave()
