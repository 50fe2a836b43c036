"""How long a counter lives in Redis that nobody publishes to or listens on any more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from realtime.publication import Publication
from realtime.wiring import Node
from tests.support.redis_server import RedisServer

DAY_SECONDS = 86400
READ_SECONDS = 300


@pytest.fixture
def direct(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        yield client


@pytest.fixture
def counter(wired: str) -> str:
    """The key of the counter of channel `c`."""
    return f"{wired}:{{0}}:pos:c"


async def test_a_counter_that_was_used_outlives_a_jump_of_the_clock_by_a_day(
    node: Node, direct: redis.Redis, counter: str
) -> None:
    await node.broker.publish(Publication.of("c", 1))
    assert direct.ttl(counter) == 2 * DAY_SECONDS


async def test_reading_renews_a_counter_that_was_used(
    node: Node, direct: redis.Redis, counter: str
) -> None:
    await node.broker.publish(Publication.of("c", 1))
    direct.expire(counter, 10)
    await node.broker.positions(["c"])
    assert direct.ttl(counter) == 2 * DAY_SECONDS


@pytest.mark.parametrize("reads", [1, 2, 10])
async def test_whoever_only_subscribes_buys_five_minutes_of_one_counter_with_each_read(
    node: Node, direct: redis.Redis, counter: str, reads: int
) -> None:
    """Memory: subscribing a thousand times a second keeps no more than 300,000 alive for long."""
    await node.broker.positions(["c"] * reads)
    assert direct.ttl(counter) == reads * READ_SECONDS


async def test_a_counter_without_publications_lives_no_longer_than_any_other(
    node: Node, direct: redis.Redis, counter: str
) -> None:
    await node.broker.positions(["c"] * 1000)
    assert direct.ttl(counter) == 2 * DAY_SECONDS


async def test_a_counter_that_lost_its_expiry_gets_one(
    node: Node, direct: redis.Redis, counter: str
) -> None:
    await node.broker.positions(["c"])
    direct.persist(counter)
    await node.broker.positions(["c"])
    assert direct.ttl(counter) == READ_SECONDS
