"""The subscription at Redis: what has arrived is bounded, and nothing of it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from realtime.brokers import Message, Subscribed
from realtime.brokers.bounds import READ_AHEAD_BYTES
from realtime.brokers.redis import RedisBroker, RedisSubscription
from realtime.errors import BrokerUnavailable
from tests.support.eventually import eventually
from tests.support.machine import in_time
from tests.support.redis_server import RedisServer
from tests.support.subscription_reader import SubscriptionReader

ONE_READ = 256 * 1024  # bytes that asyncio takes from a socket at once
NAMES = [f"{'n' * 150}{number}" for number in range(500)]
NAMES_BYTES = 500 * 160


@pytest.fixture
async def broker(own_redis: RedisServer) -> AsyncIterator[RedisBroker]:
    broker = RedisBroker(own_redis.url, prefix="t", deadline_seconds=20)
    yield broker
    await broker.aclose()


@pytest.fixture
async def subscription(broker: RedisBroker) -> AsyncIterator[RedisSubscription]:
    subscription = await broker.subscription()
    await subscription.send(["a"], [])
    yield subscription
    await subscription.aclose()


@pytest.fixture
async def reader(subscription: RedisSubscription) -> SubscriptionReader:
    reader = SubscriptionReader(subscription)
    assert await reader.read() == [Subscribed("a")]
    return reader


@pytest.fixture
async def full(subscription: RedisSubscription) -> SubscriptionReader:
    """A reader that has no room for what arrives next."""
    reader = SubscriptionReader(subscription, most=1)
    await eventually(lambda: reader.waiting)
    return reader


async def test_a_message_larger_than_what_is_read_ahead_arrives(
    broker: RedisBroker, reader: SubscriptionReader
) -> None:
    """While only a part of it has come, the socket must be read."""
    large = b"x" * (10 * READ_AHEAD_BYTES)
    await broker.send_raw("a", large)
    await broker.send_raw("a", b"small")
    assert await reader.read_all(2) == [Message("a", large), Message("a", b"small")]


async def test_an_event_is_passed_on_in_the_turn_in_which_it_arrives(
    subscription: RedisSubscription, reader: SubscriptionReader
) -> None:
    message = b"*3\r\n$7\r\nmessage\r\n$10\r\nt:{0}:ch:a\r\n$1\r\nb\r\n"
    subscription.data_received(message[:20])
    assert not reader.waiting
    subscription.data_received(message[20:] + message)
    assert reader.waiting == [Message("a", b"b")] * 2


async def test_a_subscription_whose_receiver_is_full_leaves_the_rest_to_redis(
    broker: RedisBroker, subscription: RedisSubscription, full: SubscriptionReader
) -> None:
    sent = [b"%05d" % number + b"x" * 40_000 for number in range(500)]  # 20 MB
    for raw in sent:
        await broker.send_raw("a", raw)
    taken = sum(len(event.raw) for event in subscription._events if isinstance(event, Message))
    assert READ_AHEAD_BYTES - 50_000 <= taken <= READ_AHEAD_BYTES + ONE_READ
    assert await full.read() == [Subscribed("a")]
    assert [event.raw for event in await full.read_all(len(sent))] == sent
    await broker.send_raw("a", b"later")
    assert await full.read_all(1) == [Message("a", b"later")]


async def test_what_waits_for_the_first_listener_is_passed_on_with_all_that_follows(
    broker: RedisBroker, subscription: RedisSubscription
) -> None:
    large = b"x" * (READ_AHEAD_BYTES - 100)
    await broker.send_raw("a", large)
    await broker.send_raw("a", b"small")
    await eventually(lambda: subscription._is_paused)
    reader = SubscriptionReader(subscription)
    await broker.send_raw("a", b"later")
    expected = [Subscribed("a"), *(Message("a", raw) for raw in (large, b"small", b"later"))]
    assert await reader.read_all(4) == expected


async def test_what_has_arrived_is_passed_on_before_the_end_is_told(
    broker: RedisBroker,
    subscription: RedisSubscription,
    full: SubscriptionReader,
    own_redis: RedisServer,
) -> None:
    await broker.send_raw("a", b"last")
    await eventually(lambda: subscription._events)
    own_redis.cut_subscribers()
    await eventually(lambda: subscription._lost.done())
    assert not full.has_ended
    assert await full.read() == [Subscribed("a")]
    assert await full.read() == [Message("a", b"last")]
    for _ in range(2):
        with pytest.raises(BrokerUnavailable):
            await full.read()


async def test_sending_waits_for_a_redis_that_does_not_read(
    subscription: RedisSubscription, reader: SubscriptionReader, own_redis: RedisServer
) -> None:
    own_redis.freeze()
    sending = asyncio.create_task(send_until_full(subscription))
    await eventually(lambda: subscription._sending is not None)
    assert not sending.done()
    own_redis.thaw()
    sent = await in_time(sending, 30)
    assert len(await reader.read_all(sent)) == sent


async def test_sending_ends_with_a_connection_that_breaks(
    subscription: RedisSubscription, own_redis: RedisServer
) -> None:
    own_redis.freeze()
    sending = asyncio.create_task(send_until_full(subscription))
    await eventually(lambda: subscription._sending is not None)
    own_redis.kill()
    with pytest.raises(BrokerUnavailable):
        await in_time(sending, 30)


async def send_until_full(subscription: RedisSubscription) -> int:
    """Subscribe again and again, until a call has waited; return how many names were sent."""
    for turn in range(1000):  # 80 MB, more than the buffers of a socket hold
        await subscription.send(NAMES, [])
        if subscription._sending is not None:
            return (turn + 1) * len(NAMES)
        await asyncio.sleep(0)
    raise AssertionError("no call had to wait")
