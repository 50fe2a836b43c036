"""Live or queued, never neither and never both: decided in the script that publishes."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as h_settings
from hypothesis import strategies as st

from realtime.brokers.commands import SCRIPTS, Commands
from realtime.brokers.queue_commands import SCRIPTS as QUEUE_SCRIPTS
from realtime.brokers.queue_commands import QueueKeys
from realtime.brokers.redis import RedisBroker
from realtime.brokers.redis_sync import SyncRedisBroker
from realtime.brokers.script import Args, Script
from realtime.core.fallback_entry import decode_entry
from realtime.core.publication import Publication, Receipt
from realtime.errors import IdempotencyConflict, QueueFull, RealtimeError
from tests.support.eventually import eventually
from tests.support.member import Member
from tests.support.redis_server import RedisServer
from tests.support.subscription_reader import SubscriptionReader
from tests.support.tokens import token


@pytest.fixture
async def broker(redis_server: RedisServer, wired: str) -> AsyncIterator[RedisBroker]:
    made = RedisBroker(redis_server.url, prefix=wired, queue_items=3)
    yield made
    await made.aclose()


@pytest.fixture
def client(redis_server: RedisServer) -> AsyncIterator[redis.Redis]:
    with redis_server.client() as made:
        yield made


def waiting(client: redis.Redis, prefix: str) -> list[bytes]:
    return client.lrange(f"{prefix}:{{0}}:fallback:waiting", 0, -1)


def named(data: Any = 1, channel: str = "c", **options: Any) -> Publication:
    return Publication.of(channel, data, **{"fallback": "f", **options})


async def listen(broker: RedisBroker, channel: str = "c") -> SubscriptionReader:
    subscription = await broker.subscription()
    await subscription.send([channel], [])
    reader = SubscriptionReader(subscription)
    await reader.read()
    return reader


async def test_a_publication_without_listeners_is_queued(broker, client, wired) -> None:
    receipt = await broker.publish(named({"n": 12345678901234567890.5e-3, "text": "ü\n"}))
    assert receipt == Receipt(receipt.epoch, 1, 0, repeated=False, queued=True)
    [raw] = waiting(client, wired)
    entry = decode_entry(raw)
    assert entry.id == f"{receipt.epoch}-1"
    assert entry.queued.data == {"n": 12345678901234567890.5e-3, "text": "ü\n"}
    seconds, _ = client.time()
    assert abs(entry.published_at - seconds) < 5


async def test_a_publication_with_a_listener_is_not_queued(broker, client, wired) -> None:
    listener = await listen(broker)
    receipt = await broker.publish(named())
    assert (receipt.nodes, receipt.queued) == (1, False)
    assert not waiting(client, wired)
    await listener.subscription.aclose()


async def test_always_delivers_and_queues(broker, client, wired) -> None:
    listener = await listen(broker)
    receipt = await broker.publish(named(fallback_when="always"))
    assert (receipt.nodes, receipt.queued) == (1, True)
    assert len(waiting(client, wired)) == 1
    assert len(await listener.read()) == 1
    await listener.subscription.aclose()


async def test_without_a_fallback_nothing_is_queued(broker, client, wired) -> None:
    receipt = await broker.publish(Publication.of("c", 1))
    assert (receipt.nodes, receipt.queued) == (0, False)
    assert not waiting(client, wired)


async def test_a_full_queue_refuses_the_publication(broker, client, wired) -> None:
    keys = QueueKeys(*[f"{wired}:{{0}}:fallback:{name}" for name in QueueKeys._fields])
    await broker.publish(named())
    client.zadd(keys.later, {b"later": 1})
    client.rpush(keys.dead, b"dead")
    with pytest.raises(QueueFull):
        await broker.publish(named(idempotency_key="k"))
    [position] = await broker.positions(["c"])
    assert position.offset == 1, "it was executed in part"
    assert len(waiting(client, wired)) == 1
    listener = await listen(broker)
    assert not (await broker.publish(named())).queued, "a live publication needs no room"
    with pytest.raises(QueueFull):
        await broker.publish(named(fallback_when="always"))
    await listener.subscription.aclose()
    client.delete(keys.dead)
    assert (await broker.publish(named(idempotency_key="k"))).queued, "the key was not used up"


async def test_the_queue_is_bounded_in_bytes(
    redis_server: RedisServer, client: redis.Redis, wired: str
) -> None:
    """100,000 publications of 64 KiB would be 6.4 GiB."""
    broker = RedisBroker(redis_server.url, prefix=wired, queue_bytes=128 * 1024)
    listener = await listen(broker, "heard")
    assert (await broker.publish(named("x" * 60_000))).queued
    assert (await broker.publish(named("x" * 60_000))).queued
    with pytest.raises(QueueFull):
        await broker.publish(named("x" * 60_000, idempotency_key="k"))
    assert (await broker.publish(named(1))).queued, "a publication that fits is accepted"
    assert not (await broker.publish(named("x" * 60_000, "heard"))).queued
    stats = await broker.queue_stats()
    assert stats.bytes == sum(map(len, waiting(client, wired))) <= 128 * 1024
    await listener.subscription.aclose()
    await broker.aclose()


async def test_a_queue_without_a_count_of_its_bytes_is_estimated(
    redis_server: RedisServer, client: redis.Redis, wired: str
) -> None:
    """An earlier version filled the queue, or the counts were deleted."""
    broker = RedisBroker(redis_server.url, prefix=wired, queue_bytes=128 * 1024)
    for _ in range(2):
        await broker.publish(named("x" * 60_000))
    client.delete(f"{wired}:{{0}}:fallback:counts")
    with pytest.raises(QueueFull):
        await broker.publish(named("x" * 60_000))
    assert (await broker.queue_stats()).bytes > 100_000
    await broker.aclose()


class Moves:
    """Moves entries in any order; the count must match the contents."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self.client, self.commands = client, Commands(prefix)
        self.queue = self.commands.queue
        self.list = f"{prefix}:{{0}}:fallback:hand:h"

    def run(self, script: Script, command: Args) -> Any:
        self.client.script_load(script.text)
        return self.client.execute_command(*command)

    def do(self, move: str) -> None:
        held = self.client.lindex(self.list, 0)
        if move == "publish":
            self.run(SCRIPTS.publish, self.commands.publish(named("x" * secrets.randbelow(99))))
        elif move == "take":
            self.client.lmove(self.queue.keys.waiting, self.list, "LEFT", "RIGHT")
            self.run(QUEUE_SCRIPTS.renew_leases, self.queue.renew_leases(("h",), -1.0))
        elif move == "tend":
            self.run(QUEUE_SCRIPTS.tend, self.queue.tend(2, "why"))
        elif move == "leave":
            self.run(QUEUE_SCRIPTS.release, self.queue.release(("h",)))
        elif move in ("handled", "retried", "dead") and held:
            written = decode_entry(held).encode_failed("why", 1.0) if move != "handled" else b""
            self.run(QUEUE_SCRIPTS.end_attempt, self.queue.end_attempt("h", held, move, written))
        elif move in ("purge", "again"):
            for raw in self.client.lrange(self.queue.keys.dead, 0, 0):
                self.run(
                    QUEUE_SCRIPTS.move,
                    self.queue.move("dead", raw, raw if move == "again" else b""),
                )

    @property
    def there(self) -> int:
        keys = self.queue.keys
        lists = [self.client.lrange(key, 0, -1) for key in (keys.waiting, keys.dead, self.list)]
        later = self.client.zrange(keys.later, 0, -1)
        return sum(len(raw) for entries in (*lists, later) for raw in entries)


MOVES = ["publish", "take", "tend", "leave", "handled", "retried", "dead", "purge", "again"]


@given(st.lists(st.sampled_from([*MOVES, "publish", "take"]), max_size=40))
@h_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_byte_count_matches_the_entries(
    client: redis.Redis, redis_server: RedisServer, moves: list[str]
) -> None:
    queue = Moves(client, f"moves-{secrets.token_hex(6)}")
    for move in moves:
        queue.do(move)
        counted = client.hget(queue.queue.keys.counts, "bytes")
        assert int(counted or 0) == queue.there, move


async def test_a_repeated_publish_is_queued_once(broker, client, wired) -> None:
    first = await broker.publish(named(idempotency_key="k"))
    again = await broker.publish(named(idempotency_key="k"))
    assert again == first._replace(repeated=True)
    assert len(waiting(client, wired)) == 1
    with pytest.raises(IdempotencyConflict):
        await broker.publish(named(idempotency_key="k", fallback="other"))


async def test_each_publication_of_a_batch_is_queued_independently(broker, client, wired) -> None:
    listener = await listen(broker, "heard")
    outcomes = await broker.publish_many(
        [
            named(1, "heard"),
            named(2, "a"),
            Publication.of("b", 3),
            named(4, "b"),
            named(5),
            named(6),
        ]
    )
    said = ["full" if isinstance(o, RealtimeError) else o.queued for o in outcomes]
    assert said == [False, True, False, True, True, "full"]
    assert [decode_entry(raw).queued.data for raw in waiting(client, wired)] == [2, 4, 5]
    await listener.subscription.aclose()


async def test_a_queue_key_of_the_wrong_type_publishes_nothing(broker, client, wired) -> None:
    client.set(f"{wired}:{{0}}:fallback:waiting", "not ours")
    with pytest.raises(RealtimeError):
        await broker.publish(named())
    [position] = await broker.positions(["c"])
    assert position.offset == 0


async def test_a_publication_that_fails_does_not_affect_those_beside_it(
    broker, client, wired
) -> None:
    """One script publishes a batch, and where an error would end it for all of them."""
    listener = await listen(broker, "heard")
    client.set(f"{wired}:{{0}}:pos:broken", "not ours")
    client.set(f"{wired}:{{0}}:fallback:later", "not ours")
    outcomes = await broker.publish_many(
        [
            Publication.of("heard", 1),
            Publication.of("broken", 2),
            named(3),
            Publication.of("heard", 4, idempotency_key="k"),
            named(5, "heard"),
        ]
    )
    assert [getattr(each, "offset", "refused") for each in outcomes] == [
        1,
        "refused",
        "refused",
        2,
        3,
    ]
    assert all("WRONGTYPE" in str(each) for each in outcomes[1:3])
    repeated = await broker.publish(Publication.of("heard", 4, idempotency_key="k"))
    assert repeated == outcomes[3]._replace(repeated=True)
    await listener.subscription.aclose()


def test_the_synchronous_broker_queues_too(
    redis_server: RedisServer, wired: str, client: redis.Redis
) -> None:
    broker = SyncRedisBroker(redis_server.url, prefix=wired, queue_items=1)
    assert broker.publish(named()).queued
    with pytest.raises(QueueFull):
        broker.publish(named())
    assert broker.queue_stats().waiting == 1
    broker.close()


async def test_queue_entries_are_readable_with_redis_cli(broker, client, wired) -> None:
    await broker.publish(
        named({"a": 1}, "user:#42", fallback="email", fallback_options={"to": "ada@example.com"})
    )
    count, _, text = waiting(client, wired)[0].partition(b" ")
    assert count == b"0"
    said = json.loads(text)
    assert said.pop("epoch")
    assert said.pop("at")
    assert said == {
        "offset": 1,
        "channel": "user:#42",
        "fallback": "email",
        "options": {"to": "ada@example.com"},
        "data": {"a": 1},
    }


async def test_an_unheard_client_publication_is_queued_with_its_author(
    node: Any, client: redis.Redis, wired: str, settings: Any
) -> None:
    """Through the fallback of the namespace; a client cannot name one."""
    settings.REALTIME_NAMESPACES = {
        "box": {
            "allow_subscribe_for_client": True,
            "allow_publish_for_client": True,
            "fallback": "ledger",
        }
    }
    node.hub.start()
    await eventually(lambda: node.hub.live)
    member = Member(node.hub)
    await eventually(lambda: member.conversation)
    member.say({"id": 1, "connect": {"token": token("42")}})
    member.say({"id": 2, "publish": {"channel": "box:in", "data": "help"}})
    await eventually(lambda: waiting(client, wired))
    queued = decode_entry(waiting(client, wired)[0]).queued
    assert (queued.fallback, queued.channel, queued.data) == ("ledger", "box:in", "help")
    assert queued.info is not None
    assert queued.info["user"] == "42"
    await member.leave()
