"""The fallback queue on a real Redis Cluster: nothing is lost, and masters may come and go."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from typing import Any

import pytest

from realtime.brokers.cluster import queue as queue_module
from realtime.brokers.cluster import wake_ups
from realtime.brokers.cluster.broker import ClusterBroker
from realtime.brokers.cluster.queue import ClusterQueue
from realtime.brokers.cluster.waiting_partitions import WaitingPartitions
from realtime.core.fallback_entry import Queued, decode_entry
from realtime.core.partitions import PARTITIONS, Partition, partition_of
from realtime.core.publication import Publication
from realtime.errors import BrokerError
from realtime.fallbacks import worker as worker_module
from tests.integration import test_worker as on_one_redis
from tests.support.eventually import eventually
from tests.support.machine import in_time
from tests.support.redis_cluster import HASTY_SECONDS, PATIENT_SECONDS, ClusterSet, cluster_set
from tests.support.working import Got, working

quick = on_one_redis.quick


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
def wired() -> str:
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
async def open_broker(wired: str) -> AsyncIterator[Callable[..., ClusterBroker]]:
    opened: list[ClusterBroker] = []

    def open_one(cluster: ClusterSet, seconds: float = PATIENT_SECONDS) -> ClusterBroker:
        opened.append(ClusterBroker(cluster.url, prefix=wired, deadline_seconds=seconds))
        return opened[-1]

    yield open_one
    for each in opened:
        await each.aclose()


@pytest.fixture
async def open_queue(wired: str) -> AsyncIterator[Callable[[ClusterSet], ClusterQueue]]:
    opened: list[ClusterQueue] = []

    def open_one(cluster: ClusterSet) -> ClusterQueue:
        opened.append(ClusterQueue(cluster.url, prefix=wired))
        return opened[-1]

    yield open_one
    for each in opened:
        await each.aclose()


@pytest.fixture
def broker(cluster: ClusterSet, open_broker: Any) -> Any:
    return open_broker(cluster)


@pytest.fixture
def queue(cluster: ClusterSet, open_queue: Any) -> Any:
    return open_queue(cluster)


@pytest.fixture
def publish(broker: ClusterBroker) -> Callable[..., Any]:
    async def publish_one(data: Any, fallback: str = "f", **options: Any) -> str:
        channel = options.pop("channel", "c")
        receipt = await broker.publish(Publication.of(channel, data, fallback=fallback, **options))
        assert receipt.queued
        return f"{receipt.epoch}-{receipt.offset}"

    return publish_one


@pytest.fixture
def client() -> None:
    """Not needed by the cases below."""


@pytest.fixture
def keys() -> None:
    """Not needed by the cases below."""


# The cases for every queue that need nothing but a queue and a publisher.
test_handled_once = on_one_redis.test_an_undelivered_publication_is_handled_once
test_retried = on_one_redis.test_a_failed_item_is_retried_with_the_same_id
test_dead = on_one_redis.test_an_item_that_always_fails_is_dead_lettered_with_its_reason
test_rest = on_one_redis.test_the_rest_of_an_item_is_tried_with_other_options
test_hanging = on_one_redis.test_a_hanging_handler_is_cancelled
test_stopping = on_one_redis.test_a_stopping_worker_finishes_its_current_items
test_stopped_at_once = on_one_redis.test_a_worker_stopped_at_once_requeues_its_current_items
test_taken_over = on_one_redis.test_the_items_of_a_dead_worker_are_taken_over_when_its_lease_expires
test_not_taken_over = on_one_redis.test_nothing_is_taken_over_while_its_lease_lasts
test_deadly = on_one_redis.test_an_item_that_kills_its_workers_is_finally_dead_lettered
test_late_arrival = on_one_redis.test_an_item_that_arrives_after_the_lease_expired_is_recovered
test_frozen_hand = on_one_redis.test_finishing_an_item_that_was_taken_over_does_no_harm
test_shared_work = on_one_redis.test_several_workers_share_the_work


def channel_in(partition: Partition) -> str:
    """Return a channel of a partition."""
    return next(f"c{n}" for n in count() if partition_of(f"c{n}") is partition)


CHANNELS = [channel_in(each) for each in PARTITIONS]


def channels_of(cluster: ClusterSet, master: Any) -> tuple[list[str], list[str]]:
    """Return a channel of each partition of a master, and of each of all others."""
    slots = set(cluster.slots_of(master))
    own = [each.slot in slots for each in PARTITIONS]
    theirs = [c for c, is_own in zip(CHANNELS, own, strict=True) if is_own]
    others = [c for c, is_own in zip(CHANNELS, own, strict=True) if not is_own]
    return theirs, others


@pytest.fixture
def rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let hands depend on wake-ups."""
    monkeypatch.setattr(queue_module, "LOOK_SECONDS", 600.0)


async def is_listening(queue: ClusterQueue, cluster: ClusterSet, prefix: str) -> bool:
    """Tell whether the wake-ups of all partitions are heard by somebody."""
    for master in cluster.masters():
        slots = set(cluster.slots_of(master))
        names = [f"{prefix}:{{{p.tag}}}:fallback:waiting" for p in PARTITIONS if p.slot in slots]
        for name in names:
            if not master.ask("PUBSUB", "SHARDNUMSUB", name)[1]:
                return False
    return True


async def test_an_entry_wakes_a_hand_at_once(rarely, queue, cluster, publish, wired) -> None:
    hand = queue.hand("h")
    await queue.renew_leases(["h"], 60)
    assert await hand.take(0.1) is None
    await eventually(lambda: is_listening(queue, cluster, wired))
    for channel in CHANNELS:
        taking = asyncio.create_task(hand.take(60))
        await asyncio.sleep(0)
        ours = await publish(1, channel=channel)
        raw = await in_time(taking, 0.2)
        assert raw is not None
        assert decode_entry(raw).id == ours
        assert await hand.acknowledge(raw) == (True, None)


async def test_requeued_entries_wake_a_hand(rarely, queue, cluster, publish, wired) -> None:
    one, other = queue.hand("one"), queue.hand("other")
    await queue.renew_leases(["one", "other"], 60)
    assert await other.take(0.1) is None
    await eventually(lambda: is_listening(queue, cluster, wired))
    await publish(1)
    raw = await one.take(60)
    assert raw is not None
    for requeue in ("release", "retry", "move"):
        taking = asyncio.create_task(other.take(60))
        await asyncio.sleep(0.05)
        if requeue == "release":
            assert await queue.release(["one"]) == 1
        elif requeue == "retry":
            await one.retry(raw, raw, 0)
            assert (await queue.tend(3, "why")).due == 1
        else:
            await one.bury(raw, raw)
            assert await queue.move("dead", raw, raw)
        assert await in_time(taking, 1.0) == raw
        one, other = other, one


async def test_an_entry_without_a_wake_up_is_found(queue, cluster, publish, wired) -> None:
    hand = queue.hand("h")
    assert await hand.take(0.1) is None
    partition = PARTITIONS[5]
    owner = cluster.owner_of(partition.slot)
    assert owner is not None
    owner.ask("RPUSH", f"{wired}:{{{partition.tag}}}:fallback:waiting", "raw")
    assert await in_time(hand.take(60), 2.0) == b"raw"


async def test_partitions_take_turns(queue, publish) -> None:
    busy, quiet = CHANNELS[10], CHANNELS[20]
    for n in range(20):
        await publish(n, channel=busy)
    await publish("quiet", channel=quiet)
    hand = queue.hand("h")
    seen = []
    for _ in range(3):
        raw = await hand.take(5)
        seen.append(decode_entry(raw).queued.data)
        await hand.acknowledge(raw)
    assert "quiet" in seen


async def test_hands_raise_the_error_that_ended_the_look() -> None:
    """A worker that waits in vain, and says nothing, is worse than one that exits."""
    waiting = WaitingPartitions(start=60)
    until = asyncio.get_running_loop().time() + 60
    asking = asyncio.create_task(waiting.next(until))
    await asyncio.sleep(0)
    for number in (3, 62, 61):
        waiting.note(number)
    assert [await asking, await waiting.next(0), await waiting.next(0)] == [61, 62, 3]
    assert await waiting.next(0) is None
    waiting.fail(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await waiting.next(until)


async def test_an_entry_whose_reply_was_lost_is_recovered(queue, publish) -> None:
    """The hand may then have several entries, in lists of several partitions."""
    got = Got()
    async with working(queue, {"f": got}, hands=1):
        await eventually(lambda: _is_tended(queue))
        [name] = await _hands(queue)
        other = queue.hand(name)
        for n, channel in enumerate(CHANNELS[::20]):
            await publish(n, channel=channel)
        await eventually(lambda: len(got) == len(CHANNELS[::20]))
        await publish("lost", channel=CHANNELS[33])
        await other.take(0.5)
        await eventually(lambda: "lost" in got.data)
        await eventually(lambda: on_one_redis.is_empty(queue))


async def _is_tended(queue: ClusterQueue) -> bool:
    return (await queue.stats()).hands > 0


async def _hands(queue: ClusterQueue) -> list[str]:
    partitions = queue._partitions
    key = partitions.commands[0].keys.hands
    [names] = await partitions.execute(0, [("ZRANGE", key, 0, -1)], 1.0)
    return [name.decode() for name in names]


async def test_operators_see_all_partitions(queue, publish) -> None:
    for n, channel in enumerate(CHANNELS * 2):
        await publish(n, channel=channel)
    stats = await queue.stats()
    assert (stats.waiting, stats.hands, stats.in_hand) == (128, 0, 0)
    await queue.renew_leases(["a", "b"], 60)
    hand = queue.hand("a")
    raw = await hand.take(5)
    assert (await queue.stats())[:5] == (127, 1, 0, 0, 2)
    await hand.bury(raw, decode_entry(raw).encode_failed("why", 1.0))
    entries = [raw async for raw in queue.entries("waiting")]
    assert len(set(entries)) == 127
    assert stats.bytes == sum(map(len, entries)) + len(raw)
    assert await queue.move("waiting", entries[0])
    assert not await queue.move("waiting", entries[0])
    [dead] = [raw async for raw in queue.entries("dead")]
    assert await queue.move("dead", dead, decode_entry(dead).encode_reset())
    assert (await queue.stats())[:4] == (127, 0, 0, 0)


async def test_an_unreadable_entry_is_moved_wherever_it_is(queue, cluster, wired) -> None:
    partition = PARTITIONS[40]
    owner = cluster.owner_of(partition.slot)
    assert owner is not None
    owner.ask("RPUSH", f"{wired}:{{{partition.tag}}}:fallback:dead", "garbage")
    assert not await queue.move("waiting", b"garbage")
    assert await queue.move("dead", b"garbage")
    assert (await queue.stats()).dead == 0


async def test_the_weakest_master_decides_about_durability(queue, cluster) -> None:
    assert not (await queue.durability()).aof
    for number, master in enumerate(cluster.masters()):
        master.ask("CONFIG", "SET", "appendonly", "yes")
        master.ask("CONFIG", "SET", "appendfsync", "always" if number else "no")
        master.ask("CONFIG", "SET", "maxmemory-policy", "noeviction" if number else "allkeys-lru")
    try:
        found = await queue.durability()
        assert (found.aof, found.fsync, found.eviction) == (True, "no", "allkeys-lru")
        cluster.masters()[-1].ask("CONFIG", "SET", "appendonly", "no")
        assert not (await queue.durability()).aof
    finally:
        for master in cluster.masters():
            master.ask("CONFIG", "SET", "appendonly", "no")
            master.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")


async def test_full_masters_are_emptied(queue, cluster, publish) -> None:
    for n, channel in enumerate(CHANNELS):
        await publish(n, channel=channel)
    got = Got()
    try:
        for master in cluster.masters():
            master.ask("CONFIG", "SET", "maxmemory", "1")
        async with working(queue, {"f": got}):
            await eventually(lambda: sorted(got.data) == list(range(64)))
            await eventually(lambda: on_one_redis.is_empty(queue))
    finally:
        for master in cluster.masters():
            master.ask("CONFIG", "SET", "maxmemory", "0")


async def test_a_paused_worker_is_taken_over_and_does_no_harm(
    queue, open_queue, cluster, publish
) -> None:
    """Its process stops in the middle of an attempt, and goes on when others have the entry."""
    ours = await publish(1, channel=CHANNELS[9])
    paused = queue.hand("paused")
    await queue.renew_leases(["paused"], 0.5)
    raw = await paused.take(5)
    assert raw is not None
    got = Got()
    other = open_queue(cluster)
    async with working(other, {"f": got}):
        await eventually(lambda: [(each.id, each.attempt) for each in got] == [(ours, 2)])
        await eventually(lambda: on_one_redis.is_empty(other))
        assert await paused.acknowledge(raw) == (False, None)
        await queue.renew_leases(["paused"], 60)
        assert await paused.peek() is None
    stats = await other.stats()
    assert (stats.handled, stats.taken_over) == (1, 1)


class Ledger:
    """What was queued, and how often each was handled."""

    def __init__(self) -> None:
        self.queued: set[str] = set()
        self.handled: Counter[str] = Counter()
        self._numbers = count()

    async def handle(self, queued: Queued) -> None:
        await asyncio.sleep(0.002)
        self.handled[queued.id] += 1

    async def publish_until(self, broker: ClusterBroker, done: asyncio.Event) -> None:
        """Publish to all partitions; retry until it is certain, with an idempotency key."""
        while not done.is_set():
            number = next(self._numbers)
            publication = Publication.of(
                CHANNELS[number % 64], number, fallback="f", idempotency_key=f"k{number}"
            )
            while True:
                try:
                    receipt = await broker.publish(publication)
                    break
                except BrokerError:
                    await asyncio.sleep(0.05)
            assert receipt.queued
            self.queued.add(f"{receipt.epoch}-{receipt.offset}")

    def has_all(self) -> bool:
        return self.handled.keys() >= self.queued

    @property
    def repeats(self) -> int:
        return self.handled.total() - len(self.handled)


async def test_nothing_is_lost_or_repeated_while_slots_move(
    open_queue, open_broker, cluster
) -> None:
    ledger, done = Ledger(), asyncio.Event()
    brokers = [open_broker(cluster) for _ in range(4)]
    queues = [open_queue(cluster), open_queue(cluster)]
    source, target = cluster.masters()[:2]
    slots = set(cluster.slots_of(source)) & {each.slot for each in PARTITIONS}
    slow, *moved = sorted(slots)[:5]
    async with (
        working(queues[0], {"f": ledger.handle}, hands=4),
        working(queues[1], {"f": ledger.handle}, hands=4),
        asyncio.TaskGroup() as group,
    ):
        for broker in brokers:
            group.create_task(ledger.publish_until(broker, done))
        await eventually(lambda: len(ledger.handled) > 100)
        for there, back in ((source, target), (target, source)):
            before = len(ledger.queued)
            await asyncio.to_thread(cluster.move_slots, moved, there, back)
            await asyncio.to_thread(_move_slowly, cluster, slow, there, back)
            await eventually(lambda before=before: len(ledger.queued) > before + 100)
        done.set()
        await eventually(ledger.has_all)
    assert ledger.handled.keys() == ledger.queued
    assert ledger.repeats == 0
    stats = await queues[0].stats()
    assert stats[:5] == (0, 0, 0, 0, 0)
    assert (stats.handled, stats.taken_over) == (len(ledger.queued), 0)


def _subscribers(cluster: ClusterSet) -> list[bytes]:
    lines = [each.ask("CLIENT", "LIST", "TYPE", "PUBSUB") for each in cluster.masters()]
    return [line.split()[0] for each in lines for line in each.splitlines()]


async def test_wake_ups_are_heard_again_when_a_connection_broke(
    rarely, weak, open_queue, wired, monkeypatch
) -> None:
    """A quiet one is kept, one that was cut is replaced, and so is one of a frozen master."""
    monkeypatch.setattr(wake_ups, "QUIET_SECONDS", 0.5)
    monkeypatch.setattr(wake_ups, "RECONNECT_SECONDS", 0.1)
    queue = open_queue(weak)
    assert await queue.hand("h").take(0.1) is None
    await eventually(lambda: is_listening(queue, weak, wired))
    before = _subscribers(weak)
    assert len(before) == 3, "one for each master"
    await asyncio.sleep(2)
    assert _subscribers(weak) == before
    first, second, _ = weak.masters()
    first.cut_subscribers()
    await eventually(lambda: is_listening(queue, weak, wired))
    second.freeze()
    await asyncio.sleep(2)
    second.thaw()
    await eventually(lambda: is_listening(queue, weak, wired))
    await eventually(lambda: len(_subscribers(weak)) == 3)
    assert len(set(_subscribers(weak)) & set(before)) == 1


def _move_slowly(cluster: ClusterSet, slot: int, source: Any, target: Any) -> None:
    """Move a slot with pauses in which its keys are at one master, and at both."""
    with cluster.moving(source, target) as move:
        move.begin(slot)
        for _ in range(3):
            time.sleep(0.5)
            move.migrate_keys(slot, limit=2)
        move.migrate_keys(slot)
        time.sleep(0.5)
        move.end(slot)
    cluster.wait_until_ready()


async def test_wake_ups_follow_a_slot(rarely, queue, cluster, publish, wired) -> None:
    partition = PARTITIONS[63]
    hand = queue.hand("h")
    await queue.renew_leases(["h"], 60)
    assert await hand.take(0.1) is None
    await eventually(lambda: is_listening(queue, cluster, wired))
    source = cluster.owner_of(partition.slot)
    target = next(each for each in cluster.masters() if each is not source)
    for there, back in ((source, target), (target, source)):
        await asyncio.to_thread(cluster.move_slots, [partition.slot], there, back)
        await eventually(lambda: is_listening(queue, cluster, wired))
        taking = asyncio.create_task(hand.take(60))
        await asyncio.sleep(0)
        await publish(1, channel=CHANNELS[63])
        raw = await in_time(taking, 1.0)
        assert raw is not None
        assert (await hand.acknowledge(raw)).is_ours


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_nothing_is_lost_or_repeated_when_a_master_is_replaced(
    open_queue, open_broker, fault: str
) -> None:
    with cluster_set(3, 3) as strong:
        ledger, done = Ledger(), asyncio.Event()
        brokers = [open_broker(strong, HASTY_SECONDS) for _ in range(4)]
        queues = [open_queue(strong), open_queue(strong)]
        async with (
            # Leases that last longer than the failover: otherwise, one worker takes over from the
            # other before that one can renew its own.
            working(queues[0], {"f": ledger.handle}, hands=4, lease_seconds=60.0),
            working(queues[1], {"f": ledger.handle}, hands=4, lease_seconds=60.0),
            asyncio.TaskGroup() as group,
        ):
            for broker in brokers:
                group.create_task(ledger.publish_until(broker, done))
            await eventually(lambda: len(ledger.handled) > 100)
            victim = strong.masters()[0]
            getattr(victim, fault)()
            await asyncio.to_thread(strong.wait_until_ready)
            if fault == "freeze":
                victim.thaw()  # it first does what waits in its sockets
                await asyncio.to_thread(strong.wait_until_ready)
            before = len(ledger.queued)
            await eventually(lambda: len(ledger.queued) > before + 100)
            done.set()
            await eventually(ledger.has_all)
        assert ledger.handled.keys() == ledger.queued
        assert ledger.repeats <= 8, "at most one for each hand, whose result was not replicated"


async def test_the_others_go_on_while_a_master_is_frozen(
    weak, open_queue, open_broker, monkeypatch, caplog
) -> None:
    """For longer than the leases last; and what waited there is handled once."""
    monkeypatch.setattr(worker_module, "TEND_SECONDS", 1.0)
    frozen = weak.masters()[0]
    lost, kept = channels_of(weak, frozen)
    broker, queue, operator = open_broker(weak), open_queue(weak), open_queue(weak)
    handled: Counter[Any] = Counter()
    begun = asyncio.Event()

    async def handle(queued: Queued) -> None:
        handled[queued.data] += 1
        if queued.data == "long":
            begun.set()
            await asyncio.sleep(9)

    async def mail(data: Any, channel: str) -> None:
        await broker.publish(Publication.of(channel, data, fallback="f"))

    await mail("long", kept[0])
    async with (
        working(queue, {"f": handle}, lease_seconds=6.0, handler_seconds=30.0),
        working(open_queue(weak), {"f": handle}, lease_seconds=6.0, handler_seconds=30.0),
    ):
        await begun.wait()
        for n, channel in enumerate(lost):
            await mail(f"lost {n}", channel)
        frozen.freeze()
        for n in range(40):
            for m, channel in enumerate(kept[1::8]):
                await mail(f"kept {n} {m}", channel)
            await asyncio.sleep(0.1)
        await eventually(lambda: sum("kept" in each for each in handled) == 40 * len(kept[1::8]))
        await eventually(lambda: "the others go on" in caplog.text)
        with pytest.raises(BrokerError):
            await operator.stats()
        with pytest.raises(BrokerError):
            await anext(aiter(operator.entries("waiting")))
        assert not (await operator.durability()).aof
        await asyncio.sleep(4)
        frozen.thaw()
        await eventually(lambda: sum("lost" in each for each in handled) == len(lost))
        await eventually(lambda: on_one_redis.is_empty(operator))
    assert set(handled.values()) == {1}
    assert (await operator.stats()).taken_over == 0
