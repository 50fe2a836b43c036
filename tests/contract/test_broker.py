"""The contract of a broker (`realtime/brokers/__init__.py`): the same cases for every broker.

The behaviour of Redis alone (its scripts, expiry, failover, sizes) is tested in tests/integration
and tests/faults, and that of the broker inside the process in tests/unit/test_memory.py.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import count, islice
from typing import Any, ClassVar

import pytest

from realtime import wiring
from realtime.brokers import (
    ALL_NODES,
    Broker,
    Message,
    Subscribed,
    SyncBroker,
    Unsubscribed,
    redis_blocks,
)
from realtime.brokers.bounds import PRESENCE_LOT
from realtime.brokers.fallback_queue import FallbackQueue
from realtime.brokers.memory.asynchronous import MemoryBroker
from realtime.brokers.node_messages import Moment
from realtime.core.blocked_users import BlockedUsers, TooManyBlocks
from realtime.core.envelope import decode_envelope
from realtime.core.fallback_entry import decode_entry
from realtime.core.members import Member, MemberUpdate, TooManyMembers, decode_changes
from realtime.core.partitions import PARTITIONS, partition_of
from realtime.core.positions import Position
from realtime.core.publication import Publication, Receipt
from realtime.core.redis_url import is_cluster_url
from realtime.core.survey import Question
from realtime.errors import (
    BrokerUnavailable,
    IdempotencyConflict,
    QueueFull,
    RealtimeError,
)
from realtime.wiring.brokers import async_broker
from tests.support.eventually import eventually
from tests.support.machine import in_time, within
from tests.support.redis_cluster import ClusterSet, cluster_set
from tests.support.sentinels import SentinelSet, sentinel_set
from tests.support.subscription_reader import SubscriptionReader
from tests.support.working import Got, working

EPOCH = "0123456789abcdef"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LATER = 4_102_444_800
"""The year 2100."""
SERVERS = {
    "valkey": "redis_server",
    "redis": "system_redis",
    "sentinel": "guarded",
    "cluster": "cluster",
}
"""The fixture of each broker that needs a server."""


@pytest.fixture(scope="module")
def guarded() -> Iterator[SentinelSet]:
    """A master with a sentinel."""
    with sentinel_set(sentinels=1, replicas=0) as made:
        yield made


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterSet]:
    """Three masters; nobody fails."""
    with cluster_set(3, 0) as made:
        yield made


@pytest.fixture(
    params=[
        *("valkey", pytest.param("redis", marks=pytest.mark.redis), "sentinel", "cluster"),
        "memory",
    ]
)
def prefix(request: pytest.FixtureRequest, settings: Any) -> str:
    """The app, connected to the broker under test, with a small fallback queue."""
    settings.REALTIME_FALLBACK_ITEMS = 3 * (len(PARTITIONS) if request.param == "cluster" else 1)
    if request.param == "memory":
        settings.REALTIME_REDIS_URL = "memory://"
    else:
        settings.REALTIME_REDIS_URL = request.getfixturevalue(SERVERS[request.param]).url
    settings.REALTIME_REDIS_PREFIX = f"test-{secrets.token_hex(4)}"
    return settings.REALTIME_REDIS_PREFIX


@pytest.fixture
async def broker(prefix: str) -> AsyncIterator[Broker]:
    made = async_broker()
    yield made
    await made.aclose()


@pytest.fixture
async def other(prefix: str) -> AsyncIterator[Broker]:
    """The broker of another node."""
    made = async_broker()
    yield made
    await made.aclose()


@pytest.fixture
def sync(prefix: str) -> SyncBroker:
    return wiring.sync_broker()


@pytest.fixture
async def queue(prefix: str) -> AsyncIterator[FallbackQueue]:
    made = wiring.queue()
    yield made
    await made.aclose()


@pytest.fixture(autouse=True)
async def _subscriptions_end_with_the_test() -> AsyncIterator[None]:
    yield
    while Ear.all:
        await Ear.all.pop().subscription.aclose()


class Ear:
    """A subscription, and what it has received."""

    all: ClassVar[list[Ear]] = []

    def __init__(self, subscription: Any) -> None:
        self.subscription = subscription
        self._reader = SubscriptionReader(subscription)
        self.events: list[Any] = []
        self.all.append(self)

    @classmethod
    async def of(cls, broker: Broker, *channels: str) -> Ear:
        """Return an active subscription; its events no longer include the confirmations."""
        ear = cls(await broker.subscription())
        await ear.subscription.send(channels, [])
        assert {*await ear.until(len(channels))} == {Subscribed(channel) for channel in channels}
        ear.events.clear()
        return ear

    async def until(self, count: int) -> list[Any]:
        async with within(20):
            while len(self.events) < count:
                self.events += await self._reader.read()
        return self.events

    async def positions(self, count: int) -> list[Position]:
        return [decode_envelope(event.raw).position for event in await self.until(count)]


def news(data: Any = 1, channel: str = "c", **options: Any) -> Publication:
    return Publication.of(channel, data, **options)


def mail(data: Any = 1, channel: str = "c", **options: Any) -> Publication:
    return news(data, channel, fallback="f", **options)


# Publishing, positions and epochs


async def test_a_publication_reaches_every_subscriber_with_its_position(broker, other) -> None:
    here, there = await Ear.of(broker, "c"), await Ear.of(other, "c")
    receipt = await broker.publish(news({"n": 1}, event="e"))
    assert receipt == Receipt(receipt.epoch, 1, 2)
    for ear in (here, there):
        [message] = await ear.until(1)
        assert message.channel == "c"
        envelope = decode_envelope(message.raw)
        assert envelope.position == Position(receipt.epoch, 1)
        assert b'{"n":1}' in message.raw


async def test_subscribers_learn_when_a_publication_was_accepted_and_its_trace(
    broker, sync
) -> None:
    ear = await Ear.of(broker, "c")
    await broker.publish(news("first").stamp(1, TRACE))
    await broker.publish_many([news("second").stamp(2, TRACE), news("third").stamp(3)])
    await asyncio.to_thread(sync.publish, news("fourth").stamp(4, TRACE))
    await broker.publish(news("fifth"))
    envelopes = [decode_envelope(event.raw) for event in await ear.until(5)]
    assert [each.sent_ms for each in envelopes] == [1, 2, 3, 4, 0]
    assert [each.trace for each in envelopes] == [TRACE, TRACE, "", TRACE, ""]
    assert [each.body for each in envelopes][:2] == ['{"data":"first"}', '{"data":"second"}']


async def test_any_number_of_nodes_is_counted(broker) -> None:
    """PUBSUB NUMSUB of Valkey 9.1 returns tens of millions for 8, 15 and 16 subscribers."""
    for count_of_nodes in range(1, 18):
        await Ear.of(broker, "c")
        assert (await broker.publish(news())).nodes == count_of_nodes
        [one, two] = await broker.publish_many([news(), news()])
        assert (one.nodes, two.nodes) == (count_of_nodes, count_of_nodes)


async def test_offsets_count_from_one_and_each_channel_has_an_epoch_of_its_own(broker) -> None:
    receipts = [await broker.publish(news(n)) for n in range(3)]
    assert [each.offset for each in receipts] == [1, 2, 3]
    assert len({each.epoch for each in receipts}) == 1
    assert (await broker.publish(news(channel="d"))).epoch != receipts[0].epoch


async def test_the_first_publication_continues_the_epoch_that_was_read_before(broker) -> None:
    [before] = await broker.positions(["c"])
    assert before.offset == 0
    receipt = await broker.publish(news())
    assert Position(receipt.epoch, receipt.offset) == Position(before.epoch, 1)
    assert await broker.positions(["c", "d"]) == [
        Position(before.epoch, 1),
        (await broker.positions(["d"]))[0],
    ]


async def test_any_number_of_positions_is_read_in_order(broker) -> None:
    """A script reads a hundred at a time."""
    receipts = await broker.publish_many([news(channel=f"c{n}") for n in range(250)])
    read = await broker.positions([f"c{n}" for n in reversed(range(250))])
    assert read == [Position(each.epoch, 1) for each in reversed(receipts)]


async def test_many_are_answered_one_by_one(broker) -> None:
    ear = await Ear.of(broker, "c")
    given = [news(1, idempotency_key="k"), news(2, idempotency_key="k"), news(3)]
    first, second, third = await broker.publish_many(given)
    assert (first.offset, third.offset) == (1, 2)
    assert isinstance(second, IdempotencyConflict)
    assert len(await ear.until(2)) == 2


async def test_concurrent_publishers_are_seen_in_the_order_of_their_offsets(
    broker, other, sync
) -> None:
    """Publishers are the brokers of two loops, and eight threads."""
    ears = [await Ear.of(broker, "c"), await Ear.of(other, "c")]
    threads = [asyncio.to_thread(sync.publish, news(n)) for n in range(40)]
    tasks = [each.publish(news(n)) for n in range(20) for each in (broker, other)]
    receipts = await asyncio.gather(*threads, *tasks)
    assert sorted(each.offset for each in receipts) == list(range(1, 81))
    for ear in ears:
        assert [position.offset for position in await ear.positions(80)] == list(range(1, 81))


async def test_threads_and_loops_share_everything(broker, sync) -> None:
    ear = await Ear.of(broker, "c")
    receipt = await asyncio.to_thread(sync.publish, news(1, idempotency_key="k"))
    assert receipt.nodes == 1
    assert (await broker.publish(news(1, idempotency_key="k"))).repeated
    many = await asyncio.to_thread(sync.publish_many, [news(2), news(3)])
    assert [each.offset for each in many] == [2, 3]
    assert len(await ear.until(3)) == 3
    assert await asyncio.to_thread(sync.positions, ["c"]) == await broker.positions(["c"])


# Idempotency


async def test_a_key_publishes_once_and_is_answered_the_same(broker) -> None:
    ear = await Ear.of(broker, "c")
    first = await broker.publish(news({"a": 1, "b": 2}, idempotency_key="k"))
    again = await broker.publish(news({"b": 2, "a": 1}, idempotency_key="k"))
    assert again == first._replace(repeated=True)
    with pytest.raises(IdempotencyConflict):
        await broker.publish(news("other", idempotency_key="k"))
    await broker.publish(news("last"))
    assert [position.offset for position in await ear.positions(2)] == [1, 2]


async def test_a_retry_at_another_time_in_another_trace_is_a_retry(broker) -> None:
    first = await broker.publish(news(1, idempotency_key="k").stamp(1))
    again = await broker.publish(news(1, idempotency_key="k").stamp(2, TRACE))
    assert again == first._replace(repeated=True)


async def test_keys_are_told_apart_by_channel_and_scope(broker) -> None:
    await broker.publish(news(1, idempotency_key="k"))
    assert not (await broker.publish(news(2, "d", idempotency_key="k"))).repeated
    assert not (await broker.publish(news(3, idempotency_key="k", scope="key:x"))).repeated


# Subscriptions


async def test_each_name_is_confirmed_even_if_it_is_known(broker) -> None:
    ear = await Ear.of(broker, "c")
    await ear.subscription.send(["c", "d"], [])
    # In any order: on a cluster, they come from several masters.
    assert sorted(await ear.until(2)) == [Subscribed("c"), Subscribed("d")]
    await ear.subscription.send([], ["c", "never"])
    assert sorted((await ear.until(4))[2:]) == [Unsubscribed("c"), Unsubscribed("never")]
    assert (await broker.publish(news())).nodes == 0
    assert (await broker.publish(news(channel="d"))).nodes == 1


async def test_what_was_sent_before_the_confirmation_does_not_follow_it(broker) -> None:
    await broker.publish(news(0))
    ear = Ear(await broker.subscription())
    await ear.subscription.send(["c"], [])
    await ear.until(1)
    await broker.publish(news(1))
    confirmed, message = await ear.until(2)
    assert confirmed == Subscribed("c")
    assert decode_envelope(message.raw).position.offset == 2


async def test_reads_are_counted_while_events_arrive(broker) -> None:
    ear = await Ear.of(broker, "c")
    before = ear.subscription.reads
    await broker.publish(news())
    await ear.until(1)
    assert ear.subscription.reads > before


async def test_an_error_of_the_receiver_ends_the_listening(broker) -> None:
    received: list[Any] = []

    def fail(events: Sequence[Any]) -> None:
        received.extend(events)
        raise LookupError("a mistake")

    subscription = await broker.subscription()
    await subscription.send(["a"], [])
    with pytest.raises(LookupError, match="a mistake"):
        await in_time(subscription.listen(fail), 20)
    await subscription.aclose()
    assert received == [Subscribed("a")]


async def test_a_subscription_is_closed_after_its_listener_was_cancelled(broker) -> None:
    """A cancellation that spread to whoever closes it would end the node's only subscriber."""
    subscription = await broker.subscription()
    listening = asyncio.create_task(subscription.listen(lambda events: None))
    await asyncio.sleep(0)
    listening.cancel()
    await asyncio.wait([listening])
    assert listening.cancelled()
    await in_time(subscription.aclose(), 20)
    with pytest.raises(BrokerUnavailable):
        await subscription.send(["a"], [])


async def test_a_receiver_without_room_gets_no_more(broker) -> None:
    received: list[Any] = []
    room = asyncio.get_running_loop().create_future()

    def receive(events: Sequence[Any]) -> asyncio.Future[None] | None:
        received.extend(events)
        return None if room.done() else room

    subscription = await broker.subscription()
    listening = asyncio.create_task(subscription.listen(receive))
    await subscription.send(["c"], [])
    await eventually(lambda: received)
    for number in range(3):
        await broker.publish(news(number))
    assert received == [Subscribed("c")]
    room.set_result(None)
    await eventually(lambda: len(received) == 4)
    offsets = [decode_envelope(event.raw).position.offset for event in received[1:]]
    assert offsets == [1, 2, 3]
    await subscription.aclose()
    with pytest.raises(BrokerUnavailable):
        await listening


async def test_a_closed_subscription_raises_and_is_nobody(broker, other) -> None:
    async def is_deaf() -> bool:
        return await other.send_raw("c", b"?") == 0

    ear = await Ear.of(broker, "c")
    reading = asyncio.create_task(ear.until(1))
    await asyncio.sleep(0)
    await ear.subscription.aclose()
    with pytest.raises(BrokerUnavailable):
        await reading
    await eventually(is_deaf)  # Redis learns of it a moment later


async def test_a_closed_broker_publishes_nothing(broker) -> None:
    await broker.aclose()
    with pytest.raises(BrokerUnavailable):
        await broker.publish(news())


async def test_raw_bytes_arrive_unchanged_and_have_no_position(broker) -> None:
    ear = await Ear.of(broker, "!node")
    assert await broker.send_raw("!node", b"12") == 1
    assert await broker.send_raw("nobody", b"12") == 0
    assert await ear.until(1) == [Message("!node", b"12")]


# Rates


async def test_a_rate_is_shared_by_all_nodes_and_accumulates_for_a_second(broker, sync) -> None:
    assert await broker.take_from_rate("key", 5.0, 4) == 0.0
    assert await asyncio.to_thread(sync.take_from_rate, "key", 5.0, 1) == 0.0
    # More than once, since some may be free again before a busy machine goes on.
    waits = [await broker.take_from_rate("key", 5.0, 2) for _ in range(50)]
    assert 0.0 < max(waits) <= 0.4
    assert await broker.take_from_rate("another", 5.0, 5) == 0.0


async def test_a_batch_above_the_rate_is_taken_when_there_is_no_debt(broker) -> None:
    assert await broker.take_from_rate("key", 1.0, 10) == 0.0
    assert 8.0 < await broker.take_from_rate("key", 1.0, 1) <= 10.0


# Commands and questions between nodes


async def test_a_command_reaches_all_nodes_and_is_kept_for_those_that_missed_it(
    broker, other, sync
) -> None:
    ear = await Ear.of(other, ALL_NODES)
    before, told = await broker.read_node_commands(Moment(0, 0))
    assert not told
    await broker.send_node_command(b'{"a":1}')
    await asyncio.to_thread(sync.send_node_command, b'{"a":2}')
    _, told = await other.read_node_commands(Moment(0, 0))
    assert [each.raw for each in told] == [b'{"a":1}', b'{"a":2}']
    assert before <= told[0].at < told[1].at
    heard = [message.raw for message in await ear.until(2)]
    assert heard == [b"%d-%d %s" % (*each.at, each.raw) for each in told]
    assert [each.raw for each in (await broker.read_node_commands(told[0].at))[1]] == [b'{"a":2}']


async def test_a_block_is_kept_and_all_nodes_are_told(broker, other, sync) -> None:
    ear = await Ear.of(other, ALL_NODES)
    assert await other.blocks.read() == {}
    await broker.blocks.change("ada \n ü", LATER, b'{"a":1}')
    await asyncio.to_thread(sync.change_block, "ben", 2**53 - 1, b'{"a":2}')
    await broker.blocks.change("ben", LATER + 1, b'{"a":3}')
    await asyncio.to_thread(sync.change_block, "nobody", 0, b'{"a":4}')
    assert await other.blocks.read() == {"ada \n ü": LATER, "ben": LATER + 1}
    await asyncio.to_thread(sync.change_block, "ada \n ü", 0, b'{"a":5}')
    await broker.blocks.change("ben", 0, b'{"a":6}')
    assert await other.blocks.read() == {}
    _, told = await other.read_node_commands(Moment(0, 0))
    assert [each.raw for each in told] == [b'{"a":%d}' % number for number in range(1, 7)]
    heard = [message.raw for message in await ear.until(6)]
    assert heard == [b"%d-%d %s" % (*each.at, each.raw) for each in told]


async def test_too_many_blocks_are_refused(broker, sync, monkeypatch) -> None:
    """Blocks that have ended do not count."""
    monkeypatch.setattr(redis_blocks, "BLOCKS_LIMIT", 2)
    monkeypatch.setattr(BlockedUsers.__init__, "__defaults__", (2,))
    if isinstance(broker, MemoryBroker):
        broker._shared.do(lambda store, now: store.forget())
    for user in ("ada", "ben"):
        await broker.blocks.change(user, LATER, b"{}")
    with pytest.raises(TooManyBlocks):
        await broker.blocks.change("eve", LATER, b"{}")
    with pytest.raises(TooManyBlocks):
        await asyncio.to_thread(sync.change_block, "eve", LATER, b"{}")
    await broker.blocks.change("ada", 1_700_000_000, b"{}")  # has ended
    await broker.blocks.change("eve", LATER, b"{}")
    assert await broker.blocks.read() == {"ben": LATER, "eve": LATER}
    for user in ("ben", "eve"):
        await broker.blocks.change(user, 0, b"{}")


async def test_a_service_has_one_id(broker, other) -> None:
    ear = await Ear.of(broker, ALL_NODES)
    own = await broker.announce()
    assert await other.announce() == own
    assert await ear.until(2) == [Message(ALL_NODES, f"service {own}".encode())] * 2


async def test_a_question_collects_the_answers_of_the_nodes(broker, other, sync) -> None:
    ear = await Ear.of(other, ALL_NODES)
    question = Question(EPOCH, "info")
    asking = asyncio.create_task(broker.survey(question))
    [message] = await ear.until(1)
    assert message.raw == f"? {EPOCH} info ".encode()
    await other.answer(EPOCH, b"{}")
    assert await asking == ([b"{}"], 0)
    assert await asyncio.to_thread(sync.survey, Question(EPOCH[::-1], "info")) == ([], 1)


async def test_each_server_says_its_state(broker, request) -> None:
    found = await broker.read_servers()
    kind = request.node.callspec.params["prefix"]
    assert len(found) == {"memory": 0, "cluster": 3}.get(kind, 1)
    for facts in found:
        assert facts.version.startswith(("Valkey ", "Redis "))
        assert facts.used_bytes
        assert facts.policy == "noeviction"
        assert facts.role == "master"
        assert (facts.refused, facts.is_away) == ((), False)
        assert "@" not in facts.address


# Presence


def member(number: int, user: str = "ada") -> Member:
    client = f"{number:08x}"
    return Member(client, user, f'{{"user":"{user}","client":"{client}"}}')


def update(*members: Member, left: tuple[str, ...] = (), has_members: bool = True) -> MemberUpdate:
    changes = {each.client: each for each in members} | dict.fromkeys(left)
    return MemberUpdate("hall", changes, is_announced=True, has_members=has_members)


async def test_members_join_and_leave_and_are_announced(broker, other, sync) -> None:
    ear = await Ear.of(other, "hall")
    await broker.presence.lease("aa", is_new=True)
    one, two = member(1), member(2)
    await broker.presence.change("aa", [update(one, two)])
    await broker.presence.change("aa", [update(one)])  # repeated: announced once
    assert await other.presence.members("hall") == {one.client: one.info, two.client: two.info}
    assert await asyncio.to_thread(sync.members, "hall") == await other.presence.members("hall")
    assert await other.presence.headcounts(["hall", "empty"]) == {"hall": (2, 1), "empty": (0, 0)}
    await broker.presence.change("aa", [update(left=(one.client, "unknown"))])
    assert await asyncio.to_thread(sync.headcount, "hall") == (1, 1)
    joined, left = [decode_changes(message.raw) for message in await ear.until(2)]
    assert joined == ((one.info, two.info), (), 0, (2, 1))
    assert left == ((), (one.info,), 0, (1, 1))


async def test_a_node_removes_only_its_own_members(broker) -> None:
    presence = broker.presence
    await presence.lease("aa", is_new=True)
    await presence.lease("bb", is_new=True)
    await presence.change("aa", [update(member(1))])
    await presence.change("bb", [update(left=(member(1).client,), has_members=False)])
    assert await presence.headcounts(["hall"]) == {"hall": (1, 1)}


async def test_a_crowd_is_announced_as_a_number(broker) -> None:
    ear = await Ear.of(broker, "hall")
    await broker.presence.lease("aa", is_new=True)
    await broker.presence.change("aa", [update(*(member(n, f"u{n}") for n in range(60)))])
    [message] = await ear.until(1)
    assert decode_changes(message.raw) == ((), (), 60, (60, 60))


async def test_a_node_that_leaves_takes_its_members_along(broker) -> None:
    presence = broker.presence
    ear = await Ear.of(broker, "hall")
    for node, number in (("aa", 1), ("bb", 2)):
        await presence.lease(node, is_new=True)
        await presence.change(node, [update(member(number))])
    assert not await presence.sweep("bb"), "it is alive"
    assert await presence.headcounts(["hall"]) == {"hall": (2, 1)}
    assert not await presence.sweep("bb", is_leaving=True)
    assert list(await presence.members("hall")) == [member(1).client]
    assert decode_changes((await ear.until(3))[2].raw).left == (member(2).info,)
    assert not (await presence.lease("bb", is_new=False)).is_known
    assert (await presence.lease("aa", is_new=False)) == (True, ())


async def test_a_node_that_was_swept_in_part_must_begin_again(broker) -> None:
    """It came back between two sweeps, and its members stayed missing on the swept channels."""
    presence = broker.presence
    for node in ("aa", "bb"):
        await presence.lease(node, is_new=True)
    one = {"1": member(1)}
    channels = (f"c{n}" for n in count())
    near = (channel for channel in channels if partition_of(channel).number == 0)
    updates = [
        MemberUpdate(channel, one, is_announced=False, has_members=True)
        for channel in islice(near, PRESENCE_LOT + 1)
    ]
    await presence.change("bb", updates)
    assert await presence.sweep("bb", is_leaving=True), "one channel is left"
    assert not (await presence.lease("bb", is_new=False)).is_known
    assert not await presence.sweep("bb")
    assert not (await presence.lease("bb", is_new=False)).is_known
    assert (await presence.lease("cc", is_new=True)).is_known


async def test_members_that_expired_are_named_when_they_are_kept(broker) -> None:
    await broker.presence.lease("aa", is_new=True)
    await broker.presence.change("aa", [update(member(1))])
    assert await broker.presence.keep("aa", ["hall", "gone"]) == ["gone"]


async def test_a_list_of_members_has_a_limit_in_bytes(broker) -> None:
    await broker.presence.lease("aa", is_new=True)
    await broker.presence.change("aa", [update(member(1), member(2))])
    with pytest.raises(TooManyMembers, match="2 members"):
        await broker.presence.members("hall", 80)


# The fallback queue


async def test_nobody_is_there_and_it_is_queued(broker, queue) -> None:
    receipt = await broker.publish(
        mail({"n": 1}, "user:#42", event="e", fallback_options={"to": "a"})
    )
    assert (receipt.nodes, receipt.queued) == (0, True)
    [raw] = [raw async for raw in queue.entries("waiting")]
    entry = decode_entry(raw)
    queued = entry.queued
    assert entry.id == f"{receipt.epoch}-1"
    assert (queued.channel, queued.data, queued.event) == ("user:#42", {"n": 1}, "e")
    assert (queued.fallback, queued.options, queued.attempt) == ("f", {"to": "a"}, 1)
    stats = await broker.queue_stats()
    assert (stats.waiting, stats.bytes) == (1, len(raw))
    assert 0.0 <= stats.oldest_seconds < 60


async def test_a_queued_entry_has_the_trace_but_no_other_field_of_the_envelope(
    broker, queue
) -> None:
    await broker.publish(mail({"a": "{"}).stamp(1, TRACE))
    await broker.publish(mail({"a": "{"}).stamp(1))
    traced, timed = [raw async for raw in queue.entries("waiting")]
    assert decode_entry(traced).queued.trace == TRACE
    assert decode_entry(timed).queued.trace == ""
    for raw in (traced, timed):
        assert decode_entry(raw).queued.data == {"a": "{"}
        assert b"t=1" not in raw
    assert (await broker.queue_stats()).bytes == len(traced) + len(timed)


async def test_somebody_is_there_and_it_is_not_queued_unless_always(broker, queue) -> None:
    ear = await Ear.of(broker, "c")
    assert not (await broker.publish(mail())).queued
    assert (await broker.publish(mail(fallback_when="always"))).queued
    assert (await queue.stats()).waiting == 1
    assert len(await ear.until(2)) == 2


async def test_an_operator_reads_and_moves_entries_from_a_thread(broker, sync, queue) -> None:
    for n in range(3):
        await broker.publish(mail(n))
    entries = [raw async for raw in queue.entries("waiting")]
    assert sync.queue_page("waiting", 1, 5) == entries[1:]
    assert sync.queue_page("dead", 0, 5) == sync.queue_page("waiting", 3, 5) == []
    assert sync.move_entry("waiting", entries[0], entries[0] + b" ")
    assert sync.queue_page("waiting", 0, 5) == [*entries[1:], entries[0] + b" "]
    assert sync.move_entry("waiting", entries[1])
    assert not sync.move_entry("waiting", entries[1]), "it is gone"
    assert (await queue.stats()).waiting == 2


async def test_a_full_queue_refuses_and_does_nothing(broker, sync) -> None:
    for _ in range(3):
        await broker.publish(mail())
    with pytest.raises(QueueFull):
        await broker.publish(mail(idempotency_key="k"))
    with pytest.raises(QueueFull):
        await asyncio.to_thread(sync.publish, mail())
    [position] = await broker.positions(["c"])
    assert position.offset == 3, "it was executed in part"
    await Ear.of(broker, "c")
    again = await broker.publish(mail(idempotency_key="k"))
    assert not again.repeated, "the key was used up"
    assert not again.queued, "a live publication needs no room"


async def test_the_queue_is_full_in_bytes_before_it_is_in_items(prefix, settings) -> None:
    shares = len(PARTITIONS) if is_cluster_url(settings.REALTIME_REDIS_URL) else 1
    settings.REALTIME_FALLBACK_BYTES = shares * 1024 * 1024
    settings.REALTIME_FALLBACK_ITEMS = shares * 100
    broker = async_broker()
    outcomes = await broker.publish_many([mail("x" * 60_000) for _ in range(18)])
    assert sum(isinstance(each, Receipt) for each in outcomes) == 17
    assert isinstance(outcomes[-1], QueueFull)
    assert (await broker.publish(mail(1))).queued, "a publication that fits is accepted"
    assert (await broker.queue_stats()).bytes <= 1024 * 1024
    await broker.aclose()


async def test_a_hand_takes_entries_in_order_and_waits_for_one(broker, queue) -> None:
    hand = queue.hand("h")
    await queue.renew_leases(["h"], 30)
    assert await hand.take(0.05) is None
    taking = asyncio.create_task(hand.take(20))
    await broker.publish(mail("first"))
    await broker.publish(mail("second"))
    raw = await taking
    assert decode_entry(raw).queued.data == "first"
    assert await hand.peek() == raw
    assert (await queue.stats())[:5] == (1, 1, 0, 0, 1)
    assert await hand.acknowledge(raw) == (True, None)
    assert await hand.acknowledge(raw) == (False, None)
    assert (await queue.stats()).handled == 1
    await hand.aclose()


async def test_entries_are_retried_and_die_and_are_moved(broker, queue) -> None:
    hand = queue.hand("h")
    for data in ("late", "soon", "dead"):
        await broker.publish(mail(data))
    for outcome in ("late", "soon", "dead"):
        raw = await hand.take(5)
        written = decode_entry(raw).encode_failed("why", 1.0)
        if outcome == "dead":
            assert (await hand.bury(raw, written)).is_ours
        else:
            assert (await hand.retry(raw, written, 600 if outcome == "late" else 0)).is_ours
    assert (await queue.tend(3, "died")) == (1, 0, 0)
    assert (await queue.stats())[:4] == (1, 0, 1, 1)
    [dead] = [raw async for raw in queue.entries("dead")]
    assert decode_entry(dead).reason == "why"
    assert await queue.move("dead", dead, decode_entry(dead).encode_reset())
    assert not await queue.move("dead", dead)
    [later] = [raw async for raw in queue.entries("later")]
    assert await queue.move("later", later)
    stats = await queue.stats()
    assert (stats.waiting, stats.later, stats.dead, stats.retried, stats.given_up) == (
        2,
        0,
        0,
        2,
        1,
    )
    assert stats.bytes == sum([len(raw) async for raw in queue.entries("waiting")])
    await hand.aclose()


async def test_the_entry_of_a_lost_worker_is_taken_over_and_dies_in_the_end(broker, queue) -> None:
    hand = queue.hand("h")
    await broker.publish(mail())
    for attempt in (1, 2):
        raw = await hand.take(5)
        assert decode_entry(raw).failures == attempt - 1
        await queue.renew_leases(["h"], -1)
        assert (await queue.tend(2, 'it "died"'))[1:] == (1, attempt - 1)
        assert await hand.peek() is None
    [dead] = [raw async for raw in queue.entries("dead")]
    assert (decode_entry(dead).failures, decode_entry(dead).reason) == (2, 'it "died"')
    assert decode_entry(dead).failed_at > 0
    await hand.aclose()


async def test_a_worker_that_leaves_puts_its_entries_back_in_front(broker, queue) -> None:
    hand = queue.hand("h")
    await broker.publish(mail("first"))
    await broker.publish(mail("second"))
    raw = await hand.take(5)
    assert await queue.release(["h"]) == 1
    first, second = [raw async for raw in queue.entries("waiting")]
    assert first == raw != second
    assert (await queue.stats()).hands == 0
    await hand.aclose()


async def test_a_worker_delivers_to_the_handler(broker, queue) -> None:
    got = Got()
    async with working(queue, {"f": got}):
        await broker.publish(mail("one"))
        await broker.publish(mail("two"))
        await eventually(lambda: len(got) == 2)
    assert sorted(got.data) == ["one", "two"]
    assert (await queue.stats()).handled == 2


async def test_errors_of_a_batch_are_values(broker) -> None:
    outcomes = await broker.publish_many([mail(n) for n in range(4)])
    assert [isinstance(each, RealtimeError) for each in outcomes] == [False] * 3 + [True]
